"""Fused operators of ONNX Runtime's own set, as the operations that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Expr, Integer, Mul

from costgraph.ir.dtypes import dtype, with_groups
from costgraph.ir.op import same
from costgraph.models.traced.lowering import Lowering, Rule
from costgraph.models.traced.onnx_arguments import attribute, given, spatial
from costgraph.models.traced.onnx_rules import gathered
from costgraph.models.traced.record import Call
from costgraph.models.traced.value import Value
from costgraph.ops import Conv, LayerNorm, RelativeBias, RMSNorm
from costgraph.ops.arrays import Fill
from costgraph.ops.channels import GroupNorm
from costgraph.ops.experts import Combine, ExpertLinear, Route

ONE = Integer(1)
#: Functions by the names that fused operators give them.
_FUNCTIONS = {
    "relu": "relu", "tanh": "tanh", "sigmoid": "sigmoid", "leakyrelu": "leaky_relu",
    "clip": "clip", "hardsigmoid": "hard_sigmoid", "gelu": "gelu", "fastgelu": "gelu_tanh",
    "silu": "silu", "swish": "silu", "elu": "elu", "": "", "identity": "", "none": "",
    "softplus": "softplus", "softsign": "softsign", "selu": "selu", "erf": "erf", "exp": "exp",
}  # fmt: skip


def _optional(low: Lowering, call: Call, place: int) -> Value | None:
    return low.value(call.args[place]) if given(call, place) else None


def _function(low: Lowering, call: Call, name: str = "activation") -> str:
    stated = str(attribute(call, name, "")).lower()
    if stated not in _FUNCTIONS:
        raise low.wrong(f"the function {stated[:40]!r} has no cost")
    return _FUNCTIONS[stated]


def _applied(low: Lowering, function: str, x: Value) -> Value:
    return low.apply(function, x) if function else x


# --- element-wise


def _biased(function: str) -> Rule:
    """A function of ``x``, or of ``x + bias`` where there is a bias."""

    def rule(low: Lowering, call: Call) -> Value:
        x, bias = low.value(call.args[0]), _optional(low, call, 1)
        return low.apply(function, x if bias is None else low.apply("add", x, bias))

    return rule


def _bias_add(low: Lowering, call: Call) -> Value:
    x, bias, skip = (low.value(a) for a in call.args[:3])
    return low.apply("add", low.apply("add", x, bias), skip)


def _split_gelu(low: Lowering, call: Call) -> Value:
    """``BiasSplitGelu``: the first half times the GELU of the second."""
    x = low.apply("add", low.value(call.args[0]), low.value(call.args[1]))
    last, half = len(x.shape) - 1, x.shape[-1] / 2
    first, second = (low.part(x, last, start, half) for start in (Integer(0), half))
    return low.apply("mul", first, low.apply("gelu", second))


# --- products


def _fused_matmul(low: Lowering, call: Call) -> Value:
    """``FusedMatMul``: operands turned, batch axes moved; the factor is the product's."""
    values = []
    for place, side in ((0, "A"), (1, "B")):
        x = low.value(call.args[place])
        order = list(range(len(x.shape)))
        if attribute(call, f"transBatch{side}", 0):
            # (m, batch…, k) as (batch…, m, k)
            order = [*order[1:-1], order[0], order[-1]]
        if attribute(call, f"trans{side}", 0):
            order[-2:] = order[:-3:-1]
        values.append(low.transpose(x, order))
    function = _function(low, call) if call.target == "FusedMatMulActivation" else ""
    return _applied(low, function, low.matmul(values[0], values[1], name=low.label()))


def _fused_gemm(low: Lowering, call: Call) -> Value:
    a, b, bias = low.value(call.args[0]), low.value(call.args[1]), _optional(low, call, 2)
    if attribute(call, "transA", 0):
        a = low.transpose(a, (1, 0))
    if attribute(call, "transB", 0):
        made = low.linear(a, b, bias)
    else:
        made = low.matmul(a, b, bias, name=low.module())
    function = "gelu_tanh" if call.target == "GemmFastGelu" else _function(low, call)
    return _applied(low, function, made)


