"""Systems: devices in nodes, the links between them, their host.

A device alone is the system of one. A system is asked for by a count (``8xh100``, or
``2x8xh200`` for two nodes of eight), by a device with its host (``rtx-4090+i9-13900k``),
or by the name or path of a file in which every figure has its source; see
:func:`costgraph.hardware.load_system`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import HardwareError
from costgraph.hardware import wiring
from costgraph.hardware.links import Hop
from costgraph.hardware.machine import Machine
from costgraph.hardware.parts import Figure, Link, Tier
from costgraph.hardware.portable import Portable

ONE = Integer(1)
#: Links of a device that reach its host, not another device directly; the best first.
TO_HOST = ("nvlink-c2c", "pcie", "host", "dimm")
#: The link of what is plugged in the place of a host's own memory modules.
IN_SLOTS = "dimm"
#: The name under which a device sees the network between nodes.
NETWORK = "network"
#: The levels of memory in which a device sees its host and the storage behind it.
HOST, STORAGE = "ddr", "nvme"
#: Devices behind one host where nothing says how many a node holds.
MOST_UNSTATED = 8


@dataclass(frozen=True)
class System(Portable):
    """Equal devices in equal nodes.

    Attributes:
        name: as asked for, in its normal form.
        title: what it is, in words.
        device: one device, with every link it sees: :data:`NETWORK` is the one between
            nodes.
        per_node: devices in a node, all joined by ``inner``.
        nodes: how many nodes there are.
        inner: the link between devices of a node; empty for a single device.
        host: one processor of a node, with its own memory, if it is known.
        host_link: the device's link to the host; empty if none is stated.
        storage: what lies behind the hosts of a node, if it is known.
        notes: what a reader of its results must know.
        hosts: processors like ``host`` in a node.
        shape: extents of a node that is a slice of a torus; empty otherwise.
        figures: the system's own figures by key, with their sources; those of links are
            among the device's.
        aliases: other names under which a shipped system is found.
    """

    name: str
    title: str
    device: Machine
    per_node: int = 1
    nodes: int = 1
    inner: str = ""
    host: Machine | None = None
    host_link: str = ""
    storage: Tier | None = None
    notes: tuple[str, ...] = ()
    hosts: int = 1
    shape: tuple[int, ...] = ()
    figures: Mapping[str, Figure] = field(default_factory=lambda: MappingProxyType({}))
    aliases: tuple[str, ...] = ()

    @property
    def devices(self) -> int:
        """Devices in all nodes together."""
        return self.per_node * self.nodes

    @property
    def is_device(self) -> bool:
        """True for a device alone, of which nothing else is said."""
        return self == alone(self.device)

    @property
    def network(self) -> Link | None:
        """What connects a device to devices of other nodes, if it is known."""
        return self.device.links.get(NETWORK)

    def hops(self, ranks: Expr, stride: Expr = ONE) -> tuple[Hop, ...]:
        """The levels that a group of devices spans, innermost first.

        Devices are numbered node by node. Blocks of ``ranks * stride`` devices follow
        each other; in a block, ``stride`` groups take every ``stride``-th device.
        Degrees that are symbols must stay within a node.

        Raises:
            HardwareError: there are not as many devices, groups do not fill their nodes
                alike, or nothing connects the devices.
        """
        reach = ranks * stride
        if not reach.is_number:
            if self.nodes > 1:
                raise HardwareError(
                    f"{self.name}: a degree over several nodes must be a number, not {reach}"
                )
            return (self._inner(ranks, stride),)
        if ranks == 1:
            return ()
        if reach > self.devices:
            raise HardwareError(
                f"{self.name} has {self.devices} devices: not the {reach} that a group of "
                f"{ranks} at every {stride} would take"
            )
        if stride >= self.per_node:
            return (self._outer(ranks),)
        if reach <= self.per_node and (self.nodes == 1 or self.per_node % reach == 0):
            return (self._inner(ranks, stride),)
        if reach <= self.per_node or self.per_node % stride or reach % self.per_node:
            raise HardwareError(
                f"{self.name}: a group of {ranks} devices at every {stride} does not fill nodes "
                f"of {self.per_node} evenly"
            )
        within = Integer(self.per_node) / stride
        return (self._inner(within, stride), self._outer(ranks / within))

    def usable(self, hop: Hop) -> Link:
        """The hop's link with the bandwidth that a ring over it can use."""
        link = self.device.link(hop.link)
        return replace(link, bandwidth=link.bandwidth * hop.share)

    def _inner(self, ranks: Expr, stride: Expr) -> Hop:
        if not self.inner:
            raise HardwareError(f"{self.name}: nothing connects its devices")
        link = self.device.link(self.inner)
        part = wiring.share(link, ranks, stride, self.shape)
        return Hop(self.inner, ranks, link.in_network, part)

    def _outer(self, ranks: Expr) -> Hop:
        if self.network is None:
            raise unjoined(self.name, self.device)
        return Hop(NETWORK, ranks, self.network.in_network)


