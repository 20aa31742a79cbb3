"""Evaluating the blocks of a sweep: here, or on the workers of a cluster."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from sympy import Integer

from costgraph.asking.sweeping.plan import BLOCK, Plan, Task, block_shape, cuts
from costgraph.asking.sweeping.store import require
from costgraph.errors import InputError
from costgraph.formula import Arm, Formula, Term
from costgraph.formula.terms import Limit
from costgraph.formula.vector import VectorFunction, compile_vector
from costgraph.views import view

Array: TypeAlias = npt.NDArray[np.float64]
#: Blocks sent to a cluster ahead of those that came back, per worker thread.
AHEAD = 4


def evaluate(
    plan: Plan, tasks: Iterable[Task], client: Any = None
) -> Generator[tuple[Task, Any], None, None]:
    """Each task with its results: metric to an array of the block's shape.

    With a ``dask.distributed`` client, blocks run on its workers and come back
    in any order; only a bounded number is under way at a time.
    """
    if client is None:
        key, data = (-1, -1), b""
        for task in tasks:  # those of one cell and group follow one another
            if key != (task.cell, task.group):
                key, data = (task.cell, task.group), payload(plan, task)
            yield task, block_values(data, _arrays(plan, task))
    else:
        yield from _on_cluster(plan, tasks, client)


def _on_cluster(plan: Plan, tasks: Iterable[Task], client: Any) -> Iterator[tuple[Task, Any]]:
    as_completed = require("distributed").as_completed

    sent: dict[Any, Task] = {}
    payloads: dict[tuple[int, int], Any] = {}

    def submit(task: Task) -> Any:
        key = (task.cell, task.group)
        if key not in payloads:
            # One copy a worker, however many blocks need it.
            payloads[key] = client.scatter(payload(plan, task), broadcast=True, hash=False)
        future = client.submit(block_values, payloads[key], _arrays(plan, task), pure=False)
        sent[future] = task
        return future

    waiting = iter(tasks)
    threads = max(1, sum(client.nthreads().values()))
    running = as_completed([submit(t) for t in islice(waiting, AHEAD * threads)])
    try:
        for future in running:
            task = sent.pop(future)
            result = future.result()
            future.release()
            for following in islice(waiting, 1):
                running.add(submit(following))
            yield task, result
    finally:
        client.cancel(list(sent))


def payload(plan: Plan, task: Task) -> bytes:
    """The formulas of a task's group and cell as bytes, for a process that has no model."""
    group, cell = plan.groups[task.group], plan.cells[task.cell]
    present = tuple((m, cell.formulas[m]) for m in group.metrics if m in cell.formulas)
    # Copies without what a formula has cached: compiled functions do not pickle.
    return pickle.dumps((tuple((m, replace(f, rates={})) for m, f in present), group.symbols))


def _arrays(plan: Plan, task: Task) -> tuple[Array, ...]:
    """The symbols' values in a block, one axis each."""
    symbols = plan.groups[task.group].symbols
    return tuple(
        np.asarray(plan.axis(s).values[cut], dtype=np.float64)
        for s, cut in zip(symbols, task.slices, strict=True)
    )


@lru_cache(maxsize=32)
def _compiled(
    data: bytes,
) -> tuple[tuple[str, ...], tuple[str, ...], VectorFunction | None, tuple[tuple[_Check, ...], ...]]:
    formulas, symbols = pickle.loads(data)  # made by `payload`, never read from outside
    plain = [replace(f, limits=()) for _, f in formulas]
    checks = tuple(tuple(limit_checks(f)) for _, f in formulas)
    function = compile_vector(plain) if plain else None
    return tuple(m for m, _ in formulas), symbols, function, checks


def block_values(data: bytes, arrays: Sequence[Array]) -> dict[str, Array]:
    """Metric to values over the product of ``arrays``; NaN outside a formula's limits."""
    metrics, symbols, function, checks = _compiled(data)
    if function is None:  # every formula of the block was refused
        return {}
    shape = tuple(len(a) for a in arrays)
    grid = dict(zip(symbols, np.ix_(*arrays), strict=True)) if arrays else {}
    results = function(**{n: grid[n] for n in function.names})
    found = {}
    for metric, values, limits in zip(metrics, results, checks, strict=True):
        full = np.array(np.broadcast_to(values, shape), dtype=np.float64)
        for _, reached in limits:
            (got,) = reached(**{n: grid[n] for n in reached.names})
            full[np.broadcast_to(got > 0, shape)] = np.nan
        found[metric] = full
    return found


