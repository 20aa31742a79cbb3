"""Layers of denoisers that attend to a prompt apart: Wan, LTX, PixArt, Sana.

All layers share one modulation, to which each adds a table of its own (adaLN-single,
Chen et al., arXiv 2310.00426).
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.adaptive import BARE, gated_add, modulation
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.image import act, conv
from costgraph.models.blocks.layer import Block
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Activation, Add, AsSequence, Multiply, Split
from costgraph.ops.arrays import Copy
from costgraph.ops.image import AsImage, Modulate
from costgraph.ops.maps import Map
from costgraph.ops.matmul import MatMul
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Slice, Transpose
from costgraph.symbols import B


def linear_attention(m: Maker, query: str, key: str, value: str) -> str:
    """Adds ``q (kᵀ v) / q Σk`` of rectified queries and keys; ``(B, n, H, dh)`` in and out.

    A row of ones beside the values makes the divisor by the same products (Xie et al., arXiv
    2410.10629).
    """
    batch, length, heads, width = m.shape(value)
    query, key = (m.add(f"{n}_act", Activation("relu"), x) for n, x in (("q", query), ("k", key)))
    rows = m.add("v_rows", Transpose((0, 2, 3, 1)), value)
    rows = m.add("v_ones", Copy((batch, heads, width + 1, length)), rows)
    keys = m.add("k_rows", Transpose((0, 2, 1, 3)), key)
    state = m.add("kv_matmul", MatMul(), rows, keys)
    made = m.add("qkv_matmul", MatMul(), state, m.add("q_rows", Transpose((0, 2, 3, 1)), query))
    above = m.add("weighted", Slice(2, Integer(0), width), made)
    below = m.add("weights", Slice(2, width, Integer(1)), made)
    below = m.add("weights_eps", Map("add_constant"), below)
    made = m.add("normed_values", Map("div"), above, below)
    return m.add("mixed", Transpose((0, 3, 1, 2)), made)


@dataclass(frozen=True)
class GatedConv:
    """A feed-forward block with a depthwise 3×3 convolution and a gate inside (Sana's Mix-FFN).

    The shape of the grid does not matter to the cost: it is taken as one column.
    """

    d: Expr
    width: Expr

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def add(self, m: Maker, x: str) -> str:
        """Adds the block; ``x (B, n, d)`` in and out."""
        wide, length = 2 * self.width, m.shape(x)[1]
        y = m.add("grid", AsImage((length, Integer(1))), x)
        y = act(m, "widen_act", conv(m, "widen", y, wide, 1), "silu")
        y = conv(m, "dwconv", y, wide, 3, 1, 1, wide)
        kept = m.add("kept", Slice(1, Integer(0), self.width), y)
        gate = act(m, "gate", m.add("gates", Slice(1, self.width, self.width), y), "silu")
        y = m.add("gated", Multiply(), kept, gate)
        return m.add("grid_rows", AsSequence(), conv(m, "narrow", y, self.d, 1, bias=False))


@dataclass(frozen=True)
class PromptedLayer:
    """Self-attention, attention to ``text`` prompt tokens, and a feed-forward block.

    Attributes:
        length, text: positions per sample, of the image and of the prompt.
        at, cross: heads of self-attention and of attention to the prompt.
        feed: the feed-forward block.
        norm: in front of both modulations, without parameters.
        cross_norm: in front of the attention to the prompt, or None.
        linear: self-attention without softmax (:func:`linear_attention`).
    """

    length: Expr
    text: Expr
    at: Heads
    cross: Heads
    feed: Block
    norm: Norm = BARE
    cross_norm: Norm | None = None
    linear: bool = False

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
        parts = self.at.all(m, y)
        y = linear_attention(m, *parts) if self.linear else attended(m, *parts, FULL)
        y = self.at.out(m, y)
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
