"""ONNX operators that are layers: products, convolutions, norms, pooling, attention."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import floor
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer, Mul, Rational

from costgraph.models.traced import (
    onnx_attention,
    onnx_contrib,
    onnx_loops,
    onnx_recurrent,
    onnx_rules,
    quantized,
)
from costgraph.models.traced.einsum import einsum, is_projection
from costgraph.models.traced.laws import constant_of
from costgraph.models.traced.lowering import Dialect, Lowering, Rule
from costgraph.models.traced.onnx_arguments import attribute, given, integers, spatial
from costgraph.models.traced.record import Call, Ref
from costgraph.models.traced.value import Value
from costgraph.ops import Conv, LayerNorm, RMSNorm
from costgraph.ops.arrays import Copy
from costgraph.ops.channels import BatchNorm, GroupNorm
from costgraph.ops.conv import whole_floor
from costgraph.ops.maps import Reduce, SoftmaxOver
from costgraph.ops.pool import (
    AdaptivePool,
    ConvTranspose,
    LocalResponseNorm,
    Pool,
    Resize,
)
from costgraph.ops.signal import GridSample

ONE = Integer(1)


def _operands(low: Lowering, call: Call) -> list[Value]:
    return [low.value(a) for a in call.args if a is not None]


# --- products


def _matmul(low: Lowering, call: Call) -> Value:
    a, b = low.value(call.args[0]), low.value(call.args[1])
    return low.matmul(a, b, name=low.label() if b.source is None else low.module())


def _gemm(low: Lowering, call: Call) -> Value:
    a, b = low.value(call.args[0]), low.value(call.args[1])
    if attribute(call, "transA", 0):
        a = low.transpose(a, (1, 0))
    bias = low.value(call.args[2]) if given(call, 2) else None
    if attribute(call, "transB", 0):
        return low.linear(a, b, bias)
    return low.matmul(a, b, bias, name=low.module())


#: Operands that are right-hand matrices of products, unless an attribute turns them.
_MATRICES = {
    **dict.fromkeys(("MatMul", "MatMulInteger", "MatMulIntegerToFloat", "Gemm", "FusedGemm"), 1),
    **dict.fromkeys(("GemmFastGelu", "FusedMatMul", "TransposeMatMul", "DynamicQuantizeMatMul"), 1),
    **dict.fromkeys(("QLinearMatMul", "QGemm"), 3),
    **dict.fromkeys(onnx_attention.PROJECTING, 1),
}


def matrices(call: Call) -> list[str]:
    """Values that a call takes as the right-hand matrix of a product, ``(ic, oc)``."""
    place = _MATRICES.get(call.target)
    if call.target == "Einsum" and is_projection(str(call.attributes.get("equation"))):
        place = 1
    turned = any(call.attributes.get(n) for n in ("transB", "transBatchB"))
    if place is None or turned or len(call.args) <= place:
        return []
    b = call.args[place]
    return [b.name] if isinstance(b, Ref) else []


def _einsum(low: Lowering, call: Call) -> Value:
    equation = str(call.attributes["equation"])
    return einsum(low, equation, _operands(low, call))


# --- convolution and pooling


def _conv(low: Lowering, call: Call) -> Value:
    operands = _operands(low, call)
    x, w = operands[:2]
    axes = len(x.shape) - 2
    if axes < 1 or len(w.shape) != axes + 2:
        raise low.wrong(f"a weight of {len(w.shape)} axes for an operand of {len(x.shape)}")
    stride, dilation, pads = spatial(low, call, x.shape[2:], w.shape[2:])
    op = Conv(
        stride,
        tuple((a + b) / 2 for a, b in pads),  # only the sum counts
        dilation,
        Integer(attribute(call, "group", 1)),
        len(operands) == 3,
    )
    return low.convolved(op, operands)


def _conv_transpose(low: Lowering, call: Call) -> Value:
    operands = _operands(low, call)
    low.countable(*operands)
    x, w = operands[:2]
    stride, dilation, pads = spatial(low, call, x.shape[2:], w.shape[2:])
    extra = integers(attribute(call, "output_padding", (0,) * len(stride)))
    stated = call.attributes.get("output_shape")
    if str(attribute(call, "auto_pad", "")).startswith("SAME"):
        stated = tuple(n * s for n, s in zip(x.shape[2:], stride, strict=True))
    sizes = (
        tuple(Integer(0) + s for s in stated)
        if stated
        else tuple(
            (n - 1) * s + d * (k - 1) + 1 + e - a - b
            for n, k, s, d, e, (a, b) in zip(
                x.shape[2:], w.shape[2:], stride, dilation, extra, pads, strict=True
            )
        )
    )
    op = ConvTranspose(sizes, Integer(attribute(call, "group", 1)), len(operands) == 3)
    return low.emit(op, *operands, name=low.module())


def _pool(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    x = low.value(call.args[0])
    kernel = integers(call.attributes["kernel_shape"])
    stride, dilation, pads = spatial(low, call, x.shape[len(x.shape) - len(kernel) :], kernel)
    function = "max" if call.target == "MaxPool" else "average"
    ceil = bool(attribute(call, "ceil_mode", 0))
    padding = tuple(a + b for a, b in pads)
    return (low.emit(Pool(kernel, stride, padding, dilation, ceil, function), x), None)


def _global_pool(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    function = "max" if "Max" in call.target else "average"
    return low.emit(AdaptivePool((ONE,) * (len(x.shape) - 2), function), x)


def _resize(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    # The second operand is the scales' in older operator sets, a region's since.
    old = call.target == "Upsample" or (0 < low.graph.version < 11)
    mode = str(attribute(call, "mode", "nearest"))
    place = 1 if old else 2
    named = call.attributes.get("axes")
    axes = range(len(x.shape)) if named is None else [low.axis(x, a) for a in named]
    shape = list(x.shape)
    if given(call, 3):
        for axis, size in zip(axes, low.numbers(call.args[3], "sizes"), strict=True):
            shape[axis] = Integer(0) + size
    else:
        stated = given(call, place)
        scales = low.numbers(call.args[place], "scales") if stated else call.attributes["scales"]
        for axis, scale in zip(axes, scales, strict=True):
            shape[axis] = _scaled(x.shape[axis], scale)
    return low.emit(Resize(tuple(shape), {"bilinear": "linear"}.get(mode, mode)), x)


def _scaled(n: Expr, scale: Any) -> Expr:
    """``⌊n·scale⌋``, the scale as the simple fraction that its 32 bits stand for."""
    if isinstance(scale, Expr) and not scale.is_number:
        return whole_floor(n * scale)
    if n.is_number:
        return Integer(floor(float(n) * float(scale) + 1e-6))
    near = Fraction(float(scale)).limit_denominator(1024)
    exact = near if abs(float(near) - float(scale)) < 1e-6 else Fraction(float(scale))
    return whole_floor(n * Rational(exact.numerator, exact.denominator))


def _grid_sample(low: Lowering, call: Call) -> Value:
    mode = str(attribute(call, "mode", "linear"))
    named = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    return low.emit(GridSample(named), low.value(call.args[0]), low.value(call.args[1]))


def _depth_to_space(low: Lowering, call: Call) -> Value:
    b, c, h, w = low.value(call.args[0]).shape
    n = Integer(call.attributes["blocksize"])
    shape = (b, c / n**2, h * n, w * n)
    if call.target == "SpaceToDepth":
        shape = (b, c * n**2, h / n, w / n)
    return low.emit(Copy(shape), low.value(call.args[0]))


# --- norms


def _batch_norm(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    if attribute(call, "training_mode", 0):
        raise low.wrong("is in training mode; export the model for inference")
    return (low.emit(BatchNorm(), *_operands(low, call)[:5], name=low.module()), None)


def _layer_norm(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    operands = _operands(low, call)
    x = operands[0]
    axis = low.axis(x, attribute(call, "axis", -1))
    if axis != len(x.shape) - 1:  # several axes count as one
        flat = [low.reshape(x, (*x.shape[:axis], Mul(*x.shape[axis:])))]
        flat += [low.reshape(w, (Mul(*w.shape),)) for w in operands[1:]]
        made = low.emit(LayerNorm(bias=len(flat) == 3), *flat, name=low.module())
        return (low.reshape(made, x.shape), None)
    return (low.emit(LayerNorm(bias=len(operands) == 3), *operands, name=low.module()), None)


def _rms_norm(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    x, weight = (low.value(a) for a in call.args[:2])
    _last_axis(low, x, attribute(call, "axis", -1))
    return (low.emit(RMSNorm(), x, weight, name=low.module()), None)


def _last_axis(low: Lowering, x: Value, axis: int) -> None:
    if low.axis(x, axis) != len(x.shape) - 1:
        raise low.wrong("normalises more than the last axis")


def _group_norm(low: Lowering, call: Call) -> Value:
    operands = _operands(low, call)
    x = operands[0]
    groups = x.shape[1]
    if call.target == "GroupNormalization":
        groups = Integer(call.attributes["num_groups"])
    return low.emit(GroupNorm(groups), *operands, name=low.module())


def _local_norm(low: Lowering, call: Call) -> Value:
    size = Integer(call.attributes["size"])
    return low.emit(LocalResponseNorm(size), low.value(call.args[0]))


def _lp_norm(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    axis = low.axis(x, attribute(call, "axis", -1))
    norm = low.emit(Reduce(f"norm{int(attribute(call, 'p', 2))}", (axis,), True), x)
    return low.apply("div", x, norm)


# --- control


def _if(low: Lowering, call: Call) -> tuple[Value, ...]:
    """The branch that a known condition takes."""
    condition = constant_of(low.value(call.args[0]))
    if condition is None:
        raise low.wrong("which branch runs depends on data; its condition must be known")
    branch = call.attributes["then_branch" if bool(condition) else "else_branch"]
    return low.inline(branch)


# --- attention


def _softmax(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    log = call.target == "LogSoftmax"
    old = 0 < low.graph.version < 13
    axis = low.axis(x, attribute(call, "axis", 1 if old else -1))
    if old and axis != len(x.shape) - 1 and any(s != 1 for s in x.shape[axis + 1 :]):
        flat = low.reshape(x, (Mul(*x.shape[:axis]), Mul(*x.shape[axis:])))
        return low.reshape(low.emit(SoftmaxOver(1, log), flat), x.shape)
    return low.emit(SoftmaxOver(axis, log), x)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **onnx_rules.RULES,
        **quantized.ONNX_RULES,
        **onnx_recurrent.RULES,
        **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
        **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
        **dict.fromkeys(("Resize", "Upsample"), _resize),
        **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _depth_to_space),
        **dict.fromkeys(("RMSNormalization", "SimplifiedLayerNormalization"), _rms_norm),
        **dict.fromkeys(("GroupNormalization", "InstanceNormalization"), _group_norm),
        **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
        "MatMul": _matmul,
        "Gemm": _gemm,
        "Einsum": _einsum,
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "BatchNormalization": _batch_norm,
        "LayerNormalization": _layer_norm,
        "LRN": _local_norm,
        "LpNormalization": _lp_norm,
        **onnx_attention.RULES,
        **onnx_contrib.RULES,
        "GridSample": _grid_sample,
        "If": _if,
        **onnx_loops.RULES,
    }
)
DIALECT = Dialect(RULES, matrices, frozenset({"Identity"}))
