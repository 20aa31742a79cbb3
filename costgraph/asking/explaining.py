"""A metric in words: what bounds it now, what would move it, what bounds it next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sympy import Expr

from costgraph.asking.critical import (
    HUGE,
    Exchanged,
    Question,
    Race,
    Stage,
    exchanged,
    races,
    stages,
)
from costgraph.asking.timed import Timed, timed
from costgraph.compiling.capacity import fit
from costgraph.compiling.fits import Fit
from costgraph.errors import InputError
from costgraph.formula.formula import Formula
from costgraph.formula.local import active
from costgraph.formula.powers import placed
from costgraph.ir.program import Program
from costgraph.ir.workload import plain as numbers
from costgraph.ops.fused import operations
from costgraph.setting import Setting
from costgraph.symbols import symbol
from costgraph.views import view_text

if TYPE_CHECKING:
    from costgraph.compiling.compiled import Compiled

#: What can be explained.
EXPLAINED = ("ttft", "tpot", "latency", "interval", "throughput")


@dataclass(frozen=True)
class Share:
    """A group of operations, what bounds it, and its share of the total."""

    ops: tuple[str, ...]
    resource: str
    share: float


@dataclass(frozen=True)
class Next:
    """The nearest point along a symbol at which operations change their bound.

    Attributes:
        symbol: what changes, all else equal.
        now, then: its value now and at the change.
        ops: what changes, from the resource ``before`` to ``after``.
    """

    symbol: str
    now: float
    then: float
    ops: tuple[str, ...]
    before: str
    after: str


@dataclass(frozen=True)
class Floor:
    """What stays if one rate of the machine became infinite, or one latency zero."""

    symbol: str
    value: float


@dataclass(frozen=True)
class Explanation:
    """Why a metric has its value at a point.

    Attributes:
        metric, unit, value: what it is.
        setting: what it is about.
        fit: the memory that the point needs, against the device's.
        point: sizes (batch, tokens) by name.
        rates: the machine's figures by symbol.
        bounds: share of the total by resource.
        shares: the largest groups of operations, largest first.
        levers: elasticity by symbol: per cent of change per per cent.
        nexts: nearest changes of bound along each symbol.
        floors: values with one rate infinite.
        races: what runs at the same time, and which of it everything waits for.
        stages: units of a pipeline, with their time for one group of sequences.
        links: what goes over links between devices.
        timed: which calibrated parameters the time hangs on; empty for the ideal.
        free: what operations do that no cost shows, such as methods of positions, by kind.
    """

    metric: str
    unit: str
    value: float
    setting: Setting
    fit: Fit
    point: Mapping[str, Any]
    rates: Mapping[str, float]
    bounds: Mapping[str, float]
    shares: tuple[Share, ...]
    levers: Mapping[str, float]
    nexts: tuple[Next, ...]
    floors: tuple[Floor, ...]
    races: tuple[Race, ...] = ()
    stages: tuple[Stage, ...] = ()
    links: tuple[Exchanged, ...] = ()
    timed: tuple[Timed, ...] = ()
    free: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"<Explanation of {self.metric}: {self.setting.text()}>"

    def __str__(self) -> str:
        return view_text("explanation_text", self)

    def _repr_html_(self) -> str:
        return view_text("explanation_html", self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        from dataclasses import asdict

        # Copied without the search for what would hold it, which knows the whole program.
        plain = asdict(replace(self, fit=replace(self.fit, more=None)))
        del plain["setting"]
        point = numbers(self.point)
        return {
            **self.setting.to_dict(*self.fit.cautions), **plain, "point": point,
            "fit": self.fit.to_dict(),
        }  # fmt: skip


def explain(compiled: Compiled, metric: str, **values: Any) -> Explanation:
    """Why a metric has its value at a point.

    Args:
        compiled: a compiled model; symbols of its machine take its figures.
        metric: a time (``ttft``, ``tpot``, ``latency``, ``interval``) or ``throughput``.
        values: a number for every size of the metric.

    Raises:
        InputError: the metric is no time or rate, or a value is missing.
    """
    if metric not in EXPLAINED:
        *most, last = EXPLAINED
        known = f"{', '.join(most)} or {last}"
        raise InputError(f"explain: {metric!r} is not a time: {known}")
    machine = compiled.bound or compiled.machine
    twin = replace(compiled, machine=machine.symbolic())
    formula: Formula = getattr(twin, metric)
    rates = {s.name: v for s, v in machine.bindings().items() if s in formula.symbols}
    near = formula.local(**values, **rates)
    shares = [
        Share(p.ops, p.resource, float(placed(p.expr, near.point)))
        for term in formula.terms
        for p in active(term, near.point)
    ]
    asked = Question(compiled, twin.machine, metric, near.point, rates)
    total = sum(s.share for s in shares)
    shares = [replace(s, share=s.share / total) for s in shares]
    return Explanation(
        metric=metric,
        unit=formula.unit,
        value=near.value,
        setting=compiled.setting,
        fit=fit(compiled, values),
        point={k: v for k, v in values.items() if symbol(k) in near.point},
        rates={k: float(v) for k, v in rates.items()},
        bounds=dict(sorted(near.shares.items(), key=lambda item: -item[1])),
        shares=tuple(sorted(shares, key=lambda s: -s.share)),
        levers=near.elasticities(),
        nexts=tuple(_nexts(formula, near.point)),
        floors=tuple(_floors(formula, rates, near.point)),
        races=races(asked),
        stages=stages(asked),
        links=exchanged(asked),
        timed=timed(asked),
        free=_free(compiled.program),
    )


def _free(program: Program) -> tuple[tuple[str, str], ...]:
    """(kind, what is told of it) of operations in all graphs, each once."""
    ops = (op for phase in program.phases for op, _ in operations(phase.graph))
    return tuple(dict.fromkeys((op.kind, op.told) for op in ops if op.told))


def _nexts(formula: Formula, point: Mapping[Any, Expr]) -> list[Next]:
    """Nearest changes of bound below and above, along every symbol."""
    plain = replace(formula, terms=tuple(t for t in formula.terms if t.span is None))
    found = []
    for x, now in point.items():
        if x not in plain.symbols:
            continue
        others = {s.name: v for s, v in point.items() if s != x and s in plain.symbols}
        try:
            crossings = plain.crossover(x.name, **others)
        except InputError:  # not polynomial along this symbol (ceilings, expectations)
            continue
        above = [c for c in crossings if c.value > now]
        below = [c for c in crossings if c.value < now]
        for cross, upwards in ((below[-1:], False), (above[:1], True)):
            for c in cross:
                same = tuple(op for d in crossings if d.value == c.value for op in d.ops)
                before, after = (c.below, c.above) if upwards else (c.above, c.below)
                found.append(Next(x.name, float(now), float(c.value), same, before, after))
    return found


def _floors(formula: Formula, rates: Mapping[str, Expr], point: Mapping[Any, Expr]) -> list[Floor]:
    """The metric with one rate infinite or one latency zero: what hangs on it vanishes."""
    found = []
    for name in rates:
        x = symbol(name)
        huge = {**dict(point), x: 1 / HUGE if name.startswith("alpha_") else HUGE}
        value = formula.evaluate(**{s.name: huge[s] for s in formula.symbols})
        found.append(Floor(name, float(value)))
    return found
