"""ONNX files: published models, what the reader follows, and broken input."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sympy import Integer

import costgraph as cg
from costgraph.cli import main
from costgraph.counting.count import exact_cost, parameters
from costgraph.errors import CostgraphError, ModelError
from costgraph.hardware.machine import Engine
from costgraph.ir.verify import verify_program
from costgraph.symbols import B, S, symbol

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper  # noqa: E402

from costgraph.models.onnx_graph import from_onnx  # noqa: E402
from costgraph.models.traced.onnx_layers import RULES  # noqa: E402

DATA = Path(__file__).parent / "data"
#: Structures of published models that the onnx package ships for its own tests.
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"

#: Multiply–accumulates of convolutions and dense layers on an image of 224², and
#: parameters, statistics of batch norms included (He et al., arXiv 1512.03385; Simonyan
#: and Zisserman, arXiv 1409.1556; Iandola et al., arXiv 1602.07360; counts of the
#: reference implementations: torchvision for ResNet-50 (25,557,032 and 2 · 26,560
#: statistics) and VGG-19).
PUBLISHED = {
    "light_resnet50": (4_089_184_256, 25_557_032 + 53_120),
    "light_vgg19": (19_632_062_464, 143_667_240),
    "light_squeezenet": (349_151_936, 1_235_496),
}


def light() -> list[Path]:
    return sorted(LIGHT.glob("*.onnx"))


@pytest.mark.skipif(not light(), reason="the onnx package ships no models here")
@pytest.mark.parametrize("path", light(), ids=lambda p: p.stem)
def test_published_models_have_a_rule_for_every_operator(path):
    program = from_onnx(path)
    verify_program(program)
    model = onnx.load(path)
    assert {n.op_type for n in model.graph.node} <= set(RULES)
    (name,) = program.graph.outputs
    stated = model.graph.output[0].type.tensor_type.shape.dim
    assert [int(d) for d in program.graph.tensors[name].shape] == [d.dim_value for d in stated]
    if path.stem in PUBLISHED:
        products, stored = PUBLISHED[path.stem]
        assert exact_cost(program.graph).flops_of(Engine.TENSOR) == 2 * products
        assert parameters(program.graph) == stored


def model(nodes, inputs, outputs, stored=(), opset=18):
    """A model from a few nodes; inputs and outputs are names with shapes."""

    def value(item):
        name, shape, *kind = item
        return helper.make_tensor_value_info(name, kind[0] if kind else TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes, "g", [value(i) for i in inputs], [value(o) for o in outputs], list(stored)
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def weights(name, *shape):
    """A weight that is declared and held elsewhere."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../../etc/passwd"
    return tensor


def numbers(name, *values):
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def saved(tmp_path, made):
    path = tmp_path / "made.onnx"
    path.write_bytes(made.SerializeToString())
    return path


NODE = helper.make_node


def test_shapes_computed_in_the_graph_leave_no_operations(tmp_path):
    nodes = [
        NODE("Shape", ["x"], ["s"]),
        NODE("Gather", ["s", "zero"], ["b"]),
        NODE("Concat", ["b", "tail"], ["to"], axis=0),
        NODE("Reshape", ["x", "to"], ["y"]),
        NODE("MatMul", ["y", "w"], ["z"]),
    ]
    stored = [numbers("zero", 0), numbers("tail", -1, 4, 8), weights("w", 8, 16)]
    path = saved(tmp_path, model(nodes, [("x", ["batch", "seq", 32])], [("z", None)], stored))
    graph = from_onnx(path).graph
    assert [n.op.kind for n in graph.nodes] == ["reshape", "linear"]
    assert graph.tensors[graph.outputs[0]].shape == (B, S, Integer(4), Integer(16))
    assert parameters(graph) == 8 * 16


def test_dimensions_map_to_symbols_and_numbers(tmp_path):
    nodes = [NODE("Relu", ["x"], ["y"])]
    path = saved(tmp_path, model(nodes, [("x", ["n_imgs", "frames", 3])], [("y", None)]))
    shape = from_onnx(path).graph.tensors["x"].shape
    assert shape == (symbol("n_imgs"), symbol("frames"), Integer(3))
    shape = from_onnx(path, dims={"n_imgs": "B", "frames": 16}).graph.tensors["x"].shape
    assert shape == (B, Integer(16), Integer(3))
    with pytest.raises(ModelError, match=r"no dimension is called 'frame'.*did you mean 'frames'"):
        from_onnx(path, dims={"frame": 16})
    with pytest.raises(CostgraphError, match="from 1 to"):
        from_onnx(path, dims={"frames": 0})


