"""Systems: devices in nodes, the links between them, their host.

A device alone is the system of one. A system is asked for by a count (``8xh100``, or
``2x8xh200`` for two nodes of eight), by a device with its host (``rtx-4090+i9-13900k``),
or by the name or path of a file in which every figure has its source.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import HardwareError
from costgraph.links import Hop
from costgraph.machine import Link, Machine, Tier

ONE = Integer(1)
_COUNTED = re.compile(r"(?:(\d{1,6})x)?(\d{1,6})x(.+)\Z", re.IGNORECASE)
#: Links of a device that reach its host, not another device directly.
TO_HOST = ("pcie", "host", "c2c")
#: The name under which a device sees the network between nodes.
NETWORK = "network"


@dataclass(frozen=True)
class System:
    """Equal devices in equal nodes.

    Attributes:
        name: as asked for, in its normal form.
        title: what it is, in words.
        device: one device, with every link it sees: :data:`NETWORK` is the one between
            nodes.
        per_node: devices in a node.
        nodes: how many nodes there are.
        inner: the link between devices of a node; empty for a single device.
        host: the processor of a node, if it is known.
        host_link: the device's link to the host; empty if none is stated.
        storage: what lies behind the host, if it is known.
        notes: what a reader of its results must know.
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

    @property
    def devices(self) -> int:
        """Devices in all nodes together."""
        return self.per_node * self.nodes

    @property
    def network(self) -> Link | None:
        """What connects a device to devices of other nodes; None with one node."""
        return self.device.links.get(NETWORK)

    def hops(self, ranks: Expr, stride: Expr = ONE) -> tuple[Hop, ...]:
        """The levels that a group of devices spans, innermost first.

        Devices are numbered node by node. The group takes every ``stride``-th device:
        ``ranks`` of them. Degrees that are symbols must stay within a node.

        Raises:
            HardwareError: there are not as many devices, the group does not fill its
                nodes evenly, or nothing connects its devices.
        """
        reach = ranks * stride
        if not reach.is_number:
            if self.nodes > 1:
                raise HardwareError(
                    f"{self.name}: a degree over several nodes must be a number, not {reach}"
                )
            return (self._inner(ranks),)
        if reach > self.devices:
            raise HardwareError(
                f"{self.name} has {self.devices} devices: not the {reach} that a group of "
                f"{ranks} at every {stride} would take"
            )
        if ranks == 1:
            return ()
        if reach <= self.per_node:
            return (self._inner(ranks),)
        within = Integer(max(1, self.per_node // int(stride)))
        if ranks % within or reach % self.per_node:
            raise HardwareError(
                f"{self.name}: a group of {ranks} devices at every {stride} does not fill nodes "
                f"of {self.per_node} evenly"
            )
        outer = self._outer(ranks / within)
        return (outer,) if within == 1 else (self._inner(within), outer)

    def _inner(self, ranks: Expr) -> Hop:
        if not self.inner:
            raise HardwareError(f"{self.name}: nothing connects its devices")
        link = self.device.link(self.inner)
        return Hop(self.inner, ranks, link.in_network)

    def _outer(self, ranks: Expr) -> Hop:
        if self.network is None:
            raise HardwareError(
                f"{self.name}: no network between its nodes is known; state [network] in a "
                "system file"
            )
        return Hop(NETWORK, ranks, self.network.in_network)


def alone(device: Machine) -> System:
    """The system of one device."""
    link = next((name for name in TO_HOST if name in device.links), "")
    return System(device.name, device.title, device, host_link=link)


def counted(device: Machine, per_node: int, nodes: int = 1) -> System:
    """``nodes`` times ``per_node`` of a device, joined by the links that it states.

    Raises:
        HardwareError: a node of the device does not hold as many, or no link is stated.
    """
    count = f"{per_node}x{device.name}" if nodes == 1 else f"{nodes}x{per_node}x{device.name}"
    if per_node == nodes == 1:
        return alone(device)
    if per_node < 1 or nodes < 1:
        raise HardwareError(f"{count}: a system has at least one device")
    holds = device.node.devices
    if holds is not None and per_node > holds:
        more = -(-per_node * nodes // int(holds))
        raise HardwareError(
            f"{count}: a node holds {holds} of {device.name}; for more, write "
            f"{more}x{holds}x{device.name}"
        )
    inner, notes = "", []
    if per_node > 1:
        inner = _between(device, per_node)
        if inner in TO_HOST:
            notes.append(
                f"{device.name} has no direct link to its neighbours: what they exchange "
                f"crosses {inner} through the host"
            )
        if device.links[inner].latency is None:
            notes.append(f"link {inner} of {device.name} states no latency: none is counted")
    base = alone(device)
    title = f"{count.removesuffix(device.name)}{device.title}"
    return replace(
        base,
        name=count,
        title=title,
        per_node=per_node,
        nodes=nodes,
        inner=inner,
        notes=tuple(notes),
    )


def _between(device: Machine, count: int) -> str:
    """The link by which ``count`` devices of a node exchange data: the widest that joins them."""
    direct = {
        name: link
        for name, link in device.links.items()
        if name not in TO_HOST and (link.devices is None or link.devices >= count)
    }
    known = direct or {n: x for n, x in device.links.items() if n in TO_HOST}
    if not known:
        raise HardwareError(
            f"{count}x{device.name}: the device states no link; add a table [links.NAME]"
        )
    return max(known, key=lambda name: float(known[name].bandwidth))


def with_host(system: System, host: Machine) -> System:
    """The system with a processor as its host."""
    return replace(
        system,
        name=f"{system.name}+{host.name}",
        title=f"{system.title} with {host.title}",
        host=host,
    )


def with_network(system: System, network: Link) -> System:
    """The system with a link between its nodes, seen by every device."""
    links = MappingProxyType({**system.device.links, NETWORK: network})
    return replace(system, device=replace(system.device, links=links))


def split(text: str) -> tuple[int, int, str, str]:
    """(nodes, devices per node, device, host) of ``2x8xh200`` or ``rtx-4090+i9-13900k``."""
    body, _, host = text.partition("+")
    match = _COUNTED.match(body.strip())
    if match is None:
        return 1, 1, body.strip(), host.strip()
    return int(match[1] or 1), int(match[2]), match[3].strip(), host.strip()


__all__ = ["NETWORK", "System", "alone", "counted", "split", "with_host", "with_network"]
