"""The part of attention after the projections: cache, scores, softmax, weighted values."""

from __future__ import annotations

from sympy import Expr

from costgraph.models.blocks.style import Maker
from costgraph.ops import Add, AttentionScores, AttentionValues, KVAppend, SoftCap, Softmax
from costgraph.ops.local import LocalScores, LocalSoftmax, LocalValues


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
    mask: str,
    bias: str = "",
    prefix: str = "",
    capped: bool = False,
) -> str:
    """Adds scores, softmax and weighted values; ``(B, q, H, dh)`` in and out.

    Args:
        m: the builder.
        query, keys, values: tensor names.
        mask: see :data:`costgraph.ops.attention.MASKS`.
        bias: a tensor ``(H, q, T)`` added to the scores, or an empty string.
        prefix: of node names, where a layer attends twice.
        capped: scores pass through a soft cap.
    """
    scores = m.add(f"{prefix}qk_matmul", AttentionScores(mask), query, keys)
    if capped:
        scores = m.add(f"{prefix}score_cap", SoftCap(), scores)
    if bias:
        scores = m.add(f"{prefix}bias_add", Add(), scores, bias)
    probabilities = m.add(f"{prefix}softmax", Softmax(mask), scores)
    return m.add(f"{prefix}sv_matmul", AttentionValues(mask), probabilities, values)


def attended_near(m: Maker, query: str, keys: str, values: str, reach: Expr) -> str:
    """The same between positions at most ``reach`` apart, in both directions."""
    scores = m.add("qk_matmul", LocalScores(reach), query, keys)
    probabilities = m.add("softmax", LocalSoftmax(reach), scores)
    return m.add("sv_matmul", LocalValues(reach), probabilities, values)
