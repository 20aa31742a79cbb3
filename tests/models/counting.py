"""Models as PyTorch's counter sees them: every pair and all logits, products without biases."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from sympy import Integer

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
