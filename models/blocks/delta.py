"""The mixers of Qwen3-Next and Qwen3.5: gated delta net and attention with an output gate."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import attended, cached
from costgraph.models.blocks.scan import short_conv
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import (
    Activation,
    GatedDelta,
    KVAppend,
    Multiply,
    RMSNorm,
    Rope,
    Split,
)
from costgraph.ops.index import BlockMeans, Choose, PageScores
from costgraph.ops.pattern import Pattern, SelectedBlocks, Summaries, counted
from costgraph.symbols import B, T, q

ONE = Integer(1)


@dataclass(frozen=True)
class GatedDeltaNet:
    """Gated delta rule with a short convolution and a gated norm.

    Attributes:
        d: hidden size.
        key_heads, key_dim: heads of queries and keys, and their size.
        value_heads, value_dim: heads of values and gates, and their size.
        conv: positions that the convolution sees.
        chunk: positions per chunk where the rule runs in chunks.
        fused: queries, keys, values and gate come from one matrix, and so do
            both gates per head (Qwen3-Next).
        gate: the activation of what results are multiplied by.
    """

    d: Expr
    key_heads: Expr
    key_dim: Expr
    value_heads: Expr
    value_dim: Expr
    conv: Expr = Integer(4)
    chunk: Expr = Integer(64)
    fused: bool = False
    gate: str = "silu"

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def add(self, m: Maker, x: str) -> str:
        """Adds the mixer; ``x (B, q, d)`` to ``(B, q, d)``."""
        d, keys, values = self.d, (self.key_heads, self.key_dim), (self.value_heads, self.value_dim)
        heads = self.value_heads
        key_width, value_width = keys[0] * keys[1], values[0] * values[1]
        mixed = 2 * key_width + value_width
        if self.fused:
            packed = m.linear("qkvz_proj", x, mixed + value_width, d)
            x_mixed, z = m.add_many("qkvz_split", Split(((mixed,), values)), packed)
            both = m.linear("ba_proj", x, 2 * heads, d)
            b, a = m.add_many("ba_split", Split(((heads,), (heads,))), both)
        else:
            x_mixed = m.linear("qkv_proj", x, mixed, d)
            z = m.linear("z_proj", x, value_width, d, split=values)
            b, a = (m.linear(f"{name}_proj", x, heads, d) for name in ("b", "a"))
        x_mixed = short_conv(m, x_mixed, mixed, self.conv, bias=False)
        x_mixed = m.add("conv_act", Activation("silu"), x_mixed)
        query, key, value = m.add_many("conv_split", Split((keys, keys, values)), x_mixed)
        y = m.add_many(
            "delta",
            GatedDelta(m.style.scan_form, self.chunk),
            query,
            key,
            value,
            a,
            b,
            m.vector("A_log", heads),
            m.vector("dt_bias", heads),
            m.state("delta_state", B, heads, self.key_dim, self.value_dim),
        )[0]
        y = m.add("gated_norm", RMSNorm(), y, m.vector("gated_norm.weight", self.value_dim))
        y = m.add("gate_mul", Multiply(), y, m.add("gate_act", Activation(self.gate), z))
        return m.linear("out_proj", y, d, value_width, contract=2)


@dataclass(frozen=True)
class GatedAttention:
    """Grouped-query attention whose result passes a sigmoid gate made beside the queries.

    Attributes:
        d: hidden size.
        heads, kv_heads: query heads and key/value heads, of size ``head_dim``.
        rotary: rotated width per head.
        bias: biases of the projections.
    """

    d: Expr
    heads: Expr
    kv_heads: Expr
    head_dim: Expr
    rotary: Expr
    bias: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rotary table."""
        return (Tensor("rope_table", (q, self.rotary), style.acts),)

    def add(self, m: Maker, x: str) -> str:
        """Adds the block; ``x (B, q, d)`` to ``(B, q, d)``."""
        d, h, hk, dh = self.d, self.heads, self.kv_heads, self.head_dim
        packed = m.linear("q_proj", x, 2 * h * dh, d, self.bias)
        query, gate = m.add_many("q_split", Split(((h, dh), (h, dh))), packed)
        key = m.linear("k_proj", x, hk * dh, d, self.bias, (hk, dh))
        value = m.linear("v_proj", x, hk * dh, d, self.bias, (hk, dh))
        query = m.norm("q_norm", query, dh, Norm())
        key = m.norm("k_norm", key, dh, Norm())
        table = self.operands(m.style)[0]
        query = m.add("q_rope", Rope(), query, table.name)
        key = m.add("k_rope", Rope(), key, table.name)
        keys, values = cached(m, key, value)
        y = self._attended(m, x, query, keys, values)
        y = m.add("attn_gate_mul", Multiply(), y, m.add("attn_gate", Activation("sigmoid"), gate))
        return m.linear("o_proj", y, d, h * dh, self.bias, contract=2)

    def _attended(self, m: Maker, x: str, query: str, keys: str, values: str) -> str:
        """Adds what queries see; ``x`` is what the block reads."""
        return attended(m, query, keys, values, counted(m.style.mask))


@dataclass(frozen=True)
class IndexedGatedAttention(GatedAttention):
    """The same to blocks of positions that an index chooses, once they are over (Qwen4-Exp).

    Index heads score the mean key of each block, normalised and rotated as its first position.
    Keys are kept as they are, and averaged in each step.

    Attributes:
        index_heads, index_dim: heads of the index, and their size.
        block, most: positions of a block, and blocks that a query chooses.
    """

    index_heads: Expr = ONE
    index_dim: Expr = ONE
    block: Expr = ONE
    most: Expr = ONE

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rotary tables, of the step's positions and of where blocks begin."""
        rows = Summaries(self.block).rows(T)
        begin = Tensor("block_rope_table", (rows, self.rotary), style.acts)
        return (*super().operands(style), begin)

    def _attended(self, m: Maker, x: str, query: str, keys: str, values: str) -> str:
        chosen = self._chosen(m, x)
        index: tuple[str, ...] = ()
        if m.style.mask == "compute":
            # As published code does without a kernel: all positions, and a mask.
            pattern: Pattern = counted(m.style.mask)
        else:
            pattern, index = SelectedBlocks(self.block, self.most, over=True), (chosen,)
        return attended(m, query, keys, values, pattern, index=index)

    def _chosen(self, m: Maker, x: str) -> str:
        """Adds the index."""
        h, w = self.index_heads, self.index_dim
        table, begin = (t.name for t in self.operands(m.style))
        packed = m.linear("index_qk_proj", x, (h + 1) * w, self.d)
        query, key = m.add_many("index_split", Split(((h, w), (ONE, w))), packed)
        query = m.norm("index_q_norm", query, w, Norm())
        query = m.add("index_q_rope", Rope(), query, table)
        keys = m.add("index_append", KVAppend(), m.cache("index_cache", ONE, w), key)
        means = m.add("index_means", BlockMeans(self.block), keys)
        means = m.norm("index_k_norm", means, w, Norm())
        means = m.add("index_k_rope", Rope(), means, begin)
        # A query scores the blocks that are over, also where masked pairs are computed.
        seen = Summaries(self.block)
        scores = m.add("index_scores", PageScores(seen, clipped=True), query, means)
        return m.add("index_choose", Choose(self.most, seen), scores)
