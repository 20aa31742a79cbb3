"""One step with numbers: a row per operation, and totals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sympy import Expr, Integer, Symbol

from costgraph.compiling.capacity import at_level, room_of
from costgraph.compiling.fits import Fit
from costgraph.compiling.larger import would_hold
from costgraph.compiling.steps import Breakdown, OpRow, of_step
from costgraph.counting.count import Item, Overlap, Row, parameters
from costgraph.counting.units import unit_phases
from costgraph.errors import InputError, clip, independent, unbound
from costgraph.formula.formula import exact
from costgraph.formula.limits import counts, takes
from costgraph.formula.outline import kind_of, link_of, split_level
from costgraph.formula.powers import placed
from costgraph.formula.terms import Term
from costgraph.hardware.machine import Machine
from costgraph.ir.cost import Cost
from costgraph.ir.program import Phase, Program
from costgraph.ir.tensor import Role
from costgraph.number import Number, for_zero, whole
from costgraph.progress import counted
from costgraph.symbols import LEGEND, SIZES, B, T, q
from costgraph.timing import roofline

if TYPE_CHECKING:
    from costgraph.compiling.compiled import Compiled
    from costgraph.formula.trees import Tree

#: Roles in the order in which tables show them.
ROLES = (Role.WEIGHT, Role.ACTIVATION, Role.KV, Role.STATE)


def kept_step(compiled: Compiled, phase_name: str) -> dict[str, Any] | None:
    """What the numbers of one step are computed from, as data; see :mod:`.steps`.

    None where they hang on more than exact expressions: fitted times, steps whose parts run
    at once or on several devices, farther levels of memory.
    """
    from costgraph.formula.evaluate import tree_of_expr
    from costgraph.formula.trees import Unknown

    phase = compiled.program.phase(phase_name)
    machine, room = compiled.bound or compiled.machine, room_of(compiled)
    plain_step = compiled.timing is None and not overlaps(phase, compiled.items[phase.name])
    alone = compiled.program.devices == 1 and phase.rounds == 1 and not compiled.program.dims
    if room is None or compiled.farther or not (plain_step and alone):
        return None
    symbols = sorted(symbols_of(compiled, phase), key=lambda s: s.name)

    def tree(expr: Expr) -> Tree:
        return tree_of_expr(phase.bind(expr), symbols, exact=True)

    def held(use: roofline.Held, part: Phase) -> Iterator[dict[str, Tree]]:
        # The largest of several peaks is that of their uses: one a candidate.
        for activations in use.activations:
            yield {
                "parameters": tree(parameters(part)),
                "weight_bytes": tree(use.weights),
                "kv_bytes": tree(use.caches),
                "activation_bytes": tree(activations),
                "resident_bytes": tree(use.resident),
            }

    units = unit_phases(phase)
    parts = roofline.memory_parts(phase, compiled.accounting, at_end=False)
    limits = (*map(phase.limited, compiled.program.limits), *phase.begins)
    # Where something must be said, the whole program says it.
    excesses = (*(x.excess for x in limits), *(x.excess for x in compiled.program.positions))
    try:
        return {
            "phase": phase.name,
            "names": [s.name for s in symbols],
            "whole": [s.name for s in symbols if counts(compiled.setting, s.name)],
            "limits": [
                tree_of_expr(x, symbols, exact=True)
                for x in excesses
                if x.free_symbols <= set(symbols)
            ],
            "rows": [_kept_row(row, machine, phase, tree) for row in compiled.rows[phase.name]],
            "held": [use for part in parts for use in held(part, units[part.unit])],
            "bindings": {k: tree(x) for k, x in _sizes(phase, symbols).items()},
            "hardware": machine.name,
            "room": room,
            "setting": compiled.setting.to_data(),
        }
    except Unknown:
        return None


def _kept_row(
    row: Row, machine: Machine, phase: Phase, tree: Callable[[Expr], Tree]
) -> dict[str, Any]:
    runner = roofline.runner(machine, row.unit, phase)
    return {
        "name": row.name,
        "kind": row.kind,
        "unit": row.unit,
        "count": tree(row.count),
        "flops": tree(row.cost.total_flops),
        "bytes": tree(row.cost.total_bytes),
        "roles": {
            role.value: tree(row.cost.bytes_of(role))
            for role in ROLES
            if role is not Role.STATE or row.cost.bytes_of(role) != 0
        },
        "links": {link: tree(sent.wire) for link, sent in row.cost.links.items()},
        "arms": [[bound_of(a.resource), tree(a.expr)] for a in roofline.arms(row.cost, runner)],
    }


def break_down(
    compiled: Compiled, phase_name: str, given: Mapping[str, Number | None]
) -> Breakdown:
    """The numbers of one step; see :meth:`costgraph.compiling.compiled.Compiled.breakdown`."""
    phase = compiled.program.phase(phase_name)
    machine = compiled.bound or compiled.machine
    values = values_of(compiled, phase, given)
    rows = []
    sums: dict[str, Any] = {"flops": Integer(0), "bytes": Integer(0), "wire": Integer(0)}
    busy = 0.0
    timed = compiled.timing_on(machine)
    paces = tuple((unit, placed(phase.bind(pace), values)) for unit, pace in phase.paces)
    settled = replace(phase, paces=paces)
    for row in counted(compiled.rows[phase.name], "operations timed"):
        cost = row.cost.mapped(lambda e: placed(phase.bind(e), values))
        count = placed(phase.bind(row.count), values)
        runner = roofline.runner(machine, row.unit, settled)
        made = _row(row.name, row.kind, count, cost, runner, row.unit)
        if timed is not None:
            terms = [t.mapped(lambda e: placed(e, values)) for t in timed(phase, row)]
            made = _timed(made, terms)
        if compiled.timing is not None:
            made = replace(made, fit=compiled.timing.trust(phase, row))
        rows.append(made)
        busy += float(count) * made.seconds
        sums["flops"] += count * cost.total_flops
        sums["bytes"] += count * cost.total_bytes
        sums["wire"] += count * cost.total_wire
    step = partial(step_terms, compiled, phase, compiled.items[phase.name], values)
    totals: dict[str, int | float] = {
        "flops": plain(sums["flops"]),
        "bytes": plain(sums["bytes"]),
        "wire_bytes": plain(sums["wire"]),
        "seconds": _step(compiled, phase, step, busy),
        "busy_seconds": busy,
        **_held(compiled, phase, values),
    }
    bindings = {k: int(x.xreplace(values)) for k, x in _sizes(phase, values).items()}
    fits = Fit(
        machine.name,
        float(totals["memory_bytes"]),
        room_of(compiled),
        more=partial(would_hold, compiled, partial(_most_held, phase_name, given)),
        farther=tuple(_farther(compiled, phase, machine, values)),
        beyond=compiled.program.beyond_at(values),
    )
    about = tuple(_about(compiled.program, phase, values))
    known = dict(compiled.program.dims)
    setting = of_step(compiled.setting, {s.name: v for s, v in values.items() if s not in known})
    return Breakdown(setting, phase.name, bindings, tuple(rows), totals, fits, about, step)


def _sizes(phase: Phase, known: Collection[Symbol]) -> dict[str, Expr]:
    """Sequences, new and attended positions of a step: those that are known.

    A step that attends to nothing stands at no context.
    """
    # Sequences are those asked for: of replicas, and of groups, each has a share.
    sizes = {B.name: B, q.name: phase.bind(q), T.name: phase.bind(T)}
    return {name: x for name, x in sizes.items() if x.free_symbols <= set(known)}


def unit_seconds(compiled: Compiled, phase: Phase, values: Mapping[Expr, Expr]) -> dict[str, float]:
    """Seconds for which each unit is at work in one step, operation after operation."""
    machine = compiled.bound or compiled.machine
    timing = compiled.timing_on(machine) or roofline.ideal(machine)
    at = dict(values)
    at.update(compiled.program.dims)
    found: dict[str, float] = {}
    known: dict[Term, float] = {}
    for row in compiled.rows[phase.name]:
        for term in timing(phase, row):
            like = replace(term, ops=())  # units repeat one another under other names
            if like not in known:
                # Numbers first: sympy takes powers of sums of symbols apart.
                known[like] = seconds_of((like.mapped(lambda e: placed(e, at)),))
            found[row.unit] = found.get(row.unit, 0.0) + known[like]
    return found


def _farther(
    compiled: Compiled, phase: Phase, machine: Machine, values: dict[Symbol, Expr]
) -> Iterator[Fit]:
    """What a step keeps in farther levels of memory, against what there is."""
    for level in roofline.levels(compiled.program):
        need = roofline.level_memory(phase, level, at_end=False)
        name = f"{level} of {compiled.place}"
        yield Fit(name, float(placed(need, values)), at_level(compiled, level))


def _most_held(name: str, given: Mapping[str, Number | None], compiled: Compiled) -> float:
    """Bytes in memory during a step, on the unit that holds most."""
    phase = compiled.program.phase(name)
    return float(_held(compiled, phase, values_of(compiled, phase, given))["memory_bytes"])


def step_terms(
    compiled: Compiled, phase: Phase, items: Iterable[Item], values: Mapping[Symbol, Expr]
) -> Iterator[Term]:
    """The terms of the time of a step's items, with numbers."""
    machine = compiled.bound or compiled.machine
    for term in roofline.step_terms(phase, items, machine, compiled.timing_on(machine)):
        yield term.mapped(lambda e: placed(e, values))