def test_a_tied_weight_counts_once(tmp_path):
    nodes = [
        NODE("Gather", ["table", "ids"], ["x"]),
        NODE("Transpose", ["table"], ["turned"], perm=[1, 0]),
        NODE("MatMul", ["x", "turned"], ["y"]),
    ]
    made = model(
        nodes, [("ids", ["batch", "seq"], TensorProto.INT64)], [("y", None)],
        [weights("table", 96, 64)],
    )  # fmt: skip
    graph = from_onnx(saved(tmp_path, made)).graph
    assert [n.op.kind for n in graph.nodes] == ["embedding", "linear"]
    assert parameters(graph) == 96 * 64
    assert exact_cost(graph).flops_of(Engine.TENSOR) == 2 * 96 * 64 * B * S


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_written_out_is_recognised(tmp_path, approximate):
    constants = [
        helper.make_tensor(n, TensorProto.FLOAT, [], [v])
        for n, v in (("r", 1.4142135), ("one", 1.0), ("half", 0.5), ("three", 3.0), ("c", 0.0447))
    ]
    if approximate == "none":
        inner = [NODE("Div", ["x", "r"], ["a"]), NODE("Erf", ["a"], ["e"])]
    else:
        inner = [
            NODE("Pow", ["x", "three"], ["p"]),
            NODE("Mul", ["p", "c"], ["pc"]),
            NODE("Add", ["x", "pc"], ["sum"]),
            NODE("Mul", ["sum", "r"], ["a"]),
            NODE("Tanh", ["a"], ["e"]),
        ]
    nodes = [
        *inner,
        NODE("Add", ["e", "one"], ["f"]),
        NODE("Mul", ["x", "f"], ["g"]),
        NODE("Mul", ["g", "half"], ["y"]),
    ]
    path = saved(tmp_path, model(nodes, [("x", ["batch", 64])], [("y", None)], constants))
    (node,) = from_onnx(path).graph.nodes
    assert node.op.function == ("gelu" if approximate == "none" else "gelu_tanh")


def test_a_layer_norm_written_out_is_recognised(tmp_path):
    constants = [
        helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in (("two", 2.0), ("eps", 1e-5))
    ]
    nodes = [
        NODE("ReduceMean", ["x", "last"], ["m"]),
        NODE("Sub", ["x", "m"], ["c"]),
        NODE("Pow", ["c", "two"], ["p"]),
        NODE("ReduceMean", ["p", "last"], ["v"]),
        NODE("Add", ["v", "eps"], ["ve"]),
        NODE("Sqrt", ["ve"], ["s"]),
        NODE("Div", ["c", "s"], ["n"]),
        NODE("Mul", ["n", "w"], ["nw"]),
        NODE("Add", ["nw", "b"], ["y"]),
    ]
    stored = [*constants, numbers("last", -1), weights("w", 64), weights("b", 64)]
    path = saved(tmp_path, model(nodes, [("x", ["batch", "seq", 64])], [("y", None)], stored))
    (node,) = from_onnx(path).graph.nodes
    assert node.op.kind == "layer-norm"
    assert node.op.bias
    assert node.op.weight


def test_a_norm_whose_parts_are_needed_elsewhere_stays(tmp_path):
    eps = helper.make_tensor("eps", TensorProto.FLOAT, [], [1e-5])
    nodes = [
        NODE("Mul", ["x", "x"], ["p"]),
        NODE("ReduceMean", ["p", "last"], ["v"]),
        NODE("Add", ["v", "eps"], ["ve"]),
        NODE("Sqrt", ["ve"], ["s"]),
        NODE("Div", ["x", "s"], ["y"]),
    ]
    made = model(
        nodes, [("x", ["batch", 64])], [("y", None), ("v", None)], [eps, numbers("last", -1)]
    )
    path = saved(tmp_path, made)
    assert "rms-norm" not in [n.op.kind for n in from_onnx(path).graph.nodes]


def test_unknown_operators_are_listed(tmp_path):
    nodes = [
        NODE("Foo", ["x"], ["a"], domain="lab"),
        NODE("Foo", ["a"], ["b"], domain="lab"),
        NODE("Bar", ["b"], ["y"], domain="lab"),
    ]
    path = saved(tmp_path, model(nodes, [("x", [2])], [("y", None)]))
    with pytest.raises(ModelError, match=r"without a cost rule: lab::Foo ×2, lab::Bar ×1"):
        from_onnx(path)