def _fused_conv(low: Lowering, call: Call) -> Value:
    """``FusedConv``: a convolution, a sum with another operand, a function."""
    last = call.target.startswith("Nhwc")
    x, w = low.value(call.args[0]), low.value(call.args[1])
    axes = len(x.shape) - 2
    if last:  # channels stand last, in the weight too
        order = (0, axes + 1, *range(1, axes + 1))
        x, w = low.transpose(x, order), low.transpose(w, order)
    stride, dilation, pads = spatial(low, call, x.shape[2:], w.shape[2:])
    bias, other = _optional(low, call, 2), _optional(low, call, 3)
    operands = [x, w] if bias is None else [x, w, bias]
    padding = tuple((a + b) / 2 for a, b in pads)
    groups = Integer(attribute(call, "group", 1))
    made = low.convolved(Conv(stride, padding, dilation, groups, bias is not None), operands)
    if last:
        made = low.transpose(made, (0, *range(2, axes + 2), 1))
    if other is not None:
        made = low.apply("add", made, other)
    return _applied(low, _function(low, call), made)


# --- norms


def _skip_norm(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    """``SkipLayerNormalization`` and its RMS form: a residual addition and a norm."""
    x = low.apply("add", low.value(call.args[0]), low.value(call.args[1]))
    rms = "Simplified" in call.target
    place = 3 if rms else 4
    rest = [low.value(a) for a in call.args[2:place] if a is not None]
    bias = _optional(low, call, place)
    if bias is not None:
        x = low.apply("add", x, bias)
    op = RMSNorm() if rms else LayerNorm(bias=len(rest) == 2)
    return (low.emit(op, x, *rest, name=low.module()), None, None, x)


def _group_norm(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    """``GroupNorm`` and ``SkipGroupNorm``: channels last, a SiLU behind if asked."""
    x = low.value(call.args[0])
    if call.target == "SkipGroupNorm":
        for place in (3, 4):
            other = _optional(low, call, place)
            x = x if other is None else low.apply("add", x, _spread(low, other, x))
    total, last = x, bool(attribute(call, "channels_last", 1))
    rank = len(x.shape)
    if last:
        x = low.transpose(x, (0, rank - 1, *range(1, rank - 1)))
    operands = [x, low.value(call.args[1]), low.value(call.args[2])]
    op = GroupNorm(Integer(call.attributes["groups"]))
    made = low.emit(op, *operands, name=low.module())
    if last:
        made = low.transpose(made, (0, *range(2, rank), 1))
    if attribute(call, "activation", 0):
        made = low.apply("silu", made)
    return (made, total)


def _spread(low: Lowering, other: Value, x: Value) -> Value:
    """``(B, C)`` or ``(C)`` beside images of shape ``(B, H, W, C)``."""
    if len(other.shape) == 2 and len(x.shape) == 4:
        return low.reshape(other, (other.shape[0], ONE, ONE, other.shape[1]))
    return other


def _embedded(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    """``EmbedLayerNormalization``: words, positions and segments, their sum, its norm."""
    ids, segments = low.value(call.args[0]), _optional(low, call, 1)
    words, places = low.value(call.args[2]), low.value(call.args[3])
    total = gathered(low, words, ids, 0)
    positions = _optional(low, call, 8)
    if positions is None:
        row = low.cut(places, 0, 0, ids.shape[1])
    else:
        row = gathered(low, places, positions, 0)
    total = low.apply("add", total, row)
    table = _optional(low, call, 4)
    if segments is not None and table is not None:
        total = low.apply("add", total, gathered(low, table, segments, 0))
    weights = [low.value(call.args[5]), low.value(call.args[6])]
    made = low.emit(LayerNorm(), total, *weights, name=low.module())
    lengths = None
    if len(call.results) > 1 and call.results[1].name:
        lengths = low.emit(Fill(ids.shape[:1], ids.dtype), name=low.label("mask_index"))
    return (made, lengths, total)


# --- attention's surroundings, experts


def _relative(low: Lowering, call: Call) -> Value:
    """``RelativePositionBias``: a bias per head and pair, looked up by distance."""
    table = low.value(call.args[0])
    sizes = [low.numbers(call.args[p], n)[0] for p, n in ((1, "queries"), (2, "keys"))]
    op = RelativeBias(*(Integer(0) + s for s in sizes))
    made = low.emit(op, table)
    return low.reshape(made, (ONE, *made.shape))


def _experts(low: Lowering, call: Call) -> Value:
    """``MoE`` and ``QMoE``: the choice, products grouped by expert, the weighted sum."""
    narrow = call.target == "QMoE"
    x, logits = low.value(call.args[0]), low.value(call.args[1])
    shape = x.shape
    rows = low.reshape(x, (ONE, *shape)) if len(shape) == 2 else x
    logits = low.reshape(logits, (*rows.shape[:-1], logits.shape[-1]))
    normalised = bool(attribute(call, "normalize_routing_weights", 0))
    route = Route(Integer(attribute(call, "k", 1)), normalise=normalised)
    weights, numbers = low.emit_many(route, logits, name=low.label("route"))

    def product(y: Value, index: int) -> Value:
        # Weight, scales where it is narrow, bias: of each of three products.
        place = 2 + (3 if narrow else 2) * (index - 1)
        w = _stack(low, call, place, y.shape[-1], narrow)
        bias = _optional(low, call, place + (2 if narrow else 1))
        operands = [y, w, numbers]
        if bias is not None:
            operands.append(low.reshape(bias, (Mul(*bias.shape),)))
        return low.emit(ExpertLinear(bias is not None), *operands, name=low.label(f"fc{index}"))

    first = product(rows, 1)
    kind = str(attribute(call, "activation_type", "relu")).lower()
    if kind == "swiglu":
        half = first.shape[-1] / 2
        a, b = (low.part(first, len(first.shape) - 1, s, half) for s in (Integer(0), half))
        acted = low.apply("mul", low.apply("silu", a), b)
    else:
        if kind not in _FUNCTIONS:
            raise low.wrong(f"the function {kind[:40]!r} has no cost")
        acted = _applied(low, _FUNCTIONS[kind], first)
        if given(call, 8 if narrow else 6):
            acted = low.apply("mul", acted, product(rows, 3))
    made = low.emit(Combine(), product(acted, 2), weights, name=low.label("combine"))
    return low.reshape(made, shape)


def _stack(low: Lowering, call: Call, place: int, width: Expr, narrow: bool) -> Value:
    """Weights ``(E, oc, ic)`` of all experts, packed or in the other order as they may be."""
    w = low.value(call.args[place])
    if not w.is_weight or len(w.shape) != 3:
        raise low.wrong("its experts are no stored stacks of matrices")
    kind, (experts, rows, columns) = w.dtype, w.shape
    if narrow:
        bits = int(attribute(call, "expert_weight_bits", 4))
        columns = columns * 8 / bits if w.dtype.bits == 8 else columns
        scales = low.value(call.args[place + 1])
        each = experts * rows * columns / Mul(*scales.shape)
        kind = with_groups(dtype(f"int{bits}"), each, scales.dtype.bits)
    if not same(columns, width):
        rows, columns = columns, rows
    return replace(w, shape=(experts, rows, columns), dtype=kind)


def _expand_axis(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    (axis,) = low.integers(call.args[1], "axis")
    at = axis % (len(x.shape) + 1)
    shape: list[Expr] = [*x.shape[:at], ONE, *x.shape[at:]]
    return low.reshape(x, shape)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "BiasGelu": _biased("gelu"),
        "FastGelu": _biased("gelu_tanh"),
        "QuickGelu": _biased("quick_gelu"),
        "BiasAdd": _bias_add,
        "BiasSplitGelu": _split_gelu,
        **dict.fromkeys(("FusedMatMul", "TransposeMatMul", "FusedMatMulActivation"), _fused_matmul),
        **dict.fromkeys(("FusedGemm", "GemmFastGelu"), _fused_gemm),
        **dict.fromkeys(("FusedConv", "NhwcConv", "NhwcFusedConv"), _fused_conv),
        **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), _skip_norm),
        **dict.fromkeys(("GroupNorm", "SkipGroupNorm"), _group_norm),
        "EmbedLayerNormalization": _embedded,
        "RelativePositionBias": _relative,
        **dict.fromkeys(("MoE", "QMoE"), _experts),
        "ExpandDims": _expand_axis,
    }
)
