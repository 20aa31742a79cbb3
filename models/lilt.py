"""LiLT (Wang et al., arXiv 2202.13669): a narrow stream of boxes beside that of words."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Style
from costgraph.models.blocks.boxes import box_rows
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.encoder import TextFront
from costgraph.models.encoder_heads import Head
from costgraph.ops import Add, AttentionScores, AttentionValues, Embedding, Scale, Softmax
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Beside, Slice
from costgraph.symbols import B, q


@dataclass(frozen=True)
class BesideFront:
    """LiLT's front: words, and beside them a narrow stream of their boxes.

    Attributes:
        words: embeddings of words.
        d, narrow: widths of both streams.
        places, positions: rows of the tables of edges and of positions of the narrow stream.
    """

    words: TextFront
    d: Expr
    narrow: Expr
    places: Expr
    positions: Expr

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds both: (hidden state of both, embedding table)."""
        x, table = self.words.add(m)
        sixth = self.d / 6
        boxes = box_rows(m, q, self.places, dict.fromkeys("xyhw", sixth))
        y = m.linear("box_proj", boxes, self.narrow, self.d, True)
        learned = m.weight("box_positions.weight", self.positions, self.narrow)
        ids = m.source(Tensor("box_position_ids", (B, q), INT64))
        found = m.add("box_position_embed", Embedding(result=m.style.acts), ids, learned)
        y = m.add("box_position_add", Add(), y, found)
        y = m.norm("box_norm", y, self.narrow, LAYER_NORM)
        return m.add("streams", Beside(2), x, y), table


@dataclass(frozen=True)
class BesideLayer:
    """LiLT's layer: both streams attend by the sum of their scores.

    Attributes:
        at, feed: of the words; ``narrow``, ``narrow_feed``: of the boxes.
    """

    at: Heads
    feed: FeedForward
    narrow: Heads
    narrow_feed: FeedForward

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: both streams in, both out."""
        m, d, few = Maker("layer", style), self.at.d, self.narrow.d
        both = m.source(Tensor("hidden", (B, q, d + few), style.acts))
        x = m.add("words", Slice(2, Integer(0), d), both)
        y = m.add("boxes", Slice(2, d, few), both)
        scores, values = [], []
        for name, at, rows in (("", self.at, x), ("box_", self.narrow, y)):
            query, key = (at.project(m, part, rows, name) for part in ("q", "k"))
            made = m.add(f"{name}qk_matmul", AttentionScores(FULL), query, key)
            scores.append(m.add(f"{name}score_scale", Scale(), made))
            values.append(at.project(m, "v", rows, name))
        both_made: list[str] = []
        for index, (name, at, feed, rows) in enumerate(
            (("", self.at, self.feed, x), ("box_", self.narrow, self.narrow_feed, y))
        ):
            total = m.add(f"{name}score_sum", Add(), scores[index], scores[1 - index])
            shares = m.add(f"{name}softmax", Softmax(FULL), total)
            mixed = m.add(f"{name}sv_matmul", AttentionValues(FULL), shares, values[index])
            rows = m.add(f"{name}attn_add", Add(), at.out(m, mixed, name), rows)
            rows = m.norm(f"{name}attn_norm", rows, at.d, LAYER_NORM)
            rows = m.add(f"{name}mlp_add", Add(), feed.add(m, rows, name), rows)
            both_made.append(m.norm(f"{name}mlp_norm", rows, at.d, LAYER_NORM))
        return m.build(m.add("streams", Beside(2), *both_made))


@dataclass(frozen=True)
class OfWords:
    """A head over the stream of words, ``d`` wide, alone."""

    d: Expr
    head: Head

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head."""
        return self.head.add(m, m.add("words", Slice(2, Integer(0), self.d), hidden), table)
