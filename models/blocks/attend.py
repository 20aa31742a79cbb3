"""The part of attention after the projections: cache, scores, softmax, weighted values."""

from __future__ import annotations

from costgraph.models.blocks.style import Maker
from costgraph.ops import Add, AttentionScores, AttentionValues, KVAppend, SoftCap, Softmax
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
) -> str:
    """Adds scores, softmax and weighted values; ``(B, q, H, dh)`` in and out.

    Args:
        m: the builder.
        query, keys, values: tensor names.
        pattern: what each position sees.
        bias: a tensor ``(H, q, T)`` added to the scores, or an empty string.
        prefix: of node names, where a layer attends twice.
        capped: scores pass through a soft cap.
    """
    scores = m.add(f"{prefix}qk_matmul", AttentionScores(pattern), query, keys)
    if capped:
        scores = m.add(f"{prefix}score_cap", SoftCap(), scores)
    if bias:
        scores = m.add(f"{prefix}bias_add", Add(), scores, bias)
    probabilities = m.add(f"{prefix}softmax", Softmax(pattern), scores)
    return m.add(f"{prefix}sv_matmul", AttentionValues(pattern), probabilities, values)
