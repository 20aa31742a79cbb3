"""A ViT that sees a share of the patches, and a decoder that fills in the others (ViTMAE)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import picture
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM, TowerLayer
from costgraph.models.vision import OnePass, Tower
from costgraph.ops import Add
from costgraph.ops.arrays import Copy, Join
from costgraph.ops.image import Cut, Prepend
from costgraph.ops.index import KeepRows
from costgraph.ops.views import Expand, Reshape
from costgraph.symbols import B

ONE = Integer(1)


@dataclass(frozen=True)
class Filling:
    """The decoder: narrower layers over all positions.

    Attributes:
        at, feed, layers: of its layers.
        out: width of a patch's pixels.
    """

    at: Heads
    feed: FeedForward
    layers: Expr
    out: Expr


@dataclass(frozen=True)
class MaskedViT(OnePass):
    """ViTMAE (He et al., arXiv 2111.06377): the encoder's layers see ``kept`` patches.

    Attributes:
        tower: patches and layers.
        kept: patches that are seen.
        filling: the decoder, or None.
    """

    tower: Tower
    kept: int
    filling: Filling | None = None

    def positions(self, style: Style) -> Expr:
        return Integer(self.kept + 1)

    def graph(self, name: str, style: Style) -> Graph:
        m, tower, d = Maker(name, style), self.tower, self.tower.at.d
        size = self.tower.size
        x = picture(m, B, tower.patches.channels, size)
        x = replace(tower.patches, first=0, rows=None).add(m, x)
        every = m.shape(x)[1]
        table = m.weight("positions.weight", every + 1, d)
        first, rest = m.add_many("places", Cut((ONE, every)), m.add(
            "places_row", Reshape((ONE, every + 1, d)), table
        ))  # fmt: skip
        x = m.add("position_add", Add(), x, m.add("rest", Reshape((every, d)), rest))
        x = m.add("seen_patches", KeepRows(1, every - self.kept), x)
        token = m.vector("class_token", ONE, d)
        token = m.add("class_add", Add(), token, m.add("first", Reshape((ONE, d)), first))
        x = m.add("prepend", Prepend(), token, x)
        layer = tower.layer(B, Integer(self.kept + 1))
        x = run(m, (Segment("vision_layers", layer, tower.layers),), x)
        x = m.norm("final_norm", x, d, LAYER_NORM)
        return m.build(x if self.filling is None else self._filled(m, x, every, self.filling))

    def _filled(self, m: Maker, x: str, every: Expr, filling: Filling) -> str:
        """Adds the decoder: pixels of all patches."""
        d = filling.at.d
        x = m.linear("decoder_embed", x, d, self.tower.at.d, True)
        token = m.vector("mask_token", ONE, ONE, d)
        hidden = m.add("hidden_rows", Expand((B, every - self.kept, d)), token)
        x = m.add("seen_and_hidden", Join(1), x, hidden)
        x = m.add("in_order", Copy((B, every + 1, d)), x)
        x = m.add("decoder_place", Add(), x, m.weight("decoder_positions.weight", every + 1, d))
        layer = TowerLayer(B, every + 1, filling.at, filling.feed)
        x = run(m, (Segment("decoder_layers", layer, filling.layers),), x)
        x = m.norm("decoder_norm", x, d, LAYER_NORM)
        x = m.linear("pixels", x, filling.out, d, True)
        return m.add_many("without_class", Cut((ONE, every)), x)[1]
