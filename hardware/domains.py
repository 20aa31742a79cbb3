"""Parts of a processor: its NUMA domains, with workers bound to them or not, and some of its cores.

A domain has its part of cores and memory. A worker that is bound to one runs on a device of
its own; threads that are bound to nothing find memory anywhere, and read most of it over the
links between domains. Some of the cores have their part of the peaks, and of the memory's rate
as much as they read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from sympy import Expr, Integer, Min

from costgraph.errors import HardwareError
from costgraph.hardware.machine import Machine
from costgraph.hardware.parts import Link, Memory, Node, Price, Topology

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
        topology=Topology(
            ONE, _part(topology.cores, share), topology.clock, None, topology.core_bandwidth
        ),
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


def cores(machine: Machine, count: int) -> Machine:
    """The device with threads on so many of its cores, one each; memory and caches are all there.

    Compute scales with cores. The memory's rate saturates: ``min(n·b, BW)`` where one core reads
    ``b``. That is how the ECM model scales a kernel that is bound by memory, ``P(n) = min(n·P(1),
    b_S/B_C)``: linear in cores until the bandwidth ``b_S`` that they share is used up (Stengel,
    Treibig, Hager and Wellein, Quantifying Performance Bottlenecks of Stencil Computations Using
    the Execution-Cache-Memory Model, ICS 2015, arXiv 1410.5010). Both sides times the bytes
    ``B_C`` of a unit of work are rates. Where no ``b`` is stated all of the rate counts, which a
    note says.

    Raises:
        HardwareError: the device does not say how many cores it has, or has fewer.
    """
    topology, memory = machine.topology, machine.memory
    if topology.cores is None:
        raise HardwareError(
            f"{machine.name}: how many cores it has is not stated; state [topology] cores"
        )
    if not 1 <= count <= topology.cores:
        raise HardwareError(f"{machine.name} has {topology.cores} cores, not {count}")
    name, share = f"{machine.name}.{count}cores", Integer(count) / topology.cores
    rate, notes = memory.bandwidth, machine.notes
    if topology.core_bandwidth is not None:
        rate = Min(rate, count * topology.core_bandwidth)
    elif share != 1:
        notes = (
            *notes,
            f"{name}: how fast a core reads by itself is not stated ([topology] core_bandwidth): "
            "the cores are taken to reach all of the memory's rate",
        )
    return replace(
        machine,
        name=name,
        title=f"{machine.title}, {count} of {topology.cores} cores",
        peaks=MappingProxyType({key: peak * share for key, peak in machine.peaks.items()}),
        memory=replace(memory, bandwidth=rate),
        multiprocessors=_part(machine.multiprocessors, share),
        topology=replace(topology, cores=Integer(count)),
        aliases=(),
        notes=notes,
    )


def _part(figure: Expr | None, share: Expr) -> Expr | None:
    return None if figure is None else figure * share


#: What may stand behind the name of a device, and what it makes of it.
SUFFIXES: Mapping[str, Callable[[Machine], Machine]] = MappingProxyType(
    {".numa": domain, ".unbound": unbound}
)
_CORES = re.compile(r"\.([0-9]{1,4})cores\Z")


def behind(text: str) -> tuple[str, Callable[[Machine], Machine]] | None:
    """A name without the suffix behind it, and what that makes of the device; None for none."""
    for suffix, made in SUFFIXES.items():
        if text.endswith(suffix):
            return text.removesuffix(suffix), partial(_restated, made)
    found = _CORES.search(text)
    if found is None:
        return None
    return text[: found.start()], partial(_restated, partial(cores, count=int(found[1])))


def _restated(made: Callable[[Machine], Machine], whole: Machine) -> Machine:
    """A part whose stated figures are its own, with what they were derived from."""
    part = made(whole)
    memory, topology = part.memory, part.topology
    own = {
        **{f"peaks.{engine.value}.{kind}": peak for (engine, kind), peak in part.peaks.items()},
        "memory.bandwidth": memory.bandwidth,
        "memory.capacity": memory.capacity,
        "memory.usable_capacity": memory.usable,
        "onchip.register_files": part.onchip,
        "onchip.multiprocessors": part.multiprocessors,
        "power.board": part.power,
        "power.idle": part.idle,
        "price.hour": part.price.hour,
        "topology.numa_domains": topology.numa_domains,
        "topology.cores": topology.cores,
    }
    figures = {
        key: figure
        if (now := own.get(key)) is None or now == figure.value
        else replace(figure, value=now, source=f"of {part.name}, {whole.name}: {figure.source}")
        for key, figure in part.figures.items()
    }
    return replace(part, figures=MappingProxyType(figures))
