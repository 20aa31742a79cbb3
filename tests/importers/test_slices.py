"""Slices and sizes: what an axis of unknown length leaves, and when an assumption is said."""

from __future__ import annotations

import random

import pytest
from sympy import Integer, Max

import costgraph as cg
from costgraph.errors import CostgraphError, InputError, ModelError
from costgraph.models.torch_export import from_torch
from costgraph.models.traced.record import Call, Ref, Result, Source, Traced
from costgraph.symbols import S, symbol

pytest.importorskip("onnx")
np = pytest.importorskip("numpy")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from costgraph.models.onnx_graph import from_onnx  # noqa: E402

NODE = helper.make_node


def saved(tmp_path, nodes, inputs, outputs=("y",), stored=(), opset=18, domains=()):
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, k, s) for n, s, k in inputs],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in dict(stored).items()],
    )
    sets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    path = tmp_path / "made.onnx"
    path.write_bytes(helper.make_model(made, opset_imports=sets).SerializeToString())
    return path


def result(program):
    (name,) = program.graph.outputs
    return program.graph.tensors[name].shape


def sliced(tmp_path, start, stop, step=1, size="seq"):
    stored = {"st": [start], "en": [stop], "ax": [1], "sp": [step]}
    nodes = [NODE("Slice", ["x", "st", "en", "ax", "sp"], ["y"])]
    return from_onnx(
        saved(tmp_path, nodes, [("x", [2, size], TensorProto.FLOAT)], stored=stored),
        recognise=False,
    )


@pytest.mark.parametrize("seed", range(40))
def test_a_slice_leaves_what_python_leaves(seed, tmp_path):
    chance = random.Random(seed)
    ends = [0, 1, 2, 5, 8, 512, -1, -2, -7, 10**9, 2**31 - 1, 2**63 - 1]
    start, stop, step = chance.choice(ends[:9]), chance.choice(ends), chance.choice([1, 1, 2, 3])
    program = sliced(tmp_path, start, stop, step)
    length = result(program)[1]
    for size in (1, 2, 3, 7, 8, 9, 600):
        within = all(x.expr.xreplace({S: size}) <= x.bound for x in program.limits)
        if within:
            assert length.xreplace({S: size}) == len(range(*slice(start, stop, step).indices(size)))
    fixed = sliced(tmp_path, start, stop, step, size=7)
    assert result(fixed)[1] == len(range(*slice(start, stop, step).indices(7)))
    assert fixed.limits == ()


def test_a_start_beyond_the_axis_is_a_limit_that_is_checked(tmp_path):
    compiled = cg.compile(sliced(tmp_path, 5, 10**9), "h100")
    assert result(compiled.program)[1] == S - 5
    # A view costs nothing; what uses it does.
    assert any(x.expr == 5 - S for x in compiled.program.limits)


def test_a_table_is_looked_up_within_its_length(tmp_path):
    nodes = [
        NODE("Shape", ["x"], ["s"]),
        NODE("Gather", ["s", "one"], ["n"]),
        NODE("Unsqueeze", ["n", "zero"], ["end"]),
        NODE("Slice", ["table", "zero", "end", "zero"], ["rows"]),
        NODE("Add", ["x", "rows"], ["y"]),
    ]
    stored = {"table": np.zeros((512, 8), "f"), "one": 1, "zero": [0]}
    path = saved(tmp_path, nodes, [("x", ["batch", "seq", 8], TensorProto.FLOAT)], stored=stored)
    compiled = cg.compile(from_onnx(path), "h100")
    assert compiled.latency(B=1, S=512) > 0
    with pytest.raises(InputError, match="S = 513 exceeds 512"):
        compiled.latency(B=1, S=513)


def test_the_traces_own_length_of_a_slice_counts():
    """Ends that PyTorch clips: those of stored tables are taken as within them."""
    start = Max(0, 256 - S)
    sources = (
        Source("x", (symbol("B"), S), "float32"),
        Source("t", (Integer(256),), "float32", "weight"),
    )
    part = Result("part", (256 - start,), "float32")
    sum_ = Result("sum", (symbol("B"), S), "float32")
    calls = (
        Call("part", "slice", (Ref("t"), 0, start, 2**63 - 1), {}, (part,)),
        Call("sum", "add", (Ref("x"), Ref("part")), {}, (sum_,)),
    )
    trace = Traced("m", "aten", 0, sources, calls, ("sum",))
    program = from_torch(trace)
    assert [(x.expr, x.bound) for x in program.limits] == [(S, 256)]
    assert result(program) == (symbol("B"), S)