@pytest.mark.parametrize(
    ("node", "extra", "message"),
    [
        (NODE("Reshape", ["x", "x"], ["y"]), [], "depends on data"),
        (NODE("MatMul", ["x", "w"], ["y"]), [weights("w", 5, 3)], "disagree"),
        (NODE("NonZero", ["x"], ["y"]), [], "depends on data"),
        (NODE("Relu", ["nothing"], ["y"]), [], "which nothing makes"),
        (NODE("Transpose", ["x"], ["y"], perm=[0, 5]), [], "do not order"),
        (NODE("MaxPool", ["x"], ["y"], kernel_shape=[0]), [], "must be positive"),
        (NODE("Conv", ["x"], ["y"]), [], "not understood"),
        (NODE("Einsum", ["x", "x"], ["y"], equation="..."), [], "does not fit"),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_the_node(tmp_path, node, extra, message):
    node.name = "culprit"
    path = saved(tmp_path, model([node], [("x", [2, 4])], [("y", None)], extra))
    with pytest.raises(CostgraphError, match=message) as error:
        from_onnx(path)
    assert "culprit" in str(error.value)


def test_weights_beside_the_file_are_never_opened(tmp_path, monkeypatch):
    made = model(
        [NODE("MatMul", ["x", "w"], ["y"])], [("x", [2, 8])], [("y", None)], [weights("w", 8, 4)]
    )
    path = saved(tmp_path, made)
    opened = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda p, *a, **k: opened.append(p) or real(p, *a, **k))
    monkeypatch.setattr(
        "onnx.external_data_helper.load_external_data_for_tensor",
        lambda *a, **k: pytest.fail("read external data"),
    )
    assert parameters(from_onnx(path).graph) == 32
    assert opened == [path]


def function(name: str, *calls: str):
    """A function of one operand that calls others in turn."""
    names = ["x", *(f"t{i}" for i in range(1, len(calls))), "y"]
    nodes = [
        NODE(c, [a], [b], domain="" if c == "Relu" else "own")
        for c, a, b in zip(calls, names, names[1:], strict=False)
    ]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["x"], ["y"], nodes, opsets)


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ([function("f", "f")], "without end"),
        ([function("f", "g"), function("g", "f")], "without end"),
        (
            [function("f0", *["Relu"] * 10)]
            + [function(f"f{i}", *[f"f{i - 1}"] * 10) for i in range(1, 12)]
            + [function("f", "f11")],
            "more than 500000 operators",
        ),
        (
            [function("f0", "Relu")]
            + [function(f"f{i}", f"f{i - 1}") for i in range(1, 200)]
            + [function("f", "f199")],
            "without end",
        ),
    ],
)
def test_functions_that_write_out_without_end_are_refused(functions, message, tmp_path):
    made = model([NODE("f", ["x"], ["y"], domain="own")], [("x", [2])], [("y", None)])
    made.functions.extend(functions)
    made.opset_import.append(helper.make_opsetid("own", 1))
    with pytest.raises(ModelError, match=message) as error:
        from_onnx(saved(tmp_path, made))
    assert "\n" not in str(error.value)


def test_functions_are_written_out(tmp_path):
    made = model([NODE("f", ["x"], ["y"], domain="own")], [("x", ["n", 4])], [("y", None)])
    made.functions.extend([function("f", "g", "g"), function("g", "Relu", "Relu")])
    made.opset_import.append(helper.make_opsetid("own", 1))
    assert [n.op.kind for n in from_onnx(saved(tmp_path, made)).graph.nodes] == ["activation"] * 4


@pytest.mark.parametrize("place", ["/etc/passwd", "../../secret", "file:///etc/passwd", "\x00"])
def test_external_data_outside_the_directory_is_not_opened(place, tmp_path, monkeypatch):
    tensor = weights("w", 8, 4)
    tensor.ClearField("external_data")
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", place
    made = model([NODE("MatMul", ["x", "w"], ["y"])], [("x", [2, 8])], [("y", None)], [tensor])
    path = saved(tmp_path, made)
    opened = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda p, *a, **k: opened.append(p) or real(p, *a, **k))
    assert parameters(from_onnx(path).graph) == 32
    assert opened == [path]


