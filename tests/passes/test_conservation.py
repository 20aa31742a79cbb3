"""Over all devices FLOP and weights add up to the one-device program and declared replicas."""

from collections.abc import Iterator
from functools import cache

import pytest
from sympy import Expr, Integer, Mul

from costgraph.errors import CostgraphError
from costgraph.hardware import load_system
from costgraph.hardware.links import Hop
from costgraph.hardware.machine import Engine
from costgraph.ir.graph import Graph
from costgraph.ir.op import Op
from costgraph.ir.regions import Region, Repeat
from costgraph.ir.tensor import Role
from costgraph.ir.verify import verify
from costgraph.models import load_model, model_names
from costgraph.ops import ExpertLinear
from costgraph.ops.attention import AttentionScores, AttentionValues
from costgraph.ops.latent import SplitScores
from costgraph.passes.parallel.plan import Degrees, planned
from costgraph.passes.parallel.stages import staged
from costgraph.passes.parallel.tensor import shard, unfused
from costgraph.symbols import B, T, q

ONE = Integer(1)
#: Shapes at which FLOP are compared.
AT = {B: Integer(8), q: Integer(16), T: Integer(1000)}
#: Operations with matrices whose work is not that of a product with them.
OTHERWISE: tuple[type[Op], ...] = ()
ATTENTION = (AttentionScores, AttentionValues, SplitScores)
#: Models whose last layers read caches of layers that other stages would hold.
HANDING_ON = ("gemma-3n-e4b",)
#: What some models refuse of degrees 2, 4 and 8: a number of heads or a width that they do not
#: divide, and the nearest degrees that do.
REFUSED: dict[tuple[str, int], tuple[int, str]] = {
    ("falcon-7b", 2): (71, ""),
    ("falcon-7b", 4): (71, ""),
    ("falcon-7b", 8): (71, ""),
    **{("gemma-3n-e4b", tp): (35, "") for tp in (2, 4, 8)},
    ("gpt2", 8): (12, "6 and 12"),
    ("gpt2-xl", 2): (25, "5"),
    ("gpt2-xl", 4): (25, "5"),
    ("gpt2-xl", 8): (25, "5 and 25"),
    ("opt-125m", 8): (12, "6 and 12"),
    ("phi-3-medium-4k", 4): (10, "2 and 5"),
    ("phi-3-medium-4k", 8): (10, "5 and 10"),
    ("pythia-160m", 8): (12, "6 and 12"),
    ("qwen2-1.5b", 8): (12, "4"),
    ("qwen2-7b", 8): (28, "4"),
    ("qwen2-vl-7b", 8): (28, "4"),
    ("qwen2.5-0.5b", 4): (14, "2"),
    ("qwen2.5-0.5b", 8): (14, "2"),
    ("qwen2.5-7b", 8): (28, "4"),
    ("qwen2.5-vl-7b", 8): (3420, "4"),
    ("recurrentgemma-2b", 4): (10, "2 and 5"),
    ("recurrentgemma-2b", 8): (10, "5 and 10"),
    ("long-t5-tglobal-base", 8): (12, "4"),
    ("voxtral-mini-3b", 8): (20, "4"),
    ("smollm2-135m", 2): (9, "3"),
    ("smollm2-135m", 4): (9, "3"),
    ("smollm2-135m", 8): (9, "3"),
    ("starcoder2-7b", 8): (36, "4 and 12"),
    ("t5-base", 8): (12, "6 and 12"),
    ("tarflow-afhq", 8): (12, "6 and 12"),
    ("tarflow-cifar", 8): (4, "4"),
    ("whisper-large-v3", 8): (20, "5 and 10"),
    ("whisper-small", 8): (12, "6 and 12"),
    ("whisper-tiny", 4): (6, "3 and 6"),
    ("whisper-tiny", 8): (6, "6"),
}


@cache
def generating() -> tuple[str, ...]:
    """Names of the shipped models that generate."""
    return tuple(n for n in model_names() if any(p.span for p in load_model(n).phases))


def nodes(graph: Graph, path: str = "") -> Iterator[tuple[str, Op, Expr, Expr]]:
    """Of every operation: its qualified name, itself, FLOP of its products, its matrices' size."""
    for node in graph.nodes:
        if isinstance(node.op, Region):
            for inner in node.op.graphs:
                yield from nodes(inner, f"{path}{node.name}/")
            continue
        operands = graph.operands(node)
        work = node.op.work(operands, node.outputs)
        flops = sum(f.xreplace(AT) for (e, _), f in work.items() if e is Engine.TENSOR)
        held = sum(t.numel for t in operands if t.role is Role.WEIGHT and len(t.shape) > 1)
        yield f"{path}{node.name}".removesuffix("_part"), node.op, flops, held


def total(graph: Graph) -> Expr:
    return sum((count * t.bytes for t, count in graph.weights()), Integer(0))


def graphs(name: str) -> tuple[Graph, ...]:
    return tuple({id(p.graph): p.graph for p in load_model(name).phases}.values())


