"""Which tensors are stored narrower is decided by what operations do with them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sympy import Integer

from costgraph.hardware import load_hardware
from costgraph.hardware.machine import Engine
from costgraph.hardware.systems import alone
from costgraph.ir.dtypes import dtype
from costgraph.ir.graph import Builder, Graph, Node
from costgraph.ir.program import autoregressive
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Role, Tensor
from costgraph.models import load_model, model_names
from costgraph.ops import Embedding, Linear
from costgraph.ops.fused import Fused
from costgraph.ops.views import Transpose
from costgraph.passes.precision.quantize import Quantize
from costgraph.rewriting.pipeline import run
from costgraph.symbols import B, q

#: Operands that kernels convert as they load them, by kind of operation.
CONVERTED = {
    "linear": {1}, "expert-linear": {1}, "head-linear": {1}, "block-linear": {1}, "conv": {1},
    "conv-transpose": {1}, "matmul": {0, 1}, "embedding": {1},
}  # fmt: skip
MACHINE = alone(load_hardware("h200"))


def operations(graph: Graph) -> Iterator[tuple[Graph, Node]]:
    for node in graph.nodes:
        if isinstance(node.op, (Repeat, Fused)):
            yield from operations(node.op.body)
        else:
            yield graph, node


@pytest.mark.parametrize("name", model_names())
def test_weights_in_int4_leave_every_activation_wide(name):
    program = load_model(name, quantization="ignore")
    made, trace = run(program, (Quantize(weights="int4", keep="none"),), MACHINE)
    narrow = 0
    for phase in made.phases:
        for graph, node in operations(phase.graph):
            for tensor in node.outputs:
                if tensor.role is Role.ACTIVATION:
                    assert tensor.dtype.bits >= 16, (phase.name, node.name, str(tensor))
            for place, tensor in enumerate(graph.operands(node)):
                if tensor.role is Role.WEIGHT and tensor.dtype.bits == 4 and not node.op.is_view:
                    narrow += 1
                    assert place in CONVERTED[node.op.kind], (phase.name, node.name, str(tensor))
    assert narrow
    # Everything with two dimensions or more that stayed wide is named with its reason.
    said = {m.node for m in trace.misses}
    for phase in made.phases:
        for graph, node in operations(phase.graph):
            for tensor in graph.operands(node):
                own = tensor.role is Role.WEIGHT and tensor.name not in graph.producer
                if own and len(tensor.shape) > 1 and tensor.dtype.bits == 16:
                    assert tensor.name in said, (phase.name, tensor.name)


@pytest.mark.parametrize(
    ("model", "table", "used_by"),
    [
        ("t5-small", "relative_bias.weight", "relative-bias"),
        ("swin-tiny", "relative_bias.weight", "relative-bias"),
        ("qwen3-vl-8b", "positions.weight", "interpolate"),
        ("clip-vit-b-32", "positions.weight", "add"),
        ("mamba-130m", "A_log", "selective-scan"),
        ("jamba-v0.1", "conv1d.weight", "conv1d"),
    ],
)
def test_tables_and_parameters_that_no_product_takes_stay(model, table, used_by):
    made, trace = run(
        load_model(model), (Quantize(weights="int4", activations="int8", keep="none"),), MACHINE
    )
    found = [
        t
        for phase in made.phases
        for graph, node in operations(phase.graph)
        if node.op.kind == used_by
        for t in graph.operands(node)
        if t.name == table
    ]
    assert found
    assert all(t.dtype.bits == 16 for t in found)
    assert any(m.node == table and "no matrix" in m.reason for m in trace.misses)


def test_views_pass_a_matrix_on_and_other_uses_keep_it_wide():
    fp16 = dtype("fp16")
    size = Integer(64)

    def built(*uses: str) -> Graph:
        g = Builder("m")
        x = g.source(Tensor("x", (B, q, size), fp16))
        w = g.source(Tensor("w", (size, size), fp16, Role.WEIGHT))
        results = []
        for use in uses:
            if use == "product":
                results.append(g.add("product", Linear(), x, w))
            else:
                turned = g.add("turned", Transpose((1, 0)), w)
                results.append(g.add("later", Linear(), x, turned) if use == "view" else turned)
        return g.build(*results)

    for uses, bits in [
        (("product",), 4), (("view",), 4), (("product", "view"), 4), (("product", "result"), 16),
    ]:  # fmt: skip
        program = autoregressive("m", built(*uses))
        made, _ = run(program, (Quantize(weights="int4", group="tensor"),), MACHINE)
        assert made.graph.tensors["w"].dtype.bits == bits, uses


def test_rows_of_a_narrow_table_are_converted_as_they_are_gathered():
    fp16 = dtype("fp16")
    g = Builder("m")
    ids = g.source(Tensor("ids", (B, q), dtype("int64")))
    table = g.source(Tensor("table", (Integer(1000), Integer(64)), fp16, Role.WEIGHT))
    graph = g.build(g.add("embed", Embedding(), ids, table))
    made, _ = run(
        autoregressive("m", graph),
        (Quantize(weights="int8", group="tensor", keep="none"),),
        MACHINE,
    )
    node = made.graph.node("embed")
    assert node.outputs[0].dtype == fp16
    cost = node.op.cost(made.graph.operands(node), node.outputs)
    assert cost.bytes_of(Role.WEIGHT) == B * q * 64
    assert cost.flops_of(Engine.VECTOR) == 2 * B * q * 64
