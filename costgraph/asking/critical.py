"""What runs at the same time at a point: which body everything waits for, and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from types import MappingProxyType
from typing import TYPE_CHECKING

from sympy import Expr, Integer, Symbol

from costgraph.formula.formula import Formula, exact
from costgraph.formula.outline import LATENCY, kind_of, link_of
from costgraph.formula.terms import Arm, Term, merged, remade
from costgraph.hardware.machine import Machine, link_symbol_name
from costgraph.ir.program import Phase
from costgraph.symbols import symbol
from costgraph.timing import roofline

if TYPE_CHECKING:
    from costgraph.compiling.compiled import Compiled

ONE = Integer(1)
#: Times closer than this are equal.
NEAR = 1e-12
#: What stands for a rate without end; its inverse for no latency.
HUGE = exact(10**40)
#: How often a figure is doubled in search of a change.
MOST_STEPS = 40
NOTHING: Mapping[str, Expr] = MappingProxyType({})


@dataclass(frozen=True)
class Body:
    """Something that runs while other things do.

    Attributes:
        name: of the body; of a resource what all bodies need of it together.
        seconds: in all its runs.
        slack: how much longer it could take before everything waits for it.
        resource: it is a resource that several bodies share.
    """

    name: str
    seconds: float
    slack: float
    resource: bool = False


@dataclass(frozen=True)
class Relief:
    """A figure of the machine at which something else takes longest, all else equal."""

    symbol: str
    now: float
    then: float
    rules: str


@dataclass(frozen=True)
class Race:
    """Bodies that run at the same time, the one that takes longest first.

    Attributes:
        phase, name: where.
        count: how often in one step.
        seconds: in all runs.
        bodies: with what they share.
        decided: one of them takes longest in every step; else it depends on the context.
        reliefs: how much faster a resource of the first one must be until another one is first.
    """

    phase: str
    name: str
    count: float
    seconds: float
    bodies: tuple[Body, ...]
    decided: bool
    reliefs: tuple[Relief, ...]

    @property
    def contended(self) -> bool:
        """What the bodies share decides, not one of them."""
        return self.decided and self.bodies[0].resource


@dataclass(frozen=True)
class Stage:
    """A unit of a pipeline: its seconds for one group of sequences, and to the slowest."""

    phase: str
    name: str
    seconds: float
    slack: float


@dataclass(frozen=True)
class Exchanged:
    """What goes over a link while one group of sequences passes through, hidden or not.

    ``latency`` is the part of ``seconds`` that messages take however short they are, ``wire``
    that of their bytes; both None where fitted times do not tell them apart.
    """

    link: str
    seconds: float
    latency: float | None
    wire: float | None
    ops: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A metric of a compiled model on a machine of symbols, at a point."""

    compiled: Compiled
    machine: Machine
    metric: str
    point: Mapping[Symbol, Expr]
    rates: Mapping[str, Expr]

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that the metric is about."""
        return self.compiled.phases_of(self.metric)

    def terms(self, phase: Phase, terms: Iterable[Term]) -> tuple[Term, ...]:
        """Terms of one step, as the metric counts them."""
        made = merged(remade(t) for t in terms)
        if self.metric in ("latency", "throughput"):
            return merged(roofline.spanned(phase, made))
        return tuple(replace(t, count=t.count * phase.weight) for t in made)

    def formula(self, phase: Phase, terms: Iterable[Term]) -> Formula:
        """Terms of one step as a time, as the metric counts them."""
        return Formula("time", "s", self.terms(phase, terms), setting=self.compiled.setting)

    def value(self, formula: Formula, other: Mapping[str, Expr] = NOTHING) -> float:
        """A time at the point, some symbols changed."""
        at = {s.name: v for s, v in self.point.items()} | dict(other)
        return float(formula.evaluate(**{s.name: at[s.name] for s in formula.symbols}))

    def seconds(self, phase: Phase, terms: Iterable[Term], **other: Expr) -> float:
        """The time of terms of one step at the point, some symbols changed."""
        return self.value(self.formula(phase, terms), other)


def races(asked: Question) -> tuple[Race, ...]:
    """Everything that runs at the same time, the longest first."""
    found = []
    for phase in asked.phases:
        items = asked.compiled.items[phase.name]
        timing = asked.compiled.timing_on(asked.machine)
        for region in roofline.at_once(phase, items, asked.machine, timing):
            race = _race(asked, phase, region)
            if race is not None:
                found.append(race)
    return tuple(sorted(found, key=lambda r: -r.seconds))


def _race(asked: Question, phase: Phase, region: roofline.AtOnce) -> Race | None:
    whole = region.term
    if whole is None:
        return None
    total = asked.seconds(phase, (whole,))
    sides = [(arm, False) for arm in region.bodies] + [(arm, True) for arm in region.shared]
    timed = [(asked.seconds(phase, region.alone(arm)), arm, s) for arm, s in sides]
    timed = sorted((x for x in timed if x[0] > 0), key=lambda x: (-x[0], x[2]))
    if len(timed) < 2:
        return None
    longest, first, _ = timed[0]
    decided = total <= longest * (1 + 1e-9)
    others = [arm for seconds, arm, _ in timed if seconds < longest * (1 - NEAR)]
    reliefs = tuple(_reliefs(asked, phase, region, first, others)) if decided else ()
    return Race(
        phase=phase.name,
        name=region.name,
        count=float(_number(asked, region.count)),
        seconds=total,
        bodies=tuple(
            Body(arm.resource, seconds, max(total - seconds, 0.0), shared)
            for seconds, arm, shared in timed
        ),
        decided=decided,
        reliefs=reliefs,
    )


def _number(asked: Question, expr: Expr) -> Expr:
    return expr.xreplace(dict(asked.point))


def _reliefs(
    asked: Question, phase: Phase, region: roofline.AtOnce, first: Arm, others: list[Arm]
) -> Iterator[Relief]:
    """For each figure that the longest body hangs on, from where on another takes longer."""
    ours = asked.formula(phase, region.alone(first))
    theirs = [(arm.resource, asked.formula(phase, region.alone(arm))) for arm in others]
    for name in asked.rates if others else ():
        if symbol(name) not in ours.symbols:
            continue

        def ahead(at: float, name: str = name) -> bool:
            """Whether the first body still takes longest with another figure."""
            other = {name: exact(at)}
            return asked.value(ours, other) > max(asked.value(f, other) for _, f in theirs)

        now = float(asked.point[symbol(name)])
        then = _turn(ahead, now, 0.5 if name.startswith("alpha_") else 2.0)
        if then is not None:
            at = {name: exact(then)}
            after = max(theirs, key=lambda x: asked.value(x[1], at))
            yield Relief(name, now, then, after[0])


def _turn(ahead: Callable[[float], bool], now: float, step: float) -> float | None:
    """The first value in steps of a factor at which ``ahead`` ends, to twelve digits."""
    start = now
    for _ in range(MOST_STEPS):
        end = start * step
        if not ahead(end):
            break
        start = end
    else:
        return None
    while abs(end - start) > NEAR * start:
        middle = math.sqrt(start * end)
        if middle in (start, end):
            break
        start, end = (middle, end) if ahead(middle) else (start, middle)
    return end


def stages(asked: Question) -> tuple[Stage, ...]:
    """The units of a pipeline in order, where there is one."""
    found = []
    for phase in asked.phases:
        items = asked.compiled.items[phase.name]
        timing = asked.compiled.timing_on(asked.machine)
        arms = roofline.stages(phase, items, asked.machine, timing)
        if len(arms) < 2:
            continue
        timed = [(arm.resource, asked.seconds(phase, arm.chain)) for arm in arms]
        most = max(seconds for _, seconds in timed)
        found += [Stage(phase.name, name, seconds, most - seconds) for name, seconds in timed]
    return tuple(found)


def exchanged(asked: Question) -> tuple[Exchanged, ...]:
    """What each link carries, the busiest first.

    Fitted times count the latency of an exchange beside its bytes, in a term of its own.
    """
    terms: dict[str, list[tuple[Phase, Term]]] = {}
    ops: dict[str, dict[str, None]] = {}
    for phase in asked.phases:
        timing = asked.compiled.timing_on(asked.machine) or roofline.ideal(asked.machine)
        for row in asked.compiled.rows[phase.name]:
            for link, term in product(row.cost.links, timing(phase, row)):
                part = _carried(term, link)
                if part is not None:
                    terms.setdefault(link, []).append((phase, part))
                    ops.setdefault(link, {})[row.name] = None
    made = (_exchanged(asked, link, found, tuple(ops[link])) for link, found in terms.items())
    return tuple(sorted(made, key=lambda x: -x.seconds))


def _carried(term: Term, link: str) -> Term | None:
    """What of a term goes over a link, its latency included; None if nothing does."""
    arms = tuple(arm for arm in term.arms if link_of(arm.resource) == link)
    if arms and term.norm is not None:  # together with what the shortest message takes
        arms += tuple(arm for arm in term.arms if kind_of(arm.resource) == LATENCY)
    if not arms and symbol(link_symbol_name("alpha", link)) in term.symbols:
        return term
    return replace(term, arms=arms) if arms else None


def _exchanged(
    asked: Question, link: str, terms: list[tuple[Phase, Term]], ops: tuple[str, ...]
) -> Exchanged:
    def total(**other: Expr) -> float:
        by_phase: dict[str, list[Term]] = {}
        for phase, term in terms:
            by_phase.setdefault(phase.name, []).append(term)
        phases = {p.name: p for p, _ in terms}
        return sum(asked.seconds(phases[name], found, **other) for name, found in by_phase.items())

    seconds = total()
    bandwidth = link_symbol_name("BW", link)
    used = {s.name for _, term in terms for s in term.symbols}
    if bandwidth not in used:
        return Exchanged(link, seconds, None, None, ops)
    if link_symbol_name("alpha", link) not in used:
        return Exchanged(link, seconds, 0.0, seconds, ops)
    latency = total(**{bandwidth: HUGE})
    return Exchanged(link, seconds, latency, seconds - latency, ops)
