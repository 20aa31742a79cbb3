"""NUMA domains: a processor as its domains, with workers bound to them or not.

A domain has its part of cores and memory. A worker that is bound to one runs on a device of
its own; threads that are bound to nothing find memory anywhere, and read most of it over the
links between domains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import HardwareError
from costgraph.hardware.machine import Link, Machine, Memory, Node, Price, Topology

ONE = Integer(1)
#: The link over which a domain reads the memory of others.
BETWEEN = "numa"


def _count(machine: Machine) -> Expr:
    """The domains of a device.

    Raises:
        HardwareError: it has one, or does not say.
    """
    count = machine.topology.numa_domains
    if count is None:
        raise HardwareError(
            f"{machine.name}: how many NUMA domains it has is not stated; state [topology] "
            "numa_domains"
        )
    if count == 1:
        raise HardwareError(f"{machine.name} has one NUMA domain: name it without a suffix")
    return count


def domain(machine: Machine) -> Machine:
    """One NUMA domain as a device: its share of cores, memory, power and price.

    Several of it are joined by the links between domains; where no rate of these is stated, by
    that of a domain's memory, than which none can be faster.

    Raises:
        HardwareError: the device has one domain, or does not say.
    """
    count = _count(machine)
    share = ONE / count
    memory, topology = machine.memory, machine.topology
    own = memory.bandwidth * share
    return replace(
        machine,
        name=f"{machine.name}.numa",
        title=f"{machine.title}, one of {count} NUMA domains",
        peaks=MappingProxyType({key: peak * share for key, peak in machine.peaks.items()}),
        memory=Memory(own, _part(memory.capacity, share), _part(memory.usable, share)),
        onchip=_part(machine.onchip, share),
        multiprocessors=_part(machine.multiprocessors, share),
        power=_part(machine.power, share),
        idle=_part(machine.idle, share),
        price=Price(_part(machine.price.hour, share)),
        links=MappingProxyType(
            {**machine.links, BETWEEN: Link(topology.remote or own, devices=count)}
        ),
        node=Node(count),
        topology=Topology(ONE, _part(topology.cores, share), topology.clock),
        aliases=(),
    )


def unbound(machine: Machine) -> Machine:
    """The device with threads and memory bound to no domain: pages lie anywhere, alike.

    Of ``D`` domains a thread finds ``1/D`` of its bytes in its own, the rest with others. Reads
    of both kinds follow one another: ``1/((1 − x)/BW + x/BW_remote)`` with ``x = 1 − 1/D``.

    Raises:
        HardwareError: the device has one domain, or states no rate between them.
    """
    count, remote = _count(machine), machine.topology.remote
    if remote is None:
        raise HardwareError(
            f"{machine.name}: how fast a domain reads another's memory is not stated; state "
            "[topology] remote"
        )
    own, away = machine.memory.bandwidth / count, 1 - ONE / count
    rate = count / ((1 - away) / own + away / remote)
    return replace(
        machine,
        name=f"{machine.name}.unbound",
        title=f"{machine.title}, threads bound to no NUMA domain",
        memory=replace(machine.memory, bandwidth=rate),
        aliases=(),
    )


def _part(figure: Expr | None, share: Expr) -> Expr | None:
    return None if figure is None else figure * share


#: What may stand behind the name of a device, and what it makes of it.
SUFFIXES: Mapping[str, Callable[[Machine], Machine]] = MappingProxyType(
    {".numa": domain, ".unbound": unbound}
)
