"""One step over time: when each operation begins and ends, and what runs beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

from sympy import Expr, Integer, Symbol

from costgraph.compiling.breakdown import break_down, seconds_of, step_terms, values_of
from costgraph.compiling.steps import Breakdown, OpRow
from costgraph.counting.count import Item, Overlap, Row
from costgraph.errors import InputError
from costgraph.formula.powers import placed
from costgraph.ir.graph import Graph
from costgraph.ir.program import Phase
from costgraph.ir.regions import Parallel, Region, Repeat
from costgraph.number import Number
from costgraph.timing import roofline
from costgraph.views import view

if TYPE_CHECKING:
    from costgraph.compiling.compiled import Compiled

ONE = Integer(1)
#: Spans that a timeline has at most.
MOST = 200_000


@dataclass(frozen=True)
class Span:
    """A stretch of time.

    Attributes:
        name: an operation, a round of layers, or a region whose bodies run at once.
        lane: who is at work: the device, or a body of a region.
        start, seconds: since the step began, and how long.
        row: the operation with its numbers; None for what is made of others.
    """

    name: str
    lane: str
    start: float
    seconds: float
    row: OpRow | None = None


@dataclass(frozen=True)
class Timeline:
    """The spans of a step in the order in which they begin, outer ones first."""

    breakdown: Breakdown
    spans: tuple[Span, ...]

    @property
    def seconds(self) -> float:
        """How long the step takes."""
        return float(self.breakdown.totals["seconds"])

    def chrome(self) -> dict[str, Any]:
        """The trace that Chrome's ``about:tracing`` and Perfetto read, as plain values."""
        made: dict[str, Any] = view("timeline_chrome")(self)
        return made


@dataclass(frozen=True)
class _Leaf:
    row: OpRow
    seconds: float


@dataclass(frozen=True)
class _Rounds:
    name: str
    times: float
    parts: tuple[_Part, ...]
    places: tuple[int, ...] = ()

    @property
    def once(self) -> float:
        return sum(p.seconds for p in self.parts)

    @property
    def seconds(self) -> float:
        return self.times * self.once

    @property
    def shown(self) -> int:
        """Rounds that are told apart; an expected number of them is told as one."""
        return int(self.times) if self.times == int(self.times) else 1


@dataclass(frozen=True)
class _AtOnce:
    name: str
    seconds: float
    bodies: tuple[tuple[str, tuple[_Part, ...]], ...]


_Part: TypeAlias = "_Leaf | _Rounds | _AtOnce"


@dataclass(frozen=True)
class _Walk:
    """What is the same for all operations of a step."""

    compiled: Compiled
    phase: Phase
    values: Mapping[Symbol, Expr]
    rows: Iterator[OpRow]

    def number(self, expr: Expr) -> float:
        return float(placed(self.phase.bind(expr), self.values))

    def took(self, item: Item) -> float:
        """Seconds of one execution, as the time of the step counts it."""
        once = (replace(item, count=ONE),)
        return seconds_of(step_terms(self.compiled, self.phase, once, self.values))

    def graph(self, graph: Graph, items: Iterator[Item]) -> tuple[_Part, ...]:
        """The operations of a graph, items taken in the order in which they are counted."""
        parts: list[_Part] = []
        for node in graph.nodes:
            if isinstance(node.op, Region) and not isinstance(node.op, Parallel):
                times = self.number(node.op.times)
                places = node.op.places if isinstance(node.op, Repeat) else ()
                for body in node.op.graphs:
                    parts.append(_Rounds(node.name, times, self.graph(body, items), places))
                continue
            item = next(items)
            if isinstance(item, Row):
                parts.append(_Leaf(next(self.rows), self.took(item)))
                continue
            assert isinstance(item, Overlap)
            assert isinstance(node.op, Parallel)
            bodies = tuple(
                (name, self.graph(body.graph, iter(inner)))
                for (name, inner), body in zip(item.bodies, node.op.bodies, strict=True)
            )
            parts.append(_AtOnce(item.name, self.took(item), bodies))
        return tuple(parts)


def timeline(compiled: Compiled, phase_name: str, given: Mapping[str, Number | None]) -> Timeline:
    """When each operation of a step runs; arguments as of ``Compiled.breakdown``.

    Raises:
        InputError: several groups of sequences are under way at once (stages), or there are
            more spans than :data:`MOST`.
    """
    phase = compiled.program.phase(phase_name)
    items = compiled.items[phase.name]
    table = break_down(compiled, phase_name, given)
    if roofline.in_stages(phase, items):
        raise InputError(
            f"{phase.name}: groups of sequences are in several stages at once, which is no "
            "timeline of one step; micro=1 has one group"
        )
    walk = _Walk(compiled, phase, values_of(compiled, phase, given), iter(table.rows))
    parts = walk.graph(phase.graph, iter(items))
    if (many := _many(parts)) > MOST:
        raise InputError(f"{phase.name}: {many} spans; a timeline has at most {MOST}")
    spans: list[Span] = []
    _laid(parts, compiled.place, 0.0, spans)
    # Bodies that run at once were laid one after the other; outer spans stay before inner ones.
    return Timeline(table, tuple(sorted(spans, key=lambda span: span.start)))


def _many(parts: Sequence[_Part]) -> int:
    """How many spans the parts make."""
    many = 0
    for part in parts:
        match part:
            case _Leaf():
                many += 1
            case _Rounds():
                many += part.shown * (1 + _many(part.parts))
            case _AtOnce(_, _, bodies):
                many += 1 + sum(_many(inner) for _, inner in bodies)
    return many


def _laid(parts: Sequence[_Part], lane: str, start: float, spans: list[Span]) -> float:
    """Puts the parts one behind the other; returns when the last one ends."""
    # Layers of several kinds are a region for each kind: they run in the order of their places.
    for scattered, group in groupby(parts, lambda p: isinstance(p, _Rounds) and bool(p.places)):
        if scattered:
            rounds = (r for p in group if isinstance(p, _Rounds) for r in _each(p))
            for _, name, inner in sorted(rounds, key=lambda r: r[0]):
                start = _round(name, inner, lane, start, spans)
            continue
        for part in group:
            match part:
                case _Leaf(row, seconds):
                    if seconds:
                        spans.append(Span(row.name, lane, start, seconds, row))
                case _Rounds(name, times, inner) if times != part.shown:
                    told = f"{name} ({times:.4g} times)"
                    spans.append(Span(told, lane, start, part.seconds))
                case _Rounds():
                    begin = start
                    for _, name, inner in _each(part):
                        begin = _round(name, inner, lane, begin, spans)
                case _AtOnce(name, seconds, bodies):
                    spans.append(Span(name, lane, start, seconds))
                    for body, within in bodies:
                        _laid(within, f"{lane}: {body}", start, spans)
            start += part.seconds
    return start


def _each(part: _Rounds) -> Iterator[tuple[int, str, tuple[_Part, ...]]]:
    """Every round with its place and its name."""
    for place in part.places or range(part.shown):
        yield place, f"{part.name} {place + 1}" if part.shown > 1 else "", part.parts


def _round(name: str, inner: Sequence[_Part], lane: str, start: float, spans: list[Span]) -> float:
    """One round, under a span of its own where it has a name."""
    at = len(spans)
    end = _laid(inner, lane, start, spans)
    if name and end > start:
        spans.insert(at, Span(name, lane, start, end - start))
    return end
