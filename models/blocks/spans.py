"""ConvBERT's attention (Jiang et al., arXiv 2008.02496): half of it convolves what is near."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import conv
from costgraph.models.blocks.style import Maker, Style
from costgraph.ops import Add, AsSequence, Multiply
from costgraph.ops.arrays import Copy, Join
from costgraph.ops.maps import SoftmaxOver
from costgraph.ops.matmul import MatMul
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Reshape, Transpose
from costgraph.symbols import B, q

ONE = Integer(1)


@dataclass(frozen=True)
class SpanHeads:
    """Attention of half the width beside convolutions whose taps are made of each position.

    Attributes:
        at: the heads, half as wide as the layer together.
        kernel: taps of the convolutions.
    """

    at: Heads
    kernel: Expr

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def add(self, m: Maker, x: str) -> str:
        """Adds the block; ``x (B, q, d)`` in and out."""
        at, heads, width = self.at, self.at.heads, self.at.head_dim
        query, key, value = (at.project(m, name, x) for name in ("q", "k", "v"))
        mixed = attended(m, query, key, value, FULL)
        near = self._near(m, x, m.add("q_rows", Reshape((B, q, at.width)), query))
        both = m.add("both", Join(2), mixed, near)
        wide = m.add("both_rows", Reshape((B, q, 2 * heads * width)), both)
        return m.linear("o_proj", wide, at.d, 2 * at.width, at.out_bias)

    def _near(self, m: Maker, x: str, query: str) -> str:
        """Adds the convolutions: ``(B, q, H, dh)``."""
        at, taps, wide = self.at, self.kernel, self.at.width
        channels = m.add("span_channels", Transpose((0, 2, 1)), x)
        keys = conv(m, "span_depth", channels, at.d, int(taps), 1, int(taps) // 2, at.d, bias=False)
        keys = conv(m, "span_point", keys, wide, 1, bias=False)
        keys = m.add("span_rows", AsSequence(), keys)
        keys = m.add("span_shift", Add(), keys, m.vector("span.bias", wide))
        both = m.add("span_mul", Multiply(), keys, query)
        made = m.linear("span_taps", both, at.heads * taps, wide, True)
        made = m.add("taps_rows", Reshape((B * q * at.heads, taps, ONE)), made)
        made = m.add("taps_softmax", SoftmaxOver(1), made)
        rows = m.linear("span_values", x, wide, at.d, True)
        # Each position beside those near it: a copy as often as there are taps.
        rows = m.add("span_unfold", Copy((B * q * at.heads, at.head_dim, taps)), rows)
        near = m.add("span_matmul", MatMul(), rows, made)
        return m.add("span_heads", Reshape((B, q, at.heads, at.head_dim)), near)
