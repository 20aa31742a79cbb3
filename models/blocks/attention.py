"""Self-attention with grouped keys and values and a cache."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import gated
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import (
    Activation,
    Alibi,
    AttentionScores,
    AttentionValues,
    KVAppend,
    Rope,
    Scale,
    SoftCap,
    Softmax,
    Split,
)
from costgraph.ops.pattern import CAUSAL, FULL, Pattern, counted
from costgraph.ops.views import Reshape
from costgraph.symbols import B, q


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention over the whole context.

    Attributes:
        d: hidden size.
        heads, kv_heads: query heads and key/value heads, of size ``head_dim``.
        rotary: rotated width per head, or None without rotary embedding.
        qkv_bias, out_bias: biases of the projections.
        qk_norm: normalisation of queries and keys, or None.
        qk_norm_over: ``head``: per head; ``heads``: per head, with parameters of its
            own for each; ``all``: over all heads together.
        score_cap: scores pass through a soft cap.
        fused_qkv: the three projections are one matrix.
        pattern: which positions each one sees.
        alibi: linear biases on the scores.
        clip: projections are clipped to a range.
        causal: False for attention in both directions, which has no cache: to all positions,
            or to those that a ``pattern`` in both directions says.
        v_dim: size of values per head where it differs from ``head_dim``.
        value_scale: values are multiplied by a constant.
        query_scale: queries are multiplied by a number per position.
        sinks: the softmax has one learned logit per head more.
        table: name of the rotary table; another one for another width.
        reads: width of what the projections read where it is not ``d``.
        gate: the result is multiplied by a function (``gate_act``) of a projection of its own:
            ``each`` element has a gate, each ``head`` has one, or none (empty); ``gate_bias``:
            with a number for each head added in front of the function.
        each_norm: normalisation of what each head made, in front of the gate, or None.
        inner_norm: normalisation of all heads together in front of the last projection, or None.
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
    pattern: Pattern = CAUSAL
    alibi: bool = False
    clip: bool = False
    causal: bool = True
    qk_norm_over: str = "head"
    v_dim: Expr | None = None
    value_scale: bool = False
    query_scale: bool = False
    sinks: bool = False
    table: str = "rope_table"
    reads: Expr | None = None
    gate: str = ""
    gate_act: str = "sigmoid"
    gate_bias: bool = False
    inner_norm: Norm | None = None
    each_norm: Norm | None = None

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Tensors that every layer shares: the rotary table."""
        if self.rotary is None:
            return ()
        return (Tensor(self.table, (q, self.rotary), style.acts),)

    def add(self, m: Maker, x: str) -> str:
        """Adds the block to a layer; ``x (B, q, d)`` (or as wide as it reads) to ``(B, q, d)``."""
        query, key, value = self.projected(m, x)
        hk, dh, keeps = self.kv_heads, self.head_dim, self.pattern
        dv = dh if self.v_dim is None else self.v_dim
        keys, values = key, value
        pattern: Pattern = FULL if keeps.causal else counted(m.style.mask, keeps)
        if self.causal:
            append, pattern = KVAppend(keeps), counted(m.style.mask, keeps)
            keys = m.add("k_append", append, m.cache("k_cache", hk, dh, keeps), key)
            values = m.add("v_append", append, m.cache("v_cache", hk, dv, keeps), value)
        scores = m.add("qk_matmul", AttentionScores(pattern), query, keys)
        if self.score_cap:
            scores = m.add("score_cap", SoftCap(), scores)
        if self.alibi:
            scores = m.add("alibi", Alibi(pattern), scores)
        logits = [scores]
        if self.sinks:
            logits.append(m.vector("sinks.weight", self.heads))
        probabilities = m.add("softmax", Softmax(pattern), *logits)
        mixed = m.add("sv_matmul", AttentionValues(pattern), probabilities, values)
        if self.each_norm is not None:
            mixed = m.norm("each_norm", mixed, dv, self.each_norm)
        if self.gate:
            sizes = (self.d, self.heads, dv)
            mixed = gated(m, x, mixed, *sizes, self.gate, self.gate_act, self.gate_bias)
        if self.inner_norm is None:
            return m.linear("o_proj", mixed, self.d, self.heads * dv, self.out_bias, contract=2)
        wide = self.heads * dv
        mixed = m.add("heads_join", Reshape((B, q, wide)), mixed)
        mixed = m.norm("heads_norm", mixed, wide, self.inner_norm)
        return m.linear("o_proj", mixed, self.d, wide, self.out_bias)

    def projected(self, m: Maker, x: str) -> tuple[str, str, str]:
        """Adds queries, keys and values of ``x``, normalised, rotated and scaled."""
        query, key, value = self._project(m, x)
        if self.qk_norm is not None and self.qk_norm_over != "all":
            dh, own = self.head_dim, self.qk_norm_over == "heads"
            query = m.norm("q_norm", query, (self.heads, dh) if own else dh, self.qk_norm)
            key = m.norm("k_norm", key, (self.kv_heads, dh) if own else dh, self.qk_norm)
        for table in self.operands(m.style):
            query = m.add("q_rope", Rope(), query, table.name)
            key = m.add("k_rope", Rope(), key, table.name)
        if self.query_scale:
            query = m.add("q_scale", Scale(), query)
        if self.value_scale:
            value = m.add("v_scale", Scale(), value)
        return query, key, value

    def _project(self, m: Maker, x: str) -> tuple[str, str, str]:
        query, key, value = self._products(m, x)
        if self.clip:
            query, key, value = (
                m.add(f"{n}_clip", Activation("clip"), y)
                for n, y in (("q", query), ("k", key), ("v", value))
            )
        return query, key, value

    def _products(self, m: Maker, x: str) -> tuple[str, str, str]:
        h, hk, dh = self.heads, self.kv_heads, self.head_dim
        ic = self.d if self.reads is None else self.reads
        if self.qk_norm is not None and self.qk_norm_over == "all":
            made = []
            for n, heads in (("q", h), ("k", hk), ("v", hk)):
                y = m.linear(f"{n}_proj", x, heads * dh, ic, self.qkv_bias)
                if n != "v":
                    y = m.norm(f"{n}_norm", y, heads * dh, self.qk_norm)
                made.append(m.add(f"{n}_split", Split(((heads, dh),)), y))
            query, key, value = made
            return query, key, value
        if self.fused_qkv:
            packed = m.linear("qkv_proj", x, (h + 2 * hk) * dh, ic, self.qkv_bias)
            query, key, value = m.add_many(
                "qkv_split", Split(((h, dh), (hk, dh), (hk, dh))), packed
            )
            return query, key, value
        query, key, value = (
            m.linear(f"{n}_proj", x, heads * width, ic, self.qkv_bias, (heads, width))
            for n, heads, width in (("q", h, dh), ("k", hk, dh), ("v", hk, self.v_dim or dh))
        )
        return query, key, value
