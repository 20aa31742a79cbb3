"""LongCat-Flash: experts that return their input cost no product and hold no weights."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sympy import Integer

from costgraph.counting.count import parameters, rows
from costgraph.errors import ModelError
from costgraph.models.catalog import CONFIGS
from costgraph.models.hf import import_config
from costgraph.symbols import B, T, q

PUBLISHED: dict[str, Any] = json.loads((CONFIGS / "longcat-flash.json").read_text())
ONE = {B: Integer(1), q: Integer(1), T: Integer(100)}


def of_experts(config: dict[str, Any]) -> int:
    """FLOP of the experts' products for one token."""
    graph = import_config(config, "longcat").phases[1].graph
    found = (r.count * r.cost.total_flops for r in rows(graph) if r.kind == "expert-linear")
    return int(sum(found, Integer(0)).xreplace(ONE))


def test_eight_of_twelve_chosen_experts_compute() -> None:
    d, width, layers = 6144, 2048, 28
    assert of_experts(PUBLISHED) == layers * 8 * 3 * 2 * d * width
    all_compute = {**PUBLISHED, "zero_expert_num": 0}
    assert of_experts(all_compute) == layers * 12 * 3 * 2 * d * width


def test_only_the_router_grows() -> None:
    without = parameters(import_config({**PUBLISHED, "zero_expert_num": 0}, "longcat"))
    assert parameters(import_config(PUBLISHED, "longcat")) - without == 28 * 256 * 6144


def test_the_program_says_so() -> None:
    said = " ".join(import_config(PUBLISHED, "longcat").assumptions)
    assert "of 12 experts that a token chooses, 4 return their input on average" in said


def test_no_whole_number_is_refused() -> None:
    with pytest.raises(ModelError, match="no whole number of them computes"):
        import_config({**PUBLISHED, "moe_topk": 10}, "longcat")