def test_empty_slices_add_nothing_to_a_join(tmp_path):
    stored = {"a": [0], "b": [8], "c": [99], "ax": [2]}
    nodes = [
        NODE("Slice", ["x", "a", "b", "ax"], ["first"]),
        NODE("Slice", ["x", "b", "c", "ax"], ["rest"]),
        NODE("Relu", ["first"], ["r"]),
        NODE("Concat", ["r", "rest"], ["y"], axis=2),
    ]
    path = saved(tmp_path, nodes, [("x", ["batch", "seq", 8], TensorProto.FLOAT)], stored=stored)
    graph = from_onnx(path).graph
    assert [n.op.kind for n in graph.nodes] == ["activation"]


# --- sizes


@pytest.mark.parametrize(
    ("opset", "kind", "inputs"),
    [(9, "Upsample", ["x", "sc"]), (10, "Resize", ["x", "sc"]), (18, "Resize", ["x", "", "sc"])],
)
@pytest.mark.parametrize("constant", [False, True])
def test_constant_scales_are_known(opset, kind, inputs, constant, tmp_path):
    scales = np.array([1, 1, 2, 0.5], "f")
    nodes = [NODE(kind, inputs, ["y"], mode="nearest")]
    if constant:
        nodes.insert(0, NODE("Constant", [], ["sc"], value=numpy_helper.from_array(scales)))
    stored = {} if constant else {"sc": scales}
    given = [("x", ["batch", 3, 8, "width"], TensorProto.FLOAT)]
    shape = result(from_onnx(saved(tmp_path, nodes, given, stored=stored, opset=opset)))
    width = symbol("width")
    assert shape[:3] == (symbol("B"), 3, 16)
    assert [shape[3].xreplace({width: n}) for n in (6, 7)] == [3, 3]


def test_sizes_that_fit_only_if_they_divide_are_said(tmp_path):
    nodes = [
        NODE("MaxPool", ["x"], ["d"], kernel_shape=[2, 2], strides=[2, 2]),
        NODE("MaxPool", ["d"], ["e"], kernel_shape=[2, 2], strides=[2, 2]),
        NODE("Resize", ["e", "", "sc"], ["u"], mode="nearest"),
        NODE("Concat", ["x", "u"], ["y"], axis=1),
    ]
    stored = {"sc": np.array([1, 1, 4, 4], "f")}
    given = [("x", ["batch", 3, "height", 32], TensorProto.FLOAT)]
    program = from_onnx(saved(tmp_path, nodes, given, stored=stored))
    assert program.notes == (
        "height is taken as a multiple of 4: other sizes do not fit the graph",
    )
    compiled = cg.compile(program, "h100")
    assert compiled.bytes.symbols == (symbol("B"), symbol("height"))
    fixed = from_onnx(saved(tmp_path, nodes, given, stored=stored), dims={"height": 64, "batch": 2})
    assert compiled.bytes(B=2, height=64) == cg.compile(fixed, "h100").bytes()
    with pytest.raises(ModelError, match="disagree"):
        from_onnx(saved(tmp_path, nodes, given, stored=stored), dims={"height": 66})


def test_sizes_without_a_name_get_one(tmp_path):
    nodes = [NODE("Relu", ["x"], ["y"])]
    path = saved(tmp_path, nodes, [("x", [-1, "?", 8], TensorProto.FLOAT)])
    assert result(from_onnx(path)) == (symbol("x_0"), symbol("x_1"), 8)
    assert result(from_onnx(path, dims={"x_0": "B", "x_1": 4})) == (symbol("B"), 4, 8)


def test_a_branch_on_a_known_condition_is_taken(tmp_path):
    def branch(kind):
        out = helper.make_tensor_value_info("t", TensorProto.FLOAT, None)
        return helper.make_graph([NODE(kind, ["x"], ["t"])], "b", [], [out])

    nodes = [NODE("If", ["c"], ["y"], then_branch=branch("Sigmoid"), else_branch=branch("Relu"))]
    given = [("x", ["batch", 8], TensorProto.FLOAT)]
    for condition, function in ((True, "sigmoid"), (False, "relu")):
        path = saved(tmp_path, nodes, given, stored={"c": np.array(condition)})
        (node,) = from_onnx(path).graph.nodes
        assert node.op.function == function
    path = saved(tmp_path, nodes, [*given, ("c", [], TensorProto.BOOL)])
    with pytest.raises(CostgraphError, match="which branch runs depends on data"):
        from_onnx(path)
