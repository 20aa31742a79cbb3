"""The roofline: cost vectors and a machine to time, as terms of a formula.

An operation's time is the largest of its arms: for each engine the sum over
compute types of FLOP / peak, for each memory level bytes / bandwidth, and for each
link messages × latency + bytes / bandwidth. Engines, memory and links overlap perfectly
and nothing else costs time, so the result is a lower bound on what the machine can do
(Williams et al., CACM 52(4), 2009).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from sympy import Add, Expr, Integer, Max, expand

from costgraph.counting.accounting import EXACT, Accounting
from costgraph.counting.count import Item, Overlap, Row, counted, flat
from costgraph.counting.footprint import footprint, kept_at, levels_of, resting, weight_bytes
from costgraph.counting.units import owner, unit_phases
from costgraph.errors import HardwareError
from costgraph.formula.kinks import split
from costgraph.formula.outline import LATENCY, kind_of, link_of
from costgraph.formula.sums import power_sum
from costgraph.formula.terms import Arm, Span, Term, chained, make_term, merged, overlapped, remade
from costgraph.hardware.machine import Engine, Machine
from costgraph.hardware.systems import HOST, links_to
from costgraph.ir.cost import Cost, Direction
from costgraph.ir.program import Phase, Program
from costgraph.ir.tensor import MEMORY, inside, level_of
from costgraph.ops.collectives import Send

ONE, ZERO = Integer(1), Integer(0)
#: The direction of the link to the host in which nothing comes to the device.
OUT = "to the host"
#: The terms of one operation in a phase, its count included, none of its arms left out.
Timing = Callable[[Phase, Row], Iterable[Term]]


def arms(cost: Cost, machine: Machine) -> tuple[Arm, ...]:
    """The time in seconds that each resource of ``machine`` needs for ``cost``.

    Raises:
        HardwareError: the machine cannot execute some of the work.
    """
    by_engine: dict[Engine, list[tuple[Expr, str]]] = {}
    for (engine, dtype), flops in cost.flops.items():
        unit, kind = machine.resolve(engine, dtype)
        by_engine.setdefault(unit, []).append((flops / machine.peaks[unit, kind], kind))
    found = [
        Arm(Add(*(t for t, _ in times)), f"{unit.value}:{'+'.join(sorted({k for _, k in times}))}")
        for unit, times in by_engine.items()
    ]
    near = Add(*(size for (level, *_), size in cost.bytes.items() if level == MEMORY))
    if near != 0:
        found.append(Arm(near / machine.memory.bandwidth, "memory"))
    links = {f"link:{n}": m.time(*rates(machine, n)) for n, m in cost.links.items()}
    for arm in crossings(cost, machine):
        links[arm.resource] = links.get(arm.resource, ZERO) + arm.expr
    found.extend(Arm(time, resource) for resource, time in links.items())
    return tuple(found)


def crossings(cost: Cost, machine: Machine) -> Iterator[Arm]:
    """Seconds for which farther levels of memory, and the link to them, are busy.

    What is read in a level comes over the link to the host; what is written there goes over
    it in the other direction, at the same time. Both occupy the level.

    Raises:
        HardwareError: the machine states no such level, no rate at which it is read, or no link
            to its host.
    """
    far = {key: size for key, size in cost.bytes.items() if key[0] != MEMORY}
    for level in dict.fromkeys(level for level, *_ in far):
        rate = reach(machine, level)
        if rate is not None:
            size = Add(*(size for (at, *_), size in far.items() if at == level))
            yield Arm(size / rate, f"{inside(level)}/memory")
    crossed: dict[tuple[str, Direction], list[Expr]] = {}
    for (level, _, direction), size in far.items():
        ways = links_to(machine, level)
        for link in ways:
            crossed.setdefault((link, direction), []).append(size)
        if not ways and level == HOST:
            raise HardwareError(f"hardware {machine.name!r} states no link to its host")
        # Else it is storage beside a memory that the host and the device share.
    for (link, direction), sizes in crossed.items():
        alpha, beta = rates(machine, link)
        way = f"link:{link}"
        time = alpha + Add(*sizes) / beta
        yield Arm(time, way if direction is Direction.READ else f"{OUT}/{way}")


def reach(machine: Machine, level: str) -> Expr | None:
    """The rate in byte/s at which a farther level of memory is read.

    None for a host's memory of which none is stated: its link binds sooner.

    Raises:
        HardwareError: the machine states no such level, or no rate.
    """
    rate = machine.tier(level).bandwidth
    if rate is None and level != HOST:
        raise HardwareError(
            f"no bandwidth of {level} is known for {machine.name}: state one in [tiers.{level}]"
        )
    return rate


def runner(machine: Machine, unit: str, phase: Phase) -> Machine:
    """Who runs an operation: a device at its pace, or what computes in a level of its memory.

    Raises:
        HardwareError: nothing computes there.
    """
    level = level_of(unit)
    return machine.inside(level) if level else machine.paced(phase.pace(unit))


def rates(machine: Machine, link: str) -> tuple[Expr, Expr]:
    """Seconds per message and byte/s of a link; a latency that is not stated counts as none."""
    known = machine.link(link)
    return (ZERO if known.latency is None else known.latency), known.bandwidth


def phase_items(phase: Phase, accounting: Accounting = EXACT) -> tuple[Item, ...]:
    """The counted operations of a phase's graph, in the graph's own symbols."""
    return counted(phase.graph, accounting, phase.is_single_query)


def ideal(machine: Machine) -> Timing:
    """The roofline: every operation takes as long as its slowest resource."""

    def timing(phase: Phase, row: Row) -> Iterator[Term]:
        found = arms(row.cost.mapped(phase.bind), runner(machine, row.unit, phase))
        if found:
            yield Term(phase.bind(row.count), found, (row.name,))

    return timing


def step_terms(
    phase: Phase, found: Iterable[Item], machine: Machine, timing: Timing | None = None
) -> tuple[Term, ...]:
    """Time of one step of ``phase`` in seconds, one term per distinct operation.

    What overlaps is one term whose arms are the chains of its bodies. ``timing`` replaces
    the roofline where it is given.

    Several groups of sequences (``phase.rounds``) pass through the units of the graph one
    after the other, each unit at work on one of them. A step that others follow, group by
    group, takes as long as one group takes through all units, or the busiest unit with all
    groups; a step by itself what one group takes and the busiest unit with the others. What
    nothing in a step waits for is work of its unit alone.
    """
    items, by = tuple(found), timing or ideal(machine)
    series = merged(_terms(phase, items, by))
    if not in_stages(phase, items):
        return series
    made = _staged(phase, items, by).term
    others = () if made is None else (made,)
    return merged((*series, *others) if phase.span is None else others)


def in_stages(phase: Phase, items: Iterable[Item]) -> bool:
    """Whether units work on several groups or steps at once.

    Steps that follow one another do so where something on one of several units is not waited
    for: the next step starts before it is done.
    """
    if phase.rounds != 1:
        return True
    listed = tuple(items)
    units = {owner(item.unit) for item in listed}
    return phase.span is not None and len(units) > 1 and any(item.aside for item in listed)


def interval_terms(
    phase: Phase, found: Iterable[Item], machine: Machine, timing: Timing | None = None
) -> tuple[Term, ...]:
    """Seconds between two steps of ``phase`` in steady state: the busiest unit's share of one."""
    stages = _stages(phase, tuple(found), timing or ideal(machine), phase.rounds)
    made = overlapped(ONE, stages)
    return () if made is None else merged((made,))


