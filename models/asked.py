"""A question about an image as the source of a decoder: BLIP's encoder of both."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr

from costgraph.formula.terms import Limit
from costgraph.models.blocks import Ends, FeedForward, Maker, Segment, Style
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.resampler import QueryLayer
from costgraph.models.blocks.splicing import spliced
from costgraph.models.blocks.stack import embed, positions_end, run
from costgraph.models.vision import VisionTransformer
from costgraph.symbols import B, S, q


@dataclass(frozen=True)
class Asked:
    """Tokens of a question that see one another, and in every layer an image.

    Attributes:
        image: the tower.
        ends: embeddings of the question.
        at, feed, layers: of the layers.
    """

    image: VisionTransformer
    ends: Ends
    at: Heads
    feed: FeedForward
    layers: Expr

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Questions are no longer than the table of positions."""
        return positions_end(S, self.ends.positions)

    def positions(self, style: Style) -> Expr:
        """Tokens of a question."""
        return S

    def features(self, m: Maker) -> tuple[str, ...]:
        """Adds image and question: all tokens of the question."""
        rows, *beside = spliced(m, "image", self.image.features)
        x, _ = embed(m, self.ends)
        _, count, wide = m.shape(rows)
        layer = QueryLayer(B, q, count, wide, self.at, self.feed, cross=True)
        x = run(m, (Segment("question_layers", layer, self.layers),), x, rows=rows)
        return (x, *beside)