def alone(device: Machine) -> System:
    """The system of one device."""
    return System(device.name, device.title, device, host_link=link_to_host(device))


def link_to_host(device: Machine) -> str:
    """The link of a device to its host, by name; empty if it states none."""
    return next((name for name in TO_HOST if name in device.links), "")


def with_levels(system: System) -> Machine:
    """The device of a system with its share of the hosts and their storage as levels of memory.

    ``ddr`` is the memory of the hosts, with their processors in it; ``nvme`` is the storage.
    The devices of a node have equal shares. Where the system says nothing of a level, the
    device's own figures stand.
    """
    device, share = system.device, Integer(1) / system.per_node
    if system.host is not None:
        device = device.with_tier(HOST, _shared(system.host.as_tier(), share * system.hosts))
    if system.storage is not None:
        device = device.with_tier(STORAGE, _shared(system.storage, share))
    return device


def _shared(tier: Tier, share: Expr) -> Tier:
    """A part of a level: of its bandwidth, its capacity and what computes in it."""
    return replace(
        tier,
        bandwidth=None if tier.bandwidth is None else tier.bandwidth * share,
        capacity=None if tier.capacity is None else tier.capacity * share,
        peaks=MappingProxyType({key: peak * share for key, peak in tier.peaks.items()}),
    )


def link_to(device: Machine, level: str) -> str:
    """The link over which a device reaches a farther level: its own, or that to the host."""
    return level if level in device.links else link_to_host(device)


def links_to(device: Machine, level: str) -> tuple[str, ...]:
    """Every link that is crossed on the way to a farther level; none where nothing is known.

    What lies beyond the host is reached over the link to that as well.
    """
    found = (link_to(device, level), link_to_host(device) if device.tiers[level].beyond else "")
    return tuple(name for name in found if name)


def with_memory(system: System, memory: Machine, count: int = 1) -> System:
    """The system with memory that computes beside each of its devices.

    The memory is a level of the device under its own name, and so is the link to it: that
    of the product to its host, for all ``count`` of them together. Modules in the slots of a
    host are reached by way of it. Another link of the product is the one by which its parts
    exchange data, of which each has a link of its own.

    Raises:
        HardwareError: the product is no memory that computes, or states no link; or it is
            plugged into a host, and none is known.
    """
    name = f"{system.name}+{f'{count}x' if count != 1 else ''}{memory.name}"
    link = link_to_host(memory)
    if not link:
        raise HardwareError(f"{name}: {memory.name} states no link to its host")
    beyond = link == IN_SLOTS and system.device.kind != "cpu"
    if beyond and (system.host is None or not system.host_link):
        raise HardwareError(
            f"{name}: {memory.name} stands in the slots of a host: name it "
            f"({system.name}+epyc-9654+{memory.name})"
        )
    parts = Integer(count) * (memory.topology.numa_domains or ONE)
    among = {n: x for n, x in _direct(memory).items() if n not in system.device.links}
    exchange = next(iter(among), "")
    tier = replace(
        _shared(memory.as_tier(), Integer(count)), parts=parts, exchange=exchange, beyond=beyond
    )
    device = system.device.with_tier(memory.name, tier)
    own = memory.links[link]
    links = {**device.links, memory.name: replace(own, bandwidth=own.bandwidth * count), **among}
    notes = [f"{memory.name} computes in {count} of it beside each device"]
    if parts != 1:
        how = f"over {exchange}" if exchange else "by way of the device alone"
        notes.append(f"{memory.name}: {parts} parts with memory of their own exchange data {how}")
    return replace(
        system,
        name=name,
        title=f"{system.title} with {memory.title}",
        device=replace(device, links=MappingProxyType(links)),
        notes=(*system.notes, *notes),
    )


