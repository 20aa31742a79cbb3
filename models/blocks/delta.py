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
    Multiply,
    RMSNorm,
    Rope,
    Split,
)
from costgraph.ops.pattern import counted
from costgraph.symbols import B, q


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
    """

    d: Expr
    key_heads: Expr
    key_dim: Expr
    value_heads: Expr
    value_dim: Expr
    conv: Expr = Integer(4)
    chunk: Expr = Integer(64)
    fused: bool = False

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
        y = m.add("gate_mul", Multiply(), y, m.add("gate_act", Activation("silu"), z))
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
        (table,) = self.operands(m.style)
        query = m.add("q_rope", Rope(), query, table.name)
        key = m.add("k_rope", Rope(), key, table.name)
        keys, values = cached(m, key, value)
        y = attended(m, query, keys, values, counted(m.style.mask))
        y = m.add("attn_gate_mul", Multiply(), y, m.add("attn_gate", Activation("sigmoid"), gate))
        return m.linear("o_proj", y, d, h * dh, self.bias, contract=2)
