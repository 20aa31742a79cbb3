"""Systems as tables or JSON: all of them, one with its sources, totals beside one device."""

from __future__ import annotations

from typing import Any

from sympy import Expr

from costgraph.hardware.machine import Figure, Link
from costgraph.hardware.systems import NETWORK, TO_HOST, System
from costgraph.hardware.wiring import shown
from costgraph.showing.export.machines import (
    NONE,
    figure_objects,
    figure_rows,
    machine_object,
    main_peak,
    number,
)
from costgraph.showing.export.table import si
from costgraph.showing.export.terminal import print_table
from costgraph.units import format_quantity

HEAD = ("system", "what it is", "devices", "in a node", "between nodes", "FLOP/s", "memory", "host")


def list_systems() -> None:
    """Every shipped system with its main figures."""
    from costgraph.hardware import load_system, system_names

    rows = [_row(load_system(name)) for name in system_names()]
    print_table(HEAD, rows, optional=("host", "what it is", "between nodes", "memory"))


def _row(s: System) -> tuple[str, ...]:
    best = s.device.main_type()
    memory = _all(s, s.device.memory.capacity)
    return (
        s.name,
        s.title,
        _count(s),
        _width(s.inner, s.device.links.get(s.inner)),
        _width("", s.network),
        f"{si(float(s.devices * main_peak(s.device)))} {best}",
        NONE if memory is None else f"{si(float(memory))}B",
        NONE if s.host is None else _times(s.hosts, s.host.name),
    )


def _count(s: System) -> str:
    return f"{_times(s.nodes, str(s.per_node))} {s.device.name}"


def _times(count: int, what: str) -> str:
    return what if count == 1 else f"{count} x {what}"


def _width(name: str, link: Link | None) -> str:
    return NONE if link is None else f"{name} {si(float(link.bandwidth))}B/s".strip()


def _all(s: System, value: Expr | None) -> Expr | None:
    """What all devices have together of something that one has."""
    return None if value is None else s.devices * value


def show_system(s: System) -> None:
    """One system: totals, links, host, storage, every figure with its source, notes."""
    whole = "a node of " if s.nodes == 1 else f"{s.nodes} nodes of "
    print(f"{s.name}: {s.title} (system)\n")
    if s.devices > 1:
        print(f"{s.devices} devices: {whole}{s.per_node} x {s.device.title} ({s.device.name})\n")
    else:
        print(f"one device: {s.device.title} ({s.device.name})\n")
    head = ("", "one device", f"all {s.devices}") if s.devices > 1 else ("", "one device")
    print_table(head, _totals(s))
    print()
    print_table(
        ("link", "joins", "latency (alpha)", "bandwidth (beta)", "wiring"),
        [_link_row(s, name, link) for name, link in s.device.links.items()],
        "links, per device and direction",
    )
    print()
    print_table(("figure", "value", "source"), figure_rows(system_figures(s)))
    print()
    if s.host is not None:
        print(_host_line(s))
    if s.storage is not None:
        print(f"storage of a node: {_memory(s.storage.bandwidth, s.storage.capacity)}")
    for note in s.notes:
        print(f"note: {note}")
    print(f"the device: costgraph hardware {s.device.name}")
    if s.aliases:
        print("also found as: " + ", ".join(s.aliases))


def _totals(s: System) -> list[tuple[str, ...]]:
    """Rates and sizes of one device and of all together."""
    m = s.device
    rows = [(f"peak {e.value}.{d}", rate, "FLOP/s") for (e, d), rate in m.peaks.items()]
    rows += [
        ("memory bandwidth", m.memory.bandwidth, "B/s"),
        ("memory", m.memory.capacity, "B"),
        ("power", m.power, "W"),
        ("price", m.price.hour, "USD/h"),
    ]
    counts = (1, s.devices) if s.devices > 1 else (1,)
    return [
        (label, *(format_quantity(float(n * value), unit) for n in counts))
        for label, value, unit in rows
        if value is not None
    ]


