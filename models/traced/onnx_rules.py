"""ONNX operators: shapes, constants and plain arithmetic. See :mod:`.onnx_layers` for layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer, Mul

from costgraph.ir.dtypes import FP32, INT64
from costgraph.ir.op import same
from costgraph.models.traced.formats import format_of
from costgraph.models.traced.known import MOST_KNOWN
from costgraph.models.traced.laws import looked_up
from costgraph.models.traced.lowering import Lowering, Rule
from costgraph.models.traced.onnx_arguments import attribute, given, option
from costgraph.models.traced.record import Call
from costgraph.models.traced.value import Value
from costgraph.ops.arrays import Copy, Fill, Gather, GatherElements, Scatter
from costgraph.ops.maps import Map, Reduce, TopK
from costgraph.ops.tokens import Embedding

ONE = Integer(1)


# --- element-wise

_BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow", "Mod": "mod",
    "Equal": "eq", "Less": "lt", "LessOrEqual": "le", "Greater": "gt", "GreaterOrEqual": "ge",
    "And": "and", "Or": "or", "Xor": "xor", "PRelu": "prelu", "BitShift": "shift_bits",
    "BitwiseAnd": "and", "BitwiseOr": "or", "BitwiseXor": "xor",
}  # fmt: skip
_UNARY = {
    "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Sqrt": "sqrt", "Exp": "exp",
    "Log": "log", "Neg": "neg", "Abs": "abs", "Floor": "floor", "Ceil": "ceil",
    "Round": "round", "Sign": "sign", "Reciprocal": "reciprocal", "Erf": "erf", "Sin": "sin",
    "Cos": "cos", "Tan": "tan", "Not": "not", "IsNaN": "isnan", "IsInf": "isnan",
    "Asin": "asin", "Acos": "acos", "Atan": "atan", "Sinh": "sinh", "Cosh": "cosh",
    "Asinh": "asinh", "Acosh": "acosh", "Atanh": "atanh", "LeakyRelu": "leaky_relu",
    "HardSigmoid": "hard_sigmoid", "HardSwish": "hard_swish", "Elu": "elu", "Selu": "selu",
    "Softplus": "softplus", "Softsign": "softsign", "Mish": "mish", "Celu": "elu",
    "ThresholdedRelu": "relu", "BitwiseNot": "not", "Swish": "silu",
}  # fmt: skip
_MANY = {"Sum": "sum", "Max": "largest", "Min": "smallest", "Mean": "average"}


def _binary(low: Lowering, call: Call) -> Value:
    a, b = low.value(call.args[0]), low.value(call.args[1])
    function = _BINARY[call.target]
    if function == "div" and a.dtype == INT64 and a.known and b.known:
        function = "floor_div"
    return low.apply(function, a, b)


def _unary(low: Lowering, call: Call) -> Value:
    return low.apply(_UNARY[call.target], low.value(call.args[0]))


def _gelu(low: Lowering, call: Call) -> Value:
    function = "gelu_tanh" if attribute(call, "approximate", "none") == "tanh" else "gelu"
    return low.apply(function, low.value(call.args[0]))


def _many(low: Lowering, call: Call) -> Value:
    values = [low.value(a) for a in call.args]
    if len(values) == 1:
        return values[0]
    if len(values) == 2:
        two = {"Sum": "add", "Max": "max", "Min": "min"}.get(call.target)
        if two is not None:
            return low.apply(two, *values)
    return low.emit(Map(_MANY[call.target]), *values)


def _clip(low: Lowering, call: Call) -> Value:
    return low.apply("clip", low.value(call.args[0]))


def _where(low: Lowering, call: Call) -> Value:
    condition, a, b = (low.value(x) for x in call.args)
    return low.where(condition, a, b)


def _cast(low: Lowering, call: Call) -> Value:
    return low.cast(low.value(call.args[0]), format_of(str(call.attributes["to"]), "Cast"))


def _cast_like(low: Lowering, call: Call) -> Value:
    return low.cast(low.value(call.args[0]), low.value(call.args[1]).dtype)


def same_value(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    """The operand itself; further results are not modelled."""
    return (low.value(call.args[0]), None)


# --- shapes


def _shape(low: Lowering, call: Call) -> Value:
    shape = low.value(call.args[0]).shape
    start, end = attribute(call, "start", 0), attribute(call, "end", None)
    part = shape[start:end]
    return low.constant(part, (Integer(len(part)),))


def _size(low: Lowering, call: Call) -> Value:
    return low.constant((Mul(*low.value(call.args[0]).shape),), ())


def _constant(low: Lowering, call: Call) -> Value:
    value = call.attributes["value"]
    if isinstance(value, tuple):
        known = tuple(Integer(v) if type(v) is int else v for v in value)
        kind = FP32 if any(isinstance(v, float) for v in known) else INT64
        return low.constant(known, (Integer(len(known)),), kind)
    return low.value(value)


def _sizes(low: Lowering, argument: Any, what: str) -> tuple[Expr, ...]:
    found = low.numbers(argument, what)
    if not all(isinstance(n, (int, Expr)) for n in found):
        raise low.wrong(f"{what} must be sizes")
    return tuple(Integer(n) if isinstance(n, int) else n for n in found)


def _constant_of_shape(low: Lowering, call: Call) -> Value:
    shape = _sizes(low, call.args[0], "shape")
    kind = format_of(str(attribute(call, "dtype", "float32")), "ConstantOfShape")
    fill = attribute(call, "fill", 0)
    size = Mul(*shape)
    if size.is_Integer and size <= MOST_KNOWN and not kind.is_float:
        return low.constant((Integer(fill),) * int(size), shape, kind)
    return low.filled(shape, kind, float(fill) if kind.is_float else fill)


def _reshape(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    wanted = call.args[1] if given(call, 1) else call.attributes["shape"]
    sizes = list(_sizes(low, wanted, "shape"))
    if not attribute(call, "allowzero", 0):
        sizes = [x.shape[i] if s == 0 else s for i, s in enumerate(sizes)]
    return low.reshape(x, sizes)


def _flatten(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    axis = attribute(call, "axis", 1)
    axis = axis + len(x.shape) if axis < 0 else axis
    return low.reshape(x, (Mul(*x.shape[:axis]), Mul(*x.shape[axis:])))


def _squeeze(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    axes = option(low, call, 1, "axes", None)
    if axes is None:
        return low.reshape(x, tuple(s for s in x.shape if s != 1))
    gone = {low.axis(x, a) for a in axes}
    return low.reshape(x, tuple(s for i, s in enumerate(x.shape) if i not in gone))


def _unsqueeze(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    axes = option(low, call, 1, "axes", None)
    if axes is None:
        raise low.wrong("no axes")
    rank = len(x.shape) + len(axes)
    new = {a % rank for a in axes}
    rest = iter(x.shape)
    return low.reshape(x, tuple(ONE if i in new else next(rest) for i in range(rank)))


def _transpose(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    return low.transpose(x, attribute(call, "perm", tuple(reversed(range(len(x.shape))))))


def _expand(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    wanted = list(_sizes(low, call.args[1], "shape"))
    rank = max(len(wanted), len(x.shape))
    mine = (ONE,) * (rank - len(x.shape)) + x.shape
    wanted = [ONE] * (rank - len(wanted)) + wanted
    sizes = []
    for a, b in zip(mine, wanted, strict=True):
        if a != 1 and b != 1 and not same(a, b):
            raise low.wrong(f"cannot expand a size of {a} to {b}")
        sizes.append(a if b == 1 else b)
    return low.expand(x, sizes)


def _slice(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    if given(call, 1):
        starts, ends = (low.numbers(call.args[i], n) for i, n in ((1, "starts"), (2, "ends")))
    else:
        starts, ends = call.attributes["starts"], call.attributes["ends"]
    axes = option(low, call, 3, "axes", tuple(range(len(starts)))) or ()
    steps = option(low, call, 4, "steps", (1,) * len(starts)) or ()
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = low.cut(x, axis, start, end, step)
    return x


def _split(low: Lowering, call: Call) -> tuple[Value, ...]:
    x = low.value(call.args[0])
    axis = low.axis(x, attribute(call, "axis", 0))
    count = len(call.results)
    stated = option(low, call, 1, "split", None)
    sizes: list[Expr]
    if stated is not None:
        sizes = [Integer(s) for s in stated]
    else:
        each = x.shape[axis] / count
        if each.is_number and not each.is_Integer:
            whole = -(-x.shape[axis] // count)
            sizes = [whole] * (count - 1) + [x.shape[axis] - whole * (count - 1)]
        else:
            sizes = [each] * count
    parts, start = [], Integer(0)
    for size in sizes:
        parts.append(low.part(x, axis, start, size))
        start = start + size
    return tuple(parts)


def _concat(low: Lowering, call: Call) -> Value:
    return low.join([low.value(a) for a in call.args if a is not None], call.attributes["axis"])


def _gather(low: Lowering, call: Call) -> Value:
    x, indices = low.value(call.args[0]), low.value(call.args[1])
    axis = low.axis(x, attribute(call, "axis", 0))
    if x.known is not None and indices.known is not None and len(x.shape) == 1:
        places = low.integers(call.args[1], "indices")
        known = tuple(x.known[p] for p in places)
        return low.constant(known, indices.shape, x.dtype)
    if indices.number is not None and isinstance(indices.number, (int, Integer)):
        part = low.chosen(x, axis, int(indices.number))
        return low.reshape(part, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    return gathered(low, x, indices, axis)


def gathered(low: Lowering, x: Value, indices: Value, axis: int) -> Value:
    """Rows of a table, or entries along an axis."""
    is_table = x.source is not None and x.source.role == "weight" and len(x.shape) == 2
    if axis == 0 and is_table:
        return low.emit(Embedding(), indices, x, name=low.module())
    made = low.emit(Gather(axis), x, indices)
    back = axis - len(x.shape)
    law = looked_up(x, {back: indices}, -1 - back)
    return made if law is None else replace(made, law=law)


def elements(low: Lowering, x: Value, indices: Value) -> Value:
    """One entry of ``x`` per index along an axis."""
    return replace(low.emit(GatherElements(indices.shape), x, indices), law=looked_up(x, {}))


def _gather_elements(low: Lowering, call: Call) -> Value:
    return elements(low, low.value(call.args[0]), low.value(call.args[1]))


def _gather_nd(low: Lowering, call: Call) -> Value:
    x, indices = low.value(call.args[0]), low.value(call.args[1])
    lead, last = attribute(call, "batch_dims", 0), indices.shape[-1]
    if not last.is_Integer:
        raise low.wrong("the depth of its indices is not known")
    return low.emit(GatherElements((*indices.shape[:-1], *x.shape[lead + int(last) :])), x, indices)


def _scatter(low: Lowering, call: Call) -> Value:
    return low.emit(Scatter(), *(low.value(a) for a in call.args[:3]))


def _range(low: Lowering, call: Call) -> Value:
    start, limit, step = (low.value(a) for a in call.args)
    a, b, s = start.number, limit.number, step.number
    if a is None or b is None or s is None or s == 0:
        raise low.wrong("its bounds depend on data")
    if all(isinstance(n, (int, Integer)) for n in (a, b, s)):
        known = tuple(Integer(n) for n in range(int(a), int(b), int(s))[: MOST_KNOWN + 1])
        if 0 < len(known) <= MOST_KNOWN:
            return low.constant(known, (Integer(len(known)),), start.dtype)
    length = b - a if s == 1 else -((-(b - a)) // s)
    if isinstance(length, float):
        length = Integer(int(length))
    return low.ramp(length, a, s, start.dtype)


def _tile(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    repeats = _sizes(low, call.args[1], "repeats")
    return low.emit(Copy(tuple(a * b for a, b in zip(x.shape, repeats, strict=True))), x)


def _pad(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    if given(call, 1):
        pads = _sizes(low, call.args[1], "pads")
    else:
        pads = tuple(Integer(p) for p in call.attributes["pads"])
    axes = option(low, call, 3, "axes", tuple(range(len(x.shape)))) or ()
    shape = list(x.shape)
    for i, axis in enumerate(axes):
        shape[low.axis(x, axis)] += pads[i] + pads[i + len(axes)]
    if all(p == 0 for p in pads):
        return x
    return low.emit(Copy(tuple(shape)), x)


def _trilu(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    k = low.numbers(call.args[1], "k")[0] if given(call, 1) else 0
    return low.triangle(x, bool(attribute(call, "upper", 1)), Integer(0) + k)


def _one_hot(low: Lowering, call: Call) -> Value:
    x, kind = low.value(call.args[0]), low.value(call.args[2]).dtype
    (depth,) = low.numbers(call.args[1], "depth")
    axis = attribute(call, "axis", -1) % (len(x.shape) + 1)
    shape = (*x.shape[:axis], Integer(0) + depth, *x.shape[axis:])
    wide = low.reshape(x, (*x.shape[:axis], ONE, *x.shape[axis:]))
    places = low.emit(Fill((shape[axis], *(ONE,) * (len(shape) - 1 - axis)), x.dtype))
    return low.emit(Map("eq", kind), wide, places)


# --- reductions

_REDUCTIONS = {
    "ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min",
    "ReduceProd": "prod", "ReduceL1": "norm1", "ReduceL2": "norm2",
    "ReduceSumSquare": "sum_square", "ReduceLogSumExp": "log_sum_exp",
    "ArgMax": "argmax", "ArgMin": "argmin",
}  # fmt: skip


def _reduce(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    every = tuple(range(len(x.shape)))
    if call.target.startswith("Arg"):
        axes: tuple[int, ...] = (attribute(call, "axis", 0),)
    else:
        axes = option(low, call, 1, "axes", ()) or ()
        if not axes:
            if attribute(call, "noop_with_empty_axes", 0):
                return x
            axes = every
    axes = tuple(sorted(low.axis(x, a) for a in axes))
    keep = bool(attribute(call, "keepdims", 1))
    function = _REDUCTIONS[call.target]
    if x.known is not None and axes == every and function in ("prod", "sum", "max", "min"):
        two = {"prod": "mul", "sum": "add"}.get(function, function)
        total = low.constant(x.known[:1], (), x.dtype)
        for n in x.known[1:]:
            total = low.apply(two, total, low.constant((n,), (), x.dtype))
        return low.reshape(total, (ONE,) * len(x.shape)) if keep else total
    return low.emit(Reduce(function, axes, keep), x)


def _cumulate(low: Lowering, call: Call) -> Value:
    (axis,) = low.integers(call.args[1], "axis")
    plain = not attribute(call, "exclusive", 0) and not attribute(call, "reverse", 0)
    return low.cumulate(low.value(call.args[0]), axis, plain)


def _top_k(low: Lowering, call: Call) -> tuple[Value, ...]:
    x = low.value(call.args[0])
    (k,) = option(low, call, 1, "k", None) or (1,)
    return low.emit_many(TopK(Integer(k), low.axis(x, attribute(call, "axis", -1))), x)


def _random(low: Lowering, call: Call) -> Value:
    if call.target.endswith("Like"):
        x = low.value(call.args[0])
        return low.emit(Fill(x.shape, x.dtype))
    return low.emit(Fill(tuple(Integer(s) for s in call.attributes["shape"]), FP32))


def _eye_like(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    return low.emit(Fill(x.shape, x.dtype))


def _non_zero(low: Lowering, call: Call) -> Value:
    raise low.wrong("the size of its result depends on data")


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(_BINARY, _binary),
        **dict.fromkeys(_UNARY, _unary),
        **dict.fromkeys(_MANY, _many),
        **dict.fromkeys(_REDUCTIONS, _reduce),
        **dict.fromkeys(
            ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"), _random
        ),
        **dict.fromkeys(("Identity", "Dropout"), same_value),
        **dict.fromkeys(("ScatterElements", "ScatterND", "Scatter"), _scatter),
        "Gelu": _gelu,
        "Clip": _clip,
        "Where": _where,
        "Cast": _cast,
        "CastLike": _cast_like,
        "Shape": _shape,
        "Size": _size,
        "Constant": _constant,
        "ConstantOfShape": _constant_of_shape,
        "Reshape": _reshape,
        "Flatten": _flatten,
        "Squeeze": _squeeze,
        "Unsqueeze": _unsqueeze,
        "Transpose": _transpose,
        "Expand": _expand,
        "Slice": _slice,
        "Split": _split,
        "Concat": _concat,
        "Gather": _gather,
        "GatherElements": _gather_elements,
        "GatherND": _gather_nd,
        "Range": _range,
        "Tile": _tile,
        "Pad": _pad,
        "Trilu": _trilu,
        "OneHot": _one_hot,
        "CumSum": _cumulate,
        "TopK": _top_k,
        "EyeLike": _eye_like,
        "NonZero": _non_zero,
    }
)
