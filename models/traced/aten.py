"""ATen operators, as ``torch.export`` writes them down.

Shapes and formats of results are stated in the trace; what the operands give must
agree with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.models.traced import (
    aten_arrays,
    aten_layers,
    aten_products,
    aten_recurrent,
    aten_signal,
    quantized,
)
from costgraph.models.traced.aten_arguments import argument, stated
from costgraph.models.traced.aten_arrays import axes_of
from costgraph.models.traced.aten_products import matrices
from costgraph.models.traced.formats import BOOL
from costgraph.models.traced.laws import looked_up
from costgraph.models.traced.lowering import Dialect, Lowering, Rule
from costgraph.models.traced.onnx_rules import elements, gathered
from costgraph.models.traced.record import Call, Ref
from costgraph.models.traced.value import Value
from costgraph.models.traced.viewing import TO_THE_END
from costgraph.ops.arrays import Fill, GatherElements
from costgraph.ops.maps import Map, Reduce, TopK

ONE = Integer(1)

_BINARY = {
    "add": "add", "sub": "sub", "mul": "mul", "div": "div", "true_divide": "div", "pow": "pow",
    "remainder": "mod", "fmod": "mod", "floor_divide": "floor_div", "eq": "eq", "ne": "ne",
    "lt": "lt", "le": "le", "gt": "gt", "ge": "ge", "logical_and": "and", "logical_or": "or",
    "logical_xor": "xor", "bitwise_and": "and", "bitwise_or": "or", "bitwise_xor": "xor",
    "__and__": "and", "__or__": "or", "__xor__": "xor", "maximum": "max", "minimum": "min",
    "atan2": "atan2", "hypot": "hypot", "fmax": "max", "fmin": "min", "rsub": "sub",
}  # fmt: skip
_UNARY = {
    "relu": "relu", "silu": "silu", "sigmoid": "sigmoid", "tanh": "tanh", "sqrt": "sqrt",
    "rsqrt": "rsqrt", "exp": "exp", "log": "log", "neg": "neg", "abs": "abs", "floor": "floor",
    "ceil": "ceil", "round": "round", "trunc": "truncate", "sign": "sign", "erf": "erf",
    "reciprocal": "reciprocal", "sin": "sin", "cos": "cos", "tan": "tan", "square": "square",
    "logical_not": "not", "bitwise_not": "not", "isnan": "isnan", "isinf": "isnan",
    "asin": "asin", "acos": "acos", "atan": "atan", "sinh": "sinh", "cosh": "cosh",
    "log1p": "log1p", "expm1": "expm1", "leaky_relu": "leaky_relu", "elu": "elu",
    "selu": "selu", "celu": "elu", "softplus": "softplus", "mish": "mish",
    "hardswish": "hard_swish", "hardsigmoid": "hard_sigmoid", "relu6": "clip",
    "hardtanh": "clip", "clamp": "clip", "clamp_min": "relu", "clamp_max": "relu",
    "clip": "clip", "exp2": "exp", "log2": "log", "log10": "log", "threshold": "relu",
    "hardshrink": "hardshrink", "softshrink": "softshrink", "log_sigmoid": "log_sigmoid",
    "log_sigmoid_forward": "log_sigmoid", "nan_to_num": "nan_to_num", "softsign": "softsign",
    "asinh": "asinh", "acosh": "acosh", "atanh": "atanh", "erfc": "erf", "frac": "frac",
    "logit": "logit", "sgn": "sign",
}  # fmt: skip
_REDUCTIONS = {
    "sum": "sum", "mean": "mean", "amax": "max", "amin": "min", "prod": "prod", "any": "any",
    "all": "all", "argmax": "argmax", "argmin": "argmin", "var": "var", "std": "std",
    "logsumexp": "log_sum_exp", "max": "max", "min": "min", "linalg_vector_norm": "norm2",
    "norm": "norm2",
}  # fmt: skip


def _binary(low: Lowering, call: Call) -> Value:
    a, b = low.value(call.args[0]), low.value(call.args[1])
    function = _BINARY[call.target]
    if call.target == "rsub":
        a, b = b, a
    scale = argument(call, 2, "alpha", 1)
    if call.target in ("add", "sub") and scale != 1:
        b = low.apply("mul", b, low.value(scale), result=b.dtype)
    if function == "div" and argument(call, 2, "rounding_mode", None) is not None:
        function = "floor_div"
    return low.apply(function, a, b, result=stated(call))


def _unary(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    kind = stated(call)
    return low.apply(_UNARY[call.target], x, result=None if kind == x.dtype else kind)


def _gelu(low: Lowering, call: Call) -> Value:
    tanh = argument(call, 1, "approximate", "none") == "tanh"
    return low.apply("gelu_tanh" if tanh else "gelu", low.value(call.args[0]))


def _where(low: Lowering, call: Call) -> Value:
    if len(call.args) < 3:
        raise low.wrong("the size of its result depends on data")
    made = low.where(*(low.value(a) for a in call.args[:3]))
    return _as_stated(low, made, call)


def _masked_fill(low: Lowering, call: Call) -> Value:
    x, mask, fill = (low.value(a) for a in call.args[:3])
    return low.where(mask, fill, x)


def _as_stated(low: Lowering, x: Value, call: Call) -> Value:
    """The value with the stated shape: numbers that stand for whole arrays are spread."""
    shape = call.results[0].shape
    if shape is not None and len(shape) != len(x.shape):
        return low.expand(x, shape)
    return x


def _addcmul(low: Lowering, call: Call) -> Value:
    a, b, c = (low.value(x) for x in call.args[:3])
    return low.emit(Map("addcmul"), a, b, c)


def _to(low: Lowering, call: Call) -> Value:
    kind = stated(call)
    x = low.value(call.args[0])
    return x if kind is None else low.cast(x, kind)


def _same(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    return (low.value(call.args[0]), None)


# --- views


def _to_stated_shape(low: Lowering, call: Call) -> Value:
    shape = call.results[0].shape
    if shape is None:
        raise low.wrong("the trace does not state its shape")
    return low.reshape(low.value(call.args[0]), shape)


def _expand(low: Lowering, call: Call) -> Value:
    shape = call.results[0].shape
    if shape is None:
        raise low.wrong("the trace does not state its shape")
    return low.expand(low.value(call.args[0]), shape)


def _permute(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    return low.transpose(x, [low.axis(x, a) for a in call.args[1]])


def _transpose(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    order = list(range(len(x.shape)))
    if call.target in ("t", "numpy_T"):
        return low.transpose(x, order[::-1])
    if call.target == "mT":
        first, second = len(order) - 2, len(order) - 1
    else:
        first, second = low.axis(x, call.args[1]), low.axis(x, call.args[2])
    order[first], order[second] = second, first
    return low.transpose(x, order)


def _slice(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    start, stop = argument(call, 2, "start", None), argument(call, 3, "end", None)
    axis, step = low.axis(x, argument(call, 1, "dim", 0)), argument(call, 4, "step", 1)
    shape = call.results[0].shape
    start = 0 if start is None else start
    if shape is None or x.known is not None:
        return low.cut(x, axis, start, TO_THE_END if stop is None else stop, step)
    # The trace knows what its sizes can be.
    length = low.within(shape[axis], x.shape[axis])
    first = low.bound(low.settled(start), x.shape[axis], inside=True)
    return low.part(x, axis, first, length, Integer(step))


def _narrow(low: Lowering, call: Call) -> Value:
    x, axis, start, length = call.args[:4]
    value = low.value(x)
    axis = low.axis(value, axis)
    return low.part(value, axis, low.bound(start, value.shape[axis]), Integer(0) + length)


def _select(low: Lowering, call: Call) -> Value:
    return low.chosen(low.value(call.args[0]), call.args[1], call.args[2])


def _parts(low: Lowering, call: Call) -> tuple[Value, ...]:
    """``split``, ``chunk``, ``unbind``: views at the sizes that the trace states."""
    x = low.value(call.args[0])
    axis = low.axis(x, argument(call, 1 if call.target == "unbind" else 2, "dim", 0))
    made, start = [], Integer(0)
    for result in call.results:
        if result.shape is None:
            raise low.wrong("the trace does not state its shape")
        size = ONE if call.target == "unbind" else result.shape[axis]
        part = low.part(x, axis, start, size)
        made.append(low.reshape(part, result.shape))
        start = start + size
    return tuple(made)


# --- moves


def _cat(low: Lowering, call: Call) -> Value:
    values = [low.value(a) for a in call.args[0]]
    if call.target == "stack":
        axis = argument(call, 1, "dim", 0) % (len(values[0].shape) + 1)
        new = [(*v.shape[:axis], ONE, *v.shape[axis:]) for v in values]
        values = [low.reshape(v, s) for v, s in zip(values, new, strict=True)]
        return low.join(values, axis)
    # Frameworks leave an empty vector out, whatever the others' axes.
    full = [v for v in values if v.shape != (Integer(0),)] or values[:1]
    return low.join(full, argument(call, 1, "dim", 0))


def _clone(low: Lowering, call: Call) -> Value:
    """``clone`` and ``contiguous`` ask for a layout; that costs nothing by itself here."""
    return low.value(call.args[0])


def _embedding(low: Lowering, call: Call) -> Value:
    return gathered(low, low.value(call.args[0]), low.value(call.args[1]), 0)


def _index_select(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    return gathered(low, x, low.value(call.args[2]), low.axis(x, call.args[1]))


def _index(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    places = [(i, low.value(a)) for i, a in enumerate(call.args[1]) if a is not None]
    if any(v.dtype == BOOL for _, v in places):
        raise low.wrong("the size of its result depends on data")
    if len(places) == 1:
        return gathered(low, x, places[0][1], places[0][0])
    shape = call.results[0].shape
    if shape is None:
        raise low.wrong("the trace does not state its shape")
    made = low.emit(GatherElements(shape), x, *(v for _, v in places))
    along = {axis - len(x.shape): v for axis, v in places}
    return replace(made, law=looked_up(x, along) if len(along) == len(x.shape) else None)


def _gather(low: Lowering, call: Call) -> Value:
    return elements(low, low.value(call.args[0]), low.value(call.args[2]))


def _triangle(low: Lowering, call: Call) -> Value:
    diagonal = Integer(0) + argument(call, 1, "diagonal", 0)
    return low.triangle(low.value(call.args[0]), call.target == "triu", diagonal)


# --- reductions


def _reduce(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    x = low.value(call.args[0])
    function = _REDUCTIONS[call.target]
    if call.target in ("max", "min") and len(call.args) > 1 and isinstance(call.args[1], Ref):
        return (low.apply(function, x, low.value(call.args[1])),)
    if call.target in ("linalg_vector_norm", "norm"):
        order = argument(call, 1, "ord", 2)
        function = "norm1" if order == 1 else "norm2"
        axes, keep = argument(call, 2, "dim", None), argument(call, 3, "keepdim", False)
    elif call.target in ("var", "std"):
        axes, keep = argument(call, 1, "dim", None), call.attributes.get("keepdim", False)
    else:
        axes, keep = argument(call, 1, "dim", None), argument(call, 2, "keepdim", False)
    listed = axes_of(low, x, axes)
    kind = stated(call)
    if kind is not None and kind != x.dtype and not function.startswith("arg"):
        x = low.cast(x, kind)
    made = low.emit(Reduce(function, listed, bool(keep)), x)
    indices = low.constant((), ()) if len(call.results) < 2 else None
    return (made, indices)


def _top_k(low: Lowering, call: Call) -> tuple[Value, ...]:
    x = low.value(call.args[0])
    if call.target == "topk":
        k, axis = Integer(0) + call.args[1], argument(call, 2, "dim", -1)
    else:
        axis = argument(call, 1, "dim", -1)
        k = x.shape[low.axis(x, axis)]
    made = low.emit_many(TopK(k, low.axis(x, axis)), x)
    return made if call.target != "argsort" else made[1:]


def _one_hot(low: Lowering, call: Call) -> Value:
    shape, kind = call.results[0].shape, stated(call)
    if shape is None:
        raise low.wrong("the trace does not state its shape")
    x = low.value(call.args[0])
    places = low.emit(Fill(shape[-1:], x.dtype))
    return low.emit(Map("eq", kind), low.reshape(x, (*x.shape, ONE)), places)


def _list(*names: str) -> tuple[str, ...]:
    return names


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(_BINARY, _binary),
        **dict.fromkeys(_UNARY, _unary),
        **dict.fromkeys(_REDUCTIONS, _reduce),
        **dict.fromkeys(_list("to", "_to_copy", "type_as", "float", "half"), _to),
        **dict.fromkeys(_list("dropout", "native_dropout", "feature_dropout", "detach"), _same),
        **dict.fromkeys(
            _list("alias", "lift_fresh_copy", "lift_fresh", "detach_copy", "positive"), _same
        ),
        **dict.fromkeys(_list("clone", "contiguous"), _clone),
        **dict.fromkeys(
            _list(
                "view",
                "reshape",
                "_unsafe_view",
                "unsqueeze",
                "squeeze",
                "flatten",
                "unflatten",
                "view_as",
                "reshape_as",
            ),
            _to_stated_shape,
        ),
        **dict.fromkeys(_list("expand", "expand_as", "broadcast_to"), _expand),
        **dict.fromkeys(_list("transpose", "t", "mT", "numpy_T", "swapaxes"), _transpose),
        **dict.fromkeys(
            _list("split", "split_with_sizes", "chunk", "unbind", "tensor_split"), _parts
        ),
        **dict.fromkeys(_list("cat", "concat", "stack"), _cat),
        **dict.fromkeys(_list("index", "_unsafe_index"), _index),
        **dict.fromkeys(_list("tril", "triu"), _triangle),
        **dict.fromkeys(_list("topk", "sort", "argsort"), _top_k),
        "gelu": _gelu,
        "where": _where,
        "masked_fill": _masked_fill,
        "addcmul": _addcmul,
        "permute": _permute,
        "slice": _slice,
        "narrow": _narrow,
        "select": _select,
        "embedding": _embedding,
        "index_select": _index_select,
        "gather": _gather,
        "one_hot": _one_hot,
        **aten_arrays.RULES,
        **aten_products.RULES,
        **aten_signal.RULES,
        **aten_layers.RULES,
        **aten_recurrent.RULES,
        **quantized.TORCH_RULES,
    }
)
DIALECT = Dialect(
    RULES,
    matrices,
    frozenset({"alias", "detach", "lift_fresh", "lift_fresh_copy", "detach_copy", "clone"}),
)
