"""Muse Spark's blocks: gated residuals, experts in a narrower width whose rows are normalised."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.dtypes import FP32
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.blocks.attention import Attention
from costgraph.models.blocks.experts import Experts
from costgraph.models.blocks.layer import Block
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Add, Combine, Scale
from costgraph.ops.maps import Map
from costgraph.symbols import B, q

UNIT = Norm(weight=False)


@dataclass(frozen=True)
class NarrowExperts(Experts):
    """Experts of a width of their own (``latent``), which every expert's row leaves normalised.

    The router's product is multiplied by a constant; its matrix is kept in FP32.
    """

    latent: Expr = Integer(1)

    def add(self, m: Maker, x: str, reads: str = "") -> str:
        """Adds the block to a layer; ``x (B, q, d)`` to ``(B, q, d)``."""
        logits = m.add("router_scale", Scale(), m.linear("router", x, self.experts, self.d))
        weights, numbers = m.add_many("route", self._route(), logits)
        low = m.linear("latent_down", x, self.latent, self.d)
        low = m.norm("latent_norm", low, self.latent, Norm())
        rows = m.norm("expert_norm", self._experts(m, low, numbers), self.latent, Norm())
        made = m.add("combine", Combine(), rows, weights)
        return m.linear("latent_up", made, self.d, self.latent)


@dataclass(frozen=True)
class GatedResidualLayer:
    """A layer whose sums are weighted by element: what goes past a block, and what it made.

    Both weights are functions of one learned number, made once; it is kept in FP32.

    Attributes:
        mixer, channel: the blocks.
    """

    mixer: Attention
    channel: Block

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Shared operands of both blocks, each once."""
        both = (*self.mixer.operands(style), *self.channel.operands(style))
        return tuple(dict.fromkeys(both))

    def graph(self, style: Style) -> Graph:
        """Hidden state and shared operands in, hidden state out."""
        m, d = Maker("layer", style), self.mixer.d
        x = m.source(Tensor("hidden", (B, q, d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        for name, block, norm in (
            ("attn", self.mixer, UNIT),
            ("mlp", self.channel, Norm()),
        ):
            made = block.add(m, m.norm(f"{name}_norm", x, d, Norm()))
            made = m.norm(f"{name}_post_norm", made, d, norm)
            gate = m.source(Tensor(f"{name}_residual.gate", (d,), FP32, Role.WEIGHT))
            kept = m.add(f"{name}_kept", Map("mul"), x, gate)
            made = m.add(f"{name}_made", Map("mul"), made, gate)
            x = m.add(f"{name}_add", Add(), made, kept)
        return m.build(x)
