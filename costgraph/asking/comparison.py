"""Comparing pipelines and models: side by side, what each pass adds, what its absence costs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sympy import Integer

from costgraph.asking.compared import (
    Column,
    Comparison,
    Effect,
    Part,
    Steps,
    column,
    joined,
    middle,
    steps_of,
)
from costgraph.compiling.capacity import rooms
from costgraph.compiling.compilation import Hardware, Model, compile
from costgraph.compiling.compiled import Compiled
from costgraph.compiling.options import devices_of, pipelines_of, split_options
from costgraph.errors import InputError, clip
from costgraph.formula import Formula
from costgraph.formula.bounds import bound_shares
from costgraph.formula.even import Even, even
from costgraph.formula.kept import kept_bounds, kept_expr, kept_formula
from costgraph.formula.trees import Unknown
from costgraph.ir.workload import USUAL, evaluated, lengths, less, workload
from costgraph.progress import counted
from costgraph.symbols import N, S, symbol

if TYPE_CHECKING:
    from costgraph.compiling.options import Passes

__all__ = ["Beside", "Column", "Comparison", "Effect", "compare"]

#: A model to compare with, or one with lengths of its own: ``("llama-2-7b", {"N": 512})``.
Beside = Model | tuple[Model, Mapping[str, int]]
#: Sizes that a model beside another may have for itself: prompt and generated tokens.
OWN = ("S", "N")
OWN_STEPS = "mean of each model's own decode steps"


def compare(
    model: Model,
    hardware: Hardware | Sequence[Hardware],
    pipelines: Passes | Sequence[Passes] = "",
    *,
    beside: Sequence[Beside] = (),
    B: int | None = None,
    S: int | None = None,
    N: int | None = None,
    accounting: str = "exact",
    fidelity: str = "ideal",
    calibration: str | os.PathLike[str] | None = None,
    reserve: str | float | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Comparison:
    """Compare pipelines of passes, and models, at one workload, on one device or several.

    Args:
        model, accounting, fidelity, calibration, reserve: as for :func:`costgraph.compile`.
        hardware: a device, or a list.
        pipelines: a pipeline, or a list; speed-ups are against the first, of the first model
            on the first device. The empty text is the unmodified model.
        beside: further models, such as students of the first one, each through the same
            pipelines; with lengths of its own (``S``, ``N``) where it needs other ones for
            the same work, such as a distilled chain of thought.
        B, S, N: sequences, prompt tokens and generated tokens: 1, 1024 and 256 where
            the model has them, or less where a model has no room, which is said.
        progress: told how many of the columns are done, and of how many.
        options: how the model is read, and numbers for its symbols and those of
            passes (``K`` denoising steps, ``G`` image tokens).

    Raises:
        InputError: there is nothing to compare, or a value is missing, unknown or out
            of range.
    """
    devices, asked = devices_of(hardware), pipelines_of(pipelines)
    if not asked or not devices:
        raise InputError("compare needs at least one pipeline and one device")
    reading, symbols = split_options(options)
    models = [(model, {}), *(_own(item) for item in beside)]

    def made(of: Model, device: Hardware, passes: Any) -> Compiled:
        return compile(
            of,
            device,
            passes,
            accounting=accounting,
            fidelity=fidelity,
            calibration=calibration,
            reserve=reserve,
            **reading,
        )

    pairs = [
        (device, index, text)
        for device in devices
        for index in range(len(models))
        for text in asked
    ]
    grid = [
        _Place(models[index][0], device, made(models[index][0], device, text), index)
        for device, index, text in counted(pairs, "pipelines compiled")
    ]
    everything = tuple(p.compiled for p in grid)
    asked_of = [
        [getattr(p.compiled, m) for p in grid if p.index == i for m in ("latency", "memory")]
        for i in range(len(models))
    ]
    given = [{"B": B, "S": S, "N": N, **symbols, **own} for _, own in models]
    usual = dict(USUAL)
    for formulas, told in zip(asked_of, given, strict=True):
        # What one model has no room for is asked of none: all stand at one workload.
        usual |= {n: v for n, v in lengths(formulas, told, usual).items() if n in usual}
    known = [{s.name for f in formulas for s in f.symbols} for formulas in asked_of]
    workloads: list[dict[str, Any]] = [
        workload(formulas, told, usual) for formulas, told in zip(asked_of, given, strict=True)
    ]

    def latency_of(place: _Place, passes: Any) -> Formula | str:
        """Of a part of a pipeline: a formula, or why there is none."""
        try:
            # A part of a pipeline is a number of the whole, whose setting says all of it.
            return replace(made(place.of, place.device, passes), told=False).latency
        except InputError as error:
            return str(error)

    unmodified: dict[tuple[int, int], Formula | str] = {}
    falls, ablations, steps = [], [], []
    columns: list[Column] = []
    for place in grid:
        values, own = workloads[place.index], models[place.index][1]
        named = (place.model,) if beside else ()
        if len(asked) > 1:
            named = (*named, place.passes or "none")
        with _naming(", ".join(named)):
            place.value("latency", values)
        key = (id(place.device), place.index)
        passes, whole = place.compiled.passes, place.compiled.latency
        if key not in unmodified:
            unmodified[key] = latency_of(place, ()) if passes else whole
        parts = Steps(
            unmodified[key],
            whole,
            tuple(item.spec() for item in passes),
            tuple(
                whole if last == len(passes) else latency_of(place, passes[:last])
                for last in range(1, len(passes) + 1)
            ),
            tuple(latency_of(place, passes[:i] + passes[i + 1 :]) for i in range(len(passes))),
        )
        fall, ablation = parts.effects(partial(_part, values))
        falls.append(fall)
        ablations.append(ablation)
        steps.append(parts)
        first = columns[0] if columns else None
        length = None if first is None else _even_length(place.compiled, values, first)
        columns.append(column(place, values, own, first, length))
        if progress is not None:
            progress(len(columns), len(grid))
    apart = any(own for _, own in models)
    settings = [
        p.compiled.setting.warned(
            p.compiled.latency.beyond(**workloads[p.index]),
            less(given[p.index], workloads[p.index]),
        )
        for p in grid
    ]
    return Comparison(
        joined(settings),
        workloads[0],
        None if apart else middle(grid[0], workloads[0]).get("T"),
        OWN_STEPS if apart else steps_of(grid[0], workloads[0]),
        tuple(columns),
        tuple(
            None
            if column.even_length is None
            else _even(grid[0].compiled, workloads[0], place.compiled, workloads[place.index])
            for place, column in zip(grid, columns, strict=True)
        ),
        tuple(falls),
        tuple(ablations),
        tuple(c.setting for c in everything),
        everything,
        partial(_kept, grid, steps, known[0]) if len(models) == 1 else lambda: None,
    )


def _part(values: Mapping[str, Any], found: Formula | str) -> Part:
    """The latency of a part of a pipeline, or why there is none."""
    if isinstance(found, str):
        return Part(None, found)
    try:
        return Part(evaluated(found, values))
    except InputError as error:
        return Part(None, str(error))


@contextmanager
def _naming(column: str) -> Iterator[None]:
    """Errors say which model and pipeline they are about, where there are several."""
    try:
        yield
    except InputError as error:
        if not column:
            raise
        raise InputError(f"{column}: {error}") from None


@dataclass(frozen=True)
class _Place:
    """A model on a device through a pipeline, compiled; see :class:`.compared.Place`.

    Attributes:
        of, device: as they were given.
        compiled: what is asked.
        index: which of the models it is.
    """

    of: Model
    device: Hardware
    compiled: Compiled
    index: int

    @property
    def model(self) -> str:
        return self.compiled.program.name

    @property
    def hardware(self) -> str:
        return self.compiled.setting.hardware

    @property
    def passes(self) -> str:
        return self.compiled.setting.passes

    @property
    def tokens(self) -> bool:
        return "tpot" in self.compiled.metrics

    @property
    def asks_again(self) -> bool:
        return self.compiled.program.asks_again

    def value(self, metric: str, values: Mapping[str, Any]) -> float:
        return evaluated(getattr(self.compiled, metric), values)

    def shares(self, metric: str, values: Mapping[str, Any]) -> Mapping[str, float]:
        formula: Formula = getattr(self.compiled, metric)
        wanted = {s.name for s in formula.symbols}
        return bound_shares(formula, {k: v for k, v in values.items() if k in wanted})

    def after_first(self, values: Mapping[str, Any]) -> float:
        sizes = {S: Integer(values.get("S", 1)), N: Integer(values["N"])}
        return float(self.compiled.program.after_first.xreplace(sizes))

    def contexts(self, values: Mapping[str, Any]) -> tuple[int, int] | None:
        if not self.tokens:
            return None
        return self.compiled.program.contexts(values.get("S", 1), values.get("N", 1))

    def full(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        found = rooms(self.compiled)
        return tuple(r.name for r in found if evaluated(r.need, values) > r.most)

    @property
    def parameters_on(self) -> str:
        return self.compiled.parameters_on

    def parameters(self, values: Mapping[str, Any]) -> int | None:
        number = self.compiled.parameters.xreplace({symbol(k): v for k, v in values.items()})
        return int(number) if number.is_number else None


def _kept(grid: Sequence[_Place], steps: Sequence[Steps], known: Iterable[str]) -> Any:
    """The data of :func:`.compared.comparison_of`; None where no tree holds it."""
    try:
        return {
            "known": sorted(known),
            "columns": [_kept_column(p, s) for p, s in zip(grid, steps, strict=True)],
        }
    except Unknown:
        return None


def _kept_column(place: _Place, steps: Steps) -> dict[str, Any]:
    compiled = place.compiled
    program, tokens = compiled.program, place.tokens
    timed = ("ttft", "tpot") if tokens else ("latency",)
    metrics = ("latency", "memory", *(("ttft", "tpot", "throughput") if tokens else ()))
    spans = (p.span for p in program.decoding if p.span is not None) if tokens else ()

    def part(found: Formula | str) -> Any:
        return found if isinstance(found, str) else kept_formula(found)

    made = steps.mapped(part)
    return {
        "model": place.model,
        "setting": compiled.setting.to_data(),
        "tokens": tokens,
        "asks_again": place.asks_again,
        "metrics": {m: kept_formula(getattr(compiled, m)) for m in metrics},
        "bounds": {m: kept_bounds(getattr(compiled, m)) for m in timed},
        "after_first": kept_expr(program.after_first) if tokens else None,
        "spans": [[kept_expr(span.lower), kept_expr(span.upper)] for span in spans],
        "rooms": [[r.name, kept_formula(r.need), r.most] for r in rooms(compiled)],
        "parameters": kept_expr(compiled.parameters),
        "parameters_on": compiled.parameters_on,
        "steps": [made.base, made.whole, made.names, made.fall, made.without],
    }


def _own(item: Beside) -> tuple[Model, Mapping[str, int]]:
    """A model with its own lengths.

    Raises:
        InputError: it has another size of its own.
    """
    of, own = item if isinstance(item, tuple) else (item, {})
    for name in own:
        if name not in OWN:
            raise InputError(f"a model has its own {' and '.join(OWN)}, not {clip(name)}")
    return of, dict(own)


def _even(
    first: Compiled, its: Mapping[str, Any], other: Compiled, own: Mapping[str, Any]
) -> Even | None:
    """The formula of :func:`_even_length` about the first model's number of tokens."""

    def along(compiled: Compiled, values: Mapping[str, Any]) -> Formula:
        known = {s.name for s in compiled.latency.symbols} - {"N"}
        return compiled.latency.bind(**{k: v for k, v in values.items() if k in known})

    try:
        found = even(along(first, its), along(other, own), "N")
    except InputError:
        return None
    return next((e for e in found if e.lower <= its["N"] <= e.upper), None)


def _even_length(compiled: Compiled, values: Mapping[str, Any], first: Column) -> int | None:
    """The most tokens that another model generates in the latency of the first column."""
    latency = compiled.latency
    known = {s.name for s in latency.symbols}
    if compiled.program.name == first.model or "N" not in known or first.ttft is None:
        return None
    others = {k: v for k, v in values.items() if k in known and k != "N"}
    return latency.solve_for("N", budget=first.latency, **others).largest or None
