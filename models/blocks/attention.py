"""Self-attention with grouped keys and values and a cache."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr

from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import (
    AttentionScores,
    AttentionValues,
    KVAppend,
    Rope,
    SoftCap,
    Softmax,
    Split,
)
from costgraph.symbols import q
from costgraph.tensor import Tensor


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention over the whole context.

    Attributes:
        d: hidden size.
        heads, kv_heads: query heads and key/value heads, of size ``head_dim``.
        rotary: rotated width per head, or None without rotary embedding.
        qkv_bias, out_bias: biases of the projections.
        qk_norm: normalisation of queries and keys per head, or None.
        score_cap: scores pass through a soft cap.
        fused_qkv: the three projections are one matrix.
    """

    d: Expr
    heads: Expr
    kv_heads: Expr
    head_dim: Expr
    rotary: Expr | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: Norm | None = None
    score_cap: bool = False
    fused_qkv: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Tensors that every layer shares: the rotary table."""
        if self.rotary is None:
            return ()
        return (Tensor("rope_table", (q, self.rotary), style.acts),)

    def add(self, m: Maker, x: str) -> str:
        """Adds the block to a layer; ``x (B, q, d)`` to ``(B, q, d)``."""
        query, key, value = self._project(m, x)
        if self.qk_norm is not None:
            query = m.norm("q_norm", query, self.head_dim, self.qk_norm)
            key = m.norm("k_norm", key, self.head_dim, self.qk_norm)
        for table in self.operands(m.style):
            query = m.add("q_rope", Rope(), query, table.name)
            key = m.add("k_rope", Rope(), key, table.name)
        hk, dh, mask = self.kv_heads, self.head_dim, m.style.mask
        keys = m.add("k_append", KVAppend(), m.cache("k_cache", hk, dh), key)
        values = m.add("v_append", KVAppend(), m.cache("v_cache", hk, dh), value)
        scores = m.add("qk_matmul", AttentionScores(mask), query, keys)
        if self.score_cap:
            scores = m.add("score_cap", SoftCap(), scores)
        probabilities = m.add("softmax", Softmax(mask), scores)
        mixed = m.add("sv_matmul", AttentionValues(mask), probabilities, values)
        return m.linear("o_proj", mixed, self.d, self.heads * dh, self.out_bias, contract=2)

    def _project(self, m: Maker, x: str) -> tuple[str, str, str]:
        h, hk, dh = self.heads, self.kv_heads, self.head_dim
        if self.fused_qkv:
            packed = m.linear("qkv_proj", x, (h + 2 * hk) * dh, self.d, self.qkv_bias)
            query, key, value = m.add_many(
                "qkv_split", Split(((h, dh), (hk, dh), (hk, dh))), packed
            )
            return query, key, value
        query, key, value = (
            m.linear(f"{n}_proj", x, heads * dh, self.d, self.qkv_bias, (heads, dh))
            for n, heads in (("q", h), ("k", hk), ("v", hk))
        )
        return query, key, value