def role(s: System, name: str) -> str:
    """What a link of the device is for in the system."""
    if name == NETWORK:
        return "nodes" if s.nodes > 1 else "further nodes"
    if name == s.inner:
        return f"the {s.per_node} of a node" + (" through the host" if name in TO_HOST else "")
    if name == s.host_link:
        return "the host"
    return "not used here"


def _link_row(s: System, name: str, link: Link) -> tuple[str, ...]:
    if name in TO_HOST:
        wired = NONE
    else:
        wired = " ".join([link.wiring, *([shown(s.shape)] if s.shape and name == s.inner else [])])
    return (
        name,
        role(s, name),
        "not stated" if link.latency is None else format_quantity(float(link.latency), "s"),
        format_quantity(float(link.bandwidth), "B/s"),
        f"{wired}, reduces" if link.in_network else wired,
    )


def _host_line(s: System) -> str:
    assert s.host is not None
    memory = _memory(s.host.memory.bandwidth, s.host.memory.capacity)
    each = "" if s.hosts == 1 else ", each"
    over = f", reached over {s.host_link}" if s.host_link else ""
    return f"host of a node: {_times(s.hosts, s.host.title)} ({s.host.name}): {memory}{each}{over}"


def _memory(bandwidth: Expr | None, capacity: Expr | None) -> str:
    known = [
        format_quantity(float(value), unit)
        for value, unit in ((capacity, "B"), (bandwidth, "B/s"))
        if value is not None
    ]
    return " at ".join(known)


def system_figures(s: System) -> dict[str, Figure]:
    """The figures that make the system out of its device, by key: layout, links, host."""
    links = {k: f for k, f in s.device.figures.items() if k.startswith("links.")}
    host = {} if s.host is None else s.host.figures
    memory = {
        f"host.{key.removeprefix('memory.')}": figure
        for key, figure in host.items()
        if key.startswith("memory.")
    }
    return {**links, **memory, **s.figures}


def system_object(s: System) -> dict[str, Any]:
    """A system as JSON-ready values, in base units; None where nothing is stated."""
    m = s.device
    device = machine_object(m)
    return {
        "name": s.name,
        "title": s.title,
        "kind": "system",
        "aliases": list(s.aliases),
        "devices": s.devices,
        "per_node": s.per_node,
        "nodes": s.nodes,
        "shape": list(s.shape) or None,
        "inner": s.inner or None,
        "host_link": s.host_link or None,
        "device": device,
        "totals": {
            "peaks": {key: s.devices * rate for key, rate in device["peaks"].items()},
            "bandwidth": s.devices * float(m.memory.bandwidth),
            "capacity": number(_all(s, m.memory.capacity)),
            "power": number(_all(s, m.power)),
            "price": number(_all(s, m.price.hour)),
        },
        "host": None
        if s.host is None
        else {
            "name": s.host.name,
            "title": s.host.title,
            "count": s.hosts,
            "bandwidth": number(s.host.memory.bandwidth),
            "capacity": number(s.host.memory.capacity),
        },
        "storage": None
        if s.storage is None
        else {
            "bandwidth": number(s.storage.bandwidth),
            "capacity": number(s.storage.capacity),
        },
        "notes": list(s.notes),
        "figures": figure_objects(system_figures(s)),
    }


def system_measures(s: System) -> dict[str, Any]:
    """What a comparison adds for systems: counts, and totals over all devices."""
    m = s.device
    return {
        "devices": s.devices,
        "nodes": s.nodes,
        f"all: peak {m.main_type()}": float(s.devices * main_peak(m)),
        "all: bandwidth": float(s.devices * m.memory.bandwidth),
        "all: capacity": number(_all(s, m.memory.capacity)),
        "all: power": number(_all(s, m.power)),
        "all: price": number(_all(s, m.price.hour)),
        "between nodes": None if s.network is None else float(s.network.bandwidth),
    }
