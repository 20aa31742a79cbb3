"""MobileViT (Mehta and Rastegari, arXiv 2110.02178): layers between convolutions that see all."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import FeedForward, Maker, Segment
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import conv
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM, TowerLayer
from costgraph.models.inverted import Step
from costgraph.ops.arrays import Join
from costgraph.ops.image import Rearrange


@dataclass(frozen=True)
class Folded:
    """Places that stand alike in their squares see one another, over the whole image.

    Attributes:
        kernel: taps a side of the convolutions in front and behind.
        at, feed, layers: of the layers.
        square: side of the squares.
        activation: behind the convolutions.
    """

    kernel: int
    at: Heads
    feed: FeedForward
    layers: int
    square: int
    activation: str

    @property
    def width(self) -> int:
        """Channels of its layers."""
        return int(self.at.d)

    def add(self, m: Maker, name: str, x: str) -> str:
        """Adds the block; an image in and out.

        Raises:
            ModelError: squares do not fill the image.
        """
        batch, channels, tall, wide = m.shape(x)
        side, d = Integer(self.square), self.at.d
        if tall % side or wide % side:
            raise ModelError(
                f"{name}: squares of {side} places do not fill a grid of {tall} x {wide}"
            )
        narrow = int(channels)
        y = Step(narrow, self.kernel, activation=self.activation).add(m, f"{name}_near", x)
        y = conv(m, f"{name}_wide", y, d, 1, bias=False)
        rows, count = batch * side**2, tall * wide / side**2
        y = m.add(f"{name}_unfold", Rearrange((rows, count, d)), y)
        layer = TowerLayer(rows, count, self.at, self.feed)
        y = run(m, (Segment(f"{name}_layers", layer, Integer(self.layers)),), y)
        y = m.norm(f"{name}_norm", y, d, LAYER_NORM)
        y = m.add(f"{name}_fold", Rearrange((batch, d, tall, wide)), y)
        y = Step(narrow, activation=self.activation).add(m, f"{name}_back", y)
        both = m.add(f"{name}_both", Join(1), x, y)
        return Step(narrow, self.kernel, activation=self.activation).add(m, f"{name}_fuse", both)
