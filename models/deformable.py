"""Deformable DETR (Zhu et al., arXiv 2010.04159): boxes from a few points of several maps."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.deformable import (
    FOUR,
    ONE,
    TWO,
    Points,
    QueryLayer,
    box_waves,
    chosen,
    moved,
    one_width,
    over_maps,
    promising,
    shared_linear,
    shared_products,
)
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.stages import Maps
from costgraph.models.vision import OnePass
from costgraph.ops import Activation
from costgraph.ops.views import Expand, Slice
from costgraph.symbols import B


@dataclass(frozen=True)
class DeformableDetr(OnePass):
    """Deformable DETR, plain, with boxes that layers refine, or in two stages.

    Attributes:
        stem: the network, and the stages that are read.
        levels: maps in all; those beyond the stages halve the last one.
        seen, feed: points and feed-forward width of the layers over the maps; ``layers``: their
            number.
        own, points, fed: heads, points and feed-forward block of the decoder; ``count``: its
            layers.
        queries: boxes that are asked for.
        labels: kinds of objects; None for the bare model.
        refined: each layer moves the boxes that the one before has made.
        staged: queries are the places of the maps that promise most.
    """

    stem: Maps
    levels: int
    seen: tuple[int, int]
    feed: FeedForward
    layers: Expr
    own: Heads
    points: int
    fed: FeedForward
    count: int
    queries: Expr
    labels: Expr | None
    refined: bool = False
    staged: bool = False

    def positions(self, style: Style) -> Expr:
        return self.stem.positions(style)

    def graph(self, name: str, style: Style) -> Graph:
        m, d = Maker(name, style), self.own.d
        maps = one_width(m, self.stem.add(m), d, self.levels)
        x, layer, given = over_maps(m, maps, *self.seen, self.feed)
        memory = run(m, (Segment("encoder", layer, self.layers),), x, **given)
        place, hidden, boxes, *promised = (self._promised if self.staged else self._asked)(
            m, memory
        )
        read = Points(d, int(self.own.heads), self.points, layer.read.grids)
        asking = QueryLayer(self.own, read, self.fed)
        before, made = boxes, []
        for index in range(self.count):
            hidden = asking.add(m, f"layer{index}_", hidden, place, memory, boxes)
            made.append((hidden, before))
            if self.refined and self.labels is not None:
                boxes = before = self._moved(m, index, f"layer{index}_", hidden, boxes)
        if self.labels is None:
            return m.build(hidden, memory)
        for index, (hidden, before) in enumerate(made):
            kinds = self._kind(m, index, hidden, f"head{index}_kind")
            boxes = self._moved(m, index, f"head{index}_", hidden, before)
        return m.build(kinds, boxes, *promised)

    def _asked(self, m: Maker, memory: str) -> tuple[str, ...]:
        """Adds learned places and rows of the queries, and points made of the places."""
        d = self.own.d
        table = m.vector("queries.weight", self.queries, 2 * d)
        shape = (B, self.queries, d)
        place, hidden = (
            m.add(f"{name}_rows", Expand(shape), m.add(name, Slice(1, start, d), table))
            for name, start in (("query_places", Integer(0)), ("query_start", d))
        )
        spots = m.linear("reference", place, TWO, d, True)
        return place, hidden, m.add("first_boxes", Activation("sigmoid"), spots)

    def _promised(self, m: Maker, memory: str) -> tuple[str, ...]:
        """Adds the choice of places that promise most, and places and rows made of their boxes."""
        d, x = self.own.d, promising(m, memory)
        kinds = self._kind(m, self.count, x, "promise_kind")
        moves = self._box(m, self.count, x, "promise_")
        best = m.add("first_kind", Slice(2, Integer(0), ONE), kinds)
        _, boxes = chosen(m, best, moves, self.queries)
        both = box_waves(m, "box_", boxes, d)
        both = m.norm(
            "promised_norm", m.linear("promised", both, 2 * d, 2 * d, True), 2 * d, LAYER_NORM
        )
        place = m.add("query_places", Slice(2, Integer(0), d), both)
        return place, m.add("query_start", Slice(2, d, d), both), boxes, kinds

    def _kind(self, m: Maker, index: int, x: str, name: str) -> str:
        """Adds kinds of objects; all layers have the same weights but in two stages."""
        labels = self.labels or ONE
        return shared_linear(m, name, f"kind{index}" if self.staged else "kind", x, labels)

    def _box(self, m: Maker, index: int, x: str, name: str) -> str:
        """Adds what boxes move by; all layers have the same weights where none refines."""
        of = f"box{index}_" if self.refined else "box_"
        return shared_products(m, f"{name}box", of, x, (self.own.d, self.own.d, FOUR))

    def _moved(self, m: Maker, index: int, name: str, x: str, before: str) -> str:
        """Adds boxes: those before, or points, moved."""
        move = self._box(m, index, x, name)
        return moved(m, name, move, before)
