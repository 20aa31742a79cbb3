"""The part of attention after the projections: cache, scores, softmax, weighted values."""

from __future__ import annotations

from collections.abc import Sequence

from sympy import Expr, Integer

from costgraph.models.blocks.style import Maker
from costgraph.ops import (
    Activation,
    Add,
    AttentionScores,
    AttentionValues,
    KVAppend,
    Multiply,
    RowScale,
    SoftCap,
    Softmax,
)
from costgraph.ops.maps import Map
from costgraph.ops.pattern import CAUSAL, Pattern


def cached(m: Maker, key: str, value: str) -> tuple[str, str]:
    """Appends new keys and values ``(B, q, Hk, dh)`` to the layer's caches."""
    heads, width = m.shape(key)[2:]
    keys = m.add("k_append", KVAppend(), m.cache("k_cache", heads, width), key)
    heads, width = m.shape(value)[2:]
    values = m.add("v_append", KVAppend(), m.cache("v_cache", heads, width), value)
    return keys, values


def attended(
    m: Maker,
    query: str,
    keys: str,
    values: str,
    pattern: Pattern = CAUSAL,
    bias: str = "",
    prefix: str = "",
    capped: bool = False,
    index: Sequence[str] = (),
) -> str:
    """Adds scores, softmax and weighted values; ``(B, q, H, dh)`` in and out.

    Args:
        m: the builder.
        query, keys, values: tensor names.
        pattern: what each position sees.
        bias: a tensor ``(H, q, T)`` added to the scores, or an empty string.
        prefix: of node names, where a layer attends twice.
        capped: scores pass through a soft cap.
        index: which rows a query sees, where the pattern leaves that to one.
    """
    scores = m.add(f"{prefix}qk_matmul", AttentionScores(pattern), query, keys, *index)
    if capped:
        scores = m.add(f"{prefix}score_cap", SoftCap(), scores)
    if bias:
        scores = m.add(f"{prefix}bias_add", Add(), scores, bias)
    probabilities = m.add(f"{prefix}softmax", Softmax(pattern), scores)
    return m.add(f"{prefix}sv_matmul", AttentionValues(pattern), probabilities, values, *index)


def gated(
    m: Maker,
    x: str,
    mixed: str,
    d: Expr,
    heads: Expr,
    width: Expr,
    gate: str,
    function: str = "sigmoid",
    bias: bool = False,
) -> str:
    """Multiplies the result ``mixed (B, q, H, width)`` by gates that are made of ``x (B, q, d)``.

    Each ``head`` has one gate, or ``each`` element has. With ``bias`` a learned number for each
    head is added to what makes them.
    """
    shape = (heads, width if gate == "each" else Integer(1))
    made = m.linear("attn_gate_proj", x, heads * shape[1], d, split=shape)
    if bias:
        made = m.add(
            "attn_gate_add", Map("add"), made, m.vector("attn_gate.bias", heads, Integer(1))
        )
    made = m.add("attn_gate", Activation(function), made)
    op = Multiply() if gate == "each" else RowScale()
    return m.add("attn_gate_mul", op, mixed, made)
