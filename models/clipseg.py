"""CLIPSeg (arXiv 2112.10003): a mask of what a text names, from CLIP's layers."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import act, conv, enlarge, picture
from costgraph.models.blocks.resampler import QueryLayer
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.vision import TwoTowers
from costgraph.ops import Add, SelectLast
from costgraph.ops.image import AsImage, Cut
from costgraph.ops.maps import Map
from costgraph.ops.views import Reshape
from costgraph.symbols import B

ONE = Integer(1)


@dataclass(frozen=True)
class NamedParts(TwoTowers):
    """``B`` images, each with a text of ``S`` tokens that names what is masked.

    Attributes:
        taken: layers, counted from zero, whose results the decoder reads, the last one first.
        at, feed: of the decoder's layers, one for each.
        told: which of them the text's vector scales and shifts.
        enlarged: three convolutions make pixels of patches, not one.
    """

    taken: tuple[int, ...]
    at: Heads
    feed: FeedForward
    told: int
    enlarged: bool

    def graph(self, name: str, style: Style) -> Graph:
        m, tower = Maker(name, style), self.tower
        d = tower.at.d
        x = picture(m, B, tower.patches.channels, tower.sized(style))
        x = m.norm("front_norm", tower.patches.add(m, x), d, LAYER_NORM)
        layer = tower.layer(B, m.shape(x)[1])
        kept: list[str] = []
        ends = (*(i + 1 for i in self.taken), int(tower.layers))
        for index, (start, end) in enumerate(zip((0, *ends), ends, strict=False), start=1):
            if end > start:
                x = run(m, (Segment(f"vision_layers{index}", layer, Integer(end - start)),), x)
            kept.append(x)
        first = m.add("class_position", SelectLast(ONE), kept.pop())
        first = m.norm("vision_norm", first, d, LAYER_NORM)
        seen = m.linear("image_proj", first, self.width, d)
        _, end_row = self.text.add(m)
        asked = m.linear("text_proj", end_row, self.width, self.text.text.d)
        m.vector("logit_scale", ONE)
        return m.build(self._decoded(m, kept, asked), seen)

    def _decoded(self, m: Maker, kept: list[str], asked: str) -> str:
        """Adds the decoder of what the layers made and of the text's vector: a mask."""
        d, x = self.at.d, ""
        for index, rows in enumerate(reversed(kept)):
            made = m.linear(f"reduce{index}", rows, d, self.tower.at.d, True)
            x = m.add(f"reduce{index}_add", Add(), made, x) if x else made
            if index == self.told:
                for name, function in (("scale", "mul"), ("shift", "add")):
                    row = m.linear(f"told_{name}", asked, d, self.width, True)
                    row = m.add(f"told_{name}_row", Reshape((B, ONE, d)), row)
                    x = m.add(f"told_{function}", Map(function), x, row)
            count = m.shape(x)[1]
            layer = QueryLayer(B, count, count, d, self.at, self.feed, cross=False)
            x = run(m, (Segment(f"decoder_layer{index}", layer, ONE),), x)
        count = m.shape(x)[1]
        x = m.add_many("patches_alone", Cut((ONE, count - 1)), x)[1]
        x = m.add("grid", AsImage(self._grid(m)), x)
        side = self.tower.patches.patch[0]
        if not self.enlarged:
            return enlarge(m, "pixels", x, ONE, side)
        x = act(m, "smooth_act", conv(m, "smooth", x, d, 3, 1, 1), "relu")
        fourth = Integer(int(side) // 4)
        x = act(m, "larger_act", enlarge(m, "larger", x, d / 2, fourth), "relu")
        return enlarge(m, "pixels", x, ONE, fourth)

    def _grid(self, m: Maker) -> tuple[Expr, ...]:
        size, patch = self.tower.sized(m.style), self.tower.patches.patch
        return tuple(Integer(int(n) // int(p)) for n, p in zip(size, patch, strict=True))
