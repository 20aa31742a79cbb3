"""Devices and systems as tables or JSON: all, one with its sources, several side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sympy import Expr, Integer

from costgraph.errors import HardwareError
from costgraph.hardware.machine import Engine, Figure, Machine
from costgraph.showing.export.records import print_data
from costgraph.showing.export.table import si
from costgraph.showing.export.terminal import print_table
from costgraph.units import format_quantity

if TYPE_CHECKING:
    from costgraph.hardware.systems import System

#: Order of kinds in listings.
KINDS = ("gpu", "tpu", "accelerator", "spatial", "pim", "fpga", "cpu")
NONE = "–"


def list_hardware(how: str) -> None:
    """Every shipped device with its main figures, by kind and name; then every system."""
    from costgraph.hardware import device_names, load_hardware, load_system, system_names
    from costgraph.showing.export.systems import list_systems, system_object

    machines = [load_hardware(name) for name in device_names()]
    machines.sort(key=lambda m: (KINDS.index(m.kind), m.name))
    if how != "text":
        systems = [system_object(load_system(name)) for name in system_names()]
        print_data([*(machine_object(m) for m in machines), *systems], how)
        return
    rows = []
    for m in machines:
        best = m.main_type()
        rows.append(
            (
                m.name,
                m.kind,
                m.title,
                f"{si(float(main_peak(m)))} {best}",
                f"{si(float(m.memory.bandwidth))}B/s",
                NONE if m.memory.room is None else f"{si(float(m.memory.room))}B",
                f"{float(m.ridges()[best]):.3g}",
                NONE if m.power is None else f"{float(m.power):.0f} W",
            )
        )
    head = ("name", "kind", "device", "FLOP/s", "bandwidth", "memory", "ridge", "power")
    print_table(head, rows, optional=("power", "ridge", "device", "kind"))
    print()
    list_systems()


def show_hardware(name: str, how: str) -> None:
    """One device or system: every figure with its source.

    Raises:
        HardwareError: there is no such device or system, or its file is wrong.
    """
    from costgraph.hardware import load_system
    from costgraph.showing.export.systems import show_system, system_object

    system = load_system(name)
    if not system.is_device:
        if not print_data(system_object(system), how, "figures"):
            show_system(system)
        return
    m = system.device
    if print_data(machine_object(m), how, "figures"):
        return
    print_table(
        ("figure", "value", "source"), figure_rows(m.figures), f"{m.name}: {m.title} ({m.kind})"
    )
    print()
    print("ridge points (FLOP/byte): " + _ridge_text(m))
    for level, tier in m.tiers.items():
        if tier.peaks:
            print(f"inside {level}: " + _ridge_text(m.inside(level)))
    if m.instruction:
        print(f"tensor instructions: {m.instruction}")
    if m.kind == "gpu":
        from costgraph.timing.fidelity.calibration import shipped

        own, text = shipped(m.name), "parameters of other devices"
        if own is not None:
            text = "timings of its own" if own.has_kernels else f"{text}, exchanges of its own"
        print(f"calibration: {text}")
    if m.aliases:
        print("also found as: " + ", ".join(m.aliases))


def figure_rows(figures: Mapping[str, Figure]) -> list[tuple[str, str, str]]:
    """Key, value and source of every figure."""
    return [(key, _figure(f), f.source) for key, f in figures.items()]


def _figure(f: Figure) -> str:
    if f.unit == "fact":
        return "yes" if f.value else "no"
    return format_quantity(float(f.value), f.unit)


def figure_objects(figures: Mapping[str, Figure]) -> dict[str, dict[str, Any]]:
    """Figures as JSON-ready values, with unit and source."""
    return {
        key: {
            "value": bool(f.value) if f.unit == "fact" else float(f.value),
            "unit": f.unit,
            "source": f.source,
        }
        for key, f in figures.items()
    }


def _ridge_text(m: Machine) -> str:
    return ", ".join(f"{dtype} {float(ridge):.4g}" for dtype, ridge in m.ridges().items())


def compare_hardware(names: Sequence[str], how: str) -> None:
    """Devices and systems side by side: one row a measure, one column each.

    Rows are of one device; where a system is among them, totals over all its devices
    follow.

    Raises:
        HardwareError: fewer than two, or one that cannot be found.
    """
    from costgraph.hardware import load_system

    if len(names) < 2:
        raise HardwareError("hardware compare needs two devices or more, such as: h100 mi300x")
    systems = [load_system(name) for name in names]
    measures = [_measures(s, any(not x.is_device for x in systems)) for s in systems]
    if print_data(measures, how):
        return
    keys = [k for k in _rows(measures) if any(m.get(k) is not None for m in measures)]
    rows = [(_label(key), *(_cell(key, measure.get(key)) for measure in measures)) for key in keys]
    print_table(("", *(s.name for s in systems)), rows)


def _measures(s: System, with_totals: bool) -> dict[str, Any]:
    found = comparison_object(s.device)
    if not with_totals:
        return found
    from costgraph.showing.export.systems import system_measures

    return {**found, "name": s.name, **system_measures(s)}


def comparison_object(m: Machine) -> dict[str, Any]:
    """The measures of one device, in base units; None where its file states nothing."""
    main, peak = m.main_type(), main_peak(m)
    found: dict[str, Any] = {"name": m.name, "device": m.title, "kind": m.kind, "main type": main}
    for (engine, dtype), rate in m.peaks.items():
        found[f"peak {engine.value}.{dtype}"] = float(rate)
    found["bandwidth"] = float(m.memory.bandwidth)
    found["capacity"] = number(m.memory.capacity)
    found["usable"] = number(m.memory.room)
    for dtype, ridge in m.ridges().items():
        found[f"ridge {dtype}"] = float(ridge)
    link = m.link() if m.links else None
    hour = m.price.hour
    per_second = None if hour is None else hour / 3600
    found |= {
        "on-chip": number(m.onchip),
        "last-level cache": number(m.tiers["l2"].capacity) if "l2" in m.tiers else None,
        "link": None if link is None else float(link.bandwidth),
        "devices in a node": number(m.node.devices),
        "power": number(m.power),
        "FLOP/J at peak": None if m.power is None else float(peak / m.power),
        "price": number(hour),
        "USD per EFLOP": None if per_second is None else float(per_second / peak * 10**18),
        "USD per PB moved": None
        if per_second is None
        else float(per_second / m.memory.bandwidth * 10**15),
    }
    return found


#: How a measure prints: its unit, by the first word of its key.
_UNITS = {
    "peak": "FLOP/s",
    "bandwidth": "B/s",
    "capacity": "B",
    "usable": "B",
    "on-chip": "B",
    "last-level": "B",
    "link": "B/s",
    "power": "W",
    "price": "USD/h",
    "FLOP/J": "FLOP/J",
    "between": "B/s",
}


def _rows(measures: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys of all measures: peaks and ridges by type, the rest in order."""
    known = dict.fromkeys(key for m in measures for key in m)
    types = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4", "int4")
    peaks = [f"peak {e.value}.{t}" for e in Engine for t in types]
    ridges = [f"ridge {t}" for t in types]
    last = [k for k in known if k.split()[0] not in ("peak", "ridge")]
    head, tail = ["device", "kind", *peaks, "bandwidth", "capacity", "usable", *ridges], last
    ordered = [*head, *(k for k in tail if k not in head and k not in ("name", "main type"))]
    return [k for k in ordered if k in known]


