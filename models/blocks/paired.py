"""Eyes of two towers, one behind the other, whose rows stand side by side (DeepSeek-OCR)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.image import conv
from costgraph.models.blocks.queried import PageEyes
from costgraph.models.blocks.stack import Segment, run
from costgraph.models.blocks.style import Maker
from costgraph.models.blocks.tower import LAYER_NORM, TowerLayer
from costgraph.ops import Add, AsSequence
from costgraph.ops.arrays import Join
from costgraph.ops.image import Cut
from costgraph.ops.views import Expand, Reshape
from costgraph.symbols import B, G

ONE = Integer(1)


@dataclass(frozen=True)
class PairedEyes(PageEyes):
    """SAM's encoder, two convolutions of stride 2, and CLIP's layers over what these make.

    Rows of both stand side by side in front of one product (arXiv 2510.18234).

    Attributes:
        shrunk: channels behind the first convolution; behind the second those of ``at``.
        at, feed, layers: of CLIP, whose own embedding of patches rests in memory.
        patch: weights of that embedding.
        out: width of the language model.
    """

    shrunk: Expr
    at: Heads
    feed: FeedForward
    layers: Expr
    patch: Expr
    out: Expr

    part: ClassVar[int] = 640

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds both towers and the projector: rows."""
        d, batch, count = self.at.d, B * G / self.tokens, Integer(self.tokens)
        x = self.encoder.add(m, batch)
        x = conv(m, "shrink1", x, self.shrunk, 3, 2, 1, bias=False)
        rows = m.add("patches", AsSequence(), conv(m, "shrink2", x, d, 3, 2, 1, bias=False))
        m.vector("clip_patches.weight", self.patch)  # of pictures, which it does not see itself
        first = m.add("first", Expand((batch, ONE, d)), m.vector("class.weight", ONE, d))
        x = m.add("first_rows", Join(1), first, rows)
        x = m.add("clip_position_add", Add(), x, m.weight("clip_positions.weight", count + 1, d))
        x = m.norm("clip_norm", x, d, LAYER_NORM)
        layer = TowerLayer(batch, count + 1, self.at, self.feed)
        x = run(m, (Segment("clip_layers", layer, self.layers),), x)
        _, x = m.add_many("found", Cut((ONE, count)), x)
        x = m.linear("projector", m.add("both", Join(2), x, rows), self.out, 2 * d, True)
        m.weight("marks.weight", Integer(2), self.out)  # behind lines, and behind pictures
        return (m.add("image_rows", Reshape((B, G, self.out)), x),)
