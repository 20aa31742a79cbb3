"""What there is: models and passes, as tables or JSON."""

from __future__ import annotations

import json
from typing import Any

from costgraph.errors import PipelineError, clip, nearest
from costgraph.export.table import si
from costgraph.export.terminal import print_table


def _print(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def list_models(as_json: bool) -> None:
    """Every shipped configuration with its size and source."""
    from costgraph.count import parameters
    from costgraph.models import entries, load_model, model_names

    index = entries()
    found = []
    for name in model_names():
        entry = index[name]
        program = load_model(name)
        found.append(
            {
                "name": name,
                "title": entry.title,
                "parameters": int(parameters(program.graph)),
                "hub": list(entry.hub),
                "source": entry.source,
            }
        )
    if as_json:
        _print(found)
        return
    rows = [
        (
            str(m["name"]),
            str(m["title"]),
            si(int(str(m["parameters"]))),
            ", ".join(index[str(m["name"])].hub),
        )
        for m in found
    ]
    print_table(("name", "model", "parameters", "also found as"), rows)


def show_model(name: str, as_json: bool) -> None:
    """One model: its parameters, cache per token and the operations of its step."""
    from costgraph.count import parameters, rows
    from costgraph.footprint import cache_bytes
    from costgraph.models import load_model
    from costgraph.symbols import T

    program = load_model(name)
    graph = program.graph
    per_token = cache_bytes(graph).expand().coeff(T, 1)
    found = rows(graph)
    if as_json:
        _print(
            {
                "name": program.name,
                "parameters": int(parameters(graph)),
                "kv_bytes_per_token": str(per_token),
                "assumptions": list(program.assumptions),
                "ops": [
                    {
                        "name": r.name,
                        "kind": r.kind,
                        "count": str(r.count),
                        "results": [str(t) for t in r.node.outputs],
                        "flops": str(r.cost.total_flops),
                        "bytes": str(r.cost.total_bytes),
                    }
                    for r in found
                ],
            }
        )
        return
    print(f"{program.name}: {int(parameters(graph)):,} parameters, KV {per_token} byte per token")
    cells = [
        (
            r.name,
            r.kind,
            str(r.count),
            ", ".join(f"{t.dtype}[{', '.join(map(str, t.shape))}]" for t in r.node.outputs),
            str(r.cost.total_flops),
            str(r.cost.total_bytes),
        )
        for r in found
    ]
    print_table(("op", "kind", "count", "result", "FLOP", "bytes"), cells)


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
