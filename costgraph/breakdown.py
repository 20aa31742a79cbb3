"""One step with numbers: a row per operation, and totals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sympy import Add, Expr, Integer, Symbol

from costgraph import roofline
from costgraph.capacity import Fit, room_of
from costgraph.cost import Cost
from costgraph.count import Row, parameters
from costgraph.errors import InputError, UnboundSymbolError
from costgraph.footprint import footprint, resting
from costgraph.formula.outline import link_of
from costgraph.formula.powers import placed
from costgraph.formula.terms import Term
from costgraph.machine import Machine
from costgraph.number import whole
from costgraph.program import Phase
from costgraph.setting import Setting
from costgraph.symbols import LEGEND, B, T, q
from costgraph.tensor import Role

if TYPE_CHECKING:
    from costgraph.api import Compiled

#: Roles in the order in which tables show them.
ROLES = (Role.WEIGHT, Role.ACTIVATION, Role.KV, Role.STATE)


@dataclass(frozen=True)
class OpRow:
    """One operation of one step, with numbers.

    ``flops`` (FLOP), ``bytes`` and ``seconds`` are for one execution; ``count``
    says how many there are in the step. ``bound`` is ``memory``, ``compute``, ``link``,
    ``latency`` or ``none``.
    """

    name: str
    kind: str
    count: int | float
    flops: int | float
    bytes: int | float
    bytes_by_role: Mapping[str, int | float]
    intensity: float | None
    seconds: float
    bound: str

    @property
    def performance(self) -> float | None:
        """Achieved FLOP/s, or None for operations that take no time."""
        return self.flops / self.seconds if self.seconds else None


@dataclass(frozen=True)
class Breakdown:
    """A step of one phase: rows per operation and totals over all executions.

    Memory in ``totals`` is everything that is there during the step: ``resident_bytes`` of
    it, weights and caches of graphs that rest (a draft, a vision tower). ``seconds`` is the
    time of the step, ``busy_seconds`` that of its operations one after the other: more where
    some of them run at the same time.
    """

    setting: Setting
    phase: str
    bindings: Mapping[str, int]
    rows: tuple[OpRow, ...]
    totals: Mapping[str, int | float]
    fit: Fit

    def __iter__(self) -> Iterator[OpRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> OpRow:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``analyze --json`` prints them."""
        return {
            **self.setting.to_dict(),
            "phase": self.phase,
            "bindings": dict(self.bindings),
            "ops": [
                {
                    "name": r.name,
                    "kind": r.kind,
                    "count": r.count,
                    "flops": r.flops,
                    "bytes": r.bytes,
                    "bytes_by_role": dict(r.bytes_by_role),
                    "intensity": r.intensity,
                    "seconds": r.seconds,
                    "bound": r.bound,
                }
                for r in self.rows
            ],
            "totals": dict(self.totals),
            "fit": self.fit.to_dict(),
        }

    def __repr__(self) -> str:
        return f"<Breakdown of {self.phase}: {self.setting.text()}>"

    def __str__(self) -> str:
        from costgraph.export.table import breakdown_text

        return breakdown_text(self)

    def _repr_html_(self) -> str:
        from costgraph.export.table import breakdown_html

        return breakdown_html(self)


def break_down(compiled: Compiled, phase_name: str, given: Mapping[str, int | None]) -> Breakdown:
    """The numbers of one step; see :meth:`costgraph.api.Compiled.breakdown`."""
    phase = compiled.program.phase(phase_name)
    machine = compiled.bound or compiled.machine
    values = _values(compiled, phase, given)
    rows = []
    sums: dict[str, Any] = {"flops": Integer(0), "bytes": Integer(0)}
    busy = 0.0
    timed = compiled.timing_on(machine)
    for row in compiled.rows[phase.name]:
        cost = row.cost.mapped(lambda e: placed(phase.bind(e), values))
        count = placed(phase.bind(row.count * phase.rounds), values)
        made = _row(row.name, row.kind, count, cost, machine)
        if timed is not None:
            terms = [t.mapped(lambda e: placed(e, values)) for t in timed(phase, row)]
            made = _timed(made, terms)
        rows.append(made)
        busy += float(count) * made.seconds
        sums["flops"] += count * cost.total_flops
        sums["bytes"] += count * cost.total_bytes
    need = footprint(phase.graph, compiled.accounting)
    beside = [resting(r, compiled.accounting) for r in phase.resident]

    def number(expr: Expr) -> int | float:
        return plain(placed(phase.bind(expr), values))

    activations = max((number(a) for a in need.activations), default=0)
    rests = sum(number(part.weights) + number(part.kv) for part in beside)
    weights, kv = (
        number(Add(*(getattr(part, kind) for part in (need, *beside))))
        for kind in ("weights", "kv")
    )
    totals: dict[str, int | float] = {
        "flops": plain(sums["flops"]),
        "bytes": plain(sums["bytes"]),
        "seconds": _step_seconds(compiled, machine, phase, values, busy),
        "busy_seconds": busy,
        "parameters": number(parameters(phase)),
        "weight_bytes": weights,
        "kv_bytes": kv,
        "activation_bytes": activations,
        "resident_bytes": rests,
        "memory_bytes": weights + kv + activations,
    }
    # The new positions of the step; the symbol stays out of sight where it is bound.
    bindings = {
        "B": int(values[B]),
        "q": int(phase.bind(q).xreplace(values)),
        "T": int(phase.bind(T).xreplace(values)),
    }
    fits = Fit(machine.name, float(totals["memory_bytes"]), room_of(compiled))
    return Breakdown(compiled.setting, phase.name, bindings, tuple(rows), totals, fits)


