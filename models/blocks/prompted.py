"""Layers of denoisers that attend to a prompt apart: Wan, LTX, PixArt.

All layers share one modulation, to which each adds a table of its own (adaLN-single,
Chen et al., arXiv 2310.00426).
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.adaptive import BARE, gated_add, modulation
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Add, Split
from costgraph.ops.image import Modulate
from costgraph.ops.pattern import FULL
from costgraph.symbols import B


@dataclass(frozen=True)
class PromptedLayer:
    """Self-attention, attention to ``text`` prompt tokens, and a feed-forward block.

    Attributes:
        length, text: positions per sample, of the image and of the prompt.
        at, cross: heads of self-attention and of attention to the prompt.
        feed: the feed-forward block.
        norm: in front of both modulations, without parameters.
        cross_norm: in front of the attention to the prompt, or None.
    """

    length: Expr
    text: Expr
    at: Heads
    cross: Heads
    feed: FeedForward
    norm: Norm = BARE
    cross_norm: Norm | None = None

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Modulation of all layers, prompt and rotary table."""
        d = self.at.d
        found: tuple[Tensor, ...] = (
            Tensor("conditioning", (B, 6 * d), style.acts),
            Tensor("prompt_rows", (B, self.text, d), style.acts),
        )
        if self.at.rotary is not None:
            found += (Tensor("rope_table", (self.length, self.at.rotary), style.acts),)
        return found

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state and shared operands in, hidden state out."""
        m, d = Maker("layer", style), self.at.d
        x = m.source(Tensor("hidden", (B, self.length, d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        table = m.vector("modulation_table", 6 * d)
        packed = m.add("modulation", Add(), "conditioning", table)
        mods = m.add_many("modulation_split", Split(((d,),) * 6), packed)
        y = self._modulated(m, "attn", x, *mods[:2])
        y = self.at.out(m, attended(m, *self.at.all(m, y), FULL))
        x = gated_add(m, "attn", y, mods[2], x)
        y = x if self.cross_norm is None else m.norm("cross_norm", x, d, self.cross_norm)
        query = self.cross.project(m, "q", y, "cross_")
        key, value = (self.cross.project(m, name, "prompt_rows", "cross_") for name in ("k", "v"))
        y = attended(m, query, key, value, FULL, prefix="cross_")
        x = m.add("cross_add", Add(), self.cross.out(m, y, "cross_"), x)
        y = self.feed.add(m, self._modulated(m, "mlp", x, *mods[3:5]))
        return m.build(gated_add(m, "mlp", y, mods[5], x))

    def _modulated(self, m: Maker, name: str, x: str, shift: str, scale: str) -> str:
        normed = m.norm(f"{name}_norm", x, self.at.d, self.norm)
        return m.add(f"{name}_modulate", Modulate(), normed, shift, scale)


@dataclass(frozen=True)
class RefinerLayer:
    """A layer of HunyuanVideo's text refiner: attention and feed-forward, only gated."""

    length: Expr
    at: Heads
    feed: FeedForward

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The conditioning vector."""
        return (Tensor("text_conditioning", (B, self.at.d), style.acts),)

    def graph(self, style: Style) -> Graph:
        """The layer: text and conditioning in, text out."""
        m, d, norm = Maker("layer", style), self.at.d, Norm("layer", True)
        x = m.source(Tensor("hidden", (B, self.length, d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        gates = modulation(m, "gates", "text_conditioning", d, 2)
        y = m.norm("attn_norm", x, d, norm)
        y = self.at.out(m, attended(m, *self.at.all(m, y), FULL))
        x = gated_add(m, "attn", y, gates[0], x)
        y = self.feed.add(m, m.norm("mlp_norm", x, d, norm))
        return m.build(gated_add(m, "mlp", y, gates[1], x))