def stages(
    phase: Phase, found: Iterable[Item], machine: Machine, timing: Timing | None = None
) -> tuple[Arm, ...]:
    """What each unit of a graph does for one group of sequences, as a chain; in order."""
    arms = _stages(phase, tuple(found), timing or ideal(machine), ONE)
    return tuple(arm for arm in arms if arm.chain)


def _stages(phase: Phase, items: tuple[Item, ...], timing: Timing, rounds: Expr) -> tuple[Arm, ...]:
    """What each unit of a graph does in ``rounds`` rounds, as a chain."""
    units = dict.fromkeys(owner(item.unit) for item in items)
    own = {u: [i for i in items if owner(i.unit) == u] for u in units}
    parts = ((u, merged(_terms(phase, found, timing))) for u, found in own.items())
    return tuple(
        chained((replace(t, count=t.count * rounds) for t in terms), unit or "device")
        for unit, terms in parts
    )


def _terms(phase: Phase, found: Iterable[Item], timing: Timing) -> Iterator[Term]:
    for item in found:
        if isinstance(item, Row):
            yield from (remade(on_unit(term, item.unit)) for term in timing(phase, item))
            continue
        made = _at_once(phase, item, timing).term
        if made is not None:
            yield made


@dataclass(frozen=True)
class AtOnce:
    """What runs at the same time in a step, nothing that is outlasted left out.

    Attributes:
        name: of the region, or what the bodies are.
        count: how often it runs in one step.
        bodies: a chain per body.
        shared: the total of each resource that several bodies use.
        ops: all operations in it.
    """

    name: str
    count: Expr
    bodies: tuple[Arm, ...]
    shared: tuple[Arm, ...] = ()
    ops: tuple[str, ...] = ()

    @property
    def term(self) -> Term | None:
        """Its time; None where nothing takes any."""
        return overlapped(self.count, self.bodies, self.shared)

    def alone(self, arm: Arm) -> tuple[Term, ...]:
        """A body, or what is shared, in all its runs as if nothing else ran."""
        terms = arm.chain or (Term(ONE, (arm,), self.ops),)
        return tuple(replace(t, count=t.count * self.count) for t in terms)


