"""Attention as one operator: the standard's, and those of ONNX Runtime.

Past keys and values are caches: operands that stay in memory, to which a step adds
its own. What the operator hands out as present ones is the cache after the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer, Mul

from costgraph.models.traced.attend import SWAP, attention
from costgraph.models.traced.lowering import Lowering, Rule
from costgraph.models.traced.onnx_arguments import attribute, given
from costgraph.models.traced.quantized import stored_with
from costgraph.models.traced.record import Call
from costgraph.models.traced.value import Value
from costgraph.ops.rotary import RotaryPair

ONE = Integer(1)
ZERO = Integer(0)


def _heads(low: Lowering, x: Value, count: Any) -> Value:
    """``(B, S, H·dh)`` or ``(B, H, S, dh)`` as ``(B, S, H, dh)``."""
    if len(x.shape) == 4:
        return low.transpose(x, SWAP)
    if len(x.shape) != 3 or not count:
        raise low.wrong(f"an operand of {len(x.shape)} axes, and {count} heads")
    return low.reshape(x, (*x.shape[:2], Integer(count), x.shape[2] / Integer(count)))


def _joined(low: Lowering, x: Value) -> Value:
    return low.reshape(x, (*x.shape[:2], Mul(*x.shape[2:])))


def _extended(
    low: Lowering, call: Call, places: tuple[int, int], keys: Value, values: Value
) -> tuple[Value, Value, Expr, list[Value | None]]:
    """Keys and values with those of the past, how many those are, and the present ones."""
    if not given(call, places[0]) or not given(call, places[1]):
        present: list[Value | None] = [low.transpose(v, SWAP) for v in (keys, values)]
        return keys, values, ZERO, present
    pasts = [low.value(call.args[p]) for p in places]
    length = pasts[0].shape[2]
    whole = [low.cache(p, v) for p, v in zip(pasts, (keys, values), strict=True)]
    present = [low.resident([v.shape[i] for i in SWAP], v.dtype) for v in whole]
    return whole[0], whole[1], length, present


def _standard(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    """The standard operator ``Attention`` (operator set 23)."""
    query, keys, values = (low.value(a) for a in call.args[:3])
    flat = len(query.shape) == 3
    counts = [attribute(call, n, None) for n in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
    query, keys, values = (
        _heads(low, v, n) for v, n in zip((query, keys, values), counts, strict=True)
    )
    keys, values, past, present = _extended(low, call, (4, 5), keys, values)
    made = attention(
        low,
        query,
        keys,
        values,
        causal=bool(attribute(call, "is_causal", 0)),
        past=past,
        biases=[low.value(call.args[3])] if given(call, 3) else (),
        cap=bool(attribute(call, "softcap", 0.0)),
        heads_first=False,
    )
    made = _joined(low, made) if flat else low.transpose(made, SWAP)
    return (made, *present, None)


# --- ONNX Runtime


def _mask(low: Lowering, call: Call, place: int, batch: Expr) -> list[Value]:
    """A mask of keys: ``(B, T)``, ``(B, q, T)``, with heads, or lengths of sequences."""
    if not given(call, place):
        return []
    mask = low.value(call.args[place])
    if len(mask.shape) == 4:
        return [mask]
    if len(mask.shape) == 3:
        return [low.reshape(mask, (mask.shape[0], ONE, *mask.shape[1:]))]
    if len(mask.shape) == 2:
        return [low.reshape(mask, (mask.shape[0], ONE, ONE, mask.shape[1]))]
    return [low.reshape(mask, (*mask.shape, ONE, ONE, ONE))] if mask.shape[0] == batch else []


def _bias(low: Lowering, call: Call, place: int) -> list[Value]:
    return [low.value(call.args[place])] if given(call, place) else []


def _packed(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    """``Attention``: projections of queries, keys and values as one, then attention."""
    x, w = low.value(call.args[0]), low.value(call.args[1])
    bias = low.value(call.args[2]) if given(call, 2) else None
    heads = Integer(call.attributes["num_heads"])
    widths = [Integer(n) for n in call.attributes.get("qkv_hidden_sizes") or ()]
    widths = widths or [w.shape[1] / 3] * 3
    both = low.matmul(x, w, bias, name=low.label("qkv"))
    parts, start = [], ZERO
    for width in widths:
        parts.append(_heads(low, low.part(both, 2, start, width), heads))
        start = start + width
    query, keys, values = parts
    past, present = ZERO, None
    if given(call, 4):
        # (2, B, H, P, dh): keys and values of the past in one operand.
        held = low.value(call.args[4])
        past = held.shape[3]
        if held.source is None or held.source.role != "input" or low.uses(held) != 1:
            raise low.wrong("its past is not an operand of the graph")
        each = [Value(held.name, held.shape[1:], held.dtype, source=held.source) for _ in range(2)]
        keys, values = (
            low.cache(p, v, s) for p, v, s in zip(each, (keys, values), (".keys", ".values"),
                                                  strict=True)
        )  # fmt: skip
        shape = (Integer(2), *(keys.shape[i] for i in SWAP))
        present = low.resident(shape, keys.dtype)
    made = attention(
        low,
        query,
        keys,
        values,
        causal=bool(attribute(call, "unidirectional", 0)),
        past=past,
        biases=[*_mask(low, call, 3, x.shape[0]), *_bias(low, call, 5)],
        heads_first=False,
    )
    return (_joined(low, made), present)


def _multi_head(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    """``MultiHeadAttention``: projected queries, keys and values, or all three in one operand."""
    count = Integer(call.attributes["num_heads"])
    query = low.value(call.args[0])
    if len(query.shape) == 5:  # (B, S, H, 3, dh)
        query, keys, values = (low.chosen(query, 3, i) for i in range(3))
    else:
        keys = low.value(call.args[1])
        if len(keys.shape) == 5:  # (B, T, H, 2, dh)
            keys, values = (low.chosen(keys, 3, i) for i in range(2))
        else:
            keys, values = (_heads(low, low.value(call.args[p]), count) for p in (1, 2))
        query = _heads(low, query, count)
    if given(call, 3):
        bias, start = low.value(call.args[3]), ZERO
        added = []
        for part in (query, keys, values):
            width = part.shape[2] * part.shape[3]
            mine = low.reshape(low.part(bias, 0, start, width), part.shape[2:])
            added.append(low.apply("add", part, mine))
            start = start + width
        query, keys, values = added
    keys, values, past, present = _extended(low, call, (6, 7), keys, values)
    made = attention(
        low,
        query,
        keys,
        values,
        causal=bool(attribute(call, "unidirectional", 0)),
        past=past,
        biases=[*_mask(low, call, 4, query.shape[0]), *_bias(low, call, 5)],
        heads_first=False,
    )
    return (_joined(low, made), *present, None)


def _grouped_query(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    """``GroupQueryAttention``: causal, over a cache, rotated on the way if asked."""
    heads, shared = (Integer(call.attributes[n]) for n in ("num_heads", "kv_num_heads"))
    packed = low.value(call.args[0])
    if given(call, 1):
        parts = [packed, *(low.value(call.args[p]) for p in (1, 2))]
    else:
        size = packed.shape[2] / (heads + 2 * shared)
        bounds = (ZERO, heads * size, (heads + shared) * size)
        widths = (heads * size, shared * size, shared * size)
        parts = [low.part(packed, 2, a, n) for a, n in zip(bounds, widths, strict=True)]
    query, keys, values = (
        _heads(low, v, n) for v, n in zip(parts, (heads, shared, shared), strict=True)
    )
    window = int(attribute(call, "local_window_size", -1))
    if attribute(call, "do_rotary", 0):
        length = low.value(call.args[3]).shape[2] if given(call, 3) else ZERO
        tables = [low.value(call.args[p]) for p in (7, 8)]
        query, keys = (_rotated(low, v, tables, length) for v in (query, keys))
    keys, values, past, present = _extended(low, call, (3, 4), keys, values)
    made = attention(
        low,
        query,
        keys,
        values,
        causal=bool(attribute(call, "causal", 1)),
        past=past,
        window=Integer(window) if window > 0 else None,
        biases=_bias(low, call, 10),
        cap=bool(attribute(call, "softcap", 0.0)),
        sinks=_bias(low, call, 11),
        heads_first=False,
    )
    return (_joined(low, made), *present, None)


def _rotated(low: Lowering, x: Value, tables: list[Value], before: Expr) -> Value:
    """``x (B, S, H, dh)`` rotated by tables ``(longest, rotary/2)`` of cosines and sines."""
    rows = x.shape[1]
    low.limit(before + rows, tables[0].shape[0])
    used = [low.part(t, 0, ZERO, rows) for t in tables]
    return low.emit(RotaryPair(1, halved=True), x, *used)


def _rotary(low: Lowering, call: Call) -> Value:
    """``RotaryEmbedding`` of both sets: the standard's takes the tables before the positions."""
    x = low.value(call.args[0])
    own = call.target.startswith("com.microsoft")
    tables = [low.value(call.args[p]) for p in ((2, 3) if own else (1, 2))]
    flat = len(x.shape) == 3
    count = attribute(call, "num_heads", 0)
    if flat and not count:
        count = x.shape[2] / (2 * tables[0].shape[-1])
    rows = _heads(low, x, count)
    if len(tables[0].shape) == 3:  # a row for every position of every sequence
        made = low.emit(RotaryPair(1, halved=True), rows, *tables)
    else:
        made = _rotated(low, rows, tables, ZERO)
    return _joined(low, made) if flat else low.transpose(made, SWAP)


