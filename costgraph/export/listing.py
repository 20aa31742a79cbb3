"""What there is: devices and passes, as tables or JSON; models have a module of their own."""

from __future__ import annotations

import json
from typing import Any

from costgraph.errors import PipelineError, clip, nearest
from costgraph.export.table import si
from costgraph.export.terminal import print_table


def _print(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def list_hardware(as_json: bool) -> None:
    """Every shipped device with its main figures."""
    from costgraph.hardware import device_names, load_hardware

    machines = [load_hardware(name) for name in device_names()]
    if as_json:
        _print([_machine_object(m) for m in machines])
        return
    rows = []
    for m in machines:
        tensor = {d: v for (e, d), v in m.peaks.items() if e.value == "tensor"}
        best = "bf16" if "bf16" in tensor else "fp16" if "fp16" in tensor else next(iter(tensor))
        capacity = m.memory.capacity
        rows.append(
            (
                m.name,
                m.title,
                f"{si(float(tensor[best]))} {best}",
                f"{si(float(m.memory.bandwidth))}B/s",
                "–" if capacity is None else f"{si(float(capacity))}B",
                f"{float(m.ridge(best)):.1f}",
                "–" if m.power is None else f"{float(m.power):.0f} W",
            )
        )
    print_table(("name", "device", "FLOP/s", "bandwidth", "memory", "ridge", "power"), rows)


def show_hardware(name: str, as_json: bool) -> None:
    """One device: every figure with its source, and its ridge points."""
    from costgraph.hardware import load_hardware
    from costgraph.units import format_quantity

    m = load_hardware(name)
    if as_json:
        _print(_machine_object(m))
        return
    rows = [
        (key, format_quantity(float(f.value), f.unit), f.source) for key, f in m.figures.items()
    ]
    print_table(("figure", "value", "source"), rows, f"{m.name}: {m.title}")
    print()
    ridges = [
        f"{d} {float(v / m.memory.bandwidth):.1f}"
        for (e, d), v in m.peaks.items()
        if e.value == "tensor"
    ]
    print("ridge points (FLOP/byte): " + ", ".join(ridges))


def _machine_object(m: Any) -> dict[str, Any]:
    return {
        "name": m.name,
        "title": m.title,
        "kind": m.kind,
        "aliases": list(m.aliases),
        "peaks": {f"{e.value}.{d}": float(v) for (e, d), v in m.peaks.items()},
        "bandwidth": float(m.memory.bandwidth),
        "capacity": None if m.memory.capacity is None else float(m.memory.capacity),
        "onchip": None if m.onchip is None else float(m.onchip),
        "power": None if m.power is None else float(m.power),
        "figures": {
            key: {"value": float(f.value), "unit": f.unit, "source": f.source}
            for key, f in m.figures.items()
        },
    }


def list_passes(as_json: bool) -> None:
    """Every pass with one line on what it does."""
    from costgraph.passes import PASSES

    if as_json:
        _print([_pass_object(cls) for cls in PASSES.values()])
        return
    print_table(("pass", "what it does"), [(c.name, c.title) for c in PASSES.values()])


def show_pass(name: str, as_json: bool) -> None:
    """One pass: options with defaults, formula, source, assumptions.

    Raises:
        PipelineError: there is no such pass.
    """
    from costgraph.passes import PASSES

    if name not in PASSES:
        raise PipelineError(f"unknown pass {clip(name)}{nearest(name, PASSES)}")
    cls = PASSES[name]
    if as_json:
        _print(_pass_object(cls))
        return
    print(f"{cls.name}: {cls.title}\n")
    rows = [
        (o["name"], str(o["default"]), ", ".join(o["choices"]) or o["kind"], o["help"])
        for o in _pass_object(cls)["options"]
    ]
    print_table(("option", "default", "values", "meaning"), rows)
    for label, text in (("formula", cls.formula), ("source", cls.source)):
        if text:
            print(f"\n{label}: {text}")
    for sentence in cls.assumptions:
        print(f"assumes: {sentence}")


def _pass_object(cls: Any) -> dict[str, Any]:
    import dataclasses

    defaults = {f.name.replace("_", "-"): f.default for f in dataclasses.fields(cls)}
    return {
        "name": cls.name,
        "title": cls.title,
        "options": [
            {
                "name": name,
                "default": str(defaults[name]),
                "kind": o.kind,
                "choices": list(o.choices),
                "help": o.help,
            }
            for name, o in cls.options().items()
        ],
        "formula": cls.formula,
        "source": cls.source,
        "assumptions": list(cls.assumptions),
    }