def at_once(
    phase: Phase, found: Iterable[Item], machine: Machine, timing: Timing | None = None
) -> Iterator[AtOnce]:
    """Everything that runs at the same time in one step of ``phase``, outer regions first.

    The stages that groups of sequences pass through are the last; see :func:`step_terms`.
    """
    items, by = tuple(found), timing or ideal(machine)
    yield from _regions(phase, items, by, phase.rounds)
    if in_stages(phase, items):
        yield _staged(phase, items, by)


def _regions(phase: Phase, items: Iterable[Item], timing: Timing, count: Expr) -> Iterator[AtOnce]:
    for item in items:
        if isinstance(item, Row):
            yield from _with_exchange(phase, item, timing, count)
            continue
        made = _at_once(phase, item, timing)
        yield replace(made, count=made.count * count)
        for _, inner in item.bodies:
            yield from _regions(phase, inner, timing, made.count * count)


def _with_exchange(phase: Phase, row: Row, timing: Timing, count: Expr) -> Iterator[AtOnce]:
    """A kernel that computes while its operand or result is exchanged."""
    if not row.cost.links or not row.cost.flops:
        return
    for term in timing(phase, row):
        links = [a for a in term.arms if link_of(a.resource)]
        others = tuple(a for a in term.arms if not link_of(a.resource))
        if not links or not others:
            continue
        once = replace(term, count=ONE)
        bodies = [chained((replace(once, arms=others),), "kernel")]
        bodies += [
            chained((replace(once, arms=(a,)),), f"link {link_of(a.resource)}") for a in links
        ]
        yield AtOnce(row.name, term.count * count, tuple(bodies), (), (row.name,))


def _at_once(phase: Phase, item: Overlap, timing: Timing) -> AtOnce:
    bodies = tuple(
        chained(merged(_terms(phase, inner, timing)), name) for name, inner in item.bodies
    )
    shared = tuple(_contended(_busy(phase, inner, timing) for _, inner in item.bodies))
    ops = tuple(row.name for row in flat((item,)))
    return AtOnce(item.name, phase.bind(item.count), bodies, shared, ops)


def _staged(phase: Phase, items: tuple[Item, ...], timing: Timing) -> AtOnce:
    """What several groups of sequences make of the stages; see :func:`step_terms`."""
    ops = tuple(row.name for row in flat(items))
    if phase.span is None:
        return AtOnce("stages", phase.rounds - 1, _stages(phase, items, timing, ONE), (), ops)
    awaited = tuple(item for item in items if not item.aside)
    through = chained(merged(_terms(phase, awaited, timing)), "one group through all stages")
    bodies = (through, *_stages(phase, items, timing, phase.rounds))
    return AtOnce("stages", ONE, bodies, (), ops)


