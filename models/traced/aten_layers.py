"""ATen operators that are layers: products, convolutions, norms, pooling, attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer

from costgraph.dtypes import DType
from costgraph.models.traced.attend import attention, four_axes
from costgraph.models.traced.formats import format_of
from costgraph.models.traced.lowering import Lowering, Rule
from costgraph.models.traced.record import Call, Ref
from costgraph.models.traced.value import Value
from costgraph.ops import Conv, LayerNorm, RMSNorm
from costgraph.ops.channels import BatchNorm, GroupNorm
from costgraph.ops.maps import SoftmaxOver
from costgraph.ops.pool import AdaptivePool, ConvTranspose, Pool, Resize

ONE = Integer(1)


def argument(call: Call, place: int, name: str, default: Any) -> Any:
    """An argument by position or by name."""
    if len(call.args) > place:
        return call.args[place]
    return call.attributes.get(name, default)


def stated(call: Call) -> DType | None:
    """The format that the trace states for the first result."""
    kind = call.results[0].dtype if call.results else None
    return None if kind is None else format_of(kind, call.name)


def optional(low: Lowering, call: Call, place: int, name: str) -> Value | None:
    """An operand that may be left out."""
    item = argument(call, place, name, None)
    return None if item is None else low.value(item)


def per_axis(values: Any, axes: int, default: int) -> tuple[Expr, ...]:
    """One number per axis from a list, a single number or nothing."""
    if values is None or values == ():
        return (Integer(default),) * axes
    listed: Sequence[int] = values if isinstance(values, tuple) else (values,)
    made = tuple(Integer(v) for v in listed)
    return made * axes if len(made) == 1 else made


# --- products


def _linear(low: Lowering, call: Call) -> Value:
    x, w = low.value(call.args[0]), low.value(call.args[1])
    return low.linear(x, w, optional(low, call, 2, "bias"))


def _matmul(low: Lowering, call: Call) -> Value:
    return low.matmul(low.value(call.args[0]), low.value(call.args[1]))


def _addmm(low: Lowering, call: Call) -> Value:
    bias, a, b = (low.value(x) for x in call.args[:3])
    if call.attributes.get("alpha", 1) != 1 or call.attributes.get("beta", 1) != 1:
        raise low.wrong("factors other than one are not supported")
    return low.matmul(a, b, bias)


def matrices(call: Call) -> list[str]:
    """Values that a call takes as the right-hand matrix of a product, ``(ic, oc)``."""
    place = {"matmul": 1, "mm": 1, "addmm": 2}.get(call.target)
    if place is None or len(call.args) <= place:
        return []
    b = call.args[place]
    return [b.name] if isinstance(b, Ref) else []


# --- convolution and pooling


def _conv(low: Lowering, call: Call) -> Value:
    x, w = low.value(call.args[0]), low.value(call.args[1])
    bias = optional(low, call, 2, "bias")
    low.countable(x, w)
    axes = len(w.shape) - 2
    stride = per_axis(argument(call, 3, "stride", None), axes, 1)
    padding = argument(call, 4, "padding", None)
    dilation = per_axis(argument(call, 5, "dilation", None), axes, 1)
    general = call.target == "convolution"
    groups = Integer(argument(call, 8 if general else 6, "groups", 1))
    operands = [x, w] if bias is None else [x, w, bias]
    if general and argument(call, 6, "transposed", False):
        return _transposed(low, call, operands, groups)
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(dilation, w.shape[2:], strict=True)]
        pads = tuple(r / 2 if padding == "same" else Integer(0) for r in reach)
    else:
        pads = per_axis(padding, axes, 0)
    op = Conv(stride, pads, dilation, groups, bias is not None)
    batched = len(x.shape) == axes + 2
    if not batched:
        operands[0] = low.reshape(x, (ONE, *x.shape))
    made = low.emit(op, *operands, name=low.module())
    return made if batched else low.reshape(made, made.shape[1:])


def _transposed(low: Lowering, call: Call, operands: list[Value], groups: Expr) -> Value:
    shape = call.results[0].shape
    if shape is None:
        raise low.wrong("the trace does not state its shape")
    op = ConvTranspose(shape[2:], groups, len(operands) == 3)
    return low.emit(op, *operands, name=low.module())


def _conv_transpose(low: Lowering, call: Call) -> Value:
    operands = [low.value(a) for a in call.args[:3] if a is not None]
    low.countable(*operands)
    return _transposed(low, call, operands, Integer(argument(call, 6, "groups", 1)))


def _pool(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    x = low.value(call.args[0])
    axes = int(call.target.partition("_pool")[2][0])
    kernel = per_axis(call.args[1], axes, 1)
    stride = per_axis(argument(call, 2, "stride", None) or call.args[1], axes, 1)
    padding = per_axis(argument(call, 3, "padding", None), axes, 0)
    largest = "max" in call.target
    dilation = per_axis(argument(call, 4, "dilation", None) if largest else None, axes, 1)
    ceil = bool(argument(call, 5 if largest else 4, "ceil_mode", False))
    op = Pool(
        kernel,
        stride,
        tuple(2 * p for p in padding),
        dilation,
        ceil,
        "max" if largest else "average",
    )
    return (low.emit(op, x), None)


def _adaptive(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    x, shape = low.value(call.args[0]), call.results[0].shape
    sizes = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    if shape is None:
        raise low.wrong("the trace does not state its shape")
    function = "max" if "max" in call.target else "average"
    return (low.emit(AdaptivePool(shape[len(shape) - len(sizes) :], function), x), None)


def _upsample(low: Lowering, call: Call) -> Value:
    shape = call.results[0].shape
    if shape is None:
        raise low.wrong("the trace does not state its shape")
    modes = {"nearest": "nearest", "linear": "linear", "bicubic": "cubic"}
    mode = next(m for word, m in modes.items() if word in call.target)
    return low.emit(Resize(shape, mode), low.value(call.args[0]))


# --- norms


def _layer_norm(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    x = low.value(call.args[0])
    if len(call.args[1]) != 1:
        raise low.wrong("normalises more than the last axis")
    weight, bias = optional(low, call, 2, "weight"), optional(low, call, 3, "bias")
    operands = [v for v in (x, weight, bias) if v is not None]
    op = LayerNorm(bias=bias is not None, weight=weight is not None)
    return (low.emit(op, *operands, name=low.module()), None, None)


def _rms_norm(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    x = low.value(call.args[0])
    if len(call.args[1]) != 1:
        raise low.wrong("normalises more than the last axis")
    weight = optional(low, call, 2, "weight")
    operands = [x] if weight is None else [x, weight]
    return (low.emit(RMSNorm(weight is not None), *operands, name=low.module()), None)


def _batch_norm(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    operands = [low.value(a) for a in call.args[:5] if isinstance(a, Ref)]
    training = call.target in ("batch_norm", "native_batch_norm") and call.args[5]
    if training or len(operands) not in (3, 5):
        raise low.wrong("is in training mode; call model.eval() before exporting")
    return (low.emit(BatchNorm(), *operands, name=low.module()), None, None)


def _group_norm(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    x = low.value(call.args[0])
    if call.target == "native_group_norm":
        groups, weights = call.args[6], call.args[1:3]
    else:
        groups, weights = call.args[1], call.args[2:4]
    operands = [x, *(low.value(w) for w in weights if w is not None)]
    return (low.emit(GroupNorm(Integer(groups)), *operands, name=low.module()), None, None)


# --- attention


def _softmax(low: Lowering, call: Call) -> Value:
    x, kind = low.value(call.args[0]), stated(call)
    if kind is not None:
        x = low.cast(x, kind)
    return low.emit(SoftmaxOver(low.axis(x, call.args[1]), "log" in call.target), x)


def _attention(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    """``scaled_dot_product_attention`` and the kernels behind it."""
    query, keys, values = (low.value(a) for a in call.args[:3])
    mask, causal = argument(call, 3, "attn_mask", None), argument(call, 5, "is_causal", False)
    if call.target == "_scaled_dot_product_flash_attention_for_cpu":
        mask = call.attributes.get("attn_mask")
        causal = argument(call, 4, "is_causal", False)
    biases = [] if mask is None else [low.value(mask)]
    flat = [four_axes(low, v) for v in (query, keys, values)]
    made = attention(low, *flat, causal=bool(causal), biases=biases)
    return (low.reshape(made, (*query.shape[:-1], values.shape[-1])), None)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(("matmul", "mm", "bmm"), _matmul),
        **dict.fromkeys(("addmm", "baddbmm"), _addmm),
        **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _conv),
        **dict.fromkeys(("conv_transpose1d", "conv_transpose2d"), _conv_transpose),
        **dict.fromkeys(
            (
                "max_pool1d",
                "max_pool2d",
                "max_pool3d",
                "avg_pool1d",
                "avg_pool2d",
                "avg_pool3d",
                "max_pool2d_with_indices",
            ),
            _pool,
        ),
        **dict.fromkeys(
            (
                "adaptive_avg_pool1d",
                "adaptive_avg_pool2d",
                "_adaptive_avg_pool2d",
                "adaptive_max_pool1d",
                "adaptive_max_pool2d",
            ),
            _adaptive,
        ),
        **dict.fromkeys(
            (
                "upsample_nearest2d",
                "upsample_bilinear2d",
                "upsample_bicubic2d",
                "upsample_linear1d",
            ),
            _upsample,
        ),
        **dict.fromkeys(("layer_norm", "native_layer_norm"), _layer_norm),
        **dict.fromkeys(("rms_norm", "_fused_rms_norm"), _rms_norm),
        **dict.fromkeys(
            ("batch_norm", "_native_batch_norm_legit_no_training", "native_batch_norm"),
            _batch_norm,
        ),
        **dict.fromkeys(("group_norm", "native_group_norm"), _group_norm),
        **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), _softmax),
        **dict.fromkeys(
            (
                "scaled_dot_product_attention",
                "_scaled_dot_product_flash_attention_for_cpu",
            ),
            _attention,
        ),
        "linear": _linear,
    }
)
