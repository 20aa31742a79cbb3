"""Device files: TOML to a :class:`Machine`, each figure with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Expr, Rational

from costgraph.errors import clip
from costgraph.hardware.machine import INSTRUCTIONS, WIDENING, Machine
from costgraph.hardware.parts import (
    WIRINGS,
    Energy,
    Engine,
    Figure,
    Link,
    Memory,
    Node,
    Price,
    Tier,
    Topology,
)
from costgraph.hardware.tables import NAME, File, opened

TOP = (
    "name",
    "title",
    "kind",
    "instruction",
    "aliases",
    "sources",
    "peaks",
    "sparsity",
    "memory",
    "onchip",
    "tiers",
    "links",
    "node",
    "topology",
    "power",
    "energy",
    "price",
    "conventions",
)
KINDS = ("gpu", "cpu", "tpu", "accelerator", "spatial", "pim", "fpga")
MEMORY = {"bandwidth": "bandwidth", "capacity": "size", "usable_capacity": "size"}
ONCHIP = {
    "register_files": "size",
    "shared_per_multiprocessor": "size",
    "multiprocessors": "count",
    "l2": "size",
}
POWER = {"board": "power", "idle": "power"}
LINK = {
    "bandwidth": "bandwidth",
    "latency": "time",
    "devices": "count",
    "axes": "count",
    "wraps": "count",
    "in_network": "fact",
    "cubes": "fact",
}
NODE = {"devices": "count"}
TOPOLOGY = {
    "numa_domains": "count",
    "cores": "count",
    "clock": "frequency",
    "remote": "bandwidth",
    "core_bandwidth": "bandwidth",
}
PRICE = {"hour": "price"}
SPARSITY = dict.fromkeys(WIDENING, "count")
CONVENTION = {"bandwidth": "bandwidth", "capacity": "size", "onchip": "size"}


def machine_from(data: Mapping[str, Any], label: str) -> Machine:
    """The machine that a parsed device file describes.

    Args:
        data: the TOML document.
        label: the file's name, for messages.

    Raises:
        HardwareError: a key is unknown, missing, or of the wrong type or unit,
            or a figure has no source.
    """
    file = opened(data, label)
    file.known(data, TOP, "")
    name, title = file.name(data), file.text(data, "title")
    kind = file.choice(data, "kind", "gpu", KINDS)
    instruction = file.choice(data, "instruction", "", INSTRUCTIONS)
    figures: dict[str, Figure] = {}
    peaks = _rates(file, data, "peaks", "rate", figures)
    if all(engine is Engine.SPECIAL for engine, _ in peaks):
        raise file.fail(
            "missing key 'peaks.tensor' (or 'peaks.vector'): state at least one peak, such as bf16"
        )
    sparsity = file.section(data, "sparsity", SPARSITY, figures)
    for dtype in sparsity:
        if (Engine.TENSOR, dtype) not in peaks:
            raise file.fail(f"sparsity.{dtype} needs the dense rate peaks.tensor.{dtype}")
    memory = file.section(data, "memory", MEMORY, figures)
    if "memory.bandwidth" not in figures:
        raise file.fail("missing key 'memory.bandwidth'")
    onchip = file.section(data, "onchip", ONCHIP, figures)
    tiers = _tiers(file, data, figures, onchip.get("l2"))
    links = links_from(file, data, figures)
    node = file.section(data, "node", NODE, figures)
    topology = file.section(data, "topology", TOPOLOGY, figures)
    power = file.section(data, "power", POWER, figures)
    energy = _energy(file, data, tiers, figures)
    price = file.section(data, "price", PRICE, figures)
    return Machine(
        name=name,
        title=title,
        peaks=MappingProxyType(peaks),
        memory=_memory(file, memory),
        onchip=onchip.get("register_files"),
        shared=onchip.get("shared_per_multiprocessor"),
        multiprocessors=onchip.get("multiprocessors"),
        power=power.get("board"),
        figures=MappingProxyType(figures),
        conventions=MappingProxyType(_conventions(file, data)),
        aliases=file.texts(data, "aliases"),
        kind=kind,
        idle=power.get("idle"),
        tiers=MappingProxyType(tiers),
        links=MappingProxyType(links),
        node=Node(**node),
        energy=energy,
        price=Price(**price),
        topology=Topology(**topology),
        instruction=instruction,
        sparsity=MappingProxyType(sparsity),
    )


def _memory(file: File, stated: Mapping[str, Any]) -> Memory:
    usable, capacity = stated.get("usable_capacity"), stated.get("capacity")
    # Makers count in GB what is GiB: more than stated can be usable, but not by much.
    if usable is not None and (capacity is None or usable > capacity * Rational(11, 10)):
        raise file.fail("memory.usable_capacity needs a memory.capacity of about its size")
    return Memory(stated["bandwidth"], capacity, usable)


def _rates(
    file: File,
    data: Mapping[str, Any],
    section: str,
    dimension: str,
    figures: dict[str, Figure],
    beside: tuple[str, ...] = (),
) -> dict[tuple[Engine, str], Expr]:
    """Figures by engine and compute type: ``[SECTION.ENGINE] TYPE = { … }``.

    ``section`` is the dotted name of the table, of which ``data`` holds the last
    part; keys in ``beside`` belong to somebody else.
    """
    found: dict[tuple[Engine, str], Expr] = {}
    engines = [e.value for e in Engine]
    table = file.table(data, section.rpartition(".")[2])
    file.known(table, (*engines, *beside), section)
    for engine in table:
        if engine in beside:
            continue
        rates = file.table(table, engine)
        file.known(rates, WIDENING, f"{section}.{engine}")
        for dtype, entry in rates.items():
            where = f"{section}.{engine}.{dtype}"
            figures[where] = file.figure(entry, dimension, where)
            found[Engine(engine), dtype] = figures[where].value
    return found


def _tiers(
    file: File, data: Mapping[str, Any], figures: dict[str, Figure], l2: Expr | None
) -> dict[str, Tier]:
    """Levels by name; the size of the second-level cache stands in ``onchip.l2``."""
    tiers: dict[str, Tier] = {} if l2 is None else {"l2": Tier(capacity=l2)}
    for name, table in file.named(data, "tiers").items():
        where = f"tiers.{name}"
        if name == "memory":
            raise file.fail("[tiers.memory]: the main memory is stated in [memory]")
        peaks = _rates(file, table, f"{where}.peaks", "rate", figures)
        found = file.figures(table, where, MEMORY, figures, ("peaks",))
        if not found:
            raise file.fail(f"[{where}]: state a bandwidth, a capacity or both")
        if peaks and "bandwidth" not in found:
            raise file.fail(f"missing key '{where}.bandwidth': what computes there reads there")
        if name in tiers and "capacity" in found:
            raise file.fail(f"{where}.capacity and onchip.l2 state one size; leave one out")
        capacity = found.get("capacity", tiers[name].capacity if name in tiers else None)
        tiers[name] = Tier(found.get("bandwidth"), capacity, MappingProxyType(peaks))
    return tiers


def links_from(
    file: File,
    data: Mapping[str, Any],
    figures: dict[str, Figure],
    base: Mapping[str, Link] = MappingProxyType({}),
) -> dict[str, Link]:
    """The links by name: ``[links.NAME]``; what is not stated is that of ``base``."""
    return {
        name: link_from(file, table, f"links.{name}", figures, base.get(name))
        for name, table in file.named(data, "links").items()
    }


def link_from(
    file: File,
    table: Mapping[str, Any],
    where: str,
    figures: dict[str, Figure],
    base: Link | None = None,
) -> Link:
    """The link that one table describes; what it leaves out is that of ``base``."""
    found: dict[str, Any] = dict(file.figures(table, where, LINK, figures, ("wiring",)))
    found |= {key: bool(found[key]) for key in found if LINK[key] == "fact"}
    if "wiring" in table:
        found["wiring"] = file.choice(table, "wiring", "", WIRINGS)
    if base is None and "bandwidth" not in found:
        raise file.fail(f"missing key '{where}.bandwidth' (in one direction)")
    link = Link(**found) if base is None else replace(base, **found)
    if link.wiring == "torus" and link.axes is None:
        raise file.fail(f"missing key '{where}.axes': how many dimensions the torus has")
    if link.wiring == "mesh" and link.devices is None:
        raise file.fail(f"missing key '{where}.devices': how many the mesh joins")
    if link.wiring != "torus" and (link.axes is not None or link.wraps is not None):
        raise file.fail(f'[{where}]: axes and wraps describe a torus; write wiring = "torus"')
    return link


def _energy(
    file: File,
    data: Mapping[str, Any],
    tiers: Mapping[str, Tier],
    figures: dict[str, Figure],
) -> Energy:
    flop = _rates(file, data, "energy", "energy per FLOP", figures, ("byte",))
    levels = dict.fromkeys(("memory", *tiers), "energy per byte")
    table = file.table(file.table(data, "energy"), "byte")
    byte = file.figures(table, "energy.byte", levels, figures)
    return Energy(MappingProxyType(flop), MappingProxyType(byte))


def _conventions(file: File, data: Mapping[str, Any]) -> dict[str, Mapping[str, Expr]]:
    found: dict[str, Mapping[str, Expr]] = {}
    peak_keys = [f"{e.value}.{d}" for e in Engine for d in WIDENING]
    for name in file.table(data, "conventions"):
        if not NAME.match(name):
            raise file.fail(
                f"[conventions]: {clip(name)} is not a name of an accounting, such as 'survey'"
            )
        where = f"conventions.{name}"
        table = file.table(file.table(data, "conventions"), name)
        file.known(table, (*CONVENTION, *peak_keys), where)
        found[name] = MappingProxyType(
            {
                key: file.figure(entry, CONVENTION.get(key, "rate"), f"{where}.{key}").value
                for key, entry in table.items()
            }
        )
    return found
