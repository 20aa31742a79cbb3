"""Kimi Linear's mixer: delta attention with a decay per channel, a short convolution, a gate."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.scan import short_conv
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Activation, Multiply, Split
from costgraph.ops.kimi import KimiDelta
from costgraph.symbols import B


@dataclass(frozen=True)
class KimiDeltaAttention:
    """Kimi delta attention (arXiv 2510.26692).

    Attributes:
        d: hidden size.
        heads, head_dim: heads, and the size of queries, keys and values.
        conv: positions that the convolution sees.
        chunk: positions per chunk where the rule runs in chunks.
        full_decay, full_gate: the projections to decays and to gates have the full rank; others
            have that of a head.
        channels: decays have a learned number for each channel of a head, not for each head.
    """

    d: Expr
    heads: Expr
    head_dim: Expr
    conv: Expr = Integer(4)
    chunk: Expr = Integer(64)
    full_decay: bool = False
    full_gate: bool = False
    channels: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def add(self, m: Maker, x: str) -> str:
        """Adds the mixer; ``x (B, q, d)`` to ``(B, q, d)``."""
        d, h, dh = self.d, self.heads, self.head_dim
        packed = m.linear("qkv_proj", x, 3 * h * dh, d)
        packed = short_conv(m, packed, 3 * h * dh, self.conv, bias=False)
        packed = m.add("conv_act", Activation("silu"), packed)
        query, key, value = m.add_many("conv_split", Split(((h, dh),) * 3), packed)
        ranks = (("f", self.full_decay), ("g", self.full_gate))
        decay, gate = (self._projected(m, name, x, full) for name, full in ranks)
        y = m.add_many(
            "delta",
            KimiDelta(m.style.scan_form, self.chunk),
            query,
            key,
            value,
            decay,
            m.linear("b_proj", x, h, d),
            m.vector("A_log", dh if self.channels else h),
            m.vector("dt_bias", h * dh),
            m.state("delta_state", B, h, dh, dh),
        )[0]
        y = m.norm("out_norm", y, dh, Norm())
        y = m.add("gate_mul", Multiply(), y, m.add("gate_act", Activation("sigmoid"), gate))
        return m.linear("o_proj", y, d, h * dh, contract=2)

    def _projected(self, m: Maker, name: str, x: str, full: bool) -> str:
        """A projection to ``(B, q, H, head_dim)``, of rank ``head_dim`` unless ``full``."""
        h, dh = self.heads, self.head_dim
        if full:
            return m.linear(f"{name}_proj", x, h * dh, self.d, split=(h, dh))
        low = m.linear(f"{name}_a_proj", x, dh, self.d)
        return m.linear(f"{name}_b_proj", low, h * dh, dh, split=(h, dh))
