"""LongCat's layer: two dense halves, and experts that read behind the first attention."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.experts import Experts
from costgraph.models.blocks.layer import Block, Layer
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Add
from costgraph.symbols import B, q


@dataclass(frozen=True)
class ShortcutLayer:
    """Attention and feed-forward twice, experts beside them (arXiv 2509.01322, section 2.1).

    The experts read what the first feed-forward block reads; their result is added at the end
    of the layer, so that their exchanges can hide behind the second half.

    Attributes:
        d: hidden size.
        mixer, channel: of both halves, each with weights of its own.
        experts: beside them.
        norm: of all four blocks.
    """

    d: Expr
    mixer: Block
    channel: Block
    experts: Experts
    norm: Norm = Norm()

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Shared operands of a half."""
        return self._half.operands(style)

    @property
    def _half(self) -> Layer:
        return Layer(self.d, self.mixer, self.channel, self.norm)

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state and shared operands in, hidden state out."""
        m = Maker("layer", style)
        hidden = m.source(Tensor("hidden", (B, q, self.d), style.acts))
        shared = [m.source(tensor) for tensor in self.operands(style)]
        mixed = self.mixer.add(m, m.norm("attn_norm", hidden, self.d, self.norm))
        x = m.add("attn_add", Add(), mixed, hidden)
        normed = m.norm("mlp_norm", x, self.d, self.norm)
        routed = self.experts.add(m, normed)
        x = m.add("mlp_add", Add(), self.channel.add(m, normed), x)
        second = Repeat(self._half.graph(style), Integer(1))
        x = m.add("second_half", second, x, *shared)
        return m.build(m.add("shortcut_add", Add(), routed, x))