def farther_fits(plan: Plan, task: Task) -> npt.NDArray[np.bool_]:
    """Whether every farther level of memory has what a block keeps there, point by point."""
    arrays, symbols = _arrays(plan, task), plan.groups[task.group].symbols
    grid = dict(zip(symbols, np.ix_(*arrays), strict=True)) if arrays else {}
    fits = np.ones(tuple(len(a) for a in arrays), dtype=bool)
    for room in plan.cells[task.cell].farther:
        function = compile_vector([replace(room.need, limits=())])
        (needed,) = function(**{n: grid[n] for n in function.names})
        fits &= np.broadcast_to(needed <= room.most, fits.shape)
    return fits


_Check: TypeAlias = tuple[Limit, VectorFunction]


def limit_checks(formula: Formula) -> Iterator[_Check]:
    """The limits of a formula over its own symbols, with functions of their excess."""
    for limit in formula.limits:
        if limit.symbols <= set(formula.symbols):
            term = Term(Integer(1), (Arm(limit.excess, "limit"),))
            yield limit, compile_vector([Formula("limit", "", (term,), setting=formula.setting)])


def check_limits(plan: Plan, errors: str) -> Plan:
    """The plan with what leaves points of it empty told among the errors of its cells.

    Cells whose models' files state fewer positions than are swept say so.

    Points beyond a limit that a pass brought in are left empty, so that pipelines stand beside
    others over one grid; with ``errors="nan"`` those beyond a model's own as well.

    Raises:
        InputError: points are beyond a model's own limit, or all beyond a pass's; names the
            combination, the metric and the largest value.
    """
    cells = []
    for cell in plan.cells:
        told: dict[str, str] = {}
        for metric, formula in cell.formulas.items():
            for limit, reached in limit_checks(formula):
                top = max(_excesses(reached, plan, _worst_ends(limit)))
                if not top > 0:
                    continue
                message = limit.says(top)
                some = limit.of and min(_excesses(reached, plan, {})) <= 0
                if errors == "raise" and not some:
                    raise InputError(f"{cell.label}: {metric}: {message}")
                told.setdefault(metric, f"points left empty: {message}")
        setting = cell.setting
        if setting is not None:
            said = (
                f.beyond(**{s.name: plan.axis(s.name).values for s in f.symbols})
                for f in cell.formulas.values()
            )
            setting = setting.warned(*said)
        cells.append(replace(cell, errors={**cell.errors, **told}, setting=setting))
    return replace(plan, cells=tuple(cells))


def _excesses(
    function: VectorFunction, plan: Plan, ends: Mapping[str, Callable[[Any], Any]]
) -> Iterator[float]:
    """The largest and the smallest excess over the sweep, block by block.

    Of an axis with an end, only that end is looked at.
    """
    axes = [np.asarray(plan.axis(n).values, dtype=np.float64) for n in function.names]
    if not axes:
        yield float(function()[0])
        return
    axes = [
        np.array([ends[n](a)]) if n in ends else a
        for n, a in zip(function.names, axes, strict=True)
    ]
    lengths = [len(a) for a in axes]
    for cut in cuts(lengths, block_shape(lengths, BLOCK)):
        grid = np.ix_(*(a[part] for a, part in zip(axes, cut, strict=True)))
        (got,) = function(**dict(zip(function.names, grid, strict=True)))
        yield float(np.max(got))
        yield float(np.min(got))


def _worst_ends(limit: Limit) -> dict[str, Callable[[Any], Any]]:
    """By symbol along which the excess provably grows or falls: where it is largest."""
    symbols = tuple(limit.symbols)
    poly = limit.excess.as_poly(*symbols)
    if poly is None or not all(c.is_number for _, c in poly.terms()):
        return {}
    found: dict[str, Callable[[Any], Any]] = {}
    for at, symbol in enumerate(symbols):
        signs = {bool(c > 0) for powers, c in poly.terms() if powers[at]}
        if len(signs) == 1:
            found[symbol.name] = np.max if signs == {True} else np.min
    return found


Report: TypeAlias = Callable[[int, int], None]


def reporter(progress: bool | Report | None, blocks: int) -> tuple[Report, Callable[[], None]]:
    """A function to call after each block, and one to call at the end.

    A bar on standard error: when asked for, or by default on a terminal when
    there is more than one block.
    """
    import sys

    if callable(progress):
        return progress, lambda: None
    shown = sys.stderr.isatty() and blocks > 1 if progress is None else progress
    if not shown:
        return lambda done, total: None, lambda: None
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("sweep"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("blocks"),
        TimeRemainingColumn(),
        console=view("console")(errors=True),
    )
    task = bar.add_task("sweep", total=blocks)
    bar.start()
    return lambda done, total: bar.update(task, completed=done, total=total), bar.stop