def _step_seconds(
    compiled: Compiled, machine: Machine, phase: Phase, values: Mapping[Symbol, Expr], busy: float
) -> float:
    """The time of a step: that of its operations in turn, unless some run at the same time."""
    items = compiled.items[phase.name]
    if phase.rounds == 1 and all(isinstance(item, Row) for item in items):
        return busy
    timing = compiled.timing_on(machine)
    terms = roofline.step_terms(phase, items, machine, timing)
    fixed = {s: v for s, v in values.items() if s != q}
    return sum(float(placed(t.count * t.value, fixed)) for t in terms)


def _row(name: str, kind: str, count: Expr, cost: Cost, machine: Machine) -> OpRow:
    flops, moved = cost.total_flops, cost.total_bytes
    arms = roofline.arms(cost, machine)
    slowest = max(arms, key=lambda a: a.expr, default=None)
    bound = "none" if slowest is None else _bound(slowest.resource)
    return OpRow(
        name,
        kind,
        plain(count),
        plain(flops),
        plain(moved),
        {
            role.value: plain(cost.bytes_of(role))
            for role in ROLES
            if role is not Role.STATE or cost.bytes_of(role) != 0
        },
        float(flops / moved) if moved != 0 else None,
        0.0 if slowest is None else float(slowest.expr),
        bound,
    )


def _timed(row: OpRow, terms: Iterable[Term]) -> OpRow:
    """The row with the seconds of the terms that formulas use, and what bounds them."""
    sizes: dict[str, float] = {}
    seconds = 0.0
    for term in terms:
        share = float(term.count) / row.count if row.count else 0.0
        seconds += share * float(term.value)
        for arm in term.arms:
            sizes[arm.resource] = max(sizes.get(arm.resource, 0.0), share * float(arm.expr))
    slowest = max(sizes, key=lambda r: sizes[r], default="none")
    bound = _bound(slowest)
    return replace(row, seconds=seconds, bound=bound)


def _bound(resource: str) -> str:
    """What a resource is, in a word."""
    if link_of(resource):
        return "link"
    return resource if resource in ("memory", "latency", "none") else "compute"


def symbols_of(compiled: Compiled, phase: Phase) -> set[Symbol]:
    """Symbols that the numbers of one step of a phase need."""
    wanted: set[Symbol] = {B} | phase.query.free_symbols | phase.bind(T).free_symbols
    for row in compiled.rows[phase.name]:
        for expr in (*row.cost.flops.values(), *row.cost.bytes.values(), row.count):
            wanted |= phase.bind(expr).free_symbols
    return wanted - {q} - {symbol for symbol, _ in compiled.program.dims}


def check_part(compiled: Compiled, phases: Iterable[Phase], given: Iterable[str]) -> None:
    """Refuses symbols that play no part in a step of any of the phases.

    Raises:
        InputError: naming what the step depends on.
    """
    chosen = tuple(phases)
    names = {s.name for p in chosen for s in symbols_of(compiled, p)}
    for name in given:
        if name not in names:
            raise InputError(
                f"{', '.join(p.name for p in chosen)}: {name} plays no part there; "
                f"it depends on {', '.join(sorted(names))}"
            )


def _values(
    compiled: Compiled, phase: Phase, given: Mapping[str, int | None]
) -> dict[Symbol, Expr]:
    wanted = symbols_of(compiled, phase)
    # As formulas do: known sizes may be given to what does not depend on them.
    check_part(compiled, (phase,), {k for k, v in given.items() if v is not None} - set(LEGEND))
    values: dict[Symbol, Expr] = {}
    for symbol in sorted(wanted, key=lambda s: s.name):
        value = given.get(symbol.name)
        if value is None:
            meaning = LEGEND.get(symbol.name, "a symbol of a pass")
            raise UnboundSymbolError(
                f"{phase.name}: no value for {symbol.name} ({meaning})", [symbol.name]
            )
        values[symbol] = Integer(whole(value, symbol.name))
    values.update(compiled.program.dims)
    for limit in compiled.program.limits:
        if (broken := limit.mapped(phase.bind).broken(values)) is not None:
            raise InputError(f"{phase.name}: {broken}")
    return values


def plain(expr: Expr) -> int | float:
    """An exact number as an int if it is whole, else a float."""
    return int(expr) if expr.is_Integer else float(expr)
