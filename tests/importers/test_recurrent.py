"""LSTM, GRU and plain cells: products by a count in integers, and the same written out."""

from __future__ import annotations

import pytest
from sympy import expand

import costgraph as cg
from costgraph.counting.count import exact_cost, parameters
from costgraph.hardware.machine import Engine
from costgraph.ir.regions import Repeat
from costgraph.ir.verify import verify, verify_program
from costgraph.rewriting.unrolled import unrolled
from costgraph.symbols import B, S

pytest.importorskip("onnx")
np = pytest.importorskip("numpy")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from costgraph.models.onnx_graph import from_onnx  # noqa: E402

IN, HIDDEN = 8, 16
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
#: Sigmoids, tangents, and plain operations per state element and step, sums of gates apart.
CELLS = {"LSTM": (3, 2, 4), "GRU": (2, 1, 5), "RNN": (0, 1, 0)}


def layer(tmp_path, kind, ways=1, length="seq", batch="batch", bias=True, start=False):
    wide = GATES[kind] * HIDDEN
    stored = {"w": (ways, wide, IN), "r": (ways, wide, HIDDEN), "b": (ways, 2 * wide)}
    states = ["h", "c"] if kind == "LSTM" else ["h"]
    operands = ["x", "w", "r", "b" if bias else ""]
    if start:
        operands += ["", *(f"{s}0" for s in states)]
        stored |= {f"{s}0": (ways, 2, HIDDEN) for s in states}
    outs = ["y", *states]
    node = helper.make_node(
        kind, operands, outs, hidden_size=HIDDEN,
        direction="bidirectional" if ways == 2 else "forward",
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [length, batch, IN])],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outs],
        [numpy_helper.from_array(np.zeros(s, "f"), n) for n, s in stored.items()],
    )
    path = tmp_path / "cell.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    path.write_bytes(made.SerializeToString())
    return from_onnx(path)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("ways", [1, 2])
def test_products_and_weights(kind, ways, tmp_path):
    program = layer(tmp_path, kind, ways)
    verify_program(program)
    wide = GATES[kind] * HIDDEN
    products = 2 * wide * (IN + HIDDEN) * ways
    assert expand(exact_cost(program.graph).flops_of(Engine.TENSOR) - products * B * S) == 0
    assert parameters(program.graph) == ways * (wide * (IN + HIDDEN) + 2 * wide)
    shapes = [program.graph.tensors[o].shape for o in program.graph.outputs]
    assert shapes[0] == (S, ways, B, HIDDEN)
    assert set(shapes[1:]) == {(ways, B, HIDDEN)}


@pytest.mark.parametrize("kind", GATES)
def test_work_of_a_step_element_by_element(kind, tmp_path):
    cost = exact_cost(layer(tmp_path, kind, bias=False).graph)
    sigmoids, tangents, plain = CELLS[kind]
    gates = GATES[kind] if kind != "GRU" else 3
    per = 2 * sigmoids + plain + gates
    assert expand(cost.flops_of(Engine.SPECIAL) - (sigmoids + tangents) * HIDDEN * B * S) == 0
    assert expand(cost.flops_of(Engine.VECTOR) - per * HIDDEN * B * S) == 0


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("ways", [1, 2])
def test_steps_are_a_region_that_costs_what_it_costs_written_out(kind, ways, tmp_path):
    program = layer(tmp_path, kind, ways, length=5, batch=2, start=True)
    regions = [n for n in program.graph.nodes if isinstance(n.op, Repeat)]
    assert [n.op.count for n in regions] == [5] * ways
    flat = unrolled(program.graph)
    verify(flat)
    before, after = exact_cost(program.graph), exact_cost(flat)
    assert before.flops == after.flops
    assert before.total_bytes == after.total_bytes
    assert parameters(flat) == parameters(program.graph)


def test_steps_run_one_after_another(tmp_path):
    program = layer(tmp_path, "LSTM")
    compiled = cg.compile(program, "h100", "fuse,quantize{preset=w8a16}")
    (row,) = (r for r in compiled.breakdown("forward", B=1, S=1000).rows if "recurrent" in r.name)
    # Every step reads the recurrent matrix, here of a byte an element with scales and biases.
    gates = GATES["LSTM"] * HIDDEN
    assert (row.count, row.bytes_by_role["weight"]) == (
        1000,
        gates * HIDDEN + 2 * gates + 4 * gates,
    )
    assert compiled.latency(B=1, S=1000) > 50 * compiled.latency(B=1, S=10)
    # Memory holds one set of weights; a step adds its gates' inputs and its state.
    more = compiled.memory(B=1, S=1000) - compiled.memory(B=1, S=100)
    assert more == 900 * 4 * (gates + HIDDEN)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("options", [{"num_layers": 2, "bidirectional": True}, {"bias": False}])
def test_pytorchs_layers_count_as_their_steps_written_out(kind, options):
    torch = pytest.importorskip("torch")
    from costgraph.models.torch_export import from_torch

    cell = getattr(torch.nn, kind)(IN, HIDDEN, batch_first=True, **options).eval()
    whole = torch.export.export(cell, (torch.zeros(2, 5, IN),), strict=False)
    counted = [
        exact_cost(from_torch(e).graph).flops_of(Engine.TENSOR)
        for e in (whole, whole.run_decompositions())
    ]
    assert counted[0] == counted[1] > 0
    assert parameters(from_torch(whole).graph) == sum(p.numel() for p in cell.parameters())
