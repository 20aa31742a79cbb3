"""Quantised graphs: weights are read as they are stored, narrow operands multiplied narrow."""

from __future__ import annotations

from fractions import Fraction

import pytest

from costgraph.counting.count import exact_cost, parameters
from costgraph.hardware.machine import Engine
from costgraph.ir.dtypes import FP32
from costgraph.ir.tensor import Role
from costgraph.symbols import B

pytest.importorskip("onnx")
np = pytest.importorskip("numpy")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from costgraph.models.onnx_graph import from_onnx  # noqa: E402

NODE = helper.make_node
MS = {"domain": "com.microsoft"}
IN, OUT = 64, 32
INT8 = TensorProto.INT8


def read(tmp_path, nodes, inputs, stored, **options):
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, k, s) for n, s, k in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in stored.items()],
    )
    sets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "made.onnx"
    path.write_bytes(helper.make_model(made, opset_imports=sets).SerializeToString())
    return from_onnx(path, **options).graph


def weight_bytes(graph):
    return exact_cost(graph).bytes_of(Role.WEIGHT)


def tensor_work(graph):
    return {d: v for (e, d), v in exact_cost(graph).flops.items() if e is Engine.TENSOR}


ROWS = ("x", ["batch", IN], TensorProto.FLOAT)
STORED = {
    "w": np.zeros((IN, OUT), "int8"), "wt": np.zeros((OUT, IN), "int8"), "s": np.float32(0.1),
    "zp": np.int8(0), "ws": np.ones(OUT, "f"), "wz": np.zeros(OUT, "int8"),
    "b": np.zeros(OUT, "int32"), "bs": np.ones(OUT, "f"), "us": np.uint8(0),
}  # fmt: skip
#: Nodes that make ``wd``, and the bytes that the stored weight and its scales take.
WEIGHTS = {
    "one scale": ([NODE("DequantizeLinear", ["w", "s", "zp"], ["wd"])], IN * OUT),
    "a scale per column": (
        [NODE("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=1)],
        IN * OUT + OUT * (4 + 1),
    ),
    "turned": (
        [
            NODE("DequantizeLinear", ["wt", "ws"], ["wu"], axis=0),
            NODE("Transpose", ["wu"], ["wd"], perm=[1, 0]),
        ],
        IN * OUT + OUT * 4,
    ),
    "under another name": (
        [
            NODE("DequantizeLinear", ["w", "s", "zp"], ["wu"]),
            NODE("Identity", ["wu"], ["wd"]),
        ],
        IN * OUT,
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_behind_a_dequantiser_is_read_as_it_is_stored(name, tmp_path):
    nodes, size = WEIGHTS[name]
    graph = read(tmp_path, [*nodes, NODE("MatMul", ["x", "wd"], ["y"])], [ROWS], STORED)
    assert [n.op.kind for n in graph.nodes] == ["linear"]
    assert weight_bytes(graph) == size
    assert parameters(graph) == IN * OUT
    # Wide rows: the weight is widened on the way, as `quantize{weights=int8}` has it.
    assert tensor_work(graph) == {"fp32": 2 * B * IN * OUT}
    assert exact_cost(graph).flops_of(Engine.VECTOR) == 2 * IN * OUT


def quantised(wd="wd"):
    return [
        NODE("QuantizeLinear", ["x", "s", "zp"], ["xq"]),
        NODE("DequantizeLinear", ["xq", "s", "zp"], ["xd"]),
        NODE("DequantizeLinear", ["b", "bs"], ["bd"]),
        NODE("MatMul", ["xd", wd], ["m"]),
        NODE("Add", ["m", "bd"], ["y"]),
    ]


@pytest.mark.parametrize("name", WEIGHTS)
def test_two_narrow_operands_are_multiplied_narrow(name, tmp_path):
    nodes, size = WEIGHTS[name]
    graph = read(tmp_path, [*nodes, *quantised()], [ROWS], STORED)
    assert [n.op.kind for n in graph.nodes] == ["map", "linear"]
    product = graph.nodes[1]
    assert tensor_work(graph) == {"int8": 2 * B * IN * OUT}
    assert graph.operands(product)[0].dtype.bits == 8
    assert product.outputs[0].dtype == FP32
    assert weight_bytes(graph) == size + 4 * OUT  # the bias is kept in 32 bits


PRODUCTS = {
    "MatMulInteger": ([NODE("MatMulInteger", ["xq", "w"], ["y"])], 32),
    "MatMulIntegerToFloat": (
        [NODE("MatMulIntegerToFloat", ["xq", "w", "s", "ws", "us", "wz"], ["y"], **MS)], 32,
    ),
    "QLinearMatMul": (
        [NODE("QLinearMatMul", ["xq", "s", "us", "w", "ws", "wz", "s", "zp"], ["y"])], 8,
    ),
    "QGemm": ([NODE("QGemm", ["xq", "s", "us", "w", "s", "zp", "b", "s", "zp"], ["y"], **MS)], 8),
    "DynamicQuantizeMatMul": (
        [NODE("DynamicQuantizeMatMul", ["x", "w", "ws", "wz"], ["y"], **MS)], 32,
    ),
    "DynamicQuantizeLinear": (
        [
            NODE("DynamicQuantizeLinear", ["x"], ["q", "sx", "zx"]),
            NODE("MatMulInteger", ["q", "w", "zx"], ["y"]),
        ],
        32,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_narrow_numbers(name, tmp_path):
    nodes, bits = PRODUCTS[name]
    given = ROWS if "x" in nodes[0].input else ("xq", ["batch", IN], TensorProto.UINT8)
    graph = read(tmp_path, nodes, [given], STORED)
    assert tensor_work(graph) == {"int8": 2 * B * IN * OUT}
    (out,) = graph.outputs
    assert graph.tensors[out].shape == (B, OUT)
    assert graph.tensors[out].dtype.bits == bits
    assert parameters(graph) in (IN * OUT, IN * OUT + OUT)


IMAGE = ("x", ["batch", 3, 8, 8], TensorProto.FLOAT)
KERNEL = {**STORED, "k": np.zeros((4, 3, 3, 3), "int8"), "ks": np.ones(4, "f"),
          "kz": np.zeros(4, "int8"), "kb": np.zeros(4, "int32")}  # fmt: skip
CONVOLUTIONS = {
    "ConvInteger": [NODE("ConvInteger", ["xq", "k"], ["y"])],
    "QLinearConv": [
        NODE("QLinearConv", ["xq", "s", "us", "k", "ks", "kz", "s", "us", "kb"], ["y"])
    ],
    "between quantisers": [
        NODE("QuantizeLinear", ["x", "s", "zp"], ["q"]),
        NODE("DequantizeLinear", ["q", "s", "zp"], ["xd"]),
        NODE("DequantizeLinear", ["k", "ks", "kz"], ["kd"], axis=0),
        NODE("Conv", ["xd", "kd"], ["y"]),
    ],
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_of_narrow_numbers(name, tmp_path):
    nodes = CONVOLUTIONS[name]
    given = IMAGE if "x" in nodes[0].input else ("xq", IMAGE[1], TensorProto.UINT8)
    graph = read(tmp_path, nodes, [given], KERNEL)
    assert tensor_work(graph) == {"int8": 2 * B * 4 * 36 * 27}
    (out,) = graph.outputs
    assert graph.tensors[out].shape == (B, 4, 6, 6)


def test_a_weight_with_wide_values_between_quantisers_is_stored_narrow(tmp_path):
    """Files of quantisation-aware training keep the weight in 32 bits in front of both."""
    nodes = [
        NODE("QuantizeLinear", ["f", "s", "zp"], ["wq"]),
        NODE("DequantizeLinear", ["wq", "s", "zp"], ["wd"]),
        NODE("MatMul", ["x", "wd"], ["y"]),
    ]
    graph = read(tmp_path, nodes, [ROWS], {**STORED, "f": np.zeros((IN, OUT), "f")})
    assert weight_bytes(graph) == IN * OUT


@pytest.mark.parametrize(("bits", "zeros"), [(4, False), (4, True), (8, False)])
def test_weights_in_packed_blocks(bits, zeros, tmp_path):
    block, blocks = 32, IN // 32
    stored = {
        "w": np.zeros((OUT, blocks, block * bits // 8), "uint8"),
        "s": np.ones(OUT * blocks, "f"),
        "z": np.zeros(OUT * blocks * bits // 8 or 1, "uint8"),
    }
    options = {"K": IN, "N": OUT, "bits": bits, "block_size": block, **MS}
    operands = ["x", "w", "s", "z"] if zeros else ["x", "w", "s"]
    graph = read(tmp_path, [NODE("MatMulNBits", operands, ["y"], **options)], [ROWS], stored)
    each = Fraction(bits + Fraction(32 + (bits if zeros else 0), block), 8)
    assert Fraction(int(8 * weight_bytes(graph)), 8) == IN * OUT * each
    assert tensor_work(graph) == {"fp32": 2 * B * IN * OUT}


def test_a_table_of_narrow_rows(tmp_path):
    nodes = [
        NODE("DequantizeLinear", ["w", "s", "zp"], ["wd"]),
        NODE("Gather", ["wd", "ids"], ["y"]),
    ]
    graph = read(tmp_path, nodes, [("ids", ["batch"], TensorProto.INT64)], STORED)
    assert parameters(graph) == IN * OUT
    (table,) = (t for t in graph.sources if t.role is Role.WEIGHT)
    assert table.dtype.bits == 8
    assert graph.tensors[graph.outputs[0]].dtype == FP32
