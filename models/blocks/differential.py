"""Differential attention: the difference of two maps over paired heads (arXiv 2410.05258)."""

from __future__ import annotations

from dataclasses import dataclass

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import attended, cached
from costgraph.models.blocks.attention import Attention
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Concat, Scale
from costgraph.ops.maps import Map, Reduce
from costgraph.ops.pattern import counted
from costgraph.ops.views import Slice


@dataclass(frozen=True)
class DifferentialAttention:
    """Grouped-query attention whose second half of heads is taken from the first.

    Each query head attends twice, to the values of the first and of the second half of the key
    heads, as the published code does: scores are computed twice. What both give is twice as
    wide; the second half of the heads, times a learned number, is subtracted from the first and
    normalised without weights.

    Attributes:
        attention: heads and projections; both numbers of heads are even.
    """

    attention: Attention

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rotary table."""
        return self.attention.operands(style)

    def add(self, m: Maker, x: str) -> str:
        """Adds the block to a layer; ``x (B, q, d)`` to ``(B, q, d)``."""
        at = self.attention
        h, hk, dh = at.heads, at.kv_heads, at.head_dim
        query, key, value = at.projected(m, x)
        keys, values = cached(m, key, value)
        pattern = counted(m.style.mask)
        made = []
        for index, name in enumerate(("first", "second")):
            half = m.add(f"{name}_values", Slice(2, index * hk / 2, hk / 2), values)
            made.append(attended(m, query, keys, half, pattern, prefix=f"{name}_"))
        both = m.add("beside", Concat(), *made)
        left, right = (
            m.add(f"{name}_heads", Slice(2, index * h / 2, h / 2), both)
            for index, name in enumerate(("first", "second"))
        )
        taken = m.add("taken", Map("mul"), right, self._share(m))
        mixed = m.add("difference", Map("sub"), left, taken)
        mixed = m.norm("heads_norm", mixed, 2 * dh, Norm(weight=False))
        mixed = m.add("heads_scale", Scale(), mixed)
        return m.linear("o_proj", mixed, at.d, h * dh, at.out_bias, contract=2)

    def _share(self, m: Maker) -> str:
        """The learned number: a difference of two exponentials of products, and a constant."""
        parts = []
        for index in ("1", "2"):
            pair = [m.vector(f"lambda_{n}{index}", self.attention.head_dim) for n in ("q", "k")]
            product = m.add(f"lambda_mul{index}", Map("mul"), *pair)
            total = m.add(f"lambda_sum{index}", Reduce("sum", (0,), keep=True), product)
            parts.append(m.add(f"lambda_exp{index}", Map("exp"), total))
        both = m.add("lambda_sub", Map("sub"), *parts)
        return m.add("lambda_add", Map("add_constant"), both)
