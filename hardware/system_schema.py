"""System files: TOML to a :class:`System`, each figure with its source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from costgraph.errors import clip
from costgraph.hardware.machine import Machine
from costgraph.hardware.parts import Figure, Memory, Tier
from costgraph.hardware.schema import MEMORY, link_from, links_from
from costgraph.hardware.systems import NETWORK, TO_HOST, System, alone, joined, with_network
from costgraph.hardware.tables import NAME, File, opened

TOP = (
    "name",
    "title",
    "device",
    "inner",
    "aliases",
    "notes",
    "sources",
    "layout",
    "links",
    "network",
    "host",
    "storage",
)
LAYOUT = {"devices": "count", "nodes": "count"}
HOST = {"count": "count", **MEMORY}
HOST_TEXTS = ("device", "name", "title", "link")


def is_system(data: Mapping[str, Any]) -> bool:
    """True for the document of a system file: it names the device that it is made of."""
    return "device" in data


def system_from(data: Mapping[str, Any], label: str, device_of: Callable[[str], Machine]) -> System:
    """The system that a parsed file describes.

    Args:
        data: the TOML document.
        label: the file's name, for messages.
        device_of: the device that a name or path in the file means.

    Raises:
        HardwareError: a key is unknown, missing, or of the wrong type or unit, a figure
            has no source, or the parts do not fit together.
    """
    file = opened(data, label)
    file.known(data, TOP, "")
    name, title = file.name(data), file.text(data, "title")
    figures: dict[str, Figure] = {}
    layout = file.section(data, "layout", LAYOUT, figures)
    device = _device(file, data, device_of(file.text(data, "device")))
    storage = file.section(data, "storage", MEMORY, figures)
    system = replace(
        alone(device),
        name=name,
        title=title,
        per_node=int(layout.get("devices", 1)),
        nodes=int(layout.get("nodes", 1)),
        storage=Tier(**storage) if storage else None,
        notes=file.texts(data, "notes"),
        aliases=file.texts(data, "aliases"),
    )
    system = _host(file, data, system, device_of, figures)
    system = replace(system, figures=MappingProxyType(figures))
    if system.per_node > 1:
        system = joined(system, _link_name(file, data, "inner", device))
    elif "inner" in data:
        raise file.fail("'inner' joins the devices of a node, but [layout] states one device")
    if "network" in data:
        stated: dict[str, Figure] = {}
        link = link_from(file, file.table(data, "network"), NETWORK, stated)
        system = with_network(
            system, link, {key.removeprefix(f"{NETWORK}."): f for key, f in stated.items()}
        )
    elif system.nodes > 1:
        raise file.fail("missing table [network]: what joins the nodes, per device")
    return system


def _device(file: File, data: Mapping[str, Any], device: Machine) -> Machine:
    """The device with the links that the file states instead of, or beside, its own."""
    stated: dict[str, Figure] = {}
    links = links_from(file, data, stated, device.links)
    if NETWORK in links:
        raise file.fail(f"[links.{NETWORK}]: what joins nodes is stated in [{NETWORK}]")
    return replace(
        device,
        links=MappingProxyType({**device.links, **links}),
        figures=MappingProxyType({**device.figures, **stated}),
    )


def _link_name(file: File, data: Mapping[str, Any], key: str, device: Machine) -> str:
    """The link of the device that the key names."""
    name = file.text(data, key)
    if name not in device.links:
        known = ", ".join(device.links) or "none"
        raise file.fail(f"{key!r}: {device.name} has no link {clip(name)}; it has: {known}")
    return name


def _host(
    file: File,
    data: Mapping[str, Any],
    system: System,
    device_of: Callable[[str], Machine],
    figures: dict[str, Figure],
) -> System:
    """The system with its host: a device that is shipped or has a file, or figures alone."""
    table = file.table(data, "host")
    if not table:
        return system
    found = file.figures(table, "host", HOST, figures, HOST_TEXTS)
    if "device" in table:
        host = device_of(file.text(table, "device"))
        if host.kind != "cpu":
            raise file.fail(f"[host]: {host.name} is of kind {host.kind!r}; a host is a 'cpu'")
        memory = Memory(
            found.get("bandwidth", host.memory.bandwidth),
            found.get("capacity", host.memory.capacity),
        )
        host = replace(host, memory=memory)
    else:
        name = file.text(table, "name")
        if not NAME.match(name):
            raise file.fail(
                f"host: 'name' must be letters, digits, '.', '_' and '-', not {clip(name)}"
            )
        if "bandwidth" not in found:
            raise file.fail("missing key 'host.bandwidth' (of one host's memory)")
        memory = Memory(found["bandwidth"], found.get("capacity"))
        host = Machine(name, file.text(table, "title"), MappingProxyType({}), memory, kind="cpu")
    link = system.host_link
    if "link" in table:
        link = _link_name(file, table, "link", system.device)
        if link not in TO_HOST:
            raise file.fail(f"[host]: a link to a host is one of {', '.join(TO_HOST)}")
    return replace(system, host=host, hosts=int(found.get("count", 1)), host_link=link)
