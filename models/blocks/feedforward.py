"""The dense feed-forward block."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Activation, Multiply, Split
from costgraph.ops.maps import Map, Reduce


@dataclass(frozen=True)
class FeedForward:
    """Two matrices around an activation, or three with a gate.

    Attributes:
        d, width: hidden size and feed-forward width.
        gated: gate and up projection multiplied.
        bias: biases of all projections.
        down_bias: bias of the last projection alone.
        fused_gate_up: gate and up projection are one matrix.
        cutoff: of the gate only what is far above its mean in a row passes (Gemma 3n): mean and
            deviation of each row, what is above their weighted sum, and zero below.
        up_activation: a function of the up projection, or None.
        inner_norm: normalisation in front of the last projection, or None.
    """

    d: Expr
    width: Expr
    activation: str = "silu"
    gated: bool = True
    bias: bool = False
    fused_gate_up: bool = False
    down_bias: bool = False
    cutoff: bool = False
    inner_norm: Norm | None = None
    up_activation: str | None = None

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def add(self, m: Maker, x: str, prefix: str = "") -> str:
        """Adds the block to a layer; ``x (B, q, d)`` to ``(B, q, d)``.

        ``prefix`` stands in front of all names, for a second block in a layer.
        """
        d, width, bias = self.d, self.width, self.bias
        if not self.gated:
            up = m.linear(f"{prefix}up_proj", x, width, d, bias)
            acted = m.activation(f"{prefix}mlp_act", up, self.activation)
            return self._down(m, acted, prefix)
        if self.fused_gate_up:
            packed = m.linear(f"{prefix}gate_up_proj", x, 2 * width, d, bias)
            gate, up = m.add_many(f"{prefix}gate_up_split", Split(((width,), (width,))), packed)
        else:
            gate = m.linear(f"{prefix}gate_proj", x, width, d, bias)
            up = m.linear(f"{prefix}up_proj", x, width, d, bias)
        if self.cutoff:
            gate = _cut(m, prefix, gate)
        acted = m.activation(f"{prefix}mlp_act", gate, self.activation)
        if self.up_activation is not None:
            up = m.add(f"{prefix}up_act", Activation(self.up_activation), up)
        gated = m.add(f"{prefix}mlp_mul", Multiply(), acted, up)
        return self._down(m, gated, prefix)

    def _down(self, m: Maker, x: str, prefix: str) -> str:
        """Adds the norm inside, where there is one, and the last projection."""
        if self.inner_norm is not None:
            x = m.norm(f"{prefix}mlp_inner_norm", x, self.width, self.inner_norm)
        bias = self.bias or self.down_bias
        return m.linear(f"{prefix}down_proj", x, self.d, self.width, bias)


def _cut(m: Maker, prefix: str, gate: str) -> str:
    """Adds the cut-off, as the published code computes it."""
    mean = m.add(f"{prefix}gate_mean", Reduce("mean", (2,), keep=True), gate)
    spread = m.add(f"{prefix}gate_spread", Reduce("std", (2,), keep=True), gate)
    far = m.add(f"{prefix}gate_far", Map("scale"), spread)
    edge = m.add(f"{prefix}gate_edge", Map("add"), mean, far)
    above = m.add(f"{prefix}gate_above", Map("sub"), gate, edge)
    return m.add(f"{prefix}gate_cut", Activation("relu"), above)
