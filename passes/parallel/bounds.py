"""Which degrees a system takes: numbers that use it, and what symbols may stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sympy import Expr, Integer, Symbol

from costgraph.errors import CostgraphError
from costgraph.formula.terms import Limit, one_of, whole
from costgraph.hardware import joined_as
from costgraph.hardware.systems import System
from costgraph.passes.parallel.plan import Degrees

ONE = Integer(1)
#: Degrees whose devices exchange something: steps of symbolic ones are those of powers of two.
EXCHANGING = ("tp", "ep", "cp")


def misfit(
    system: System,
    degrees: Degrees,
    takes: Callable[[Degrees, System], bool],
    spare: int = 0,
) -> str | None:
    """Why numbers do not use the devices of a system, with what would; None if they do.

    Args:
        system: the system.
        degrees: what is shared.
        takes: whether the program takes degrees on a system: nothing else is suggested.
        spare: devices that are left to others.
    """
    has = system.devices - spare
    if not degrees.devices.is_number or degrees.devices == has:
        return None
    count = int(degrees.devices)
    if spare:
        return (
            f"{system.name} has {system.devices} devices: {spare} are spare, and the degrees "
            f"multiply to {count}"
        )
    if count > has:
        text = (
            f"{system.name} has {has} device{'s' if has > 1 else ''}: not the {count} that the "
            "degrees multiply to"
        )
        larger = (s for s in joined_as(system.device, count) if takes(degrees, s))
        found = next(larger, None)
        if found is not None:
            return f"{text}; on a system of {count}, write --on {found.name}"
        return f"{text}: use {has} in all" if has > 1 else text
    hint = f"use {has} in all"
    if has % count == 0:
        rest = has // count
        if degrees.ep == 1 and takes(degrees.at(dp=degrees.dp * rest), system):
            hint = f"dp={rest} more would use all"
        elif degrees.ep != 1 and takes(
            degrees.at(dp=degrees.dp * rest, ep=degrees.ep * rest), system
        ):
            hint = f"ep={degrees.ep * rest} would use all"
            hint += f" with dp={degrees.dp * rest}" if degrees.tp != 1 else ""
    return f"the degrees use {count} of the {has} devices of {system.name}: {hint}"


def allowed(
    degrees: Degrees, system: System, check: Callable[[Degrees], None]
) -> dict[Symbol, tuple[Expr, ...]]:
    """What symbols of degrees that exchange may stand for: powers of two that split the program.

    Args:
        degrees: what is shared.
        system: a degree is at most its devices.
        check: refuses degrees that the program does not take.

    Raises:
        CostgraphError: why not two, where nothing but one is left.
    """
    found: dict[Symbol, tuple[Expr, ...]] = {}
    symbols = set().union(*(getattr(degrees, n).free_symbols for n in EXCHANGING))
    for symbol in sorted(symbols, key=str):
        # One device of a mesh uses none of its links: there the form has no value.
        kept: list[Expr] = [] if _is_mesh(system) else [ONE]
        refused: CostgraphError | None = None
        power = 2
        while power <= system.devices:
            try:
                check(degrees.mapped({symbol: Integer(power)}))
                kept.append(Integer(power))
            except CostgraphError as error:
                refused = refused or error
            power *= 2
        if not set(kept) - {ONE} and refused is not None:
            raise refused
        found[symbol] = tuple(kept)
    return found


def _is_mesh(system: System) -> bool:
    return bool(system.inner) and system.device.link(system.inner).wiring == "mesh"


def assumptions(found: dict[Symbol, tuple[Expr, ...]]) -> Iterator[str]:
    """Sentences about what symbols stand for."""
    for symbol, values in found.items():
        at_one = (
            f"; at {symbol} = 1 the reads and writes of exchanges still count (leave the degree "
            "out for one device)"
        )
        yield (
            f"degrees: {symbol} is {_listed(values)}, the powers of two that divide all that is "
            f"shared{at_one if ONE in values else ''}"
        )


def limits(
    degrees: Degrees,
    micro: Expr,
    system: System,
    found: dict[Symbol, tuple[Expr, ...]],
    spare: int = 0,
) -> Iterator[Limit]:
    """What symbols of degrees may be: each at least one, and no more devices than there are."""
    named = {"tp": degrees.tp, "cp": degrees.cp, "dp": degrees.dp, "micro": micro}
    for name, degree in named.items():
        if not degree.is_number:
            yield Limit(ONE, degree, f"{name} is at least one")
    if not degrees.devices.is_number:
        has = system.devices - spare
        count = f"{has} device{'s' if has > 1 else ''}"
        yield Limit(degrees.devices, Integer(has), f"{system.name} has {count}")
    for symbol, values in found.items():
        yield one_of(
            symbol,
            values,
            f"{symbol} must be {_listed(values)}: the powers of two that divide all that is "
            "shared; give other degrees as numbers",
        )
    for name, degree in named.items():
        if not degree.is_number and not degree.free_symbols <= set(found):
            yield whole(degree, f"{name}={degree} must be a whole number")


def _listed(values: tuple[Expr, ...]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}" if first else last
