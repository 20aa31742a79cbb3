"""MiniMax's mixer: lightning attention with a norm and an output gate."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Activation, Multiply, Split
from costgraph.ops.lightning import Lightning
from costgraph.ops.views import Reshape
from costgraph.symbols import B, q


@dataclass(frozen=True)
class LightningAttention:
    """Linear attention over a state of constant size.

    Attributes:
        d: hidden size.
        heads, head_dim: heads, and the size of queries, keys and values.
        activation: of queries, keys and values.
        chunk: positions per chunk where it runs in chunks.
    """

    d: Expr
    heads: Expr
    head_dim: Expr
    activation: str = "silu"
    chunk: Expr = Integer(256)

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def add(self, m: Maker, x: str) -> str:
        """Adds the mixer; ``x (B, q, d)`` to ``(B, q, d)``."""
        h, dh = self.heads, self.head_dim
        packed = m.linear("qkv_proj", x, 3 * h * dh, self.d)
        packed = m.add("qkv_act", Activation(self.activation), packed)
        query, key, value = m.add_many("qkv_split", Split(((h, dh),) * 3), packed)
        state = m.state("kv_state", B, h, dh, dh)
        op = Lightning(m.style.scan_form, self.chunk)
        y = m.add_many("lightning", op, query, key, value, state)[0]
        y = m.add("heads_flat", Reshape((B, q, h * dh)), y)
        y = m.norm("out_norm", y, h * dh, Norm())
        gate = m.linear("output_gate", x, h * dh, self.d)
        gate = m.add("gate_act", Activation("sigmoid"), gate)
        return m.linear("out_proj", m.add("gate_mul", Multiply(), y, gate), self.d, h * dh)
