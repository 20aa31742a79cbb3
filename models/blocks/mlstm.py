"""xLSTM's mixer: a matrix memory with exponential gates."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Activation, Multiply, SoftCap, Split
from costgraph.ops.mlstm import MatrixMemory
from costgraph.ops.views import Reshape
from costgraph.symbols import B, q


@dataclass(frozen=True)
class MatrixLSTM:
    """The mLSTM layer (arXiv 2503.13427).

    Attributes:
        d, heads: hidden size and heads.
        key_dim, value_dim: of a head.
        bias: of all projections but those of gates, which always have one, and of the norm.
        fused: queries, keys, values and output gates are one matrix, the other gates another.
        chunk: positions per chunk where it runs in chunks.
    """

    d: Expr
    heads: Expr
    key_dim: Expr
    value_dim: Expr
    bias: bool = False
    fused: bool = False
    chunk: Expr = Integer(64)

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def add(self, m: Maker, x: str) -> str:
        """Adds the mixer; ``x (B, q, d)`` to ``(B, q, d)``."""
        h, dk, dv = self.heads, self.key_dim, self.value_dim
        query, key, value, out = self._projected(m, x)
        gates = self._gates(m, x)
        states = (
            m.state("memory_state", B, h, dk, dv),
            m.state("normaliser_state", B, h, dk),
            m.state("exponent_state", B, h),
        )
        op = MatrixMemory(m.style.scan_form, self.chunk)
        y = m.add_many("memory", op, query, key, value, *gates, *states)[0]
        y = m.norm("heads_norm", y, (h, dv), Norm("layer", self.bias))
        gate = m.add("out_gate", Activation("sigmoid"), out)
        y = m.add("heads_flat", Reshape((B, q, h * dv)), y)
        return m.linear(
            "out_proj", m.add("gate_mul", Multiply(), y, gate), self.d, h * dv, self.bias
        )

    def _projected(self, m: Maker, x: str) -> tuple[str, ...]:
        """Queries, keys and values by heads, and what makes output gates."""
        h, dk, dv = self.heads, self.key_dim, self.value_dim
        shapes = ((h, dk), (h, dk), (h, dv), (h * dv,))
        if self.fused:
            packed = m.linear("qkvo_proj", x, 2 * h * (dk + dv), self.d, self.bias)
            return m.add_many("qkvo_split", Split(shapes), packed)
        names = ("q", "k", "v")
        made = [
            m.linear(f"{n}_proj", x, s[0] * s[1], self.d, self.bias, s)
            for n, s in zip(names, shapes, strict=False)
        ]
        return (*made, m.linear("o_gate_proj", x, h * dv, self.d, self.bias))

    def _gates(self, m: Maker, x: str) -> tuple[str, ...]:
        """Input and forget gates before their functions, capped softly."""
        h = self.heads
        if self.fused:
            both = m.linear("if_gate_proj", x, 2 * h, self.d, True)
            both = m.add("if_gate_cap", SoftCap(), both)
            return m.add_many("if_gate_split", Split(((h,), (h,))), both)
        made = (m.linear(f"{n}_gate_proj", x, h, self.d, True) for n in ("i", "f"))
        return tuple(
            m.add(f"{n}_gate_cap", SoftCap(), g) for n, g in zip(("i", "f"), made, strict=True)
        )
