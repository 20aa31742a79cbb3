"""Device files: TOML to a :class:`Machine`, each figure with its source."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer, Rational

from costgraph.errors import HardwareError, InputError, clip, nearest
from costgraph.machine import (
    INSTRUCTIONS,
    WIDENING,
    Energy,
    Engine,
    Figure,
    Link,
    Machine,
    Memory,
    Node,
    Price,
    Tier,
    Topology,
)
from costgraph.units import DIMENSIONS, parse_quantity

TOP = (
    "name",
    "title",
    "kind",
    "instruction",
    "aliases",
    "sources",
    "peaks",
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
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
KINDS = ("gpu", "cpu", "tpu", "accelerator", "spatial", "pim", "fpga")
MEMORY = {"bandwidth": "bandwidth", "capacity": "size", "usable_capacity": "size"}
ONCHIP = {
    "register_files": "size",
    "shared_per_multiprocessor": "size",
    "multiprocessors": "count",
    "l2": "size",
}
POWER = {"board": "power", "idle": "power"}
LINK = {"bandwidth": "bandwidth", "latency": "time", "devices": "count"}
NODE = {"devices": "count"}
TOPOLOGY = {"numa_domains": "count", "cores": "count", "clock": "frequency"}
PRICE = {"hour": "price"}
CONVENTION = {"bandwidth": "bandwidth", "capacity": "size", "onchip": "size"}


@dataclass(frozen=True)
class _File:
    """A parsed device file: its label for messages, and its source table."""

    label: str
    sources: Mapping[str, str]

    def fail(self, message: str) -> HardwareError:
        return HardwareError(f"{self.label}: {message}")

    def known(self, table: Mapping[str, Any], allowed: Any, where: str) -> None:
        for key in table:
            if key not in allowed:
                place = f" in [{where}]" if where else ""
                raise self.fail(f"unknown key {clip(key)}{place}{nearest(key, allowed)}")

    def table(self, data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        value = data.get(key, {})
        if not isinstance(value, dict):
            raise self.fail(f"{key!r} must be a table [{key}], not {clip(value)}")
        return value

    def text(self, data: Mapping[str, Any], key: str) -> str:
        value = data.get(key)
        if value is None:
            raise self.fail(f"missing key {key!r}")
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise self.fail(f"{key!r} must be a non-empty text of one line, not {clip(value)}")
        return value.strip()

    def choice(self, data: Mapping[str, Any], key: str, default: str, known: Sequence[str]) -> str:
        value = data.get(key, default)
        if key not in data or value in known:
            return str(value)
        hint = nearest(value, known) if isinstance(value, str) else f"; known: {', '.join(known)}"
        raise self.fail(f"unknown {key} {clip(value)}{hint}")

    def figure(self, entry: Any, dimension: str, where: str) -> Figure:
        """One figure: ``{ value = "768 GB/s", source = "datasheet" }``."""
        if not isinstance(entry, dict):
            raise self.fail(
                f'{where} must be written {{ value = …, source = "…" }}, not {clip(entry)}'
            )
        self.known(entry, ("value", "source"), where)
        if "value" not in entry:
            raise self.fail(f"{where}: missing 'value'")
        key = entry.get("source")
        if not isinstance(key, str) or key not in self.sources:
            known = ", ".join(clip(k) for k in sorted(self.sources)[:8])
            problem = "no source" if key is None else f"unknown source {clip(key)}"
            raise self.fail(f"{where}: {problem}; name a key of [sources]: {known}")
        value = entry["value"]
        if dimension == "count":
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 10**9:
                raise self.fail(f"{where} must be a positive whole number, not {clip(value)}")
            return Figure(Integer(value), "count", self.sources[key])
        try:
            exact = parse_quantity(value, dimension, where)
        except InputError as error:
            raise self.fail(str(error)) from None
        return Figure(exact, DIMENSIONS[dimension][0], self.sources[key])


def machine_from(data: Mapping[str, Any], label: str) -> Machine:
    """The machine that a parsed device file describes.

    Args:
        data: the TOML document.
        label: the file's name, for messages.

    Raises:
        HardwareError: a key is unknown, missing, or of the wrong type or unit,
            or a figure has no source.
    """
    file = _File(label, _sources(data, label))
    file.known(data, TOP, "")
    name, title = file.text(data, "name"), file.text(data, "title")
    if not _NAME.match(name):
        raise file.fail(f"'name' must be letters, digits, '.', '_' and '-', not {clip(name)}")
    kind = file.choice(data, "kind", "gpu", KINDS)
    instruction = file.choice(data, "instruction", "", INSTRUCTIONS)
    figures: dict[str, Figure] = {}
    peaks = _rates(file, data, "peaks", "rate", figures)
    if all(engine is Engine.SPECIAL for engine, _ in peaks):
        raise file.fail(
            "missing key 'peaks.tensor' (or 'peaks.vector'): state at least one peak, such as bf16"
        )
    memory = _section(file, data, "memory", MEMORY, figures)
    if "memory.bandwidth" not in figures:
        raise file.fail("missing key 'memory.bandwidth'")
    onchip = _section(file, data, "onchip", ONCHIP, figures)
    tiers = _tiers(file, data, figures, onchip.get("l2"))
    links = _links(file, data, figures)
    node = _section(file, data, "node", NODE, figures)
    topology = _section(file, data, "topology", TOPOLOGY, figures)
    power = _section(file, data, "power", POWER, figures)
    energy = _energy(file, data, tiers, figures)
    price = _section(file, data, "price", PRICE, figures)
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
        aliases=_aliases(file, data),
        kind=kind,
        idle=power.get("idle"),
        tiers=MappingProxyType(tiers),
        links=MappingProxyType(links),
        node=Node(**node),
        energy=energy,
        price=Price(**price),
        topology=Topology(**topology),
        instruction=instruction,
    )


def _memory(file: _File, stated: Mapping[str, Any]) -> Memory:
    usable, capacity = stated.get("usable_capacity"), stated.get("capacity")
    # Makers count in GB what is GiB: more than stated can be usable, but not by much.
    if usable is not None and (capacity is None or usable > capacity * Rational(11, 10)):
        raise file.fail("memory.usable_capacity needs a memory.capacity of about its size")
    return Memory(stated["bandwidth"], capacity, usable)


def _sources(data: Mapping[str, Any], label: str) -> dict[str, str]:
    table = data.get("sources")
    if not isinstance(table, dict) or not table:
        raise HardwareError(f"{label}: missing table [sources]: every figure names its source")
    for key, value in table.items():
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise HardwareError(
                f"{label}: source {clip(key)} must be a non-empty text of one line, "
                f"not {clip(value)}"
            )
    return dict(table)


def _rates(
    file: _File,
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


def _named(file: _File, data: Mapping[str, Any], section: str) -> dict[str, Mapping[str, Any]]:
    """The tables ``[SECTION.NAME]`` by name."""
    table = file.table(data, section)
    for name in table:
        if not _NAME.match(name):
            raise file.fail(
                f"[{section}]: names are letters, digits, '.', '_' and '-', not {clip(name)}"
            )
    return {name: file.table(table, name) for name in table}


def _tiers(
    file: _File, data: Mapping[str, Any], figures: dict[str, Figure], l2: Expr | None
) -> dict[str, Tier]:
    """Levels by name; the size of the second-level cache stands in ``onchip.l2``."""
    tiers: dict[str, Tier] = {} if l2 is None else {"l2": Tier(capacity=l2)}
    for name, table in _named(file, data, "tiers").items():
        where = f"tiers.{name}"
        if name == "memory":
            raise file.fail("[tiers.memory]: the main memory is stated in [memory]")
        peaks = _rates(file, table, f"{where}.peaks", "rate", figures)
        sizes = {k: v for k, v in table.items() if k != "peaks"}
        found = _figures(file, sizes, where, MEMORY, figures, ("peaks",))
        if not found:
            raise file.fail(f"[{where}]: state a bandwidth, a capacity or both")
        if peaks and "bandwidth" not in found:
            raise file.fail(f"missing key '{where}.bandwidth': what computes there reads there")
        if name in tiers and "capacity" in found:
            raise file.fail(f"{where}.capacity and onchip.l2 state one size; leave one out")
        capacity = found.get("capacity", tiers[name].capacity if name in tiers else None)
        tiers[name] = Tier(found.get("bandwidth"), capacity, MappingProxyType(peaks))
    return tiers


def _links(file: _File, data: Mapping[str, Any], figures: dict[str, Figure]) -> dict[str, Link]:
    links: dict[str, Link] = {}
    for name, table in _named(file, data, "links").items():
        where = f"links.{name}"
        found = _figures(file, table, where, LINK, figures)
        if "bandwidth" not in found:
            raise file.fail(f"missing key '{where}.bandwidth' (in one direction)")
        links[name] = Link(found["bandwidth"], found.get("latency"), found.get("devices"))
    return links


def _energy(
    file: _File,
    data: Mapping[str, Any],
    tiers: Mapping[str, Tier],
    figures: dict[str, Figure],
) -> Energy:
    flop = _rates(file, data, "energy", "energy per FLOP", figures, ("byte",))
    levels = dict.fromkeys(("memory", *tiers), "energy per byte")
    table = file.table(file.table(data, "energy"), "byte")
    byte = _figures(file, table, "energy.byte", levels, figures)
    return Energy(MappingProxyType(flop), MappingProxyType(byte))


def _section(
    file: _File,
    data: Mapping[str, Any],
    section: str,
    keys: Mapping[str, str],
    figures: dict[str, Figure],
) -> dict[str, Expr]:
    return _figures(file, file.table(data, section), section, keys, figures)


def _figures(
    file: _File,
    table: Mapping[str, Any],
    section: str,
    keys: Mapping[str, str],
    figures: dict[str, Figure],
    beside: tuple[str, ...] = (),
) -> dict[str, Expr]:
    """The figures of one table, by key; ``keys`` gives the dimension of each."""
    file.known(table, (*keys, *beside), section)
    for key, entry in table.items():
        figures[f"{section}.{key}"] = file.figure(entry, keys[key], f"{section}.{key}")
    return {key: figures[f"{section}.{key}"].value for key in table}


def _conventions(file: _File, data: Mapping[str, Any]) -> dict[str, Mapping[str, Expr]]:
    found: dict[str, Mapping[str, Expr]] = {}
    peak_keys = [f"{e.value}.{d}" for e in Engine for d in WIDENING]
    for name in file.table(data, "conventions"):
        if not _NAME.match(name):
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


def _aliases(file: _File, data: Mapping[str, Any]) -> tuple[str, ...]:
    value = data.get("aliases", [])
    if not isinstance(value, list) or not all(
        isinstance(v, str) and v.strip() and v.isprintable() for v in value
    ):
        raise file.fail(f"'aliases' must be a list of texts, not {clip(value)}")
    return tuple(value)