def seconds_of(terms: Iterable[Term]) -> float:
    """Seconds that terms with numbers take together."""
    return sum(float(term.count) * float(term.value) for term in terms)


def _step(
    compiled: Compiled, phase: Phase, terms: Callable[[], Iterable[Term]], busy: float
) -> float:
    """Seconds of a step whose operations take ``busy`` seconds one after the other."""
    if not overlaps(phase, compiled.items[phase.name]):
        return busy
    return seconds_of(terms())


def overlaps(phase: Phase, items: Iterable[Item]) -> bool:
    """Whether a step takes another time than its operations one after the other."""
    listed = tuple(items)
    return roofline.in_stages(phase, listed) or any(isinstance(i, Overlap) for i in listed)


def _held(compiled: Compiled, phase: Phase, values: dict[Symbol, Expr]) -> dict[str, Any]:
    """Bytes in memory by use, and parameters, of the unit that holds most."""

    def number(expr: Expr) -> int | float:
        return plain(placed(expr, values))

    def uses(held: roofline.Held, part: Phase) -> dict[str, Any]:
        weights, kv = number(held.weights), number(held.caches)
        activations = max(map(number, held.activations))
        return {
            "parameters": number(phase.bind(parameters(part))),
            "weight_bytes": weights,
            "kv_bytes": kv,
            "activation_bytes": activations,
            "resident_bytes": number(held.resident),
            "memory_bytes": weights + kv + activations,
        }

    units = unit_phases(phase)
    parts = roofline.memory_parts(phase, compiled.accounting, at_end=False)
    found = (uses(held, units[held.unit]) for held in parts)
    return max(found, key=lambda use: use["memory_bytes"])


