"""DAB-DETR (Liu et al., arXiv 2201.12329): queries are boxes, which every layer moves."""

from __future__ import annotations

from dataclasses import dataclass

from costgraph.ir.graph import Graph
from costgraph.models.blocks import Maker, Style
from costgraph.models.blocks.deformable import box_waves, moved, placed, shared_products
from costgraph.models.blocks.image import conv, same_norm
from costgraph.models.conditional import FOUR, ONE, TWO, ConditionalDetr
from costgraph.ops import Activation, AsSequence
from costgraph.ops.arrays import Fill
from costgraph.ops.maps import Map
from costgraph.ops.views import Expand, Reshape, Slice
from costgraph.symbols import B


@dataclass(frozen=True)
class DabDetr(ConditionalDetr):
    """Conditional DETR whose places are those of boxes, and of an image scaled by its contents."""

    def _seen(self, m: Maker) -> tuple[str, str]:
        d = self.at.d
        x = conv(m, "input_proj", self._stem(m), d, 1)
        places = self._places(m, *m.shape(x)[2:])
        x = m.add("image_rows", AsSequence(), x)
        for index in range(int(self.layers)):
            name = f"encoder{index}_"
            scale = shared_products(m, f"{name}scale", "encoder_scale", x, (d, d))
            place = m.add(f"{name}place", Map("mul"), scale, places)
            x = self._added(m, f"{name}attn", placed(m, self.at, x, place, name), x)
            x = self._added(m, f"{name}mlp", self.feed.add(m, x, name), x)
        return x, places

    def graph(self, name: str, style: Style) -> Graph:
        m, d, asked = Maker(name, style), self.at.d, self.queries
        x, places = self._seen(m)
        image = self._everywhere(m, places)
        boxes = m.add("box_row", Reshape((ONE, asked, FOUR)), m.vector("boxes.weight", asked, FOUR))
        boxes = m.add("boxes_each", Expand((B, asked, FOUR)), boxes)
        boxes = m.add("boxes_bent", Activation("sigmoid"), boxes)
        y = m.add("empty", Fill((B, asked, d), style.acts))
        made: list[str] = []
        for index in range(int(self.count)):
            part, before = f"layer{index}_", boxes
            waves = box_waves(m, part, boxes, d)
            own = shared_products(m, f"{part}own", "own", waves, (d, d))
            waves = m.add(f"{part}own_waves", Slice(2, length=d), waves)
            waves = self._sized(m, part, self._scaled(m, index, y, waves), y, boxes)
            y = self._layer(m, index, y, (own, waves), (x, image))
            rows = same_norm(m, f"{part}decoder_norm", "decoder_norm", y)
            if self.labels is not None:
                boxes = self._moved(m, part, y, boxes)
                made.append(self._moved(m, f"{part}out_", rows, before))
        last = same_norm(m, "decoder_norm", "decoder_norm", y)
        if self.labels is None:
            return m.build(last, x)
        return m.build(m.linear("classifier", rows, self.labels, d, True), *made, last)

    def _moved(self, m: Maker, name: str, x: str, boxes: str) -> str:
        """Adds boxes moved by what one network makes of rows."""
        d = self.at.d
        return moved(m, name, shared_products(m, f"{name}box", "box", x, (d, d, FOUR)), boxes)

    def _sized(self, m: Maker, name: str, waves: str, x: str, boxes: str) -> str:
        """Adds waves, of height and of width, times sizes that rows ask for over those of boxes."""
        d, asked = self.at.d, self.queries
        size = shared_products(m, f"{name}anchor", "anchor", x, (d, TWO))
        size = m.add(f"{name}anchor_bent", Activation("sigmoid"), size)
        there = m.add(f"{name}box_size", Slice(2, TWO, TWO), boxes)
        share = m.add(f"{name}size_share", Map("div"), size, there)
        share = m.add(f"{name}size_column", Reshape((B, asked, TWO, ONE)), share)
        halves = m.add(f"{name}wave_halves", Reshape((B, asked, TWO, d / 2)), waves)
        halves = m.add(f"{name}waves_sized", Map("mul"), halves, share)
        return m.add(f"{name}waves_row", Reshape((B, asked, d)), halves)
