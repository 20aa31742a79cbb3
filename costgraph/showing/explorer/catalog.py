"""What there is to choose from, for the page of an explorer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from costgraph.hardware import device_names, load_hardware, load_system, system_names
from costgraph.models.catalog import config_of, entries
from costgraph.rewriting.pipeline import Pass, typed


@dataclass(frozen=True)
class Start:
    """Where a page starts that its address tells nothing.

    Attributes:
        model: a name.
        on: devices and systems.
        passes: pipelines.
        values: of symbols.
    """

    model: str = "llama-3-8b"
    on: tuple[str, ...] = ("h100",)
    passes: tuple[str, ...] = ("", "fuse")
    values: tuple[tuple[str, float], ...] = ()


def models(names: Iterable[str]) -> list[dict[str, str]]:
    """Shipped models: name, title, and more words to be found by."""
    known = entries()
    found = []
    for name in names:
        entry = known[name]
        kind = str(config_of(name).get("model_type") or config_of(name).get("_class_name") or "")
        found.append({"value": name, "title": entry.title, "more": " ".join((kind, *entry.hub))})
    return found


def machines() -> list[dict[str, str]]:
    """Shipped devices and systems, without what can run no model by itself."""
    devices = [load_hardware(name) for name in device_names()]
    alone = [
        {"value": d.name, "title": d.title, "more": d.kind} for d in devices if d.kind != "pim"
    ]
    systems = [
        {"value": s.name, "title": s.title, "more": "system"}
        for s in map(load_system, system_names())
    ]
    return alone + systems


def passes() -> list[dict[str, Any]]:
    """Every pass with its options as they are declared."""
    from costgraph.passes import PASSES

    return [_pass(cls) for cls in PASSES.values()]


def _pass(cls: type[Pass]) -> dict[str, Any]:
    defaults = {f.name.replace("_", "-"): f.default for f in dataclasses.fields(cls)}
    return {
        "name": cls.name,
        "title": cls.title,
        "formula": cls.formula,
        "source": cls.source,
        "assumptions": list(cls.assumptions),
        "options": [
            {
                "name": name,
                "kind": o.kind,
                "help": o.help,
                "default": typed(defaults[name]),
                "choices": list(o.choices),
                "symbolic": o.is_number and o.symbolic,
                "under": list(o.under),
            }
            for name, o in cls.options().items()
        ],
    }


def start_value(start: Start) -> dict[str, Any]:
    """Where the page starts, as it reads it."""
    return {
        "model": start.model,
        "on": list(start.on),
        "passes": list(start.passes),
        "values": dict(start.values),
    }


def everything() -> dict[str, Any]:
    """All that is shipped."""
    return {
        "models": models(entries()),
        "machines": machines(),
        "passes": passes(),
    }