def _about(program: Program, phase: Phase, values: dict[Symbol, Expr]) -> Iterator[str]:
    """Whose the rows of a step are, where not one device runs everything once."""
    if program.devices != 1:
        width = placed(program.width, values)
        if program.groups is not None:
            yield f"rows are of all {program.devices} devices of a row, one after the other"
        elif program.stages == 1:
            yield f"rows are of one device; {width} devices work alike"
        elif width == 1:
            yield f"rows are of all {program.stages} devices: their unit says whose"
        else:
            yield (
                f"rows are of one device of each of the {program.stages} stages; {width} devices "
                "of a stage work alike"
            )
        if program.groups is not None:
            yield "memory is that of one device, parameters are those of the row"
        else:
            yield "memory and parameters are of the device that holds most"
    if phase.rounds != 1:
        groups = placed(phase.rounds, values)
        yield f"rows are of one of {groups} groups of the batch; the time is that of all"


def _row(name: str, kind: str, count: Expr, cost: Cost, runner: Machine, unit: str) -> OpRow:
    flops, moved = cost.total_flops, cost.total_bytes
    arms = roofline.arms(cost, runner)
    slowest = max(arms, key=lambda a: a.expr, default=None)
    bound = "none" if slowest is None else bound_of(slowest.resource)
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
        {link: plain(sent.wire) for link, sent in cost.links.items()},
        unit,
    )