def on_unit(term: Term, unit: str) -> Term:
    """The term with its resources told apart from those of other units."""
    if not unit:
        return term
    arms = tuple(replace(a, resource=f"{unit}/{a.resource}") for a in term.arms)
    return replace(term, arms=arms)


def _contended(bodies: Iterable[Mapping[str, Expr]]) -> Iterator[Arm]:
    """The total of each resource that several bodies use: no schedule gets below it."""
    totals: dict[str, list[Expr]] = {}
    for body in bodies:
        for resource, amount in body.items():
            totals.setdefault(resource, []).append(amount)
    return (Arm(Add(*parts), name) for name, parts in totals.items() if len(parts) > 1)


def _busy(phase: Phase, found: Iterable[Item], timing: Timing) -> dict[str, Expr]:
    """Seconds for which each resource is busy in one run of a body.

    Latencies are no resource: any number of them may pass at once.
    """
    busy: dict[str, Expr] = {}

    def note(resource: str, amount: Expr) -> None:
        busy[resource] = busy.get(resource, ZERO) + amount

    for item in found:
        if isinstance(item, Overlap):
            for _, inner in item.bodies:
                for resource, amount in _busy(phase, inner, timing).items():
                    note(resource, phase.bind(item.count) * amount)
            continue
        through = item.node.op.through if isinstance(item.node.op, Send) else ()
        for term in timing(phase, item):
            for arm in on_unit(term, item.unit).arms:
                if kind_of(arm.resource) != LATENCY:
                    note(arm.resource, term.count * arm.expr)
                for place in through if link_of(arm.resource) else ():
                    note(f"{place}/{kind_of(arm.resource)}", term.count * arm.expr)
    return busy


def count_terms(
    phase: Phase, found: Iterable[Row], what: str, devices: Expr = ONE
) -> tuple[Term, ...]:
    """FLOP or bytes of one step of ``phase``, one term per distinct operation.

    ``devices`` do what the graph says at the same time, in every one of its rounds.
    """
    times = devices * phase.rounds
    terms = (
        make_term(
            phase.bind(row.count) * times,
            (Arm(phase.bind(getattr(row.cost, f"total_{what}")), what),),
            (row.name,),
        )
        for row in found
    )
    return merged(t for t in terms if t is not None)


def spanned(phase: Phase, terms: Iterable[Term]) -> tuple[Term, ...]:
    """The terms of one step, summed over the steps of the phase.

    What does not depend on the context is counted as often as the phase steps;
    a single polynomial arm is summed in closed form. Only maxima whose arms
    change with the context keep a sum, one per range on which no clipped length
    (sliding windows) changes its form.
    """
    return tuple(part for t in terms for part in _spanned(phase, t))


def _spanned(phase: Phase, term: Term) -> Iterator[Term]:
    ops = tuple(f"{phase.name}.{op}" for op in term.ops)
    count = term.count * phase.weight
    if phase.span is None:
        yield replace(term, count=count, ops=ops)
        return
    for arms, span in split(term.arms, phase.span):
        # A floor that grows with the context is no figure of the sum.
        floor = ZERO if span.symbol in term.floor.free_symbols else term.floor
        part = make_term(count, arms, ops, span, term.norm, floor)
        if part is not None:
            yield _closed(part, span)


def _closed(term: Term, span: Span) -> Term:
    """A term over a span without it, where the sum has a closed form."""
    if not any(span.symbol in arm.expr.free_symbols for arm in term.arms):
        return replace(term, count=term.count * (span.upper - span.lower + 1), span=None)
    if len(term.arms) == 1:
        closed = power_sum(term.arms[0].expr, span)
        if closed is not None:
            return Term(term.count, (Arm(expand(closed), term.arms[0].resource),), term.ops)
    return term


def memory_terms(program: Program, accounting: Accounting = EXACT) -> tuple[Term, ...]:
    """Peak bytes in memory over the phases of a request.

    Each phase needs its weights, its caches at its longest context, and the
    peak of its live activations; the request needs the largest of these.
    """
    candidates: list[Arm] = []
    for phase in program.phases:
        candidates.extend(Arm(expr, phase.name) for expr in phase_memory(phase, accounting))
    term = make_term(ONE, candidates, tuple(p.name for p in program.phases))
    return () if term is None else (term,)