def _label(key: str) -> str:
    return f"{key} (FLOP/byte)" if key.startswith("ridge") else key


def _cell(key: str, value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, str):
        return value
    unit = _UNITS.get(key.removeprefix("all: ").split()[0])
    return f"{value:.4g}" if unit is None else format_quantity(value, unit)


def main_peak(m: Machine) -> Expr:
    """FLOP/s of a device in the type by which devices are compared."""
    return m.ridges()[m.main_type()] * m.memory.bandwidth


def number(value: Expr | None) -> float | int | None:
    """A value for JSON: whole numbers as such, None where nothing is stated."""
    if value is None:
        return None
    return int(value) if isinstance(value, Integer) else float(value)


def _table(values: Any, of: Callable[[Any], Any]) -> dict[str, Any]:
    return {name: of(value) for name, value in values.items()}


def _rates(values: Any) -> dict[str, float]:
    return {f"{e.value}.{d}": float(v) for (e, d), v in values.items()}


def machine_object(m: Machine) -> dict[str, Any]:
    """A device as JSON-ready values, in base units (FLOP/s, byte/s, byte, W, s, J, USD/h)."""
    return {
        "name": m.name,
        "title": m.title,
        "kind": m.kind,
        "instruction": m.instruction or None,
        "aliases": list(m.aliases),
        "peaks": _rates(m.peaks),
        "sparsity": _table(m.sparsity, number),
        "bandwidth": float(m.memory.bandwidth),
        "capacity": number(m.memory.capacity),
        "usable": number(m.memory.room),
        "ridge": {dtype: float(ridge) for dtype, ridge in m.ridges().items()},
        "onchip": number(m.onchip),
        "power": number(m.power),
        "idle": number(m.idle),
        "tiers": _table(
            m.tiers,
            lambda t: {
                "bandwidth": number(t.bandwidth),
                "capacity": number(t.capacity),
                "peaks": _rates(t.peaks),
            },
        ),
        "links": _table(
            m.links,
            lambda x: {
                "bandwidth": number(x.bandwidth),
                "latency": number(x.latency),
                "devices": number(x.devices),
                "in_network": x.in_network,
                "wiring": x.wiring,
            },
        ),
        "node": {"devices": number(m.node.devices)},
        "energy": {"flop": _rates(m.energy.flop), "byte": _table(m.energy.byte, float)},
        "price": number(m.price.hour),
        "topology": {
            "numa_domains": number(m.topology.numa_domains),
            "cores": number(m.topology.cores),
            "clock": number(m.topology.clock),
            "remote": number(m.topology.remote),
            "core_bandwidth": number(m.topology.core_bandwidth),
        },
        "figures": figure_objects(m.figures),
    }