def counted(device: Machine, per_node: int, nodes: int = 1) -> System:
    """``nodes`` times ``per_node`` of a device, joined by the links that it states.

    What joins the nodes is left open: see :func:`with_network`.

    Raises:
        HardwareError: a node of the device does not hold as many, or no link is stated.
    """
    counts = (per_node,) if nodes == 1 else (nodes, per_node)
    prefix = "".join(f"{n}x" for n in counts)
    count = prefix + device.name
    if per_node < 1 or nodes < 1:
        raise HardwareError(f"{count}: a system has at least one device")
    if per_node == nodes == 1:
        return alone(device)
    holds = _holds(device)
    if per_node > holds:
        taken = "holds" if _stated(device) else "without [node] is taken to hold"
        more = -(-per_node * nodes // holds)
        raise HardwareError(
            f"{count}: a node {taken} {holds} of {device.name}; for more nodes, write "
            f"{more}x{holds}x{device.name}"
        )
    base = replace(
        alone(device), name=count, title=prefix + device.title, per_node=per_node, nodes=nodes
    )
    if device.node.devices is not None:
        base = replace(base, hosts=-(-per_node // int(device.node.devices)))
    return base if per_node == 1 else joined(base, _between(device, per_node))


def joined(system: System, inner: str) -> System:
    """The system with a link between the devices of a node, and what that implies noted.

    Raises:
        HardwareError: the device has no such link, or it does not join as many.
    """
    device, notes = system.device, []
    link = device.link(inner)
    if link.devices is not None and system.per_node > link.devices:
        raise HardwareError(
            f"{system.name}: {inner} of {device.name} joins {link.devices} devices, "
            f"not {system.per_node}"
        )
    shape = wiring.slice_of(link, system.per_node) if link.wiring == "torus" else ()
    if inner in TO_HOST:
        notes.append(
            f"no direct link of {device.name} joins {system.per_node}: what they exchange crosses "
            f"{inner} through the host, as if each had its lanes and the host's paths to itself"
        )
    if link.wiring == "mesh" and link.devices is not None:
        notes.append(
            f"{inner} is a mesh: a group of p devices uses (p - 1)/{link.devices - 1} of a "
            "device's bandwidth"
        )
    if shape:
        notes.append(_slice_note(system.per_node, inner, link, shape))
    if link.latency is None:
        notes.append(f"link {inner} of {device.name} states no latency: none is counted")
    return replace(system, inner=inner, shape=shape, notes=(*system.notes, *notes))


def _slice_note(devices: int, inner: str, link: Link, shape: tuple[int, ...]) -> str:
    part = wiring.share(link, Integer(devices), ONE, shape)
    amount = "all" if part == 1 else str(part)
    cut = any(e > 1 and not wiring.closes(link, e, shape) for e in shape)
    why = "; there is no wrap-around where the torus is cut" if cut else ""
    return (
        f"a slice of {wiring.shown(shape)}: a ring over all of it uses {amount} of a device's "
        f"bandwidth over {inner}, a group along some of its axes less{why}"
    )


def with_host(system: System, host: Machine) -> System:
    """The system with a processor as the host of each node.

    Raises:
        HardwareError: the device given is no processor, or the system has a host.
    """
    if system.host is not None:
        raise HardwareError(
            f"{system.name}+{host.name}: {system.name} has a host, {system.host.name}; "
            f"write {system.device.name}+{host.name}"
        )
    if host.kind != "cpu":
        raise HardwareError(
            f"{system.name}+{host.name}: {host.name} is of kind {host.kind!r}; a host is a 'cpu'"
        )
    notes = () if system.host_link else (f"{system.device.name} states no link to a host",)
    return replace(
        system,
        name=f"{system.name}+{host.name}",
        title=f"{system.title} with {host.title}",
        host=host,
        notes=(*system.notes, *notes),
    )


def with_network(
    system: System,
    network: Link,
    figures: Mapping[str, Figure] = MappingProxyType({}),
    whose: str = "",
) -> System:
    """The system with a link between its nodes, seen by every device.

    Args:
        system: devices in nodes.
        network: the link, per device.
        figures: its figures, by the last part of their key.
        whose: where it is taken from, for the notes; empty if it is the system's own.
    """
    notes = [f"between nodes: {whose}"] if whose else []
    if network.latency is None:
        notes.append("the network between nodes states no latency: none is counted")
    links = MappingProxyType({**system.device.links, NETWORK: network})
    stated = {f"links.{NETWORK}.{key}": figure for key, figure in figures.items()}
    device = replace(
        system.device,
        links=links,
        figures=MappingProxyType({**system.device.figures, **stated}),
    )
    return replace(system, device=device, notes=(*system.notes, *notes))


def repeated(system: System, nodes: int) -> System:
    """``nodes`` times the nodes of a system.

    Raises:
        HardwareError: nothing is known that could join them.
    """
    if nodes < 1:
        raise HardwareError(f"{nodes}x{system.name}: a system has at least one device")
    if nodes == 1:
        return system
    if system.network is None:
        raise unjoined(f"{nodes}x{system.name}", system.device)
    return replace(
        system,
        name=f"{nodes}x{system.name}",
        title=f"{nodes}x{system.title}",
        nodes=nodes * system.nodes,
    )


def unjoined(name: str, device: Machine) -> HardwareError:
    """What is said where nothing joins the nodes of a system."""
    return HardwareError(
        f"{name}: no network between nodes of {device.name} is known; "
        "state [network] in a system file (docs/hardware.md)"
    )


def _direct(device: Machine) -> dict[str, Link]:
    """The links that reach other devices of the node."""
    return {n: x for n, x in device.links.items() if n not in (*TO_HOST, NETWORK)}


def _stated(device: Machine) -> list[int]:
    """What the device file says of the devices in a node, or that one link joins."""
    known = [device.node.devices, *(x.devices for x in _direct(device).values())]
    return [int(n) for n in known if n is not None]


def _holds(device: Machine) -> int:
    """Devices in a node at most: all that a link joins, or that stand behind one host."""
    if device.node.devices is not None or not link_to_host(device):
        return max(_stated(device), default=MOST_UNSTATED)
    return max((MOST_UNSTATED, *_stated(device)))


def _between(device: Machine, count: int) -> str:
    """The link by which ``count`` devices of a node exchange data: the widest that joins them."""
    direct = {n: x for n, x in _direct(device).items() if x.devices is None or x.devices >= count}
    known = direct or {n: x for n, x in device.links.items() if n in TO_HOST}
    if not known:
        raise HardwareError(
            f"{count}x{device.name}: the device states no link; add a table [links.NAME]"
        )
    return max(known, key=lambda name: float(known[name].bandwidth))


__all__ = [
    "NETWORK",
    "System",
    "alone",
    "counted",
    "joined",
    "links_to",
    "repeated",
    "unjoined",
    "with_host",
    "with_levels",
    "with_memory",
    "with_network",
]