def phase_memory(
    phase: Phase, accounting: Accounting = EXACT, at_end: bool = True
) -> tuple[Expr, ...]:
    """Candidates for the bytes in memory in ``phase``; the largest one counts.

    Of each unit that runs a part of the graph: a device is one of them. With ``at_end``,
    contexts take the phase's longest value.
    """
    return tuple(e for part in memory_parts(phase, accounting, at_end) for e in part.candidates)


@dataclass(frozen=True)
class Held:
    """Bytes in the memory of one unit in a phase.

    Attributes:
        unit: who; empty for the device itself.
        weights, caches: of everything that is there, resting graphs included.
        resident: those of resting graphs alone.
        activations: candidates for the peak of live ones.
    """

    unit: str
    weights: Expr
    caches: Expr
    resident: Expr
    activations: tuple[Expr, ...]

    @property
    def candidates(self) -> tuple[Expr, ...]:
        """Everything, at each point of a step."""
        return tuple(Add(self.weights, self.caches, a) for a in self.activations)


def memory_parts(
    phase: Phase, accounting: Accounting = EXACT, at_end: bool = True
) -> tuple[Held, ...]:
    """What :func:`phase_memory` is made of, for each unit that runs a part of the graph."""

    def bound(expr: Expr) -> Expr:
        made = phase.bind(expr)
        return phase.at_end(made) if at_end else made

    found = []
    for unit, part in unit_phases(phase).items():
        need = footprint(part.graph, accounting)
        beside = [resting(r, accounting) for r in part.resident]
        resting_weights = Add(*(b.weights for b in beside))
        resting_caches = Add(*(b.kv for b in beside)) * phase.rounds
        found.append(
            Held(
                unit,
                bound(need.weights + resting_weights),
                bound(need.kv * phase.rounds + resting_caches),
                bound(resting_weights + resting_caches),
                tuple(map(bound, need.activations or (ZERO,))),
            )
        )
    return tuple(found)


def level_memory(phase: Phase, level: str, whole: bool = True, at_end: bool = True) -> Expr:
    """Bytes that a phase keeps in a farther level of memory, of resting graphs as well.

    Of several devices that run a part of the graph each, the one that keeps most: each has a
    level of its own, or its part of one. Weights alone, or the ``whole``: with caches and
    activations. With ``at_end``, contexts take the phase's longest value.
    """

    def of(part: Phase) -> Expr:
        resting_ = (kept_at(r.graph, level, whole and r.caches, r.shared) for r in part.resident)
        made = phase.bind(Add(kept_at(part.graph, level, whole), *resting_))
        return phase.at_end(made) if at_end else made

    return Max(*map(of, unit_phases(phase).values()))


def level_terms(program: Program, level: str) -> tuple[Term, ...]:
    """What a request keeps in a farther level of memory: the most over its phases."""
    found = [
        Arm(each, phase.name)
        for phase in program.phases
        for each in _alternatives(level_memory(phase, level))
    ]
    term = make_term(ONE, found, tuple(p.name for p in program.phases))
    return () if term is None else (term,)


def _alternatives(expr: Expr) -> Iterator[Expr]:
    """The values of an expression with each arm of its maxima in their place."""
    maximum = next(iter(expr.atoms(Max)), None)
    if maximum is None:
        yield expr
        return
    for arm in maximum.args:
        yield from _alternatives(expr.xreplace({maximum: arm}))


def levels(program: Program) -> tuple[str, ...]:
    """The farther levels in which a program keeps something, in the order of their names."""
    graphs = (g for p in program.phases for g in (p.graph, *(r.graph for r in p.resident)))
    return tuple(sorted({level for g in graphs for level in levels_of(g)}))


def held_weights(phase: Phase) -> tuple[Expr, ...]:
    """Bytes of weights in memory in ``phase``, on each unit that runs a part of the graph."""
    return tuple(
        Add(weight_bytes(part.graph), *(resting(r).weights for r in part.resident))
        for part in unit_phases(phase).values()
    )
