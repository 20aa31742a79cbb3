"""Folding: what layers take and give of their own, what they share, and that nothing changes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from sympy import Integer, expand

from costgraph.counting.count import exact_cost, parameters
from costgraph.counting.footprint import footprint
from costgraph.ir.dtypes import BF16
from costgraph.ir.graph import Builder, Graph
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Role, Tensor
from costgraph.ir.verify import verify
from costgraph.models.recognition.fold import folded
from costgraph.ops import (
    Activation,
    Add,
    AttentionScores,
    AttentionValues,
    KVAppend,
    Linear,
    Multiply,
    RMSNorm,
    Softmax,
)
from costgraph.ops.arrays import Fill
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Reshape, Slice
from costgraph.rewriting.unrolled import unrolled
from costgraph.symbols import B, S

WIDTH = Integer(64)
LAYERS = 6


@dataclass(frozen=True)
class Kind:
    """What makes a stack of layers differ from one repeated without exchange.

    Attributes:
        handed: each layer adds an operand of its own.
        sliced: its operand is a part of a table of all layers.
        filled: its operand is a constant that stands before the layer.
        given: each layer's first product is a result of the graph.
        some: only two layers' are.
        shared: all layers use one set of weights.
        cached: each layer has a cache.
        first: all layers add what the first one was given.
        turns: odd layers have another function.
        other: one layer in the middle has another function.
    """

    handed: bool = False
    sliced: bool = False
    filled: bool = False
    given: bool = False
    some: bool = False
    shared: bool = False
    cached: bool = False
    first: bool = False
    turns: bool = False
    other: bool = False


KINDS = {
    "alike": (Kind(), [LAYERS]),
    "operands of their own": (Kind(handed=True), [LAYERS]),
    "parts of one operand": (Kind(sliced=True), [LAYERS]),
    "constants of their own": (Kind(filled=True), [LAYERS]),
    "results of their own": (Kind(given=True), [LAYERS]),
    "two results handed out": (Kind(some=True), [LAYERS]),
    "one set of weights": (Kind(shared=True), [LAYERS]),
    "caches": (Kind(cached=True), [LAYERS]),
    "an operand of all": (Kind(first=True), [LAYERS]),
    "in turns": (Kind(turns=True), [LAYERS // 2]),
    "all of these": (
        Kind(
            handed=True, sliced=True, filled=True, given=True, cached=True, first=True, turns=True
        ),
        [LAYERS // 2],
    ),
    "one apart": (Kind(other=True), [2, 3]),
}


def stack(kind: Kind) -> Graph:
    builder = Builder("stack")
    x = builder.source(Tensor("x", (B, S, WIDTH), BF16))
    table = builder.source(Tensor("table", (B, S, LAYERS * WIDTH), BF16)) if kind.sliced else ""
    start, results = x, []

    def matrix(name: str) -> str:
        return builder.source(Tensor(name, (WIDTH, WIDTH), BF16, Role.WEIGHT))

    for k in range(LAYERS):
        at = f"layers.{k}"
        own = "layers.all" if kind.shared else at
        scale = builder.source(Tensor(f"{own}.scale", (WIDTH,), BF16, Role.WEIGHT))
        h = builder.add(f"{at}.norm", RMSNorm(), x, scale)
        h = up = builder.add(f"{at}.up", Linear(), h, matrix(f"{own}.w1"))
        odd = (kind.turns and k % 2) or (kind.other and k == 2)
        h = builder.add(f"{at}.act", Activation("relu" if odd else "silu"), h)
        if kind.handed:
            mine = builder.source(Tensor(f"extra_{k}", (B, S, WIDTH), BF16))
            h = builder.add(f"{at}.add_own", Add(), h, mine)
        if kind.sliced:
            part = builder.add(f"{at}.part", Slice(2, k * WIDTH, WIDTH), table)
            h = builder.add(f"{at}.times", Multiply(), h, part)
        if kind.filled:
            mine = builder.add(f"constant_{k}", Fill((WIDTH,), BF16))
            h = builder.add(f"{at}.add_constant", Add(), h, mine)
        if kind.first:
            h = builder.add(f"{at}.add_first", Add(), h, start)
        if kind.cached:
            heads = builder.add(f"{at}.heads", Reshape((B, S, Integer(4), WIDTH / 4)), up)
            shape = (B, Integer(9), Integer(4), WIDTH / 4)
            cache = builder.source(Tensor(f"{at}.cache", shape, BF16, Role.KV))
            held = builder.add(f"{at}.append", KVAppend(), cache, heads)
            scores = builder.add(f"{at}.scores", AttentionScores(FULL), heads, held)
            chances = builder.add(f"{at}.chances", Softmax(FULL), scores)
            mixed = builder.add(f"{at}.values", AttentionValues(FULL), chances, held)
            mixed = builder.add(f"{at}.flat", Reshape((B, S, WIDTH)), mixed)
            h = builder.add(f"{at}.add_mixed", Add(), h, mixed)
        h = builder.add(f"{at}.down", Linear(), h, matrix(f"{own}.w2"))
        x = builder.add(f"{at}.residual", Add(), x, h)
        if kind.given or (kind.some and k in (1, 4)):
            results.append(up)
    x = builder.add("head", Activation("tanh"), x)
    return builder.build(x, *results)


def regions(graph: Graph) -> list[Repeat]:
    return [n.op for n in graph.nodes if isinstance(n.op, Repeat)]


@pytest.mark.parametrize("name", KINDS)
def test_layers_fold_and_cost_what_they_did(name):
    kind, counts = KINDS[name]
    graph = stack(kind)
    verify(graph)
    made = folded(graph, 3, [], [])
    verify(made)
    assert [int(r.count) for r in regions(made)] == counts
    assert parameters(made) == parameters(graph)
    before, after = exact_cost(graph), exact_cost(made)
    assert {k: expand(v) for k, v in after.flops.items()} == {
        k: expand(v) for k, v in before.flops.items()
    }
    assert expand(after.total_bytes - before.total_bytes) == 0
    held = [footprint(g) for g in (graph, made)]
    assert held[0].weights == held[1].weights
    assert expand(held[0].kv - held[1].kv) == 0
    peaks = [max(p.subs({B: 2, S: 7}) for p in h.activations) for h in held]
    assert peaks[0] == peaks[1]
    flat = unrolled(made)
    verify(flat)
    assert expand(exact_cost(flat).total_bytes - before.total_bytes) == 0
    shapes = [[g.tensors[o].shape for o in g.outputs] for g in (graph, made, flat)]
    assert shapes[0] == shapes[1] == shapes[2]