@pytest.mark.parametrize("tp", [2, 4, 8])
@pytest.mark.parametrize("name", generating())
def test_tensor_parallel_devices_share_all_matrices_and_their_work(name, tp):
    group = planned(Degrees(tp=Integer(tp)), load_system(f"{tp}xh100")).group
    refusal = REFUSED.get((name, tp))
    if refusal is not None:
        length, nearest = refusal
        words = f": {length} do not divide by {tp}; .* all of {name}.*{nearest}$"
        with pytest.raises(CostgraphError, match=words):
            [shard(graph, group) for graph in graphs(name)]
        return
    for graph in graphs(name):
        part, misses = shard(graph, group)
        declared = {m.node: m.reason for m in misses}
        whole = {n: (flops, held) for n, _, flops, held in nodes(unfused(graph))}
        copies = {}
        for node, op, flops, held in nodes(part):
            if node not in whole:
                assert held == 0 or op.is_view  # a part of a matrix that is there as a whole
                continue
            before, size = whole.pop(node)
            together = held * tp
            if size and node not in declared:
                assert together == size, node
            elif size and "rows" in declared[node] and "whole rows" not in declared[node]:
                assert size < together < size * tp, (node, declared[node])
            elif size:
                assert together == size * tp, (node, declared[node])
            # FLOP go with the matrices; attention is shared by heads; nothing is lost.
            if size and before and not isinstance(op, OTHERWISE):
                assert flops * tp * size == before * together, node
            elif isinstance(op, ATTENTION):
                assert flops * tp == before, node
            assert before <= flops * tp <= before * tp, node
            copies[node] = together - size
        assert not whole
        assert declared.keys() == {n for n, c in copies.items() if c}
        # Norms and biases, of which devices may hold the same, are next to nothing.
        vectors = sum(n * t.bytes for t, n in part.weights() if len(t.shape) < 2)
        assert vectors * tp <= total(graph) / 100


EXPERTS = ("mixtral-8x7b", "deepseek-v3", "qwen3-30b-a3b", "dbrx-132b", "gpt-oss-20b", "jamba-v0.1")


@pytest.mark.parametrize(
    "degrees", [{"ep": 8, "dp": 8}, {"ep": 8, "tp": 8}, {"ep": 8, "tp": 2, "dp": 4}]
)
@pytest.mark.parametrize("name", EXPERTS)
def test_devices_share_all_experts(name, degrees):
    given = {k: Integer(v) for k, v in degrees.items()}
    plan = planned(Degrees(**given), load_system("8xh100"))
    for graph in graphs(name):
        part, _ = shard(graph, plan.group)
        ways = given.get("tp", ONE)
        for before, after in zip(expert_products(graph), expert_products(part), strict=True):
            (whole, rows, flops), (mine, chosen, work) = before, after
            assert mine * 8 == whole
            # Of the rows of all replicas a device has an eighth.
            assert chosen * 8 == rows * given.get("dp", ONE)
            assert work * 8 == flops * given.get("dp", ONE)
        # Everything else is shared by the tensor-parallel ranks alone.
        rest, others = (total(g) - experts_held(g) for g in (graph, part))
        assert rest / ways <= others <= rest
        assert (others == rest) == (ways == 1)


def expert_products(graph: Graph) -> Iterator[tuple[Expr, Expr, Expr]]:
    """Of products of experts: how many a device holds, rows that it has, FLOP."""
    for node in graph.nodes:
        if isinstance(node.op, Region):
            for inner in node.op.graphs:
                yield from expert_products(inner)
        elif isinstance(node.op, ExpertLinear):
            operands = graph.operands(node)
            work = node.op.work(operands, node.outputs)
            flops = sum(f for (e, _), f in work.items() if e is Engine.TENSOR)
            # A row of a device's operand stands for one of a token's experts.
            numbers = operands[2]
            yield operands[1].shape[0], Mul(*numbers.shape).xreplace(AT), flops.xreplace(AT)


def experts_held(graph: Graph, times: Expr = ONE) -> Expr:
    """Bytes of the matrices of experts."""
    found = Integer(0)
    for node in graph.nodes:
        if isinstance(node.op, Region):
            for inner in node.op.graphs:
                found += experts_held(inner, times * node.op.weight_sets)
        elif isinstance(node.op, ExpertLinear):
            weights = (t for t in graph.operands(node) if t.role is Role.WEIGHT)
            found += times * sum(t.bytes for t in weights)
    return found


@pytest.mark.parametrize("pp", [2, 3, 4])
@pytest.mark.parametrize("name", generating())
def test_stages_hold_the_whole_model_once(name, pp):
    """Layers, FLOP and weights of all stages are those of the model; no stage is empty."""
    for graph in graphs(name):
        hops = (Hop("nvlink", Integer(2)),) * (pp - 1)
        refusal = "something else uses its result" if name in HANDING_ON else ""
        refusal = "layers: not enough" if layers(graph) < pp else refusal
        if refusal:
            with pytest.raises(CostgraphError, match=refusal):
                staged(graph, pp, hops, "test")
            continue
        made = staged(graph, pp, hops, "test")
        verify(made)
        units = dict.fromkeys(n.unit for n in made.nodes if " to " not in n.unit)
        assert list(units) == [f"stage {i}" for i in range(1, pp + 1)]
        parts = [made.part([n for n in made.nodes if n.unit == u]) for u in units]
        # A matrix that two stages use (a tied embedding) is on both.
        assert sum(map(total, parts)) - total(graph) == shared_by_stages(made)
        assert (made.cost.total_flops - graph.cost.total_flops).xreplace(AT).expand() == 0
        assert sum(map(layers, parts)) == layers(graph)
        assert all(map(layers, parts))


def layers(graph: Graph) -> Expr:
    return sum((n.op.count for n in graph.nodes if isinstance(n.op, Repeat)), Integer(0))


def shared_by_stages(graph: Graph) -> Expr:
    users: dict[str, set[str]] = {}
    for node in graph.nodes:
        for tensor in graph.operands(node):
            if tensor.role is Role.WEIGHT:
                users.setdefault(tensor.name, set()).add(node.unit)
    tensors = graph.tensors
    return sum((tensors[n].bytes * (len(u) - 1) for n, u in users.items()), Integer(0))
