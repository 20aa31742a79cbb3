"""Key points of bodies: ViTPose (Xu et al., arXiv 2204.12484)."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer, Mul

from costgraph.ir.graph import Graph
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import act, batch_norm, conv, picture
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM, TowerLayer
from costgraph.models.vision import OnePass, Size
from costgraph.ops import AsSequence
from costgraph.ops.image import AsImage
from costgraph.ops.maps import Map
from costgraph.ops.pool import ConvTranspose, Resize
from costgraph.ops.views import Slice
from costgraph.symbols import B

ONE, TWO = Integer(1), Integer(2)
#: Channels, taps a side of the transposed convolutions in front of the points.
WIDTH, TAPS = Integer(256), Integer(4)


@dataclass(frozen=True)
class ViTPose(OnePass):
    """A vision transformer over ``B`` boxes with a body each, and a map for each point.

    Attributes:
        channels, size, patch: of the image, which has this size alone.
        at, feed, layers: of the transformer.
        points: maps.
        factor: how much finer they are than patches in the simple head; None for the one of two
            transposed convolutions.
    """

    channels: Expr
    size: Size
    patch: Size
    at: Heads
    feed: FeedForward
    layers: Expr
    points: Expr
    factor: Expr | None

    @property
    def grid(self) -> Size:
        """Patches of the height and the width."""
        return self.size[0] // self.patch[0], self.size[1] // self.patch[1]

    def positions(self, style: Style) -> Expr:
        return Mul(*self.grid)

    def graph(self, name: str, style: Style) -> Graph:
        size = self.size  # the published class reads no other
        m, d, count = Maker(name, style), self.at.d, Mul(*self.grid)
        x = conv(m, "patch_embed", picture(m, B, self.channels, size), d, self.patch, self.patch, 2)
        x = m.add("rows", AsSequence(), x)
        table = m.weight("positions.weight", count + 1, d)
        for part, start, rows in (("each", ONE, count), ("first", Integer(0), ONE)):
            places = m.add(f"{part}_places", Slice(0, start, rows), table)
            x = m.add(f"{part}_place_add", Map("add"), x, places)
        layer = TowerLayer(B, count, self.at, self.feed)
        x = run(m, (Segment("vision_layers", layer, self.layers),), x)
        x = m.norm("final_norm", x, d, LAYER_NORM)
        return m.build(self._maps(m, m.add("grid", AsImage(self.grid), x)))

    def _maps(self, m: Maker, x: str) -> str:
        """Adds the head: ``(B, points, h, w)``."""
        if self.factor is not None:
            x = act(m, "head_act", x, "relu")
            size = tuple(self.factor * n for n in self.grid)
            x = m.add("enlarge", Resize((B, self.at.d, *size), "linear"), x)
            return conv(m, "points", x, self.points, 3, 1, 1)
        for index in (1, 2):
            _, channels, tall, wide = m.shape(x)
            kernel = m.weight(f"grow{index}.weight", channels, WIDTH, TAPS, TAPS)
            x = m.add(f"grow{index}", ConvTranspose((TWO * tall, TWO * wide)), x, kernel)
            x = act(m, f"grow{index}_act", batch_norm(m, f"grow{index}_norm", x), "relu")
        return conv(m, "points", x, self.points, 1)