def bound_of(resource: str) -> str:
    """What waiting for a resource is called: ``memory``, ``link``, ``latency``, ``compute``."""
    if link_of(resource):
        return "link"
    _, kind = split_level(kind_of(resource))
    return kind if kind in ("memory", "latency", "none") else "compute"


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
    return replace(row, seconds=seconds, bound=bound_of(slowest))


def symbols_of(compiled: Compiled, phase: Phase) -> set[Symbol]:
    """Symbols that the numbers of one step of a phase need."""
    wanted: set[Symbol] = {B} | phase.query.free_symbols
    for expr in (phase.rounds, *(pace for _, pace in phase.paces)):
        wanted |= phase.bind(expr).free_symbols
    for row in compiled.rows[phase.name]:
        sent = (e for m in row.cost.links.values() for e in (m.steps, m.load))
        for expr in (*row.cost.flops.values(), *row.cost.bytes.values(), *sent, row.count):
            wanted |= phase.bind(expr).free_symbols
    # What rests meanwhile may be shared out by symbols that no row of the step has.
    for held in roofline.memory_parts(phase, compiled.accounting, at_end=False):
        for expr in (held.weights, held.caches, held.resident, *held.activations):
            wanted |= expr.free_symbols
    for level in roofline.levels(compiled.program):
        wanted |= roofline.level_memory(phase, level, at_end=False).free_symbols
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
            raise independent(", ".join(p.name for p in chosen), name, names)


def own_of(compiled: Compiled, name: str, given: Mapping[str, Number]) -> dict[str, Number]:
    """Of what is given, the well-known sizes and what a step of this program depends on."""
    mine = LEGEND.keys() | {s.name for s in symbols_of(compiled, compiled.program.phase(name))}
    return {k: v for k, v in given.items() if k in mine}


def values_of(
    compiled: Compiled, phase: Phase, given: Mapping[str, Number | None]
) -> dict[Symbol, Expr]:
    """The numbers of a step by symbol, checked.

    Raises:
        InputError: one is missing, plays no part, or breaks a limit.
    """
    wanted = symbols_of(compiled, phase)
    # As formulas do: known sizes may be given to what does not depend on them.
    check_part(compiled, (phase,), {k for k, v in given.items() if v is not None} - set(LEGEND))
    values: dict[Symbol, Expr] = {}
    for symbol in sorted(wanted, key=lambda s: s.name):
        value = given.get(symbol.name)
        if value is None:
            known = {**dict(compiled.setting.symbols), **LEGEND}
            raise unbound(phase.name, [symbol.name], known)
        values[symbol] = _value(compiled, symbol.name, value)
    values.update(compiled.program.dims)
    for limit in (*map(phase.limited, compiled.program.limits), *phase.begins):
        if (broken := limit.broken(values)) is not None:
            raise InputError(f"{phase.name}: {broken}")
    return values


def _value(compiled: Compiled, name: str, value: Number) -> Expr:
    """What a symbol stands for: a whole number of something, or a positive one (a share)."""
    if counts(compiled.setting, name):
        return Integer(whole(value, name))
    found = exact(value)
    if not takes(compiled.setting, name, found):
        said = for_zero(name, value, SIZES)
        raise InputError(f"{name} must be positive, not {clip(value)}{said}")
    return found


def plain(expr: Expr) -> int | float:
    """An exact number as an int if it is whole, else a float."""
    return int(expr) if expr.is_Integer else float(expr)
