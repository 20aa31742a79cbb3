"""Recurrent mixers with gates around a short convolution: Griffin's and LFM2's."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.scan import short_conv
from costgraph.models.blocks.style import Maker, Style
from costgraph.ops import Activation, BlockLinear, GatedLinearRecurrence, Multiply, Split
from costgraph.symbols import B


@dataclass(frozen=True)
class RecurrentBlock:
    """Griffin's recurrent block: an RG-LRU beside a gate.

    Attributes:
        d, width: hidden size and width of the recurrence.
        heads: blocks of the gates' block-diagonal matrices.
        conv: positions that the convolution sees.
        activation: of the gate.
    """

    d: Expr
    width: Expr
    heads: Expr
    conv: Expr = Integer(4)
    activation: str = "gelu_tanh"

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def add(self, m: Maker, x: str) -> str:
        """Adds the block; ``x (B, q, d)`` to ``(B, q, d)``."""
        d, w = self.d, self.width
        gate = m.linear("y_proj", x, w, d, bias=True)
        gate = m.add("y_act", Activation(self.activation), gate)
        x = m.linear("x_proj", x, w, d, bias=True)
        x = short_conv(m, x, w, self.conv, bias=True)
        wide = w / self.heads
        raw = [
            m.add(
                name,
                BlockLinear(),
                x,
                m.weight(f"{name}.weight", self.heads, wide, wide),
                m.vector(f"{name}.bias", w),
            )
            for name in ("input_gate", "recurrent_gate")
        ]
        parameter, state = m.vector("recurrent_param", w), m.state("lru_state", B, w)
        y = m.add_many("rg_lru", GatedLinearRecurrence(), x, *raw, parameter, state)[0]
        return m.linear("out_proj", m.add("y_mul", Multiply(), y, gate), d, w, bias=True)


@dataclass(frozen=True)
class ShortConv:
    """LFM2's mixer: a gate, a short convolution over ``conv`` positions, a gate."""

    d: Expr
    conv: Expr = Integer(3)
    bias: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def add(self, m: Maker, x: str) -> str:
        """Adds the block; ``x (B, q, d)`` to ``(B, q, d)``."""
        d = self.d
        packed = m.linear("in_proj", x, 3 * d, d, self.bias)
        first, second, x = m.add_many("in_split", Split(((d,),) * 3), packed)
        x = m.add("in_gate", Multiply(), x, first)
        x = short_conv(m, x, d, self.conv, self.bias)
        x = m.add("out_gate", Multiply(), x, second)
        return m.linear("out_proj", x, d, d, self.bias)
