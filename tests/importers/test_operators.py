"""PyTorch's operators, whole and decomposed, against the products that its own counter finds.

The programs and their counts are made by ``generate_operators.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from costgraph.counting.count import exact_cost, parameters
from costgraph.hardware.machine import Engine
from costgraph.ir.verify import verify_program
from costgraph.models.torch_export import from_torch
from costgraph.models.traced.codec import from_json
from costgraph.symbols import B, S

CASES = json.loads((Path(__file__).parent / "data" / "operators.json").read_text(encoding="utf-8"))
#: What the counter is blind to, counted by hand: sizes of the operands are the generator's.
BLIND = {
    # x (2, 3) with W (5, 3, 4), and what that makes with y (2, 4).
    "a form of two vectors": 2 * 2 * 3 * (5 * 4) + 2 * 2 * 5 * 4,
    "a product of bytes": 2 * 32 * 16 * 8,
}


def read(name, form, **options):
    return from_torch(from_json(CASES[name][form]), mask="compute", **options)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", ["whole", "decomposed"])
def test_products_and_parameters(name, form):
    for recognise in (False, True):
        program = read(name, form, recognise=recognise)
        verify_program(program)
        found = exact_cost(program.graph).flops_of(Engine.TENSOR).xreplace({B: 2, S: 9})
        assert found == BLIND.get(name, CASES[name]["products"])
        assert parameters(program.graph) >= CASES[name]["parameters"]


def shapes(name, form):
    graph = read(name, form).graph
    return [graph.tensors[o].shape for o in graph.outputs]


@pytest.mark.parametrize("name", CASES)
def test_both_forms_come_to_the_same_results(name):
    assert shapes(name, "whole") == shapes(name, "decomposed")


def test_causal_attention_to_more_keys_counts_the_pairs_that_are_seen():
    graph = from_torch(from_json(CASES["causal from the first key"]["whole"]), mask="skip").graph
    # Query i of three sees keys 0 to i of nine, for two sequences of four heads of 16.
    assert exact_cost(graph).flops_of(Engine.TENSOR) == 4 * 2 * 4 * 16 * (1 + 2 + 3)
