"""Whether a workload fits into the device's memory, and how large a batch does."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sympy import Expr, Integer, Max, Min, floor

from costgraph.compiling.fits import Fit
from costgraph.compiling.larger import would_hold
from costgraph.errors import InputError
from costgraph.formula import Formula
from costgraph.formula.formula import exact
from costgraph.formula.limits import not_positive, takes
from costgraph.formula.sums import affine
from costgraph.symbols import SIZES, B, symbol
from costgraph.timing import roofline

if TYPE_CHECKING:
    from costgraph.compiling.compiled import Compiled


def room_of(compiled: Compiled) -> float | None:
    """Byte that programs can have on the device; None where none is stated as a number."""
    room = (compiled.bound or compiled.machine).memory.room
    return None if room is None or not room.is_number else float(room)


@dataclass(frozen=True)
class Room:
    """What requests keep in one memory, against what programs can have there.

    Attributes:
        name: the device, or the level of memory and whose it is.
        need: bytes over the sizes of a request.
        most: bytes that are there.
    """

    name: str
    need: Formula
    most: float


def rooms(compiled: Compiled) -> tuple[Room, ...]:
    """Every memory whose size is known, and that of the device before farther levels."""
    own = room_of(compiled)
    found = [] if own is None else [Room(compiled.machine.name, compiled.memory, own)]
    return (*found, *farther_rooms(compiled))


def farther_rooms(compiled: Compiled) -> tuple[Room, ...]:
    """The farther levels of memory in which something is kept, where their sizes are known."""
    found = []
    for level, need in compiled.farther.items():
        most = at_level(compiled, level)
        if most is not None:
            found.append(Room(f"{level} of {compiled.place}", need, most))
    return tuple(found)


def at_level(compiled: Compiled, level: str) -> float | None:
    """Byte that there is of a farther level; None where that is not stated."""
    tier = (compiled.bound or compiled.machine).tiers.get(level)
    return None if tier is None or tier.capacity is None else float(tier.capacity)


def weights_fit(compiled: Compiled) -> Fit:
    """Whether the weights alone fit: what is true of every workload."""
    more = partial(would_hold, compiled, _weights, False)
    farther = _farther(compiled, {}, whole=False)
    return Fit(compiled.machine.name, _weights(compiled), room_of(compiled), True, more, farther)


def _farther(compiled: Compiled, given: Mapping[str, Expr], whole: bool) -> tuple[Fit, ...]:
    """What is kept in each farther level of memory, against what the system has there.

    ``whole``: caches and what else waits there, not the weights alone.
    """
    found: list[Fit] = []
    dims, at_end = dict(compiled.program.dims), "T" not in given
    for level in roofline.levels(compiled.program):
        sizes: list[float] = []
        least = False
        for phase in compiled.program.phases:
            need = roofline.level_memory(phase, level, whole, at_end).xreplace(dims)
            need = need.xreplace({s: given[s.name] for s in need.free_symbols if s.name in given})
            missing = {s for s in need.free_symbols if s.name in SIZES}
            least = least or bool(missing)
            need = need.xreplace(dict.fromkeys(missing, Integer(1)))
            if need.is_number:
                sizes.append(float(need))
        name, room = f"{level} of {compiled.place}", at_level(compiled, level)
        found.append(Fit(name, max(sizes, default=None), room, least or not whole))
    return tuple(found)


def _weights(compiled: Compiled) -> float | None:
    """Bytes of weights on the device that holds most of them."""
    dims = dict(compiled.program.dims)
    sizes: list[float] = []
    for phase in compiled.program.phases:
        held = (w.xreplace(dims) for w in roofline.held_weights(phase))
        sizes.extend(float(size) for size in held if size.is_number)
    return max(sizes, default=None)


def fit(compiled: Compiled, values: Mapping[str, Any]) -> Fit:
    """Whether a workload fits into memory.

    With ``T`` it is a decode step at that context, else the whole request. The
    phases whose sizes are all given decide; without any, each size that is not given
    counts as one: the least that the workload can need.

    Raises:
        InputError: a value is no positive number.
    """
    given = {n: exact(v) for n, v in values.items() if v is not None}
    for name, value in given.items():
        if not takes(compiled.setting, name, value):
            raise not_positive(name, value)
    return Fit(
        compiled.machine.name,
        need_of(given, compiled),
        room_of(compiled),
        not memory_needs(compiled, given).complete,
        partial(would_hold, compiled, partial(need_of, given)),
        _farther(compiled, given, whole=True),
        compiled.program.beyond_at({symbol(name): value for name, value in given.items()}),
    )


def need_of(given: Mapping[str, Expr], compiled: Compiled) -> float | None:
    """Bytes that a workload needs; None where a symbol without a value decides it."""
    needs = memory_needs(compiled, given)
    sizes = needs.complete or needs.least
    return max(map(float, sizes), default=None) if needs.complete or needs.known else None


@dataclass(frozen=True)
class Needs:
    """Candidates of the bytes in memory; the largest counts.

    Attributes:
        complete: of phases whose sizes were all given.
        least: of the others, with one for each size that was not.
        known: whether nothing but sizes was missing.
    """

    complete: tuple[Expr, ...]
    least: tuple[Expr, ...]
    known: bool


def filled(
    compiled: Compiled, given: Mapping[str, Expr], free: Collection[str] = ()
) -> tuple[Expr, ...]:
    """The parts of memories that a workload fills, over the symbols that stay ``free``.

    Of the device and of farther levels; the largest counts. None where the device's size, or
    what is needed, is not known.
    """
    room, found = room_of(compiled), list[Expr]()
    if room is None:
        return ()
    levels = {"": room} | {x: at_level(compiled, x) for x in compiled.farther}
    for level, most in levels.items():
        needs = memory_needs(compiled, given, free, level)
        sizes = needs.complete or needs.least
        if not level and not (sizes and needs.known):
            return ()
        if most is not None and needs.known:
            found.extend(size / exact(most) for size in sizes)
    return tuple(found)


def memory_needs(
    compiled: Compiled, given: Mapping[str, Expr], free: Collection[str] = (), level: str = ""
) -> Needs:
    """What a workload needs in memory, over the symbols that stay ``free``.

    In that of the device, or in a farther ``level``.
    """
    complete: list[Expr] = []
    least: list[Expr] = []
    known = True
    for phase in compiled.program.phases:
        at_end = not {"T"} & {*given, *free}
        every = (
            (roofline.level_memory(phase, level, at_end=at_end),)
            if level
            else roofline.phase_memory(phase, compiled.accounting, at_end)
        )
        for need in every:
            need = need.xreplace(dict(compiled.program.dims))
            need = need.xreplace({s: given[s.name] for s in need.free_symbols if s.name in given})
            missing = {s for s in need.free_symbols if s.name not in free}
            if any(s.name not in SIZES for s in missing):
                known = False
            elif missing:
                least.append(need.xreplace(dict.fromkeys(missing, Integer(1))))
            else:
                complete.append(need)
    return Needs(tuple(complete), tuple(least), known)


def largest_batch(memory: Formula, capacity: Expr | int) -> Expr:
    """The largest whole ``B`` whose memory fits ``capacity`` byte, in closed form.

    Every candidate of the peak is ``c + k·B``, so the answer is
    ``max(0, ⌊min (M − c) / k⌋)`` over the candidates, in the symbols that are left.

    Raises:
        InputError: the memory is not affine in the batch.
    """
    if memory.unit != "byte" or memory.numerator is not None:
        raise InputError(f"{memory.name} is not an amount of memory")
    bounds: list[Expr] = []
    for term in memory.terms:
        if len(memory.terms) != 1 or term.count != 1 or term.span is not None:
            raise InputError(f"{memory.name} is not a single maximum")
        for arm in term.arms:
            line = affine(arm.expr, B)
            if line is None:
                raise InputError(f"{memory.name} is not affine in the batch")
            fixed, per_sequence = line
            if per_sequence != 0:
                bounds.append((capacity - fixed) / per_sequence)
    if not bounds:
        raise InputError(f"{memory.name} does not depend on the batch")
    return Max(Integer(0), floor(Min(*bounds, evaluate=False)), evaluate=False)
