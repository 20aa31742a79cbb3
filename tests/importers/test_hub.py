"""Models of a public library, exported: counted as PyTorch does, seen as our builders build them.

The traces and their counts are made by ``generate_hub.py``.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import pytest
from sympy import expand

import costgraph as cg
from costgraph.counting.count import exact_cost, parameters
from costgraph.hardware.machine import Engine
from costgraph.ir.graph import Graph, Node
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Role
from costgraph.models import import_config
from costgraph.models.torch_export import from_torch, read_traced
from costgraph.ops.experts import ExpertLinear
from costgraph.ops.flash import FlashAttention
from costgraph.symbols import B, S, T, q

DATA = Path(__file__).parent / "data" / "hub"
INDEX = json.loads((DATA / "INDEX.json").read_text(encoding="utf-8"))
#: Families that the builders know under the same configuration.
BUILT = ("llama", "mistral", "gemma2", "mixtral-gathered", "mixtral-sorted")


@lru_cache
def imported(name: str, mask: str = "skip"):
    return from_torch(read_traced(DATA / f"{name}.traced.json"), mask=mask)


def products(graph: Graph):
    return expand(exact_cost(graph).flops_of(Engine.TENSOR))


def nodes_of(graph: Graph, times: int = 1) -> list[tuple[int, Node]]:
    """All operations with how often they run, regions opened."""
    found = []
    for node in graph.nodes:
        if isinstance(node.op, Repeat):
            found += nodes_of(node.op.body, times * int(node.op.count))
        else:
            found.append((times, node))
    return found


@pytest.mark.parametrize("name", INDEX)
@pytest.mark.parametrize("recognise", [True, False])
def test_parameters_and_products_are_those_of_pytorchs_counter(name, recognise):
    program = from_torch(
        read_traced(DATA / f"{name}.traced.json"), mask="compute", recognise=recognise
    )
    entry = INDEX[name]
    assert parameters(program.graph) == entry["parameters"]
    counted = products(program.graph)
    for batch, length, expected in entry["products"]:
        assert counted.xreplace({B: batch, S: length}) == expected


@pytest.mark.parametrize("name", BUILT)
def test_useful_pairs_are_those_of_the_builder(name):
    config = dict(INDEX[name]["config"])
    built = import_config(config, name, mask="skip", logits="all")
    expected = products(built.graph).xreplace({q: S, T: S})
    mine = products(imported(name).graph)
    for length in (1, 5, 16, 17, 40):
        assert expand((mine - expected).xreplace({S: length})) == 0


def attention(graph: Graph) -> list[tuple[int, FlashAttention]]:
    return [(n, x.op) for n, x in nodes_of(graph) if isinstance(x.op, FlashAttention)]


#: Per model: how often which kernel of attention runs: pattern, capped, sinks, operands on
#: the scores.
KERNELS = {
    "llama": [(2, "causal", False, 0, 0)],
    "llama-padded": [(2, "causal", False, 0, 1)],
    "mistral": [(2, "window 16", False, 0, 0)],
    "gemma2": [(1, "window 16", True, 0, 0), (1, "causal", True, 0, 0)],
    "bloom": [(2, "causal", False, 0, 1)],
    "mpt": [(2, "causal", False, 0, 1)],
    "modernbert": [(2, "full", False, 0, 1), (2, "within 8 both ways", False, 0, 1)],
    "bert": [(2, "full", False, 0, 1)],
    "mixtral-gathered": [(2, "causal", False, 0, 0)],
    "mixtral-sorted": [(2, "causal", False, 0, 0)],
    "gpt-oss-gathered": [(1, "window 16", False, 1, 0), (1, "causal", False, 1, 0)],
    "gpt-oss-sorted": [(1, "window 16", False, 1, 0), (1, "causal", False, 1, 0)],
}


@pytest.mark.parametrize("name", INDEX)
def test_attention_is_one_kernel_under_every_mask(name):
    graph = cg.compile(imported(name), "h100", "fuse").graph
    found: dict[tuple, int] = {}
    for times, node in nodes_of(graph):
        if isinstance(node.op, FlashAttention):
            op = node.op
            sinks = len(node.inputs) - 3 - op.biases
            key = (str(op.pattern), op.soft_cap, sinks, op.biases)
            found[key] = found.get(key, 0) + times
    expected = {tuple(k[1:]): k[0] for k in KERNELS[name]}
    assert found == expected
    kinds = {n.op.kind for _, n in nodes_of(graph)}
    assert not kinds & {"matmul", "softmax", "qk-matmul", "score-bias"}
    # What is left of softmax is the router's.
    assert ("softmax-over" in kinds) == ("expert-linear" in kinds)


@pytest.mark.parametrize("family", ["mixtral", "gpt-oss"])
def test_experts_count_the_same_however_they_are_written(family):
    plain, sorted_ = (cg.compile(imported(f"{family}-{x}"), "h100", "fuse")
                      for x in ("gathered", "sorted"))  # fmt: skip
    for values in ({"B": 1, "S": 1}, {"B": 3, "S": 50}):
        assert plain.bytes(**values) == sorted_.bytes(**values)
        assert plain.flops(**values) == sorted_.flops(**values)
    experts = [n for _, n in nodes_of(plain.graph) if isinstance(n.op, ExpertLinear)]
    assert experts
    assert any("experts" in a for a in plain.program.assumptions)


def test_weights_of_experts_are_read_as_the_builder_reads_them():
    config = dict(INDEX["mixtral-sorted"]["config"])
    built = cg.compile(import_config(config, "m", logits="all"), "h100", "fuse").graph
    mine = cg.compile(imported("mixtral-sorted"), "h100", "fuse").graph
    read = [exact_cost(g).bytes_of(Role.WEIGHT) for g in (built, mine)]
    for point in ({q: 1, S: 1, B: 2}, {q: 7, S: 7, B: 3}):
        # The trace holds 32-bit numbers, the builder 16-bit ones.
        assert 2 * read[0].xreplace(point) == read[1].xreplace(point)


def test_layers_fold_also_where_masks_differ():
    counts = {
        name: [int(n.op.count) for n in imported(name).graph.nodes if isinstance(n.op, Repeat)]
        for name in ("llama", "llama-padded", "mistral", "bloom", "bert", "mixtral-sorted")
    }
    assert counts == {name: [2] for name in counts}
