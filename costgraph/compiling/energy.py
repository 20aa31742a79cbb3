"""Energy and money: joules and dollars of a compiled program, as formulas.

Two models of energy:

* **components**: ``sum FLOP x J/FLOP + bytes x J/byte``, where the device file states
  an energy for every compute type that the program uses and for memory;
* **power**: board power x time, otherwise. The board is taken to draw its full power
  all the time, so this is what the time bound costs at most.

Money is time x price per hour. Where the device file states no price, the formula
keeps the symbol ``price`` in USD per hour.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sympy import Add, Expr, Integer, expand

from costgraph.errors import HardwareError
from costgraph.formula import Formula, Term
from costgraph.formula.terms import Arm, make_term, merged
from costgraph.hardware.machine import Engine, Machine
from costgraph.ir.cost import Cost
from costgraph.ir.tensor import MEMORY, level_of
from costgraph.symbols import B, symbol

if TYPE_CHECKING:
    from costgraph.compiling.compiled import Compiled

ONE = Integer(1)
SECONDS_PER_HOUR = Integer(3600)
COMPONENTS = "energy: stated joules per FLOP and per byte; the board's other draw is not counted"
POWER = "energy: every board draws its full power all the time"
PRICE = "price: paid for the time of the request alone, for every device that it uses"


def flop_energy(machine: Machine, engine: Engine, dtype: str) -> Expr | None:
    """Joule per FLOP of work stated in ``dtype``, in the type that executes it; or None.

    Raises:
        HardwareError: the machine cannot execute the work.
    """
    return machine.energy.flop.get(machine.resolve(engine, dtype))


def step_energy(cost: Cost, machine: Machine) -> Expr | None:
    """Joules of one operation by components; None if an energy is not stated."""
    parts: list[Expr] = []
    for (engine, dtype), flops in cost.flops.items():
        joule = flop_energy(machine, engine, dtype)
        if joule is None:
            return None
        parts.append(flops * joule)
    for (level, _, _), moved in cost.bytes.items():
        joule = machine.energy.byte.get(level)
        if joule is None:
            return None
        parts.append(moved * joule)
    return Add(*parts)


def energy(compiled: Compiled) -> Formula:
    """Joules of a whole request over ``B``, ``S``, ``N``; the assumptions name the model.

    Raises:
        HardwareError: the machine states neither energies nor a board power.
    """
    machine = compiled.machine
    if MEMORY in machine.energy.byte:
        terms = _components(compiled)
        if terms is not None:
            return _formula(compiled, "energy", "J", terms, COMPONENTS)
    if machine.power is None:
        raise HardwareError(
            f"hardware {machine.name!r} states no power: add board to [power], "
            "or joules to [energy], in a device file of your own"
        )
    return _formula(compiled, "energy", "J", _scaled(compiled, machine.power), POWER)


def energy_per_token(compiled: Compiled) -> Formula:
    """Joules per generated token over ``B``, ``S``, ``N``: the request's over ``B·N``.

    Raises:
        HardwareError: the machine states neither energies nor a board power.
    """
    whole = energy(compiled)
    return replace(
        whole, name="energy_per_token", unit="J/token", terms=_per_token(compiled, whole.terms)
    )


def cost_per_token(compiled: Compiled) -> Formula:
    """USD per generated token over ``B``, ``S``, ``N``: time x price / ``B·N``.

    The price is the machine's, or the symbol ``price`` in USD per hour.
    """
    hour = compiled.machine.price.hour
    price = symbol("price") if hour is None else hour
    terms = _scaled(compiled, price / SECONDS_PER_HOUR)
    return _formula(compiled, "cost_per_token", "USD/token", _per_token(compiled, terms), PRICE)


def _components(compiled: Compiled) -> tuple[Term, ...] | None:
    from costgraph.timing import roofline

    found: list[Term] = []
    for phase in compiled.program.phases:
        terms: list[Term] = []
        for row in compiled.rows[phase.name]:
            if level_of(row.unit):
                return None
            joules = step_energy(row.cost.mapped(phase.bind), compiled.machine)
            if joules is None:
                return None
            times = phase.bind(row.count) * phase.rounds * compiled.program.width
            term = make_term(times, (Arm(joules, "energy"),), (row.name,))
            if term is not None:
                terms.append(term)
        found.extend(roofline.spanned(phase, merged(terms)))
    return tuple(found)


def _scaled(compiled: Compiled, factor: Expr) -> tuple[Term, ...]:
    """The latency's terms, each times ``factor`` for every device."""
    whole = factor * compiled.program.devices
    return tuple(replace(t, count=t.count * whole) for t in compiled.latency.terms)


def _per_token(compiled: Compiled, terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """The terms over all generated tokens, ``B·N``.

    A polynomial count multiplies out where there is no maximum, so that terms of one
    resource still add up; in front of a maximum, or if it is an expectation, it stays.
    """
    found, tokens = [], B * compiled.program.generated
    for term in terms:
        if len(term.arms) == 1 and term.span is None and term.count.is_polynomial():
            arm = term.arms[0]
            # Expanded before it is divided: expanding quotients takes many times as long.
            parts = Add.make_args(expand(term.count * arm.expr))
            found.append(
                Term(ONE, (Arm(Add(*(x / tokens for x in parts)), arm.resource),), term.ops)
            )
        else:
            found.append(replace(term, count=term.count / tokens))
    return tuple(found)


def _formula(
    compiled: Compiled, name: str, unit: str, terms: tuple[Term, ...], assumption: str
) -> Formula:
    """A formula of the request; arms that are still times print as amounts over rates."""
    latency = compiled.latency
    return Formula(
        name,
        unit,
        terms,
        None,
        latency.limits,
        latency.rates,
        compiled.setting.assuming(assumption),
        latency.stated,
    )
