"""Sizes as exporters compute them: whole quotients, open channels, pads, ends of slices."""

from __future__ import annotations

import pytest
from sympy import Integer

from costgraph.counting.count import exact_cost
from costgraph.errors import ModelError
from costgraph.hardware.machine import Engine
from costgraph.ir.verify import verify_program
from costgraph.models.onnx_graph import from_onnx
from costgraph.symbols import B, S
from tests.importers.onnx_files import NODE, graph, numbers, saved, zeros


def loaded(tmp_path, nodes, shape, stored, dims=None):
    made = graph(nodes, [("x", shape)], [("y", None)], stored)
    program = from_onnx(saved(tmp_path / "sizes.onnx", made), dims)
    verify_program(program)
    return program


def result(program):
    return program.graph.tensors[program.graph.outputs[0]].shape


@pytest.mark.parametrize("way", ["Div", "Floor", "Ceil"])
def test_a_quotient_that_is_whole_stays_the_size_that_it_is(way, tmp_path):
    nodes = [
        NODE("Shape", ["x"], ["sizes"]),
        NODE("Gather", ["sizes", "zero"], ["rows"]),
        NODE("Mul", ["rows", "four"], ["more"]),
        NODE("Div", ["more", "four"], ["back"]),
        *([] if way == "Div" else [NODE(way, ["back"], ["whole"])]),
        NODE("Concat", ["back" if way == "Div" else "whole", "tail"], ["to"], axis=0),
        NODE("Reshape", ["x", "to"], ["y"]),
    ]
    stored = [numbers("zero", 0), numbers("four", 4), numbers("tail", 4, 8)]
    assert result(loaded(tmp_path, nodes, ["batch", 32], stored)) == (B, 4, 8)


def test_channels_that_a_file_leaves_open_are_those_of_the_weight(tmp_path):
    nodes = [NODE("Conv", ["x", "w"], ["y"], strides=[2, 2])]
    stored = [zeros("w", 8, 3, 2, 2)]
    program = loaded(tmp_path, nodes, ["batch", "num_channels", 16, 16], stored)
    assert program.graph.tensors["x"].shape == (B, 3, 16, 16)
    assert any("num_channels is 3" in note for note in program.notes)
    assert exact_cost(program.graph).flops_of(Engine.TENSOR) == 2 * 64 * 12 * 8 * B


def test_sizes_that_might_be_the_reason_are_named(tmp_path):
    nodes = [NODE("Add", ["x", "table"], ["y"])]
    stored = [zeros("table", 1, 17, 8)]
    with pytest.raises(ModelError, match=r"leaves open height: --dims height=…"):
        loaded(tmp_path, nodes, ["batch", "height", 8], stored)
    assert result(loaded(tmp_path, nodes, ["batch", "height", 8], stored, {"height": 17}))[0] == B


def test_pads_as_pytorch_writes_them(tmp_path):
    # Pairs from the last axis on: as rows, turned round, side by side.
    nodes = [
        NODE("Reshape", ["pads", "pairs"], ["rows"]),
        NODE("Slice", ["rows", "last", "front", "zero", "back"], ["turned"]),
        NODE("Transpose", ["turned"], ["beside"], perm=[1, 0]),
        NODE("Reshape", ["beside", "flat"], ["all"]),
        NODE("Pad", ["x", "all"], ["y"]),
    ]
    stored = [
        numbers("pads", 1, 2, 3, 4, 0, 0), numbers("pairs", 3, 2), numbers("last", -1),
        numbers("front", -(2**63) + 1), numbers("zero", 0), numbers("back", -1),
        numbers("flat", -1),
    ]  # fmt: skip
    shape = result(loaded(tmp_path, nodes, ["batch", 10, 20], stored))
    assert shape == (B, 10 + 3 + 4, 20 + 1 + 2)


def test_all_but_the_last_of_a_size_need_no_bound(tmp_path):
    nodes = [
        NODE("Slice", ["x", "zero", "last", "one"], ["cut"]),
        NODE("Slice", ["x", "one", "end", "one"], ["rest"]),
        NODE("Add", ["cut", "rest"], ["y"]),
    ]
    stored = [numbers("zero", 0), numbers("last", -1), numbers("one", 1), numbers("end", 2**62)]
    assert result(loaded(tmp_path, nodes, ["batch", "seq", 8], stored)) == (B, S - 1, Integer(8))
