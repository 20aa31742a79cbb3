"""Attention whose values say which positions matter: Doge's dynamic mask (arXiv 2412.11834)."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Integer

from costgraph.models.blocks.attend import cached
from costgraph.models.blocks.attention import Attention
from costgraph.models.blocks.layer import Layer
from costgraph.models.blocks.style import Maker
from costgraph.ops import AttentionScores, AttentionValues, Multiply, Softmax
from costgraph.ops.maps import Map
from costgraph.ops.pattern import counted
from costgraph.ops.views import Expand, Reshape, Transpose

ONE = Integer(1)


@dataclass(frozen=True)
class DynamicAttention(Attention):
    """Grouped-query attention with a number per position and key head added to the scores.

    The number is made of the values of all positions, in every step: a product to one number
    for each key head, a softplus, a learned factor and an exponential.
    """

    def add(self, m: Maker, x: str) -> str:
        """Adds the block; ``x (B, q, d)`` to ``(B, q, d)``."""
        query, key, value = self.projected(m, x)
        keys, values = cached(m, key, value)
        pattern = counted(m.style.mask)
        scores = m.add("qk_matmul", AttentionScores(pattern), query, keys)
        scores = m.add("mask_add", Map("add"), scores, self._mask(m, values))
        shares = m.add("softmax", Softmax(pattern), scores)
        mixed = m.add("sv_matmul", AttentionValues(pattern), shares, values)
        wide = self.heads * self.head_dim
        return m.linear("o_proj", mixed, self.d, wide, self.out_bias, contract=2)

    def _mask(self, m: Maker, values: str) -> str:
        """Adds the numbers ``(B, H, 1, T)`` of values ``(B, T, Hk, dh)``."""
        batch, length, heads, width = m.shape(values)
        x = m.linear("dt_proj", values, heads, heads * width, self.out_bias, contract=2)
        x = m.add("dt_softplus", Map("softplus"), x)
        x = m.add("dt_scale", Map("mul"), x, m.vector("A", heads))
        x = m.add("dt_exp", Map("exp"), x)
        x = m.add("dt_turn", Transpose((0, 2, 1)), x)
        x = m.add("dt_rows", Reshape((batch, heads, ONE, length)), x)
        groups = self.heads / heads
        if groups == 1:
            return x
        x = m.add("dt_groups", Reshape((batch, heads, ONE, ONE, length)), x)
        x = m.add("dt_heads", Expand((batch, heads, groups, ONE, length)), x)
        return m.add("dt_mask", Reshape((batch, self.heads, ONE, length)), x)


@dataclass(frozen=True)
class WeighedLayer(Layer):
    """A layer past whose blocks the hidden state goes times a vector."""

    def kept(self, m: Maker, name: str, x: str) -> str:
        """Adds the product with the vector."""
        return m.add(f"{name}_kept", Multiply(), x, m.vector(f"{name}_residual.weight", self.d))
