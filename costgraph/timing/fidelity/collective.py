"""Collectives as timings know them: what tells fits apart, and the least time they need.

Fits of exchanges are told apart by the collective, the topology that the link makes, how
many devices take part, and the library: ``all-reduce switch:8@nccl``. Without a library
they are of all frameworks' own kernels together, with ``any`` devices of all numbers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from sympy import Integer

from costgraph.hardware.links import least
from costgraph.hardware.systems import NETWORK, TO_HOST

if TYPE_CHECKING:
    from costgraph.hardware.machine import Machine
    from costgraph.timing.fidelity.table import Datasheet

#: Collectives of which there are timings.
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")
#: Those without, by the form that they take: a message between two devices is half of what
#: two devices send each other.
NEAREST = {"p2p": "all-to-all"}
#: The topologies between which fits carry over: machines behind a host differ too much.
CARRIED_OVER = ("switch",)
#: Byte/s of a node's network where timings over several nodes do not state it: that of the
#: slowest Ethernet (25 Gb/s) that no timing exceeds.
UNSTATED_NETWORK = 3.125e9
#: The number of ranks of a fit over all numbers.
ANY = "any"


def topology(machine: Machine, name: str) -> str:
    """How a link joins devices: ``switch``, ``bridge`` (a pair), ``pcie``, ``mesh`` …"""
    if name == NETWORK or name in TO_HOST:
        return name
    link = machine.link(name)
    if link.wiring == "switch" and link.devices == 2:
        return "bridge"
    return link.wiring


def over_nodes(nodes: int) -> str:
    """The topology of several nodes."""
    return f"{nodes}-nodes"


def variant(kind: str, place: str, ranks: int | str, library: str = "") -> str:
    """The name of a fit."""
    return f"{kind} {place}:{ranks}" + (f"@{library}" if library else "")


@lru_cache(maxsize=256)
def _factors(kind: str, ranks: int, in_network: bool) -> tuple[float, float]:
    made = least(kind, Integer(1), Integer(ranks), in_network)
    return float(made.steps), float(made.wire)


def least_time(
    kind: str, nodes: int, ranks: int, size: float, sheet: Datasheet
) -> tuple[float, float]:
    """Seconds of the least messages and of the least bytes of a collective.

    ``size`` is the whole buffer in bytes (see :mod:`costgraph.hardware.links`), ``ranks`` the
    devices of a node. Over several nodes the bytes are those between nodes, at
    :data:`UNSTATED_NETWORK`, and messages count none.
    """
    if nodes == 1:
        steps, wire = _factors(kind, ranks, sheet.in_network)
        return steps * sheet.latency, wire * size / sheet.link
    # Of the whole buffer a device's part crosses; what it sends to others is already its own.
    part = size if kind == "all-to-all" else size / ranks
    return 0.0, _factors(kind, nodes, False)[1] * part * ranks / UNSTATED_NETWORK
