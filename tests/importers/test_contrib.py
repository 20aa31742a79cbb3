"""ONNX Runtime's fused operators: products and weights by counts in integers, and shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from sympy import Min, expand

import costgraph as cg
from costgraph.counting.count import exact_cost, parameters
from costgraph.errors import ModelError
from costgraph.hardware.machine import Engine
from costgraph.ir.tensor import Role
from costgraph.ir.verify import verify_program
from costgraph.symbols import B, S, symbol

pytest.importorskip("onnx")
np = pytest.importorskip("numpy")

from onnx import TensorProto as Proto  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402

from costgraph.models.onnx_graph import from_onnx  # noqa: E402

#: Model width, heads, heads that share keys, size of a head, and of experts.
D, H, SHARED, DH, E, F = 64, 4, 2, 16, 8, 160
past, t = (symbol(n) for n in ("past", "t"))
#: The queries of a step and those before them, each with itself.
TRIANGLE = S * past + S * (S + 1) / 2


@dataclass(frozen=True)
class Case:
    """One operator: attributes, operands by name, and what it must come to."""

    target: str
    operands: str
    inputs: dict[str, Any]
    stored: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    products: Any = 0
    shapes: tuple[Any, ...] = ((B, S, D),)
    outs: str = "y"
    kinds: tuple[str, ...] = ()
    domain: str = "com.microsoft"


ROWS = ["batch", "seq", D]
CACHE = ["batch", H, "past", DH]
SMALL = ["batch", SHARED, "past", DH]
QKV = dict.fromkeys("qkv", ROWS)
GROUPED = {"q": ["batch", 1, D], "k": ["batch", 1, SHARED * DH], "v": ["batch", 1, SHARED * DH]}
LENGTHS = {"n": ["batch"], "m": [1]}
TABLES = {"c": (128, DH // 2), "s": (128, DH // 2)}
NORMS = {"g": (D,), "b": (D,)}
IMAGE = ["batch", 8, 8, 16]
FLASH = ("flash-attention",)
CASES = {
    "attention of three operands": Case(
        "MultiHeadAttention", "q k v", {"q": ROWS, **{n: ["batch", "t", D] for n in "kv"}},
        attributes={"num_heads": H}, products=4 * D * B * S * t, kinds=FLASH,
    ),
    "with biases of the projections": Case(
        "MultiHeadAttention", "q k v b", QKV, {"b": (3 * D,)}, {"num_heads": H},
        4 * D * B * S**2, kinds=FLASH,
    ),
    "with a mask of keys and a bias": Case(
        "MultiHeadAttention", "q k v - m a", {**QKV, "m": ["batch", "seq"],
        "a": [1, H, "seq", "seq"]}, {}, {"num_heads": H}, 4 * D * B * S**2, kinds=FLASH,
    ),
    "causal, behind a cache": Case(
        "MultiHeadAttention", "q k v - - - pk pv", {**QKV, "pk": CACHE, "pv": CACHE},
        {}, {"num_heads": H, "unidirectional": 1}, 4 * D * B * TRIANGLE, outs="y ok ov",
        kinds=("kv-append", *FLASH),
    ),
    "of one packed operand": Case(
        "MultiHeadAttention", "q", {"q": ["batch", "seq", H, 3, DH]}, {}, {"num_heads": H},
        4 * D * B * S**2, kinds=FLASH,
    ),
    "attention with its projections": Case(
        "Attention", "x w b m", {"x": ROWS, "m": ["batch", "seq"]},
        {"w": (D, 3 * D), "b": (3 * D,)}, {"num_heads": H},
        6 * D**2 * B * S + 4 * D * B * S**2, kinds=("linear", *FLASH),
    ),
    "and a cache": Case(
        "Attention", "x w b - p", {"x": ROWS, "p": [2, "batch", H, "past", DH]},
        {"w": (D, 3 * D), "b": (3 * D,)}, {"num_heads": H, "unidirectional": 1},
        6 * D**2 * B * S + 4 * D * B * TRIANGLE, outs="y o", kinds=("kv-append", *FLASH),
    ),
    "grouped queries, rotated, in a window": Case(
        "GroupQueryAttention", "q k v pk pv n m c s",
        {**GROUPED, "pk": SMALL, "pv": SMALL, **LENGTHS}, TABLES,
        {"num_heads": H, "kv_num_heads": SHARED, "do_rotary": 1, "local_window_size": 8},
        4 * D * B * (Min(7, past) + 1), ((B, 1, D),), "y ok ov", ("rope", "kv-append", *FLASH),
    ),
    "grouped queries of one packed operand": Case(
        "GroupQueryAttention", "q - - pk pv n m",
        {"q": ["batch", "seq", D + 2 * SHARED * DH], "pk": SMALL, "pv": SMALL, **LENGTHS}, {},
        {"num_heads": H, "kv_num_heads": SHARED}, 4 * D * B * TRIANGLE, outs="y ok ov",
        kinds=("kv-append", *FLASH),
    ),
    "rotary embedding": Case(
        "RotaryEmbedding", "x p c s", {"x": ROWS, "p": ["batch", "seq"]}, TABLES,
        {"num_heads": H}, kinds=("rope",),
    ),
    "product with a turned weight": Case(
        "FusedMatMul", "x w", {"x": ROWS}, {"w": (32, D)}, {"transB": 1, "alpha": 0.5},
        2 * D * 32 * B * S, ((B, S, 32),), kinds=("linear",),
    ),
    "product of two operands": Case(
        "FusedMatMul", "x z", {"x": ["batch", H, "seq", DH], "z": ["batch", H, "t", DH]}, {},
        {"transB": 1}, 2 * D * B * S * t, ((B, H, S, t),), kinds=("matmul",),
    ),
    "residual and norm": Case(
        "SkipLayerNormalization", "x z g b c", {"x": ROWS, "z": ROWS}, {**NORMS, "c": (D,)},
        shapes=((B, S, D), (B, S, D)), outs="y - - sum", kinds=("fused",),
    ),
    "residual and RMS norm": Case(
        "SkipSimplifiedLayerNormalization", "x z g", {"x": ROWS, "z": ROWS}, {"g": (D,)},
        kinds=("fused",),
    ),
    "embeddings and norm": Case(
        "EmbedLayerNormalization", "i j w p k g b", {"i": ["batch", "seq"], "j": ["batch", "seq"]},
        {"w": (100, D), "p": (50, D), "k": (2, D), **NORMS}, outs="y m",
        shapes=((B, S, D), (B,)), kinds=("fused",),
    ),
    "experts": Case(
        "MoE", "x r w1 - w2", {"x": ["batch", D], "r": ["batch", E]},
        {"w1": (E, F, D), "w2": (E, D, F)}, {"k": 2, "activation_type": "silu"},
        2 * 2 * 2 * D * F * B, ((B, D),), kinds=("route", "expert-linear", "combine"),
    ),
    "convolution, sum, function": Case(
        "FusedConv", "x w b z", {"x": ["batch", 3, 8, 8], "z": ["batch", 4, 8, 8]},
        {"w": (4, 3, 3, 3), "b": (4,)}, {"activation": "Relu", "pads": [1, 1, 1, 1]},
        2 * 27 * 4 * 64 * B, ((B, 4, 8, 8),), kinds=("fused",),
    ),
    "convolution with channels last": Case(
        "NhwcConv", "x w", {"x": ["batch", 8, 8, 3]}, {"w": (4, 3, 3, 3)}, {},
        2 * 27 * 4 * 36 * B, ((B, 6, 6, 4),), kinds=("conv",),
    ),
    "group norm": Case(
        "GroupNorm", "x g b", {"x": IMAGE}, {"g": (16,), "b": (16,)},
        {"groups": 4, "activation": 1}, shapes=((B, 8, 8, 16),), kinds=("group-norm",),
    ),
    "quick GELU": Case("QuickGelu", "x", {"x": ROWS}),
    "GELU of a sum": Case("BiasGelu", "x b", {"x": ROWS}, {"b": (D,)}, kinds=("fused",)),
    "GELU by tangents of a sum": Case("FastGelu", "x b", {"x": ROWS}, {"b": (D,)}),
    "attention of the standard": Case(
        "Attention", "q k v", QKV, {}, {"q_num_heads": H, "kv_num_heads": H, "is_causal": 1},
        4 * D * B * S * (S + 1) / 2, domain="", kinds=FLASH,
    ),
    "rotary embedding of the standard": Case(
        "RotaryEmbedding", "x c s p", {"x": ROWS, "p": ["batch", "seq"]}, TABLES,
        {"num_heads": H}, domain="", kinds=("rope",),
    ),
}  # fmt: skip
#: Operands that are whole numbers.
WHOLE = frozenset("ijnmp")


def read(tmp_path, case, **options):
    def names(text):
        return ["" if n == "-" else n for n in text.split()]

    node = helper.make_node(
        case.target, names(case.operands), names(case.outs), domain=case.domain, **case.attributes
    )
    kinds = {n: Proto.INT32 if n in WHOLE and n not in case.stored else Proto.FLOAT
             for n in case.inputs}  # fmt: skip
    if case.target == "Attention":
        kinds["p"] = Proto.FLOAT
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(n, kinds[n], s) for n, s in case.inputs.items()],
        [helper.make_tensor_value_info(o, Proto.FLOAT, None) for o in names(case.outs) if o],
        [numpy_helper.from_array(np.zeros(s, "f"), n) for n, s in case.stored.items()],
    )
    sets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "made.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=sets).SerializeToString())
    return from_onnx(path, **options)


@pytest.mark.parametrize("name", CASES)
def test_products_weights_shapes_and_kernels(name, tmp_path):
    case = CASES[name]
    program = read(tmp_path, case, mask="skip")
    verify_program(program)
    graph = program.graph
    assert expand(exact_cost(graph).flops_of(Engine.TENSOR) - expand(case.products)) == 0
    assert parameters(graph) == sum(int(np.prod(s)) for s in case.stored.values())
    assert tuple(graph.tensors[o].shape for o in graph.outputs) == case.shapes
    fused = cg.compile(program, "h100", "fuse").graph
    assert set(case.kinds) <= {n.op.kind for n in fused.nodes}
    # What runs as one kernel never writes its scores.
    if "flash-attention" in case.kinds:
        assert not any(n.op.kind in ("matmul", "softmax") for n in fused.nodes)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.kinds[-1:] == FLASH])
def test_attention_reads_each_operand_once(name, tmp_path):
    case = CASES[name]
    fused = cg.compile(read(tmp_path, case), "h100", "fuse").graph
    (node,) = (n for n in fused.nodes if n.op.kind == "flash-attention")
    sizes = {B: 2, S: 5, past: 7, t: 7}
    inputs = fused.operands(node)
    total = node.op.cost(inputs, node.outputs).total_bytes.subs(sizes)
    once = sum(x.bytes for x in (*inputs, *node.outputs)).subs(sizes)
    # Seven keys of the past and the query's own lie within the window of eight.
    assert total == once


def test_caches_stay_where_they_are(tmp_path):
    graph = cg.compile(read(tmp_path, CASES["causal, behind a cache"]), "h100", "fuse").graph
    caches = [x for x in graph.tensors.values() if x.role is Role.KV]
    assert {x.shape for x in caches} == {(B, past, H, DH), (B, past + S, H, DH)}
    # The present keys and values are these caches: nothing is copied to hand them out.
    assert len(graph.outputs) == 1
    cost = exact_cost(graph)
    written = 2 * B * S * D * 4
    assert expand(cost.bytes_of(Role.KV) - (written + 2 * B * (S + past) * D * 4)) == 0


@pytest.mark.parametrize(
    ("narrow", "bits", "columns"), [("uint8", 4, 2), ("uint8", 8, 1)], ids=["4 bits", "8 bits"]
)
def test_narrow_experts_are_read_narrow(tmp_path, narrow, bits, columns):
    stored = {
        "w1": np.zeros((E, F, D // columns), narrow), "s1": np.ones((E, F), "f"),
        "w2": np.zeros((E, D, F // columns), narrow), "s2": np.ones((E, D), "f"),
    }  # fmt: skip
    node = helper.make_node(
        "QMoE", ["x", "r", "w1", "s1", "", "w2", "s2"], ["y"], k=2, activation_type="silu",
        expert_weight_bits=bits, domain="com.microsoft",
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(n, Proto.FLOAT, ["batch", w]) for n, w in (("x", D),
                                                                                  ("r", E))],
        [helper.make_tensor_value_info("y", Proto.FLOAT, None)],
        [numpy_helper.from_array(v, n) for n, v in stored.items()],
    )  # fmt: skip
    sets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "made.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=sets).SerializeToString())
    made = from_onnx(path).graph
    assert exact_cost(made).flops_of(Engine.TENSOR) == 8 * D * F * B
    assert parameters(made) == 2 * E * D * F
    # With every expert chosen, each is read: its codes, and a scale for each of its rows.
    read = exact_cost(made).bytes_of(Role.WEIGHT)
    whole = 2 * E * D * F * bits // 8 + 4 * E * (F + D)
    assert abs(float(read.subs(B, 200)) - whole) < 1


@pytest.mark.parametrize(
    ("target", "options"),
    [("MoE", {"activation_type": "mystery"}), ("FusedConv", {"activation": "Mystery"})],
)
def test_functions_without_a_cost_are_refused(tmp_path, target, options):
    (case,) = (c for c in CASES.values() if c.target == target)
    odd = Case(**{**case.__dict__, "attributes": {**case.attributes, **options}})
    with pytest.raises(ModelError, match="mystery"):
        read(tmp_path, odd)
