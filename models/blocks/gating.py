"""A block behind a gate of what it reads: a narrow pair of products and a sigmoid."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.layer import Block
from costgraph.models.blocks.style import Maker, Style
from costgraph.ops import Activation, Multiply


@dataclass(frozen=True)
class Gating:
    """A block that reads ``x · sigmoid(W₂ silu(W₁ x))`` in place of ``x (B, q, d)``.

    Attributes:
        d, rank: hidden size, and width between the two matrices.
        inner: the block.
        name: stands in the names of its nodes.
    """

    d: Expr
    rank: Expr
    inner: Block
    name: str

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Those of the block."""
        return self.inner.operands(style)

    def add(self, m: Maker, x: str) -> str:
        """Adds the gate and the block; ``x (B, q, d)`` to ``(B, q, d)``."""
        low = m.linear(f"{self.name}_norm_down", x, self.rank, self.d)
        low = m.add(f"{self.name}_norm_act", Activation("silu"), low)
        gate = m.linear(f"{self.name}_norm_up", low, self.d, self.rank)
        gate = m.add(f"{self.name}_norm_gate", Activation("sigmoid"), gate)
        return self.inner.add(m, m.add(f"{self.name}_norm_mul", Multiply(), x, gate))
