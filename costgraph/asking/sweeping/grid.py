"""Sweeps: metrics over grids of symbols, devices and pipelines, as labelled arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from costgraph.asking.sweeping.codecs import check_store
from costgraph.asking.sweeping.plan import Plan, Task, make_plan
from costgraph.asking.sweeping.run import Report, evaluate, farther_fits, reporter
from costgraph.asking.sweeping.store import PartialStore, check_target, require
from costgraph.compiling.compilation import Hardware, Model
from costgraph.compiling.options import split_options
from costgraph.errors import InputError, clip
from costgraph.files.outside import json_value, label_of, opened, reason_of
from costgraph.ir.metrics import METRICS
from costgraph.setting import FOOT, SAID, Setting, foot
from costgraph.symbols import LEGEND
from costgraph.undone import lines as undone_lines
from costgraph.version import VERSION

if TYPE_CHECKING:
    import xarray

    from costgraph.compiling.options import Passes

#: Most bytes of results that are kept in memory.
IN_MEMORY = 2**33
#: Most characters of formulas in one attribute.
TEXT = 16_000
#: Bytes of a NetCDF file.
LARGEST_STORE = 2**50
_UNITS: Mapping[str, str] = {
    "B": "sequence",
    "S": "token",
    "N": "token",
    "T": "token",
    "q": "token",
}


class Preview(NamedTuple):
    """The first rows of a sweep as a dataset, and how many rows there are."""

    data: xarray.Dataset
    rows: int


def sweep(
    model: Model | Sequence[Model],
    hardware: Hardware | Sequence[Hardware],
    passes: Passes | Sequence[Passes] = "",
    *,
    metrics: Sequence[str] | None = None,
    accounting: str = "exact",
    fidelity: str = "ideal",
    chunks: int | Mapping[str, int] | None = None,
    store: str | os.PathLike[str] | None = None,
    client: Any = None,
    progress: bool | Report | None = None,
    errors: str = "raise",
    reserve: str | float | None = None,
    **symbols: Any,
) -> xarray.Dataset:
    """Evaluate metrics over a grid.

    Args:
        model: a model as for :func:`costgraph.compile`, or a list of them.
        hardware: a device or a list.
        passes: a pipeline or a list; the empty text is the unmodified model.
        metrics: of ``ttft``, ``tpot``, ``latency``, ``throughput``, ``memory``,
            ``flops`` and ``bytes``. Default: every one whose symbols are given.
        accounting: the counting convention.
        fidelity: ``ideal``, ``calibrated`` or a band, as for :func:`costgraph.compile`.
        chunks: points of one block of work, or its length along symbols.
        store: a path that ends in ``.zarr`` or ``.nc``: results are written
            there block by block, and the returned dataset reads them lazily.
            An interrupted call continues when it is repeated unchanged.
        client: a ``dask.distributed`` client whose workers evaluate the blocks.
        progress: a bar on standard error: True, False, or by default on a
            terminal; or a function of (finished blocks, all blocks).
        errors: ``raise``, or ``nan``: combinations that cannot be compiled and
            points outside a model's limits become NaN. Points outside the limits of a
            pass (a batch below one sequence for each of its parts) always do, unless all
            are. The messages are the attribute ``errors``.
        reserve: memory that programs do not get, as for :func:`costgraph.compile`.
        symbols: values by symbol: ``B`` sequences, ``S`` prompt tokens, ``N``
            generated tokens, ``T`` context of a decode step, and symbols that
            passes brought in. A list becomes a dimension, a number a scalar
            coordinate. And how models are read (``weights="int8"``), as for
            :func:`costgraph.compile`.

    Returns:
        A dataset with one float64 variable a metric, ``units`` in its
        attributes, over the dimensions that the metric depends on, and
        ``fits`` (memory within what the device has for programs) where that is known.
        Lists of devices or pipelines make the dimensions ``hardware`` and
        ``passes``, several models ``model``.

    Raises:
        InputError: bad values, unknown names, a combination that cannot be
            compiled, results too large for memory, or a store that cannot be
            written.
    """
    target = None if store is None else check_target(store, force=False)
    if target is not None and target.suffix not in (".zarr", ".nc"):
        raise InputError(
            f"store must end in .zarr or .nc, not {target.suffix}; write_sweep writes tables"
        )
    plan = _plan(
        model, hardware, passes,
        metrics=metrics, accounting=accounting, fidelity=fidelity, reserve=reserve,
        chunks=chunks, errors=errors, **symbols,
    )  # fmt: skip
    if target is None:
        return _in_memory(plan, client, progress)
    _on_disk(plan, target, client, progress)
    return open_sweep(target)


def write_sweep(
    path: str | os.PathLike[str],
    model: Model | Sequence[Model],
    hardware: Hardware | Sequence[Hardware],
    passes: Passes | Sequence[Passes] = "",
    *,
    metrics: Sequence[str] | None = None,
    accounting: str = "exact",
    fidelity: str = "ideal",
    chunks: int | Mapping[str, int] | None = None,
    client: Any = None,
    progress: bool | Report | None = None,
    errors: str = "raise",
    force: bool = False,
    reserve: str | float | None = None,
    **symbols: Any,
) -> Path:
    """Write a sweep to ``path`` in bounded memory; arguments as for :func:`sweep`.

    The suffix chooses the format: ``.zarr``, ``.nc`` (NetCDF-4), ``.parquet``
    or ``.csv`` (both a row a point). The file appears when it is complete; an
    interrupted call leaves ``PATH.partial`` and continues from there.

    Args:
        path: the output.
        force: replace an existing sweep of that name.

    Raises:
        InputError: as for :func:`sweep`; or the path exists, or cannot be written.
    """
    return write_told(
        path, model, hardware, passes,
        metrics=metrics, accounting=accounting, fidelity=fidelity, reserve=reserve,
        chunks=chunks, errors=errors, client=client, progress=progress, force=force, **symbols,
    )[0]  # fmt: skip


def write_told(
    path: str | os.PathLike[str],
    *choices: Any,
    client: Any = None,
    progress: bool | Report | None = None,
    force: bool = False,
    **about: Any,
) -> tuple[Path, dict[str, str]]:
    """As :func:`write_sweep`; also the attributes of what was written."""
    target = check_target(path, force)
    plan = _plan(*choices, **about)
    _on_disk(plan, target, client, progress)
    return target, _attributes(plan)


def preview(rows: int, *choices: Any, progress: bool | None = None, **about: Any) -> Preview:
    """The first rows of a sweep, in bounded time and memory however large its grid is.

    Args:
        rows: how many.
        choices: model, hardware and passes.
        progress: as for :func:`sweep`.
        about: other arguments as for :func:`sweep`; the whole grid is checked.

    Returns:
        A dataset that holds at least the first rows of the long table, and how many
        rows the whole has.
    """
    plan = _plan(*choices, **about)
    return Preview(_in_memory(plan.head(rows), None, progress), plan.points)


def open_sweep(path: str | os.PathLike[str]) -> xarray.Dataset:
    """A stored sweep (``.zarr`` or ``.nc``), read lazily.

    Raises:
        InputError: there is no such file, or it might do more than hold numbers
            (:mod:`costgraph.asking.sweeping.codecs`).
    """
    xr = require("xarray")
    if not Path(path).exists():
        raise InputError(f"no such file: {clip(str(path))}")
    if Path(path).is_dir():
        check_store(Path(path))
        engine = "zarr"
    else:
        with opened(path, LARGEST_STORE):  # a regular file
            engine = "h5netcdf"
    try:
        found: xarray.Dataset = xr.open_dataset(path, engine=engine, chunks={})
    except Exception as error:
        # The libraries below raise what they please on damaged files.
        raise InputError(f"{label_of(path)}: not a stored sweep: {reason_of(error)}") from None
    return found


def _plan(
    model: Any,
    hardware: Any,
    passes: Any,
    *,
    metrics: Any,
    accounting: str,
    fidelity: str,
    chunks: Any,
    errors: str,
    reserve: str | float | None = None,
    **symbols: Any,
) -> Plan:
    require("xarray")
    reading, values = split_options(symbols)
    return make_plan(
        model,
        hardware,
        passes,
        metrics=metrics,
        accounting=accounting,
        fidelity=fidelity,
        reserve=reserve,
        chunks=chunks,
        errors=errors,
        options=reading,
        symbols=values,
    )


def _in_memory(plan: Plan, client: Any, progress: bool | Report | None) -> xarray.Dataset:
    if plan.bytes > IN_MEMORY:
        raise InputError(
            f"the results take {plan.bytes / 1e9:.3g} GB: more than {IN_MEMORY / 1e9:.3g} GB is "
            "only written to a store, block by block"
        )
    arrays = {m: np.full(plan.shape(m), np.nan) for m in plan.metrics}
    if plan.fits_known:
        arrays["fits"] = np.zeros(plan.shape("memory"), dtype=bool)

    def keep(task: Task, values: dict[str, Any]) -> None:
        for name, block in values.items():
            region = plan.region(task, "memory" if name == "fits" else name)
            place = tuple(region.values())
            arrays[name][place] = block.reshape(arrays[name][place].shape)

    _run(plan, lambda _: False, keep, client, progress)
    return _dataset(plan, arrays.__getitem__)


def _on_disk(plan: Plan, target: Path, client: Any, progress: bool | Report | None) -> None:
    """Run a plan into a working directory next to ``target``, then give it its name."""
    from costgraph.asking.sweeping.export import write_csv, write_netcdf, write_parquet

    # Every library that the format needs, before anything is written.
    for module in (
        "zarr",
        "dask.array",
        *{".nc": ["h5netcdf"], ".parquet": ["pyarrow"]}.get(target.suffix, []),
    ):
        require(module)
    try:
        store = PartialStore(target, plan, lambda path: _create(plan, path))
        try:
            _run(plan, store.holds, store.write, client, progress)
            made = store.root / f"finished{target.suffix}"
            writers: dict[str, Callable[[xarray.Dataset, Path], None]] = {
                ".nc": write_netcdf,
                ".parquet": write_parquet,
                ".csv": write_csv,
            }
            if target.suffix == ".zarr":
                made = store.data
            else:
                # A task for every block is only wanted where something computes with dask.
                lazy: dict[str, Any] = {"chunks": {}} if target.suffix == ".nc" else {}
                with require("xarray").open_dataset(store.data, engine="zarr", **lazy) as data:
                    try:
                        writers[target.suffix](data, made)
                    except BaseException:
                        made.unlink(missing_ok=True)
                        raise
            store.publish(made)
        finally:
            store.close()
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error}") from error


def _create(plan: Plan, path: Path) -> None:
    """An empty store with all coordinates, whose chunks are the plan's blocks."""
    da = require("dask.array")

    def empty(name: str) -> Any:
        metric = "memory" if name == "fits" else name
        kind, fill = (bool, False) if name == "fits" else (np.float64, np.nan)
        # One piece that is never computed: a task for every block takes gigabytes.
        return da.full(plan.shape(metric), fill, dtype=kind, chunks=-1)

    data = _dataset(plan, empty)
    encoding = {
        name: {"chunks": plan.chunk("memory" if name == "fits" else str(name))}
        for name, variable in data.data_vars.items()
        if variable.shape
    }
    data.to_zarr(
        path, mode="w-", compute=False, zarr_format=2, consolidated=True, encoding=encoding
    )


