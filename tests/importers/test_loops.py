"""ONNX's loops of a known count: rounds of a body, or written out where rounds are not alike."""

from __future__ import annotations

import pytest
from sympy import expand

from costgraph.counting.count import exact_cost, parameters
from costgraph.errors import ModelError
from costgraph.hardware.machine import Engine
from costgraph.ir.regions import Repeat
from costgraph.ir.verify import verify_program
from costgraph.models.account import account
from costgraph.models.onnx_graph import from_onnx
from costgraph.symbols import B, S
from tests.importers.checks import costs_as_written_out
from tests.importers.onnx_files import NODE, TensorProto, graph, saved, stored, zeros

D = 8


LEAD = [("i", [], TensorProto.INT64), ("going", [], TensorProto.BOOL)]
KEEPS = NODE("Identity", ["going"], ["on"])


def loop(tmp_path, nodes, *, carried, outs, most=5, held=(), inner=(), inputs=(), more=()):
    """A loop of ``nodes`` over ``h``, which starts as ``x``; body results are ``outs``."""
    body = graph(
        [*nodes] if any("on" in n.output for n in nodes) else [KEEPS, *nodes],
        [*LEAD, ("h", carried)],
        [("on", [], TensorProto.BOOL), *((o, None) for o in outs)],
        inner,
        "body",
    )
    results = [f"{o}_all" for o in outs]
    whole = graph(
        [NODE("Loop", ["most", "", "x"], results, name="steps", body=body), *more],
        [("x", carried), *inputs],
        [(r, None) for r in results],
        [*held, *([] if most is None else [stored("most", most, "i8")])],
    )
    return from_onnx(saved(tmp_path / "loop.onnx", whole))


def tensor_flop(program):
    return expand(exact_cost(program.graph).flops_of(Engine.TENSOR))


STEP = (NODE("MatMul", ["h", "w"], ["m"]), NODE("Relu", ["m"], ["next"]))


@pytest.mark.parametrize("where", ["around", "inside"])
def test_a_body_counts_as_often_as_it_runs_and_its_weights_once(where, tmp_path):
    kept = (zeros("w", D, D),)
    program = loop(
        tmp_path, STEP, carried=["batch", D], outs=["next", "m"],
        **{"held" if where == "around" else "inner": kept},
    )  # fmt: skip
    verify_program(program)
    (region,) = (n.op for n in program.graph.nodes if isinstance(n.op, Repeat))
    assert region.count == 5
    assert tensor_flop(program) == 5 * 2 * D * D * B
    assert parameters(program.graph) == D * D
    shapes = [program.graph.tensors[o].shape for o in program.graph.outputs]
    assert shapes == [(B, D), (5, B, D)]
    assert "Loop 'steps': 5 rounds of its body" in program.notes


def test_it_costs_what_it_costs_written_out(tmp_path):
    program = loop(
        tmp_path, STEP, carried=["batch", D], outs=["next"], held=[zeros("w", D, D)], most=3
    )
    costs_as_written_out(program.graph)


def test_a_weight_that_is_used_elsewhere_too_is_held_once(tmp_path):
    program = loop(
        tmp_path, STEP, carried=["batch", D], outs=["next"], held=[zeros("w", D, D)],
        more=[NODE("MatMul", ["next_all", "w"], ["y"])],
    )  # fmt: skip
    verify_program(program)
    assert parameters(program.graph) == D * D
    assert tensor_flop(program) == 5 * 2 * D * D * B


@pytest.mark.parametrize("most", [4, 400])
def test_rounds_look_up_their_part(most, tmp_path):
    nodes = (NODE("Gather", ["table", "i"], ["row"]), NODE("Add", ["h", "row"], ["next"]))
    program = loop(
        tmp_path, nodes, carried=["batch", D], outs=["next"], most=most,
        inputs=[("table", [most, D])],
    )  # fmt: skip
    verify_program(program)
    assert expand(exact_cost(program.graph).flops_of(Engine.VECTOR)) == most * D * B


def test_a_value_that_grows_is_written_out_where_rounds_are_few(tmp_path):
    nodes = (
        NODE("Concat", ["h", "x"], ["next"], axis=1),
        NODE("MatMul", ["next", "w"], ["m"]),
        NODE("Shape", ["next"], ["size"]),
    )
    kept = [zeros("w", D, D)]
    program = loop(tmp_path, nodes[:2], carried=["batch", 1, D], outs=["next"], held=kept, most=3)
    assert program.graph.tensors[program.graph.outputs[0]].shape == (B, 4, D)
    with pytest.raises(ModelError, match=r"'steps'.*changes its size"):
        loop(tmp_path, nodes, carried=["batch", 1, D], outs=["next"], held=kept, most=1000)


def test_a_scan_runs_once_for_each_position(tmp_path):
    body = graph(
        [
            NODE("MatMul", ["row", "w"], ["a"]),
            NODE("MatMul", ["state", "r"], ["b"]),
            NODE("Add", ["a", "b"], ["sum"]),
            NODE("Tanh", ["sum"], ["next"]),
        ],
        [("state", ["batch", D]), ("row", ["batch", D])],
        [("next", None), ("sum", None)],
        name="body",
    )
    whole = graph(
        [
            NODE("Scan", ["h0", "x"], ["last", "all"], num_scan_inputs=1, body=body,
                 scan_input_axes=[1], scan_output_axes=[1]),
        ],
        [("x", ["batch", "seq", D]), ("h0", ["batch", D])],
        [("last", None), ("all", None)],
        [zeros("w", D, D), zeros("r", D, D)],
    )  # fmt: skip
    program = from_onnx(saved(tmp_path / "loop.onnx", whole))
    verify_program(program)
    assert tensor_flop(program) == expand(2 * 2 * D * D * B * S)
    assert parameters(program.graph) == 2 * D * D
    shapes = [program.graph.tensors[o].shape for o in program.graph.outputs]
    assert shapes == [(B, D), (B, S, D)]
    found = account(saved(tmp_path / "loop.onnx", whole))
    assert any("S rounds of its body" in note for note in found.program.notes)


def test_data_may_end_it_early_and_the_program_says_so(tmp_path):
    ends = (
        *STEP,
        NODE("ReduceMax", ["next"], ["top"], keepdims=0),
        NODE("Less", ["top", "edge"], ["on"]),
    )
    program = loop(
        tmp_path, ends, carried=["batch", D], outs=["next"],
        held=[zeros("w", D, D), stored("edge", 1)],
    )  # fmt: skip
    verify_program(program)
    assert any("end the loop 'steps' early" in note for note in program.notes)
    assert tensor_flop(program) == 5 * 2 * D * D * B


@pytest.mark.parametrize(
    ("most", "inputs", "message"),
    [
        (None, [("most", [], TensorProto.INT64)], "depends on data"),
        (2**63 - 1, [], "depends on data"),
        (0, [], "0 rounds"),
    ],
)
def test_counts_that_are_not_known_are_refused(most, inputs, message, tmp_path):
    with pytest.raises(ModelError, match=f"steps.*{message}"):
        loop(
            tmp_path, STEP, carried=["batch", D], outs=["next"], held=[zeros("w", D, D)],
            most=most, inputs=inputs,
        )  # fmt: skip
