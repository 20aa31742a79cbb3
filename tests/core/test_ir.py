"""The graph, its invariants, and the networkx view."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import networkx as nx
import pytest
from sympy import Integer

from costgraph.counting.accounting import SURVEY
from costgraph.counting.count import rows
from costgraph.errors import InputError, MissingRuleError, VerifyError
from costgraph.ir.dtypes import BF16, FP16, FP32, compute_type, dtype, with_groups
from costgraph.ir.graph import Builder, Graph, Node
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Role, Tensor
from costgraph.ir.verify import verify, verify_program
from costgraph.models import load_model
from costgraph.ops import Add, Linear, Op, Spec
from costgraph.symbols import B, T, q, symbol


def x(name: str = "x", width: int = 8) -> Tensor:
    return Tensor(name, (B, q, Integer(width)), BF16)


def w(oc: int, ic: int) -> Tensor:
    return Tensor("w", (Integer(oc), Integer(ic)), BF16, Role.WEIGHT)


def small() -> Graph:
    g = Builder("small")
    return g.build(g.add("y", Linear(), g.source(x()), g.source(w(4, 8))))


def test_one_name_is_one_symbol():
    assert symbol("B") - B == 0
    for bad in ("", "1a", "a b", "__import__('os')", "lambda", "x" * 50):
        with pytest.raises(InputError):
            symbol(bad)


def test_a_sound_graph_verifies():
    verify(small())
    for name in ("llama-2-7b", "gpt2", "gpt-j-6b", "gemma-2-2b", "phi-3-mini-4k"):
        verify_program(load_model(name))
        verify_program(load_model(name, symbolic=True))


def test_operands_must_fit():
    g = Builder("g")
    with pytest.raises(VerifyError, match="contraction"):
        g.add("y", Linear(), g.source(x(width=9)), g.source(w(4, 8)))
    with pytest.raises(VerifyError, match="unknown tensor"):
        g.add("z", Add(), "x", "nothing")


def broken() -> list[tuple[str, Graph]]:
    graph = small()
    node = graph.nodes[0]
    layer = load_model("gpt2").graph
    region = layer.node("layers")
    inner = region.op
    assert isinstance(inner, Repeat)
    wide = replace(inner.body, sources=(replace(inner.body.sources[0], shape=(B, q, Integer(7))),))
    return [
        ("two producers", replace(graph, nodes=(node, replace(node, name="again")))),
        ("two nodes", replace(graph, nodes=(node, node))),
        ("before anything", replace(graph, sources=graph.sources[1:])),
        ("never made", replace(graph, outputs=("nothing",))),
        ("declared twice", replace(graph, sources=graph.sources + graph.sources)),
        ("makes", replace(graph, nodes=(replace(node, outputs=(x("y"),)),))),
        (
            "before anything",
            replace(
                layer,
                nodes=tuple(
                    replace(n, op=replace(inner, body=wide)) if n.name == "layers" else n
                    for n in layer.nodes
                ),
            ),
        ),
        (
            "operands",
            replace(
                layer,
                nodes=tuple(
                    replace(n, inputs=(*n.inputs, n.inputs[0])) if n.name == "layers" else n
                    for n in layer.nodes
                ),
            ),
        ),
    ]


@pytest.mark.parametrize(("words", "graph"), broken())
def test_broken_graphs_are_refused(words, graph):
    with pytest.raises(VerifyError, match=words):
        verify(graph)


def test_an_operation_without_a_cost_rule_cannot_be_made():
    @dataclass(frozen=True)
    class Mystery(Op):
        kind: ClassVar[str] = "mystery"

        def infer(self, inputs):
            return (Spec(inputs[0].shape, inputs[0].dtype),)

    with pytest.raises(TypeError, match="work"):
        Mystery()


def test_an_accounting_without_a_rule_says_so():
    @dataclass(frozen=True)
    class Strange(Add):
        kind: ClassVar[str] = "strange"

    g = Builder("g")
    name = g.source(x())
    graph = g.build(g.add("y", Strange(), name, name))
    with pytest.raises(MissingRuleError, match="strange"):
        rows(graph, SURVEY)
    # An operand used twice is read once: two tensors move, not three.
    assert rows(graph)[0].cost.total_bytes == 2 * 2 * 8 * B * q


def test_the_networkx_view_is_an_annotated_dag():
    graph = load_model("llama-2-7b").graph
    dag = graph.to_networkx()
    assert isinstance(dag, nx.DiGraph)
    assert nx.is_directed_acyclic_graph(dag)
    node = dag.nodes["layers/q_proj"]
    assert node["kind"] == "linear"
    assert node["count"] == 32
    assert node["flops"] == 2 * B * q * 4096**2
    assert node["shapes"] == ((B, q, Integer(32), Integer(128)),)
    edge = dag.edges["layers/k_append", "layers/qk_matmul"]["tensors"][0]
    assert edge["shape"][1] == T
    assert (edge["role"], edge["dtype"]) == ("kv", "fp16")
    source = dag.nodes["layers/q_proj.weight"]
    assert (source["kind"], source["role"]) == ("source", "weight")
    total = sum(d["count"] * d["flops"] for _, d in dag.nodes(data=True) if d["kind"] != "source")
    assert (total - sum(r.total.total_flops for r in rows(graph))).expand() == 0
    assert list(dag.nodes) == list(graph.to_networkx().nodes)
    nested = graph.to_networkx(nested=True)
    assert nested.nodes["layers"]["kind"] == "repeat"
    assert "q_proj" in nested.nodes["layers"]["body"]


def test_parallel_edges_keep_their_operand_positions():
    g = Builder("g")
    name = g.source(x())
    dag = g.build(g.add("y", Add(), name, name)).to_networkx()
    assert dag.edges["x", "y"]["tensors"][0]["operands"] == (0, 1)


def test_provenance_takes_no_part_in_equality():
    node = small().nodes[0]
    assert Node(node.name, node.op, node.inputs, node.outputs) == node


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("int8", "int8", "int8"),
        ("int4", "int8", "int8"),
        ("int4", "int4", "int4"),
        ("int4", "bf16", "bf16"),
        ("int8", "fp16", "fp16"),
        ("fp8", "fp8", "fp8"),
        ("e4m3", "e5m2", "fp8"),
        ("fp8", "bf16", "bf16"),
        ("fp8", "int8", "fp16"),
        ("nf4", "bf16", "bf16"),
        ("nf4", "nf4", "fp16"),
        ("fp32", "bf16", "fp32"),
        ("mxfp4", "mxfp4", "fp4"),
    ],
)
def test_products_run_in_the_wider_type(a, b, expected):
    assert compute_type(dtype(a), dtype(b)) == expected
    assert compute_type(dtype(b), dtype(a)) == expected


def test_scales_count_to_the_fraction_of_a_bit():
    four = dtype("int4")
    assert with_groups(four, Integer(128)).bits_per_element == Integer(4) + Integer(1) / 8
    with_zero = with_groups(four, Integer(128), zero_bits=Integer(4))
    assert float(with_zero.bits_per_element) == 4.15625
    assert dtype("mxfp4").bits_per_element == Integer(17) / 4
    assert dtype("nvfp4").bits_per_element == Integer(9) / 2
    assert dtype("bfloat16") is BF16
    assert dtype("torch.float16") is FP16
    assert dtype("float32") is FP32
