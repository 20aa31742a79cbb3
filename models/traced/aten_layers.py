"""ATen operators that are layers: convolutions, norms, pooling, attention."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.ir.op import Op
from costgraph.models.traced.aten_arguments import argument, optional, per_axis, stated
from costgraph.models.traced.aten_products import flat
from costgraph.models.traced.attend import attention, four_axes
from costgraph.models.traced.lowering import Lowering, Rule
from costgraph.models.traced.record import Call, Ref
from costgraph.models.traced.value import Value
from costgraph.ops import Conv, LayerNorm, RMSNorm
from costgraph.ops.channels import BatchNorm, GroupNorm
from costgraph.ops.maps import SoftmaxOver
from costgraph.ops.pool import AdaptivePool, ConvTranspose, Pool

ONE = Integer(1)


# --- convolution and pooling


def _conv(low: Lowering, call: Call) -> Value:
    x, w = low.value(call.args[0]), low.value(call.args[1])
    bias = optional(low, call, 2, "bias")
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
    made = low.convolved(op, operands)
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


# --- norms


def _layer_norm(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    x = low.value(call.args[0])
    weight, bias = optional(low, call, 2, "weight"), optional(low, call, 3, "bias")
    op = LayerNorm(bias=bias is not None, weight=weight is not None)
    made = _normalised(low, op, len(call.args[1]), x, weight, bias)
    return (made, None, None)


def _normalised(low: Lowering, op: Op, axes: int, x: Value, *parameters: Value | None) -> Value:
    """A norm over the last ``axes`` axes: they count as one."""
    operands = [flat(low, v, axes) for v in (x, *parameters) if v is not None]
    return low.reshape(low.emit(op, *operands, name=low.module()), x.shape)


def _rms_norm(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    x, weight = low.value(call.args[0]), optional(low, call, 2, "weight")
    made = _normalised(low, RMSNorm(weight is not None), len(call.args[1]), x, weight)
    return (made, None)


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


def _instance_norm(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    """Every channel of every sample by its own statistics."""
    x = low.value(call.args[0])
    operands = [x, *(low.value(w) for w in call.args[1:3] if w is not None)]
    return (low.emit(GroupNorm(x.shape[1]), *operands, name=low.module()), None, None)


# --- attention


def _softmax(low: Lowering, call: Call) -> Value:
    x, kind = low.value(call.args[0]), stated(call)
    if kind is not None:
        x = low.cast(x, kind)
    return low.emit(SoftmaxOver(low.axis(x, call.args[1]), "log" in call.target), x)


#: Places of the mask and of the causal flag in the kernels' arguments.
_KERNELS = {
    "scaled_dot_product_attention": (3, 5),
    "_scaled_dot_product_attention_math": (3, 5),
    "_scaled_dot_product_fused_attention_overrideable": (3, 5),
    "_scaled_dot_product_efficient_attention": (3, 6),
    "_scaled_dot_product_cudnn_attention": (3, 6),
    "_scaled_dot_product_flash_attention": (None, 4),
    "_scaled_dot_product_flash_attention_for_cpu": (None, 4),
}


def _attention(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    """``scaled_dot_product_attention`` and the kernels behind it."""
    query, keys, values = (low.value(a) for a in call.args[:3])
    place, flag = _KERNELS[call.target]
    name = "attn_bias" if place == 3 and flag == 6 else "attn_mask"
    mask = call.attributes.get(name) if place is None else argument(call, place, name, None)
    biases = [] if mask is None else [low.value(mask)]
    heads = [four_axes(low, v) for v in (query, keys, values)]
    causal = bool(argument(call, flag, "is_causal", False))
    made = attention(low, *heads, causal=causal, biases=biases)
    return (low.reshape(made, (*query.shape[:-1], values.shape[-1])), None)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _conv),
        **dict.fromkeys(
            ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _conv_transpose),
        **dict.fromkeys(
            ("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
             "max_pool2d_with_indices", "max_pool3d_with_indices"), _pool),
        **dict.fromkeys(
            ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
             "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool1d",
             "adaptive_max_pool2d", "adaptive_max_pool3d"), _adaptive),
        **dict.fromkeys(("layer_norm", "native_layer_norm"), _layer_norm),
        **dict.fromkeys(("rms_norm", "_fused_rms_norm"), _rms_norm),
        **dict.fromkeys(
            ("batch_norm", "_native_batch_norm_legit_no_training", "native_batch_norm"),
            _batch_norm),
        **dict.fromkeys(("instance_norm", "_native_batch_norm_legit"), _instance_norm),
        **dict.fromkeys(("group_norm", "native_group_norm"), _group_norm),
        **dict.fromkeys(
            ("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax"), _softmax),
        **dict.fromkeys(_KERNELS, _attention),
    }
)  # fmt: skip
