"""ATen operators that make, move and compare arrays, beside the usual ones of :mod:`.aten`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer

from costgraph.models.traced.aten_arguments import argument, stated, stated_shape
from costgraph.models.traced.formats import BOOL
from costgraph.models.traced.lowering import Lowering, Rule
from costgraph.models.traced.record import Call
from costgraph.models.traced.value import Value
from costgraph.ops.arrays import Copy, Fill, Scatter
from costgraph.ops.maps import Cumulate, Map, Reduce
from costgraph.ops.signal import Search
from costgraph.ops.views import Windows

ONE = Integer(1)


def _filled(low: Lowering, call: Call) -> Value:
    kind = stated(call)
    if kind is None:
        raise low.wrong("the trace does not state its result")
    fills = {"zeros": 0, "ones": 1, "zeros_like": 0, "ones_like": 1, "new_zeros": 0, "new_ones": 1}
    places = {"full": 1, "full_like": 1, "scalar_tensor": 0, "new_full": 2, "fill": 1}
    fill: Any = fills.get(call.target)
    if call.target in places:
        fill = argument(call, places[call.target], "fill_value", None)
    number = fill if isinstance(fill, (bool, int, float, Expr)) else None
    return low.filled(stated_shape(low, call), kind, number)


def _arange(low: Lowering, call: Call) -> Value:
    (length,), kind = stated_shape(low, call), stated(call)
    if kind is None:
        raise low.wrong("the trace does not state its result")
    bounds = call.args[:3]
    start = bounds[0] if len(bounds) > 1 else 0
    step = bounds[2] if len(bounds) > 2 else call.attributes.get("step", 1)
    return low.ramp(length, start, step, kind)


def _copy(low: Lowering, call: Call) -> Value:
    """``copy(x, source)``: the source in the shape and format of ``x``; what follows stores it."""
    x, source = low.value(call.args[0]), low.value(call.args[1])
    return low.expand(low.cast(source, x.dtype), x.shape)


def _copied(low: Lowering, call: Call) -> Value:
    """Padding, repeating, flipping, rolling: a copy of the stated shape."""
    return low.emit(Copy(stated_shape(low, call)), low.value(call.args[0]))


def _interleaved(low: Lowering, call: Call) -> Value:
    """Every entry of an axis ``k`` times: an expansion, where ``k`` is a number."""
    if len(call.args) < 2 or not isinstance(call.args[1], int):
        raise low.wrong("repeats that depend on data are not supported")
    x, times = low.value(call.args[0]), Integer(call.args[1])
    named = argument(call, 2, "dim", None)
    if named is None:
        x, named = low.reshape(x, (-ONE,)), 0
    axis = low.axis(x, named)
    head, tail = x.shape[: axis + 1], x.shape[axis + 1 :]
    wide = low.expand(low.reshape(x, (*head, ONE, *tail)), (*head, times, *tail))
    return low.reshape(wide, (*x.shape[:axis], x.shape[axis] * times, *tail))


def _windows(low: Lowering, call: Call) -> Value:
    """``x.unfold``: windows that may overlap, seen where they are."""
    return low.emit(Windows(stated_shape(low, call)), low.value(call.args[0]))


# --- scattering


def _index_put(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    places = [low.value(a) for a in call.args[1] if a is not None]
    adds = bool(argument(call, 3, "accumulate", False))
    return low.emit(Scatter(combines=adds), x, *places, low.value(call.args[2]))


def _scatter(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    if call.target in ("select_scatter", "slice_scatter", "diagonal_scatter"):
        return low.emit(Scatter(), x, low.value(call.args[1]))
    combines = call.target in ("scatter_add", "scatter_reduce", "index_add", "index_reduce")
    # A number in place of updates goes to every index.
    indices, source = low.value(call.args[2]), low.value(call.args[3])
    if source.number is not None and source.source is None:
        shape = list(indices.shape)
        if call.target.startswith("index"):
            shape = list(x.shape)
            shape[low.axis(x, call.args[1])] = indices.shape[0]
        source = low.expand(low.cast(source, x.dtype), shape)
    return low.emit(Scatter(combines=combines), x, indices, source)


def _counted(low: Lowering, call: Call) -> Value:
    """``bincount`` and ``histc``: one addition per element."""
    x, kind = low.value(call.args[0]), stated(call)
    bins = low.filled(stated_shape(low, call), kind or x.dtype, 0)
    return low.emit(Scatter(combines=True), bins, x)


# --- differences, cumulations, several reductions at once


def _diff(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    times, axis = argument(call, 1, "n", 1), low.axis(x, argument(call, 2, "dim", -1))
    ends = [argument(call, p, name, None) for p, name in ((3, "prepend"), (4, "append"))]
    parts = [v for v in (ends[0], call.args[0], ends[1]) if v is not None]
    if len(parts) > 1:
        x = low.join([low.value(v) for v in parts], axis)
    for _ in range(times):
        length = x.shape[axis] - 1
        later, earlier = (low.part(x, axis, Integer(start), length) for start in (1, 0))
        x = low.apply("ne" if x.dtype == BOOL else "sub", later, earlier)
    return x


def _cumulate(low: Lowering, call: Call) -> Value:
    x, kind = low.value(call.args[0]), stated(call)
    axis = argument(call, 1, "dim", 0)
    return low.cumulate(x if kind is None else low.cast(x, kind), axis, call.target == "cumsum")


def _cumulate_others(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    x = low.value(call.args[0])
    return (low.emit(Cumulate(call.target == "logcumsumexp"), x), None)


def _moments(low: Lowering, call: Call) -> tuple[Value, ...]:
    """``var_mean`` and ``std_mean``."""
    x = low.value(call.args[0])
    listed = axes_of(low, x, argument(call, 1, "dim", None))
    keep = bool(argument(call, 3, "keepdim", call.attributes.get("keepdim", False)))
    spread = call.target.removesuffix("_mean")
    return tuple(low.emit(Reduce(f, listed, keep), x) for f in (spread, "mean"))


def _extremes(low: Lowering, call: Call) -> tuple[Value, ...]:
    x = low.value(call.args[0])
    listed = axes_of(low, x, call.attributes.get("dim"))
    keep = bool(call.attributes.get("keepdim", False))
    return tuple(low.emit(Reduce(f, listed, keep), x) for f in ("min", "max"))


def axes_of(low: Lowering, x: Value, axes: Any) -> tuple[int, ...]:
    """Axes that an operator names, all of them where it names none."""
    if axes is None or axes == ():
        return tuple(range(len(x.shape)))
    listed = axes if isinstance(axes, tuple) else (axes,)
    return tuple(sorted(low.axis(x, a) for a in listed))


# --- element-wise, in some way


def _prelu(low: Lowering, call: Call) -> Value:
    """One slope for all, or one per channel (the second axis)."""
    x, slope = low.value(call.args[0]), low.value(call.args[1])
    if len(slope.shape) == 1 and slope.shape[0] != 1 and len(x.shape) > 1:
        slope = low.reshape(slope, (*slope.shape, *(ONE,) * (len(x.shape) - 2)))
    return low.apply("prelu", x, slope)


def _glu(low: Lowering, call: Call) -> Value:
    x = low.value(call.args[0])
    axis = low.axis(x, argument(call, 1, "dim", -1))
    half = x.shape[axis] / 2
    first, second = (low.part(x, axis, start, half) for start in (Integer(0), half))
    return low.apply("mul", first, low.apply("sigmoid", second))


def _lerp(low: Lowering, call: Call) -> Value:
    values = [low.value(a) for a in call.args[:3]]
    return low.emit(Map("lerp"), *(v for v in values if v.number is None))


def _weight_norm(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    """``g·v/|v|``, norms over all axes but one."""
    v, g = low.value(call.args[0]), low.value(call.args[1])
    axis = low.axis(v, argument(call, 2, "dim", 0))
    others = tuple(a for a in range(len(v.shape)) if a != axis)
    norm = low.emit(Reduce("norm2", others, True), v)
    return (low.apply("mul", v, low.apply("div", g, norm)), norm)


def _where_kept(low: Lowering, call: Call) -> Value:
    """``masked_scatter`` writes as many elements as the mask says: all of the source at most."""
    x, mask, source = (low.value(a) for a in call.args[:3])
    return low.emit(Scatter(), x, mask, source)


def _found(low: Lowering, call: Call) -> Value:
    first, second = low.value(call.args[0]), low.value(call.args[1])
    edges, x = (second, first) if call.target == "bucketize" else (first, second)
    return low.emit(Search(), edges, x)


def _random(low: Lowering, call: Call) -> Value:
    kind = stated(call)
    if kind is None:
        raise low.wrong("the trace does not state its result")
    return low.emit(Fill(stated_shape(low, call), kind))


def _isfinite(low: Lowering, call: Call) -> Value:
    return replace(low.apply("isnan", low.value(call.args[0])), law=None)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(
            ("full", "full_like", "zeros", "zeros_like", "ones", "ones_like", "empty",
             "empty_like", "scalar_tensor", "new_zeros", "new_ones", "new_full", "new_empty",
             "fill", "empty_permuted", "empty_strided", "new_empty_strided"), _filled),
        **dict.fromkeys(
            ("linspace", "eye", "rand", "randn", "rand_like", "randn_like", "randint",
             "randint_like", "randperm", "logspace", "bernoulli", "hann_window"), _random),
        **dict.fromkeys(
            ("repeat", "tile", "flip", "roll", "pad", "constant_pad_nd",
             "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "reflection_pad1d",
             "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d",
             "replication_pad3d", "rot90", "im2col", "fliplr", "flipud"), _copied),
        **dict.fromkeys(
            ("scatter", "scatter_add", "scatter_reduce", "select_scatter", "slice_scatter",
             "diagonal_scatter", "index_copy", "index_add", "index_reduce", "index_fill"),
            _scatter),
        **dict.fromkeys(("index_put", "_unsafe_index_put"), _index_put),
        **dict.fromkeys(("bincount", "histc"), _counted),
        **dict.fromkeys(("cumsum", "cumprod"), _cumulate),
        **dict.fromkeys(("logcumsumexp", "cummax", "cummin"), _cumulate_others),
        **dict.fromkeys(("var_mean", "std_mean"), _moments),
        **dict.fromkeys(("prelu", "_prelu_kernel"), _prelu),
        **dict.fromkeys(("searchsorted", "bucketize"), _found),
        **dict.fromkeys(("_weight_norm", "_weight_norm_interface"), _weight_norm),
        **dict.fromkeys(("isfinite", "isposinf", "isneginf"), _isfinite),
        **dict.fromkeys(("unfold", "unfold_copy"), _windows),
        "repeat_interleave": _interleaved,
        "arange": _arange,
        "aminmax": _extremes,
        "copy": _copy,
        "diff": _diff,
        "glu": _glu,
        "lerp": _lerp,
        "masked_scatter": _where_kept,
    }
)  # fmt: skip
