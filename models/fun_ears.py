"""Ears of Fun-ASR-Nano: SenseVoice's layers (arXiv 2407.04051) and what adapts them."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import Hearing
from costgraph.models.blocks.image import conv
from costgraph.models.blocks.projector import Steps, project
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM, TowerLayer
from costgraph.models.encoder import fixed_positions
from costgraph.models.waves import as_channels
from costgraph.ops import Add, AsSequence, Scale, Split
from costgraph.ops.maps import Map
from costgraph.ops.pattern import FULL
from costgraph.symbols import B, G

ONE = Integer(1)


@dataclass(frozen=True)
class RememberingLayer:
    """A layer that adds to its attention what a convolution of each channel makes of the values.

    Attributes:
        at, feed: heads and feed-forward block.
        kernel: taps of the convolution, an odd number.
    """

    at: Heads
    feed: FeedForward
    kernel: int

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Which rows are there."""
        return (Tensor("row_mask", (B, G, ONE), style.acts),)

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state and mask in, hidden state out."""
        m = Maker("layer", style)
        x = m.source(Tensor("hidden", (B, G, self.at.d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        return m.build(self.add(m, x))

    def add(self, m: Maker, x: str, prefix: str = "") -> str:
        """Adds the layer; ``x (B, G, c)`` to ``(B, G, d)``, and is added where it is as wide."""
        d, wide = self.at.d, m.shape(x)[-1]
        y = self._mixed(m, m.norm(f"{prefix}attn_norm", x, wide, LAYER_NORM), prefix)
        x = m.add(f"{prefix}attn_add", Add(), y, x) if wide == d else y
        fed = self.feed.add(m, m.norm(f"{prefix}mlp_norm", x, d, LAYER_NORM), prefix)
        return m.add(f"{prefix}mlp_add", Add(), fed, x)

    def _mixed(self, m: Maker, x: str, prefix: str) -> str:
        at, half = self.at, (self.kernel - 1) // 2
        query, key = (at.project(m, name, x, prefix) for name in "qk")
        value = m.linear(f"{prefix}v_proj", x, at.width, m.shape(x)[-1], True)
        heads = m.add(f"{prefix}v_heads", Split(((at.heads, at.head_dim),)), value)
        mixed = at.out(m, attended(m, query, key, heads, FULL, prefix=prefix), prefix)
        name = f"{prefix}memory"
        seen = m.add(f"{name}_mask", Map("mul"), value, "row_mask")
        y = as_channels(m, f"{name}_channels", seen)
        y = conv(m, name, y, at.width, self.kernel, 1, half, at.width, bias=False)
        y = m.add(f"{name}_add", Add(), m.add(f"{name}_rows", AsSequence(), y), seen)
        return m.add(f"{name}_sum", Add(), mixed, y)


@dataclass(frozen=True)
class FunEars(Hearing):
    """An encoder over stacked frames, two products, and layers that adapt its rows.

    Attributes:
        frame: numbers of a row that comes in.
        layer: of the encoder; the first one reads wider rows.
        runs: numbers of layers in front of each norm.
        steps: the products behind them.
        at, feed, layers: of what adapts.
    """

    frame: Expr
    layer: RememberingLayer
    runs: tuple[int, ...]
    steps: Steps
    at: Heads
    feed: FeedForward
    layers: Expr

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Rows of one sound."""
        return (
            "G audio tokens, which the prompt's S tokens include, are rows of stacked frames of "
            "one sound per sequence",
        )

    def positions(self, style: Style) -> Expr:
        """Rows per sequence."""
        return G

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds encoder and adaptor: rows ``(B, G, d)``."""
        x = m.source(Tensor("frames", (B, G, self.frame), m.style.acts))
        x = fixed_positions(m, m.add("frame_scale", Scale(), x))
        mask = m.source(Tensor("row_mask", (B, G, ONE), m.style.acts))
        x = self.layer.add(m, x, "first_")
        for index, count in enumerate(self.runs, start=1):
            left = count - (index == 1)
            if left:
                segment = Segment(f"audio_layers{index}", self.layer, Integer(left))
                x = run(m, (segment,), x, row_mask=mask)
            x = m.norm(f"audio_norm{index}", x, self.layer.at.d, LAYER_NORM)
        x = project(m, "projector", x, self.steps)
        adapts = TowerLayer(B, G, self.at, self.feed)
        return (run(m, (Segment("adapting_layers", adapts, self.layers),), x),)
