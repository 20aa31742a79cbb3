"""The peak of live activations against a walk over the graph written out, in integers."""

from __future__ import annotations

import random

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.counting.footprint import footprint
from costgraph.ir.dtypes import BF16
from costgraph.ir.graph import Builder, Graph
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops import Activation, Add, Concat, Split
from costgraph.ops.attention import KVAppend
from costgraph.ops.fused import Fused
from costgraph.rewriting.unrolled import unrolled
from costgraph.symbols import symbol

ROWS = Integer(5)


def grown(rng: random.Random, g: Builder, names: list[str], depth: int, steps: int) -> None:
    """Adds random nodes; ``names`` are the tensors made so far."""
    for index in range(steps):
        x = rng.choice(names)
        width = int(g.shape(x)[1])
        alike = [n for n in names if g.shape(n) == g.shape(x)]
        kind = rng.choice(("map", "add", "split", "join", "region", "region"))
        if kind == "region" and depth:
            names += region(rng, g, names, depth, index)
        elif kind == "split" and width > 1:
            cut = rng.randint(1, width - 1)
            parts = ((Integer(cut),), (Integer(width - cut),))
            names += g.add_many(f"split{index}", Split(parts), x)
        elif kind == "join" and width < 8:
            names.append(g.add(f"join{index}", Concat(), x, rng.choice(names)))
        elif kind == "add":
            names.append(g.add(f"add{index}", Add(), x, rng.choice(alike)))
        else:
            names.append(g.add(f"map{index}", Activation("silu"), x))


def region(
    rng: random.Random, g: Builder, names: list[str], depth: int, index: int
) -> tuple[str, ...]:
    """Adds a region of one to four rounds that hands on one or two tensors."""
    operands = [rng.choice(names) for _ in range(rng.randint(1, 4))]
    carried = rng.randint(1, min(2, len(operands)))
    body = Builder("body")
    given = [body.source(Tensor(f"in{i}", g.shape(name), BF16)) for i, name in enumerate(operands)]
    inner = list(given)
    grown(rng, body, inner, depth - 1, rng.randint(1, 4))
    # What a round takes it reads: what is only handed through would die in between.
    for i, name in enumerate(given):
        body.add(f"read{i}", Activation("silu"), name)
    results = []
    for name in given[:carried]:
        alike = [n for n in inner if body.shape(n) == body.shape(name)]
        chosen = rng.choice(alike)
        if rng.random() < 0.7:
            chosen = body.add(f"out{len(results)}", Activation("silu"), chosen)
        results.append(chosen)
    if rng.random() < 0.3:
        results.append(rng.choice(inner))
    op = Repeat(body.build(*results), Integer(rng.choice((1, 1, 2, 3, 4))), carried)
    return g.add_many(f"region{index}", op, *operands)


def drawn(seed: int) -> Graph:
    rng = random.Random(seed)
    g = Builder("random")
    names = [
        g.source(Tensor(f"x{i}", (ROWS, Integer(rng.randint(1, 4))), BF16))
        for i in range(rng.randint(1, 3))
    ]
    grown(rng, g, names, 2, rng.randint(2, 6))
    return g.build(*rng.sample(names, k=min(len(names), rng.randint(1, 2))))


def peak(graph: Graph, values: dict[object, int]) -> float:
    """The largest sum of live bytes over the nodes of the graph written out."""
    flat = unrolled(graph)
    made = {t.name: n for n in flat.nodes for t in n.outputs}

    def base(name: str) -> str:
        while name in made and made[name].op.is_view and made[name].op.kind != "sample":
            name = made[name].inputs[0]
        return name

    last: dict[str, int] = {}
    for at, node in enumerate(flat.nodes):
        last.update(dict.fromkeys(map(base, node.inputs), at))
    last.update(dict.fromkeys(map(base, flat.outputs), len(flat.nodes)))

    def size(name: str) -> float:
        tensor = flat.tensors[name]
        if tensor.role is Role.ACTIVATION:
            return float(tensor.bytes.xreplace(values))
        node = made.get(name)
        if node is not None and isinstance(node.op, Fused):
            node = node.op.body.producer[name.rsplit("].", 1)[-1]]
        if node is None or not isinstance(node.op, KVAppend):
            return 0.0
        rows = tensor.shape[1]
        return float((tensor.bytes / rows * (rows - node.op.kept(rows))).xreplace(values))

    live = {t.name: size(t.name) for t in flat.inputs}
    most = 0.0
    for at, node in enumerate(flat.nodes):
        live.update({t.name: size(t.name) for t in node.outputs if base(t.name) == t.name})
        most = max(most, sum(live.values()))
        live = {name: n for name, n in live.items() if last.get(name, -1) > at}
    return most


@pytest.mark.parametrize("block", range(6))
def test_random_graphs_live_as_long_as_written_out(block: int) -> None:
    for seed in range(block * 100, block * 100 + 100):
        graph = drawn(seed)
        found = max(footprint(graph).activations, default=0)
        assert float(found) == peak(graph, {}), seed


#: Models with regions that run once, hand on several tensors, share operands or nest.
@pytest.mark.parametrize(
    "name",
    ["gemma-2-2b", "gpt-oss-20b", "deepseek-v2-lite", "qwen3-vl-8b", "zamba2-default", "dit-xl-2",
     "sd3-medium", "flux-1-dev", "t5-small", "swin-tiny"],
)  # fmt: skip
def test_models_live_as_long_as_written_out(name: str) -> None:
    point = {"B": 3, "S": 700, "T": 901, "N": 50, "G": 256, "K": 10}
    values = {symbol(k): Integer(v) for k, v in point.items()}
    for passes in ("", "fuse"):
        for phase in cg.compile(name, "h200", passes).program.phases:
            bound = values | {s: e.xreplace(values) for s, e in phase.bindings}
            need = footprint(phase.graph).activations
            found = max((float(phase.bind(a).xreplace(values)) for a in need), default=0.0)
            assert found == pytest.approx(peak(phase.graph, bound), rel=1e-12), phase.name
