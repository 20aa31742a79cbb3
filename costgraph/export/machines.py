"""Devices as tables or JSON: all of them, one with its sources, several side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import HardwareError
from costgraph.export.plain_json import print_json
from costgraph.export.table import si
from costgraph.export.terminal import print_table
from costgraph.machine import Engine, Machine
from costgraph.units import format_quantity

#: Order of kinds in listings.
KINDS = ("gpu", "tpu", "accelerator", "spatial", "pim", "fpga", "cpu")
NONE = "–"


def list_hardware(as_json: bool) -> None:
    """Every shipped device with its main figures, by kind and name."""
    from costgraph.hardware import device_names, load_hardware

    machines = [load_hardware(name) for name in device_names()]
    machines.sort(key=lambda m: (KINDS.index(m.kind), m.name))
    if as_json:
        print_json([machine_object(m) for m in machines])
        return
    rows = []
    for m in machines:
        best = m.main_type()
        peak = m.ridges()[best] * m.memory.bandwidth
        rows.append(
            (
                m.name,
                m.kind,
                m.title,
                f"{si(float(peak))} {best}",
                f"{si(float(m.memory.bandwidth))}B/s",
                NONE if m.memory.room is None else f"{si(float(m.memory.room))}B",
                f"{float(m.ridges()[best]):.3g}",
                NONE if m.power is None else f"{float(m.power):.0f} W",
            )
        )
    head = ("name", "kind", "device", "FLOP/s", "bandwidth", "memory", "ridge", "power")
    print_table(head, rows, optional=("power", "ridge", "device", "kind"))


def show_hardware(name: str, as_json: bool) -> None:
    """One device: every figure with its source, and its ridge points.

    Raises:
        HardwareError: there is no such device, or its file is wrong.
    """
    from costgraph.hardware import load_hardware

    m = load_hardware(name)
    if as_json:
        print_json(machine_object(m))
        return
    rows = [
        (key, format_quantity(float(f.value), f.unit), f.source) for key, f in m.figures.items()
    ]
    print_table(("figure", "value", "source"), rows, f"{m.name}: {m.title} ({m.kind})")
    print()
    print("ridge points (FLOP/byte): " + _ridge_text(m))
    for level, tier in m.tiers.items():
        if tier.peaks:
            print(f"inside {level}: " + _ridge_text(m.inside(level)))
    if m.instruction:
        print(f"tensor instructions: {m.instruction}")
    if m.kind == "gpu":
        from costgraph.fidelity.calibration import calibrated_devices

        own = m.name in calibrated_devices()
        print(f"calibration: {'timings of its own' if own else 'parameters of other devices'}")
    if m.aliases:
        print("also found as: " + ", ".join(m.aliases))


def _ridge_text(m: Machine) -> str:
    return ", ".join(f"{dtype} {float(ridge):.4g}" for dtype, ridge in m.ridges().items())


def compare_hardware(names: Sequence[str], as_json: bool) -> None:
    """Devices side by side: one row a measure, one column a device.

    Raises:
        HardwareError: fewer than two devices, or one that cannot be found.
    """
    from costgraph.hardware import load_hardware

    if len(names) < 2:
        raise HardwareError("hardware compare needs two devices or more, such as: h100 mi300x")
    machines = [load_hardware(name) for name in names]
    if as_json:
        print_json([comparison_object(m) for m in machines])
        return
    measures = [comparison_object(m) for m in machines]
    keys = [k for k in _rows(machines) if any(m.get(k) is not None for m in measures)]
    rows = [(_label(key), *(_cell(key, measure.get(key)) for measure in measures)) for key in keys]
    print_table(("", *(m.name for m in machines)), rows)


def comparison_object(m: Machine) -> dict[str, Any]:
    """The measures of one device, in base units; None where its file states nothing."""
    main = m.main_type()
    peak = m.ridges()[main] * m.memory.bandwidth
    found: dict[str, Any] = {"name": m.name, "device": m.title, "kind": m.kind, "main type": main}
    for (engine, dtype), rate in m.peaks.items():
        found[f"peak {engine.value}.{dtype}"] = float(rate)
    found["bandwidth"] = float(m.memory.bandwidth)
    found["capacity"] = _number(m.memory.capacity)
    found["usable"] = _number(m.memory.room)
    for dtype, ridge in m.ridges().items():
        found[f"ridge {dtype}"] = float(ridge)
    link = m.link() if m.links else None
    hour = m.price.hour
    per_second = None if hour is None else hour / 3600
    found |= {
        "on-chip": _number(m.onchip),
        "last-level cache": _number(m.tiers["l2"].capacity) if "l2" in m.tiers else None,
        "link": None if link is None else float(link.bandwidth),
        "devices in a node": _number(m.node.devices),
        "power": _number(m.power),
        "FLOP/J at peak": None if m.power is None else float(peak / m.power),
        "price": _number(hour),
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
}


def _rows(machines: Sequence[Machine]) -> list[str]:
    """Keys of all machines' measures: peaks and ridges by type, the rest in order."""
    known = {key for m in machines for key in comparison_object(m)}
    types = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4", "int4")
    peaks = [f"peak {e.value}.{t}" for e in Engine for t in types]
    ridges = [f"ridge {t}" for t in types]
    last = [k for k in comparison_object(machines[0]) if k.split()[0] not in ("peak", "ridge")]
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
    unit = _UNITS.get(key.split()[0])
    return f"{value:.4g}" if unit is None else format_quantity(value, unit)


def _number(value: Expr | None) -> float | int | None:
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
        "bandwidth": float(m.memory.bandwidth),
        "capacity": _number(m.memory.capacity),
        "usable": _number(m.memory.room),
        "ridge": {dtype: float(ridge) for dtype, ridge in m.ridges().items()},
        "onchip": _number(m.onchip),
        "power": _number(m.power),
        "idle": _number(m.idle),
        "tiers": _table(
            m.tiers,
            lambda t: {
                "bandwidth": _number(t.bandwidth),
                "capacity": _number(t.capacity),
                "peaks": _rates(t.peaks),
            },
        ),
        "links": _table(
            m.links,
            lambda x: {
                "bandwidth": _number(x.bandwidth),
                "latency": _number(x.latency),
                "devices": _number(x.devices),
            },
        ),
        "node": {"devices": _number(m.node.devices)},
        "energy": {"flop": _rates(m.energy.flop), "byte": _table(m.energy.byte, float)},
        "price": _number(m.price.hour),
        "topology": {
            "numa_domains": _number(m.topology.numa_domains),
            "cores": _number(m.topology.cores),
            "clock": _number(m.topology.clock),
        },
        "figures": {
            key: {"value": float(f.value), "unit": f.unit, "source": f.source}
            for key, f in m.figures.items()
        },
    }