def test_axes_without_names_are_named_after_their_input(tmp_path):
    for size in ("?", -1, ""):
        given = [("x", [size, 8])]
        path = saved(tmp_path, model([NODE("Relu", ["x"], ["y"])], given, [("y", None)]))
        assert from_onnx(path).graph.tensors["x"].shape == (symbol("x_0"), 8)
        assert from_onnx(path, dims={"x_0": "B"}).graph.tensors["x"].shape == (B, 8)


def test_names_that_do_not_say_batch_are_said(tmp_path):
    given = [("x", ["N", "length", "batch_size", "past"])]
    path = saved(tmp_path, model([NODE("Relu", ["x"], ["y"])], given, [("y", None)]))
    assert from_onnx(path).notes == (
        "the dimension 'N' is taken as the batch (B)",
        "the dimension 'length' is taken as the sequence (S)",
    )
    assert from_onnx(path, dims={"N": "N", "length": 5}).notes == ()


def test_the_command_line_takes_onnx_files(capsys):
    path = str(DATA / "tiny-llama.onnx")
    assert main(["formula", path, "--on", "h100", "--metric", "latency", "--passes", "fuse"]) == 0
    assert "self_attn.attention" in capsys.readouterr().out
    assert main(["analyze", path, "--on", "h100", "--phase", "forward", "--prompt", "64"]) == 0
    capsys.readouterr()
    for arguments in (
        ["formula", path, "--on", "h100"],
        ["formula", "missing.onnx", "--on", "h100"],
        ["formula", "missing.pt2", "--on", "h100"],
        ["formula", path, "--on", "h100", "--symbolic-model", "--metric", "latency"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("costgraph: error:")
        assert said.count("\n") == 1


def test_options_of_other_importers_are_refused():
    with pytest.raises(CostgraphError, match="no option 'kv'"):
        cg.compile(DATA / "tiny-llama.onnx", "h100", kv="fp8")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32), file=st.sampled_from(["tiny-llama", "tiny-encoder", "tiny-conv"])
)
def test_damaged_bytes_give_clear_errors(tmp_path_factory, seed, file):
    chance = random.Random(seed)
    data = bytearray((DATA / f"{file}.onnx").read_bytes())
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(data))
        action = chance.randrange(3)
        if action == 0:
            data[place] = chance.randrange(256)
        elif action == 1:
            del data[place : place + chance.randint(1, 40)]
        else:
            data[place:place] = chance.randbytes(chance.randint(1, 8))
    path = tmp_path_factory.mktemp("damaged") / "x.onnx"
    path.write_bytes(bytes(data))
    survives_or_says_why(path)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32), file=st.sampled_from(["tiny-llama", "tiny-encoder", "tiny-conv"])
)
def test_damaged_structures_give_clear_errors(tmp_path_factory, seed, file):
    """Valid protobuf, nonsense inside."""
    chance = random.Random(seed)
    made = onnx.ModelProto()
    made.ParseFromString((DATA / f"{file}.onnx").read_bytes())
    graph = made.graph
    for _ in range(chance.randint(1, 4)):
        node = chance.choice(graph.node)
        action = chance.randrange(8)
        if action == 0:
            node.op_type = chance.choice(sorted(RULES))
        elif action == 1 and node.input:
            node.input[chance.randrange(len(node.input))] = chance.choice(graph.node).output[0]
        elif action == 2 and node.input:
            del node.input[-1]
        elif action == 3 and node.attribute:
            del node.attribute[:]
        elif action == 4 and node.attribute:
            item = chance.choice(node.attribute)
            item.i, item.f = chance.choice([-7, 0, 10**15]), -1.0
            if item.ints:
                item.ints[0] = chance.choice([-3, 0, 99])
        elif action == 5:
            tensor = chance.choice(graph.initializer)
            if tensor.dims:
                tensor.dims[0] = chance.choice([-1, 0, 7, 10**14])
        elif action == 6:
            chance.choice(graph.initializer).data_type = chance.choice([0, 1, 7, 8, 11, 99])
        else:
            del graph.input[0].type.tensor_type.shape.dim[-1:]
    path = tmp_path_factory.mktemp("nonsense") / "x.onnx"
    path.write_bytes(made.SerializeToString())
    survives_or_says_why(path)


def survives_or_says_why(path):
    said = "nothing wrong"
    try:
        program = from_onnx(path)
        verify_program(program)
        exact_cost(program.graph)
    except CostgraphError as error:
        said = str(error)
    assert said
    assert "\n" not in said
    assert len(said) < 2000