def _quantized(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    """``QAttention``: the projection in 8 bits, attention in the scale's format."""
    x, scale = low.value(call.args[0]), low.value(call.args[3])
    scales = low.value(call.args[4])
    w = stored_with(low.value(call.args[1]), Mul(*scales.shape), scales.dtype, None)
    if given(call, 8) or not w.is_weight:
        raise low.wrong("past keys and values of quantised attention are not supported")
    bias, heads = low.value(call.args[2]), Integer(call.attributes["num_heads"])
    both = low.matmul(x, w, bias, name=low.label("qkv"), result=scale.dtype)
    width = both.shape[2] / 3
    query, keys, values = (
        _heads(low, low.part(both, 2, i * width, width), heads) for i in range(3)
    )
    causal = bool(attribute(call, "unidirectional", 0))
    masks = _mask(low, call, 5, x.shape[0])
    made = attention(low, query, keys, values, causal=causal, biases=masks, heads_first=False)
    return (_joined(low, made), None)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "Attention": _standard,
        "com.microsoft::Attention": _packed,
        "MultiHeadAttention": _multi_head,
        "GroupQueryAttention": _grouped_query,
        "RotaryEmbedding": _rotary,
        "com.microsoft::RotaryEmbedding": _rotary,
        "QAttention": _quantized,
    }
)
#: Operators that take a matrix of weights as their second operand.
PROJECTING = ("com.microsoft::Attention", "QAttention")
