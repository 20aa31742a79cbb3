"""Exchanges in a program as calibrated forms see them: what passes where, and which fit serves.

An exchange passes one level of its group after the other (:class:`costgraph.ops.collectives.Leg`),
and each level is a collective of its own. Where a whole exchange over several nodes was
timed, that fit serves for all its levels together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sympy import Add, Integer

from costgraph.counting.count import Row
from costgraph.hardware.links import Messages
from costgraph.hardware.machine import Machine
from costgraph.hardware.systems import NETWORK
from costgraph.ir.program import Phase
from costgraph.ops.collectives import Exchange, Leg
from costgraph.timing.fidelity.calibration import Fit
from costgraph.timing.fidelity.collective import (
    ANY,
    CARRIED_OVER,
    NEAREST,
    UNSTATED_NETWORK,
    over_nodes,
    topology,
    variant,
)

ONE = Integer(1)
#: Without a framework's own kernels, exchanges are NCCL's.
USUAL = "nccl"
#: Networks of which fits over nodes serve: within this factor of the one that was timed.
ALIKE = 2.0


@dataclass(frozen=True)
class Part:
    """A collective on one level, or all levels of an exchange in one.

    Attributes:
        name: of the collective, topology and ranks, for messages.
        link: that it crosses.
        messages: on the link, of all executions in a step.
        own: fits of the device that serve it, the best first, without a library.
        general: fits of other devices that do.
        others: messages on further links that the same fit covers.
    """

    name: str
    link: str
    messages: Messages
    own: tuple[str, ...]
    general: tuple[str, ...]
    others: tuple[tuple[str, Messages], ...] = ()


def parts(phase: Phase, row: Row, machine: Machine) -> tuple[Part, ...]:
    """The collectives that an operation consists of, each with its messages."""
    links = {name: m.mapped(phase.bind) for name, m in row.cost.links.items()}
    op = row.node.op
    if not isinstance(op, Exchange):
        return tuple(Part(f"{row.kind} {name}", name, m, (), ()) for name, m in links.items())
    legs = op.sent(row.graph.operands(row.node), row.node.outputs)
    legs = tuple(leg for leg in legs if leg.hop.link in links)
    found = [
        _part(leg, share, machine)
        for leg, share in zip(legs, _shares(phase, legs, links), strict=True)
    ]
    whole = _over_nodes(legs, found, machine)
    return tuple(found) if whole is None else (whole,)


def _shares(phase: Phase, legs: tuple[Leg, ...], links: dict[str, Messages]) -> Iterator[Messages]:
    """The messages of each leg: of a link's total, in the ratio of what legs alone have."""
    for leg in legs:
        total = links[leg.hop.link]
        alike = [x.messages for x in legs if x.hop.link == leg.hop.link]
        if len(alike) == 1:
            yield total
            continue
        own = leg.messages
        steps = phase.bind(own.steps) / phase.bind(Add(*(m.steps for m in alike)))
        wire = phase.bind(own.wire) / phase.bind(Add(*(m.wire for m in alike)))
        carried = None if total.carried is None else total.carried * wire
        yield Messages(total.steps * steps, total.wire * wire, carried)


def _part(leg: Leg, messages: Messages, machine: Machine) -> Part:
    link, ranks = leg.hop.link, leg.hop.ranks
    kind, place = NEAREST.get(leg.kind, leg.kind), topology(machine, link)
    many = Integer(2) if leg.kind in NEAREST else ranks
    name = f"{leg.kind} {place}:{ranks}"
    numbers = (str(many), ANY) if many.is_Integer else (ANY,)
    own = tuple(variant(kind, place, n) for n in numbers)
    # No pair on one bridge was timed: two devices at a switch are the nearest.
    like = "switch" if place == "bridge" else place
    general = tuple(variant(kind, like, n) for n in numbers) if like in CARRIED_OVER else ()
    return Part(name, link, messages, own, general)


def _over_nodes(legs: tuple[Leg, ...], found: list[Part], machine: Machine) -> Part | None:
    """One part for an exchange over whole nodes on a network like the one that was timed."""
    if len(legs) != 2 or legs[0].kind != legs[1].kind or legs[1].hop.link != NETWORK:
        return None
    ranks, nodes = legs[0].hop.ranks, legs[1].hop.ranks
    if not (ranks.is_Integer and nodes.is_Integer):
        return None
    rate = machine.link(NETWORK).bandwidth * ranks
    if not rate.is_number or not 1 / ALIKE <= float(rate) / UNSTATED_NETWORK <= ALIKE:
        return None
    named = variant(legs[0].kind, over_nodes(int(nodes)), int(ranks))
    near, far = found
    return Part(named, NETWORK, far.messages, (named,), (), ((near.link, near.messages),))


def libraries(variants: tuple[str, ...], framework: str) -> tuple[str, ...]:
    """Variants with whose kernels they are: the framework's, those of all, or the usual ones."""
    named = [f"{v}@{framework}" for v in variants] if framework else []
    return (*named, *(x for v in variants for x in (v, f"{v}@{USUAL}")))


def served(part: Part, fit: Fit, moved: bool) -> str:
    """Which fit serves a collective, in words."""
    name = fit.variant if fit.variant.startswith(part.name) else f"{part.name} as {fit.variant}"
    if not moved:
        return f"{name} fitted, held out"
    strangers = "devices and numbers of ranks" if f":{ANY}" in fit.variant else "devices"
    return f"{name} transferred, {strangers} left out"