def _run(
    plan: Plan,
    held: Callable[[Task], bool],
    keep: Callable[[Task, dict[str, Any]], None],
    client: Any,
    progress: bool | Report | None,
) -> None:
    total, finished = plan.task_count, 0
    report, stop = reporter(progress, total)

    def todo() -> Iterator[Task]:
        nonlocal finished
        for task in plan.tasks():
            if held(task):
                finished += 1
            else:
                yield task

    try:
        with closing(evaluate(plan, todo(), client)) as results:
            for task, values in results:
                capacity = plan.cells[task.cell].capacity
                if plan.fits_known and "memory" in values and capacity is not None:
                    fits = (values["memory"] <= capacity) & farther_fits(plan, task)
                    values = {**values, "fits": fits}
                keep(task, values)
                finished += 1
                report(finished, total)
    finally:
        stop()


def _dataset(plan: Plan, array: Callable[[str], Any]) -> xarray.Dataset:
    """A labelled dataset around the arrays that ``array`` gives by name."""
    import xarray as xr

    coords: dict[str, Any] = {}
    for axis in plan.choices:
        values = np.array(axis.values, dtype=object)
        coords[axis.name] = (axis.name, values) if axis.is_dim else axis.values[0]
    # As the choices are: every row of a table says how it was counted and timed.
    coords |= {"accounting": plan.accounting, "fidelity": plan.fidelity}
    for axis in plan.axes:
        about = {"long_name": LEGEND.get(axis.name, axis.name)}
        about["units"] = _UNITS.get(axis.name, "1")
        numbers = np.array(axis.values)
        coords[axis.name] = (axis.name, numbers, about) if axis.is_dim else ((), numbers[0], about)
    variables: dict[str, Any] = {}
    for metric in plan.metrics:
        about = {
            "units": plan.units.get(metric, ""),
            "long_name": METRICS[metric].title,
            "formula": _formulas(plan, metric),
            "assumptions": _assumptions(plan, metric),
        }
        variables[metric] = (plan.dims(metric), array(metric), about)
    if plan.fits_known:
        about = {"long_name": "memory is within what there is, farther levels too", "units": "1"}
        variables["fits"] = (plan.dims("memory"), array("fits"), about)
    return xr.Dataset(variables, coords, _attributes(plan))


