"""Models as PyTorch's counter sees them: every pair and all logits, products without biases."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.hardware.machine import Engine
from costgraph.ir.verify import verify_program
from costgraph.models import load_model

DATA = Path(__file__).parent / "counted"


@cache
def program(name: str):
    config = json.loads((DATA / "configs" / f"{name}.json").read_text())
    found = load_model(config, mask="compute", logits="all")
    verify_program(found)
    return found


def products(row) -> Any:
    """FLOP that the counter counts: matrix products and convolutions, without biases."""
    if row.kind == "conv":
        biases = row.node.outputs[0].numel if row.node.op.bias else 0
        return row.cost.total_flops - biases
    found = (f for (engine, _), f in row.cost.flops.items() if engine is Engine.TENSOR)
    return sum(found, Integer(0))


def sizes_in(counted: dict[str, Any]) -> list[tuple[str, str]]:
    """Every configuration of a table with each of its keys that hold a size."""
    return [
        (name, key)
        for name, entry in counted.items()
        for key, value in entry["config"].items()
        if type(value) is int and value > 1 and not key.endswith("_token_id")
    ]


def changed(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of a configuration with other values at dotted paths."""
    found: dict[str, Any] = json.loads(json.dumps(config))
    for path, value in changes.items():
        *outer, key = path.split(".")
        at = found
        for part in outer:
            at = at[part]
        at[key] = value
    return found


def told_of(config: dict[str, Any]) -> str:
    """The notes about a configuration, or why it is refused."""
    try:
        return " ".join(load_model(config).notes)
    except ModelError as error:
        return str(error)
