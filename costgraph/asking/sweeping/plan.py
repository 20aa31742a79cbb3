"""What a sweep evaluates: axes, combinations, metrics and the blocks of work."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from costgraph.compiling.capacity import Room, farther_rooms
from costgraph.compiling.compilation import Hardware, Model, compile
from costgraph.compiling.compiled import Compiled
from costgraph.compiling.options import passes_of, pipelines_of
from costgraph.errors import CostgraphError, InputError, clip, nearest
from costgraph.formula import Formula
from costgraph.ir.metrics import COUNTED, check_metric, metrics_of
from costgraph.ir.program import Program
from costgraph.ir.workload import WHOLE
from costgraph.number import number, whole
from costgraph.rewriting.pipeline import Pass, text_of
from costgraph.setting import Setting

if TYPE_CHECKING:
    from costgraph.compiling.options import Passes

#: The symbols that a metric rests on before any pass brings in its own.
NEEDS: Mapping[str, frozenset[str]] = {
    "ttft": frozenset("BS"),
    "tpot": frozenset("BT"),
    **dict.fromkeys(COUNTED[2:], frozenset("BSN")),
}
#: Points of one block unless the caller chooses.
BLOCK = 2**18


@dataclass(frozen=True, eq=False)
class Axis:
    """One coordinate: a name, its values, and whether it is a dimension.

    Names of choices stand in a tuple, values of a symbol in an array.
    """

    name: str
    values: tuple[str, ...] | npt.NDArray[Any]
    is_dim: bool

    @property
    def digest(self) -> str:
        """A text that differs where anything differs."""
        held = self.values
        data = repr(held) if isinstance(held, tuple) else f"{held.dtype.str} {len(held)} "
        made = hashlib.sha256(f"{self.is_dim} {data}".encode())
        if not isinstance(held, tuple):
            made.update(np.ascontiguousarray(held).data)
        return made.hexdigest()[:16]


@dataclass(frozen=True)
class Cell:
    """One combination of model, hardware and pipeline.

    Attributes:
        index: its place along the model, hardware and passes axes.
        label: what it is, for messages.
        formulas: its formulas by metric; a metric that failed is missing.
        errors: messages by metric: why it failed, or why some of its points are empty.
        capacity: bytes of the device's memory that programs can have, or None.
        setting: what its numbers are about; None where nothing compiled.
        farther: the farther levels of memory in which something is kept.
    """

    index: tuple[int, int, int]
    label: str
    formulas: Mapping[str, Formula]
    errors: Mapping[str, str]
    capacity: float | None
    setting: Setting | None = None
    farther: tuple[Room, ...] = ()


@dataclass(frozen=True)
class Group:
    """Metrics over the same symbols, evaluated together."""

    metrics: tuple[str, ...]
    symbols: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """One block of one group in one combination."""

    number: int
    cell: int
    group: int
    slices: tuple[slice, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that a sweep will evaluate; holds no results."""

    choices: tuple[Axis, Axis, Axis]
    axes: tuple[Axis, ...]
    metrics: tuple[str, ...]
    units: Mapping[str, str]
    cells: tuple[Cell, ...]
    groups: tuple[Group, ...]
    blocks: tuple[tuple[int, ...], ...]
    accounting: str
    fidelity: str

    def axis(self, name: str) -> Axis:
        """The axis of a symbol."""
        return next(a for a in self.axes if a.name == name)

    def group_of(self, metric: str) -> int:
        """The place of the group that evaluates ``metric``."""
        return next(i for i, g in enumerate(self.groups) if metric in g.metrics)

    def dims(self, metric: str) -> tuple[str, ...]:
        """Dimensions of a metric's variable, in order."""
        symbols = self.groups[self.group_of(metric)].symbols
        return tuple(a.name for a in (*self.choices, *map(self.axis, symbols)) if a.is_dim)

    def shape(self, metric: str) -> tuple[int, ...]:
        """Sizes along :meth:`dims`."""
        sizes = {a.name: len(a.values) for a in (*self.choices, *self.axes)}
        return tuple(sizes[d] for d in self.dims(metric))

    def chunk(self, metric: str) -> tuple[int, ...]:
        """Sizes of one block along :meth:`dims`; combinations never share a block."""
        at = self.group_of(metric)
        group, block = self.groups[at], self.blocks[at]
        sizes = {
            **{a.name: 1 for a in self.choices},
            **dict(zip(group.symbols, block, strict=True)),
        }
        return tuple(sizes[d] for d in self.dims(metric))

    def region(self, task: Task, metric: str) -> dict[str, slice]:
        """Where a task's result belongs in a metric's variable."""
        group = self.groups[task.group]
        place: dict[str, slice] = {
            a.name: slice(i, i + 1)
            for a, i in zip(self.choices, self.cells[task.cell].index, strict=True)
        }
        place.update(zip(group.symbols, task.slices, strict=True))
        return {d: place[d] for d in self.dims(metric)}

    def tasks(self) -> Iterator[Task]:
        """All blocks, in a fixed order, numbered from zero."""
        number = 0
        for cell in range(len(self.cells)):
            for at, group in enumerate(self.groups):
                lengths = [len(self.axis(s).values) for s in group.symbols]
                for slices in cuts(lengths, self.blocks[at]):
                    yield Task(number, cell, at, slices)
                    number += 1

    @property
    def task_count(self) -> int:
        """Number of blocks."""
        per_cell = sum(
            math.prod(-(-len(self.axis(s).values) // b) for s, b in zip(g.symbols, k, strict=True))
            for g, k in zip(self.groups, self.blocks, strict=True)
        )
        return per_cell * len(self.cells)

    @property
    def points(self) -> int:
        """Rows of the long table: points of the product of all dimensions."""
        return math.prod(len(a.values) for a in (*self.choices, *self.axes) if a.is_dim)

    def head(self, rows: int) -> Plan:
        """A part of the grid that holds the first rows of the long table.

        What varies still does: two values are left at least.
        """
        kept: dict[str, Axis] = {}
        for axis in sorted(self.axes, key=lambda a: shown_order(a.name), reverse=True):
            kept[axis.name] = replace(axis, values=axis.values[: max(rows, 2)])
            rows = -(-rows // len(kept[axis.name].values))
        sizes = {name: len(a.values) for name, a in kept.items()}
        shapes = tuple(tuple(sizes[s] for s in g.symbols) for g in self.groups)
        return replace(self, axes=tuple(kept[a.name] for a in self.axes), blocks=shapes)

    @property
    def bytes(self) -> int:
        """Bytes of all results."""
        return sum(8 * math.prod(self.shape(m)) for m in self.metrics)

    @property
    def fits_known(self) -> bool:
        """True when every device's capacity is known and memory is asked for."""
        return "memory" in self.metrics and all(c.capacity is not None for c in self.cells)

    def description(self) -> dict[str, Any]:
        """Plain values that decide every number of the sweep, for a manifest."""
        coordinates = {a.name: a.digest for a in (*self.choices, *self.axes)}
        texts = [
            f"{c.index} {m} {_formula_key(c.formulas[m]) if m in c.formulas else c.errors[m]}"
            for c in self.cells
            for m in self.metrics
        ]
        texts += [f"{c.index} {c.capacity}" for c in self.cells]
        texts += [
            f"{c.index} {r.name} {r.most} {_formula_key(r.need)}"
            for c in self.cells
            for r in c.farther
        ]
        return {
            **{f"values of {name}": digest for name, digest in coordinates.items()},
            "metrics": list(self.metrics),
            "accounting": self.accounting,
            "fidelity": self.fidelity,
            "formulas": hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16],
            "chunks": [list(b) for b in self.blocks],
        }


def _formula_key(formula: Formula) -> str:
    """A text that equal formulas share, also between processes."""
    terms = sorted(
        f"{t.count}*{sorted(str(a.expr) for a in t.arms)}"
        + (f"^{t.norm}" if t.is_smooth else "")
        + (f"@{t.span.symbol}:{t.span.lower}:{t.span.upper}" if t.span else "")
        for t in formula.terms
    )
    limits = sorted(f"{x.expr}<={x.bound}" for x in formula.limits)
    return f"{formula.unit} {formula.numerator} {terms} {limits}"


def make_plan(
    model: Model | Sequence[Model],
    hardware: Hardware | Sequence[Hardware],
    passes: Passes | Sequence[Passes],
    *,
    metrics: Sequence[str] | None,
    accounting: str,
    fidelity: str = "ideal",
    reserve: str | float | None = None,
    chunks: int | Mapping[str, int] | None,
    errors: str,
    options: Mapping[str, Any],
    symbols: Mapping[str, Any],
) -> Plan:
    """The plan of a sweep; arguments as for :func:`costgraph.asking.sweeping.sweep`."""
    if errors not in ("raise", "nan"):
        raise InputError(f"errors must be 'raise' or 'nan', not {clip(errors)}")
    axes = tuple(_axis(name, values) for name, values in symbols.items())
    wanted = _wanted(metrics)
    combinations, choices = _combinations(
        model, hardware, passes, accounting, fidelity, reserve, options
    )
    given = {a.name for a in axes}
    tried = wanted or _possible([c.program for c in combinations], given)
    cells = tuple(_cell(c, tried, errors) for c in combinations)
    needs = {
        m: {s.name for c in cells if m in c.formulas for s in c.formulas[m].symbols} for m in tried
    }
    if "memory" in needs:
        needs["memory"] |= {s.name for c in cells for r in c.farther for s in r.need.symbols}
    chosen = _chosen(wanted, needs, given)
    used = {name for m in chosen for name in needs[m]}
    for name in symbols:
        if name not in used:
            known = {n for names in needs.values() for n in names}
            hint = "" if name in known else nearest(name, known)
            raise InputError(f"none of {', '.join(chosen)} depends on {name}{hint}")
    groups: dict[tuple[str, ...], list[str]] = {}
    for metric in chosen:
        groups.setdefault(tuple(a.name for a in axes if a.name in needs[metric]), []).append(metric)
    kept = tuple(
        replace(
            c,
            formulas={m: f for m, f in c.formulas.items() if m in chosen},
            errors={m: e for m, e in c.errors.items() if m in chosen},
        )
        for c in cells
    )
    units = {m: f.unit for c in kept for m, f in c.formulas.items()}
    plan = Plan(
        choices,
        axes,
        chosen,
        units,
        kept,
        tuple(Group(tuple(ms), s) for s, ms in groups.items()),
        tuple(_cut(s, {a.name: len(a.values) for a in axes}, chunks) for s in groups),
        accounting,
        fidelity,
    )
    from costgraph.asking.sweeping.run import check_limits

    return check_limits(plan, errors)


def _possible(programs: Sequence[Program], given: set[str]) -> tuple[str, ...]:
    """Metrics that every program has, and whose sizes are given; else all, for a message."""
    had = [m for m in COUNTED if all(m in metrics_of(p) for p in programs)]
    needs = {s.name for p in programs for s in p.extents} | {"B"}
    return tuple(m for m in had if NEEDS[m] & needs <= given) or tuple(had)


def _axis(name: str, values: Any) -> Axis:
    """Checked values of one symbol."""
    if name in COUNTED or name in ("fits", "capacity"):
        raise InputError(f"{name!r} is a result, not a symbol to sweep")
    if isinstance(values, str):
        raise InputError(f"{name}: give numbers, not the text {clip(values)}")
    try:
        steps = isinstance(values, range)
        array = np.arange(values.start, values.stop, values.step) if steps else np.asarray(values)
        if array.dtype.kind == "O":  # fractions, decimals, integers beyond 64 bits
            found = [number(v, name) for v in array.reshape(-1)]
            array = np.asarray([float(v) for v in found]).reshape(array.shape)
    except (InputError, ValueError, OverflowError):  # lists of unequal lengths
        array = np.empty((0, 0))
    if array.ndim > 1 or array.dtype.kind not in "iuf":
        raise InputError(f"{name}: give a positive number or a list of them, not {clip(values)}")
    if array.size == 0:
        raise InputError(f"{name}: no values")
    flat = array.reshape(-1)
    above = flat > 0 if name in WHOLE else flat >= 0  # whose shares may be zero, formulas know
    if not (np.isfinite(flat).all() and above.all() and (flat <= 10**12).all()):
        raise InputError(f"{name}: every value must be above 0 and at most 1e12")
    whole = bool((flat == np.floor(flat)).all())
    if name in WHOLE and not whole:
        raise InputError(f"{name}: every value must be a whole number")
    kept = flat.astype(np.int64 if whole else np.float64)
    ordered = np.sort(kept)  # NumPy's `unique` takes seconds for ten million values
    if (ordered[1:] == ordered[:-1]).any():
        raise InputError(f"{name}: a value is given twice")
    return Axis(name, kept, array.ndim == 1)


def _wanted(metrics: Sequence[str] | None) -> tuple[str, ...] | None:
    if metrics is None:
        return None
    listed = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    if not listed:
        raise InputError("no metrics asked for")
    for metric in listed:
        check_metric(metric)
    if len(set(listed)) != len(listed):
        raise InputError("a metric is given twice")
    return listed


def shown_order(name: str) -> tuple[int, str]:
    """What puts columns in order: choices, the usual symbols, others by name."""
    usual = ("model", "hardware", "passes", "accounting", "fidelity", "B", "S", "N", "T")
    return usual.index(name) if name in usual else len(usual), name


def _chosen(
    wanted: tuple[str, ...] | None, needs: Mapping[str, set[str]], given: set[str]
) -> tuple[str, ...]:
    if wanted is None:
        chosen = tuple(m for m in needs if needs[m] and needs[m] <= given)
        if chosen:
            return chosen
        lines = "; ".join(f"{m} needs {', '.join(sorted(n))}" for m, n in needs.items())
        raise InputError(f"values for {', '.join(sorted(given)) or 'no symbol'} only: {lines}")
    for metric in wanted:
        missing = sorted(needs[metric] - given)
        if missing:
            raise InputError(f"{metric} needs values for {', '.join(missing)}")
    return wanted


@dataclass(frozen=True)
class _Choice:
    """One combination before it is compiled."""

    index: tuple[int, int, int]
    label: str
    program: Program
    make: Callable[[], Compiled]
    capacity: float | None


def _combinations(
    model: Any,
    hardware: Any,
    passes: Any,
    accounting: str,
    fidelity: str,
    reserve: str | float | None,
    options: Mapping[str, Any],
) -> tuple[list[_Choice], tuple[Axis, Axis, Axis]]:
    """Every combination, ready to be compiled, and the axes they lie on."""
    from costgraph.counting.accounting import accounting as find_accounting
    from costgraph.hardware import load_system
    from costgraph.models import load_model

    figures = find_accounting(accounting).device_figures
    programs = [load_model(m, **options) for m in listed(model, "model")]
    given = listed(hardware, "hardware")
    systems = [load_system(h) for h in given]
    pipelines = [pipeline_of(p) for p in listed(pipelines_of(passes), "passes")]
    axes = (
        _labels("model", [p.name for p in programs], len(programs) > 1),
        _labels("hardware", [s.name for s in systems], _is_list(hardware)),
        _labels("passes", [label for label, _ in pipelines], _is_list(passes)),
    )
    found = []
    for (i, p), (j, h), (k, (label, text)) in product(
        enumerate(programs), enumerate(systems), enumerate(pipelines)
    ):
        # As it was given: a calibration may stand beside the file of a device.
        def make(p: Any = p, h: Any = given[j], text: Any = text) -> Compiled:
            return compile(p, h, text, accounting=accounting, fidelity=fidelity, reserve=reserve)

        capacity = h.device.under(figures).reserving(reserve).memory.room
        found.append(
            _Choice(
                (i, j, k),
                f"{p.name} on {h.name}, passes {label}",
                p,
                make,
                None if capacity is None else float(capacity),
            )
        )
    return found, axes


def _is_list(value: Any) -> bool:
    """True for a list of choices; a tuple of passes is one pipeline."""
    if isinstance(value, (str, os.PathLike, Mapping)) or not isinstance(value, Sequence):
        return False
    return not (value and all(isinstance(v, Pass) for v in value))


def listed(value: Any, what: str) -> list[Any]:
    """The choices as a list; one choice is a list of one."""
    if not _is_list(value):
        return [value]
    if not value:
        raise InputError(f"no {what} given")
    return list(value)


def pipeline_of(passes: str | tuple[Pass, ...]) -> tuple[str, Any]:
    """A pipeline's label and the pipeline; the text is parsed here, so that errors come first."""
    if not isinstance(passes, str):
        return text_of(passes) or "none", passes
    passes_of(passes)
    return passes.strip() or "none", passes if passes.strip() else ""


def _labels(name: str, labels: list[str], is_dim: bool) -> Axis:
    for i, label in enumerate(labels):
        if label in labels[:i]:
            raise InputError(f"{name} {clip(label)} is given twice")
    return Axis(name, tuple(labels), is_dim)


def _cell(choice: _Choice, metrics: Sequence[str], errors: str) -> Cell:
    formulas: dict[str, Formula] = {}
    failed: dict[str, str] = {}
    compiled: Compiled | None = None
    for metric in metrics:
        try:
            compiled = compiled or choice.make()
            formulas[metric] = getattr(compiled, metric)
        except CostgraphError as error:
            if errors == "raise":
                raise InputError(f"{choice.label}: {metric}: {error}") from error
            failed[metric] = str(error)
    setting = None if compiled is None else compiled.setting
    farther = farther_rooms(compiled) if compiled is not None and "memory" in formulas else ()
    return Cell(choice.index, choice.label, formulas, failed, choice.capacity, setting, farther)


def _cut(
    symbols: tuple[str, ...], sizes: Mapping[str, int], chunks: int | Mapping[str, int] | None
) -> tuple[int, ...]:
    """Sizes of a group's blocks as the caller chose them."""
    if isinstance(chunks, Mapping):
        for name, length in chunks.items():
            if name not in sizes:
                raise InputError(f"chunks: no swept symbol {clip(name)}{nearest(name, sizes)}")
            _positive(length)
        return tuple(min(chunks.get(s, sizes[s]), sizes[s]) for s in symbols)
    return block_shape([sizes[s] for s in symbols], _positive(BLOCK if chunks is None else chunks))


def cuts(lengths: Sequence[int], shape: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Blocks of a shape that cover a grid, the last axis fastest, one at a time."""
    if not lengths:
        yield ()
        return
    for start in range(0, lengths[0], shape[0]):
        first = slice(start, min(start + shape[0], lengths[0]))
        for others in cuts(lengths[1:], shape[1:]):
            yield first, *others


def block_shape(lengths: Sequence[int], most: int) -> tuple[int, ...]:
    """Sizes of blocks of at most ``most`` points: whole trailing axes, a part of one."""
    found: list[int] = []
    room = most
    for full in reversed(lengths):
        length = min(full, room)
        found.append(length)
        room = room // length if length == full else 1
    return tuple(reversed(found))


def _positive(length: Any) -> int:
    return whole(length, "chunks")