def _attributes(plan: Plan) -> dict[str, str]:
    """What is said of the whole sweep, as texts."""
    failures: dict[str, str] = {}
    for cell in plan.cells:
        for metric, message in cell.errors.items():
            failures[f"{cell.label}: {metric}"] = message
            if len(json.dumps(failures)) > TEXT:  # as many as there is room for
                del failures[f"{cell.label}: {metric}"]
    attributes = {"accounting": plan.accounting, "fidelity": plan.fidelity}
    attributes["costgraph"] = VERSION
    attributes |= {k: "\n".join(v)[:TEXT] for k, v in _told(plan).items() if v}
    if failures:
        attributes["errors"] = json.dumps(failures, ensure_ascii=False)
    return attributes


def told_lines(attributes: Mapping[Any, Any]) -> list[str]:
    """What attributes of a sweep say, as lines: what failed, cautions, what numbers rest on."""
    failures = json_value(attributes.get("errors", "{}"), "errors")
    told = {k: str(attributes.get(k, "")).splitlines() for k in (*SAID, *FOOT)}
    return [
        *(f"{where}: {why}" for where, why in failures.items()),
        *(line for k in SAID for line in told[k]),
        *foot(*(told[k] for k in FOOT)),
    ]


def _formulas(plan: Plan, metric: str) -> str:
    """The formula of each combination as text, as many as there is room for."""
    texts = [(c.label, c.formulas[metric]) for c in plan.cells if metric in c.formulas]
    if len(texts) == 1:
        return texts[0][1].text()[:TEXT]
    shown: list[str] = []
    length = 0
    for label, formula in texts:
        text = f"[{label}]\n{formula.text()}"
        length += len(text)
        if length > TEXT:
            shown.append(f"[{len(texts) - len(shown)} further combinations]")
            break
        shown.append(text)
    return "\n".join(shown)


def _told(plan: Plan) -> dict[str, Sequence[str]]:
    """What all numbers are about and rest on, under the keys of :meth:`Setting.to_dict`."""
    settings = [c.setting for c in plan.cells if c.setting is not None]
    if not settings:
        return {}
    shared = Setting.shared(settings)
    return {
        "reading": [f"{k}={v}" for k, v in shared.reading],
        "assumptions": shared.assumptions,
        "notes": shared.notes,
        "cautions": shared.cautions,
        # Without the memory of requests, whether the weights fit.
        "warnings": [] if "memory" in plan.metrics else _too_large(plan),
        "not_done": undone_lines(shared.not_done),
    }


def _too_large(plan: Plan) -> list[str]:
    """What is said of combinations whose weights alone do not fit."""
    several = len(plan.cells) > 1
    return [
        f"{cell.label}: {said}" if several else said
        for cell in plan.cells
        for said in (() if cell.setting is None else cell.setting.warnings)
    ]


def _assumptions(plan: Plan, metric: str) -> str:
    sentences = dict.fromkeys(
        s for c in plan.cells if metric in c.formulas for s in c.formulas[metric].assumptions
    )
    return "\n".join(sentences)[:TEXT]
