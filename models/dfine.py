"""D-FINE (Peng et al., arXiv 2410.13842): RT-DETR whose boxes' edges are shares of distances."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker
from costgraph.models.blocks.deformable import (
    FOUR,
    TWO,
    Grids,
    looked,
    moved,
    sampled,
    shared_products,
)
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.detecting import products
from costgraph.models.inverted import Step
from costgraph.models.rtdetr import Fusing, Promising
from costgraph.ops import Activation, Add
from costgraph.ops.arrays import Join
from costgraph.ops.maps import Map, Reduce, SoftmaxOver, TopK
from costgraph.ops.views import Reshape, Slice
from costgraph.symbols import B

ZERO, ONE = Integer(0), Integer(1)


@dataclass(frozen=True)
class Strided(Fusing):
    """Maps brought together by layers whose results all stand side by side.

    ``layers``: of each half.
    """

    layers: int

    def _side(self) -> Step:
        return Step(self.width)

    def _shrunk(self, m: Maker, name: str, x: str) -> str:
        x = Step(self.width).add(m, f"{name}_flat", x)
        return Step(self.width, 3, 2, 0).add(m, name, x)

    def _fused(self, m: Maker, name: str, x: str, y: str) -> str:
        both = m.add(f"{name}_beside", Join(1), x, y)
        x = Step(2 * self.width, activation="silu").add(m, f"{name}_enter", both)
        every, half = [x], Integer(self.width)
        x = m.add(f"{name}_half", Slice(1, half, half), x)
        for part in ("near", "far"):
            x = self._halved(m, f"{name}_{part}", x, self.layers)
            x = Step(self.inner, 3, activation="silu").add(m, f"{name}_{part}_out", x)
            every.append(x)
        x = m.add(f"{name}_every", Join(1), *every)
        return Step(self.width, activation="silu").add(m, f"{name}_out", x)


@dataclass(frozen=True)
class FinePoints:
    """Rows read ``points`` places of each map, as many as they like of each; no products of rows.

    Attributes:
        d, heads: width and heads.
        points: of a head on each map.
        grids: of the maps.
    """

    d: Expr
    heads: Expr
    points: tuple[int, ...]
    grids: Grids

    def add(self, m: Maker, prefix: str, asked: str, rows: str, boxes: str) -> str:
        """Adds the attention of ``asked (B, n, d)`` with ``boxes (B, n, 4)`` to ``rows``."""
        count, every = m.shape(asked)[1], Integer(sum(self.points))
        places = m.linear(f"{prefix}offset_proj", asked, self.heads * every * 2, self.d, True)
        x = m.add(f"{prefix}offsets", Reshape((B, count, self.heads, every, TWO)), places)
        weights = m.linear(f"{prefix}weight_proj", asked, self.heads * every, self.d, True)
        weights = m.add(f"{prefix}weights", Reshape((B, count, self.heads, every)), weights)
        weights = m.add(f"{prefix}shares", SoftmaxOver(3), weights)
        middle, size = (
            m.add(
                f"{prefix}box_{name}_row",
                Reshape((B, count, ONE, ONE, TWO)),
                m.add(f"{prefix}box_{name}", Slice(2, start, TWO), boxes),
            )
            for name, start in (("middle", ZERO), ("size", TWO))
        )
        x = m.add(f"{prefix}by_count", Map("mul"), x, "point_shares")
        x = m.add(f"{prefix}offset_size", Map("mul"), x, size)
        x = m.add(f"{prefix}by_size", Map("scale"), x)
        x = m.add(f"{prefix}offset_middle", Map("add"), x, middle)
        x = m.add(f"{prefix}twice", Map("scale"), x)
        x = m.add(f"{prefix}places", Map("add_constant"), x)
        each, start = [], 0
        for level, points in enumerate(self.points):
            cut = Slice(3, Integer(start), Integer(points))
            each.append(m.add(f"{prefix}map{level}_at", cut, x))
            start += points
        return sampled(m, prefix, rows, self.grids, each, weights)


@dataclass(frozen=True)
class GatedLayer:
    """Queries attend to one another and read points; two gates weigh both, then a feed-forward."""

    own: Heads
    read: FinePoints
    feed: FeedForward

    def add(self, m: Maker, prefix: str, x: str, place: str, memory: str, boxes: str) -> str:
        """Adds the layer: rows ``(B, n, d)`` in and out, with what is added where they ask."""
        d = self.own.d
        x, y = looked(m, prefix, self.own, self.read, x, place, memory, boxes)
        both = m.add(f"{prefix}beside", Join(2), x, y)
        gates = m.linear(f"{prefix}gate_proj", both, 2 * d, 2 * d, True)
        gates = m.add(f"{prefix}gates", Activation("sigmoid"), gates)
        both = m.add(f"{prefix}gated", Map("mul"), both, gates)
        halves = [m.add(f"{prefix}half{i}", Slice(2, i * d, d), both) for i in (0, 1)]
        x = m.norm(f"{prefix}gate_norm", m.add(f"{prefix}gate_add", Add(), *halves), d, LAYER_NORM)
        y = self.feed.add(m, x, prefix)
        x = m.add(f"{prefix}clip", Map("clip"), m.add(f"{prefix}mlp_add", Add(), y, x))
        return m.norm(f"{prefix}mlp_norm", x, d, LAYER_NORM)


@dataclass(frozen=True)
class DFine(Promising):
    """D-FINE.

    Attributes:
        points: of a head on each map.
        bins: distances that an edge has shares of.
        best: largest shares by which boxes are rated.
        rated: widths between the products that rate.
    """

    points: tuple[int, ...]
    bins: Expr
    best: Expr
    rated: tuple[Expr, ...]

    def _levels(self, m: Maker, maps: list[str]) -> list[str]:
        return maps if self.own.d == self.at.d else super()._levels(m, maps)

    def _decoded(
        self, m: Maker, hidden: str, boxes: str, memory: str, grids: Grids
    ) -> tuple[str, ...]:
        d, every = self.own.d, Integer(sum(self.points))
        for name in ("reg_scale", "up"):
            m.vector(name, ONE)
        m.source(Tensor("point_shares", (every, ONE), m.style.acts))
        if self.boxed:
            m.source(Tensor("distances", (self.bins,), m.style.acts))
        read = FinePoints(d, self.own.heads, self.points, grids)
        layer = GatedLayer(self.own, read, self.fed)
        before = first = corners = ""
        for index in range(1, self.count + 1):
            name = f"layer{index}_"
            place = shared_products(m, f"{name}place", "box_place", boxes, (2 * d, d))
            place = m.add(f"{name}place_clip", Map("clip"), place)
            hidden = layer.add(m, name, hidden, place, memory, boxes)
            if index == 1:
                move = products(m, "start_box", hidden, (d, d, FOUR), "relu")
                first = moved(m, "start_", move, boxes)
            if self.boxed:
                corners = self._corners(m, name, hidden, before, corners)
                boxes = self._boxes(m, name, first, corners)
            before = hidden
        if not self.boxed:
            self._idle(m, self.count)
            return hidden, first
        kinds = m.linear("kind", hidden, self.labels, d, True)
        self._idle(m, self.count - 1)
        for index in range(1, self.count):  # layers that do not answer have a classifier, too
            m.weight(f"idle{index}_kind.weight", self.labels, d)
            m.vector(f"idle{index}_kind.bias", self.labels)
        return self._rated(m, kinds, corners), boxes

    def _corners(self, m: Maker, name: str, x: str, before: str, corners: str) -> str:
        """Adds shares of distances of four edges, on top of those of the layer before."""
        d = self.own.d
        x = m.add(f"{name}both", Add(), x, before) if before else x
        made = products(m, f"{name}edges", x, (d, d, FOUR * self.bins), "relu")
        return m.add(f"{name}edges_add", Add(), made, corners) if corners else made

    def _boxes(self, m: Maker, name: str, first: str, corners: str) -> str:
        """Adds boxes whose edges are so far from the middles of the ``first`` ones."""
        x = m.add(f"{name}edge_rows", Reshape((B, self.queries, FOUR, self.bins)), corners)
        x = m.add(f"{name}edge_shares", SoftmaxOver(3), x)
        x = m.add(f"{name}edge_parts", Map("mul"), x, "distances")
        x = m.add(f"{name}edge_sum", Reduce("sum", (3,)), x)
        x = m.add(f"{name}edge_shift", Map("add_constant"), x)
        middle, size = (
            m.add(f"{name}first_{part}", Slice(2, start, TWO), first)
            for part, start in (("middle", ZERO), ("size", TWO))
        )
        size = m.add(f"{name}size_scale", Map("scale"), size)
        before, behind = (
            m.add(
                f"{name}{part}", Map("mul"), m.add(f"{name}edge_{part}", Slice(2, at, TWO), x), size
            )
            for part, at in (("before", ZERO), ("behind", TWO))
        )
        low = m.add(f"{name}low", Map("sub"), middle, before)
        high = m.add(f"{name}high", Add(), middle, behind)
        x = m.add(f"{name}middle_scale", Map("scale"), m.add(f"{name}middle", Add(), low, high))
        return m.add(f"{name}boxes", Join(2), x, m.add(f"{name}size", Map("sub"), high, low))

    def _rated(self, m: Maker, kinds: str, corners: str) -> str:
        """Adds to the kinds how sure the edges are: products of their largest shares."""
        x = m.add("rate_rows", Reshape((B, self.queries, FOUR, self.bins)), corners)
        x = m.add_many("rate_most", TopK(self.best, 3), m.add("rate_shares", SoftmaxOver(3), x))[0]
        mean = m.add("rate_mean", Reduce("mean", (3,), keep=True), x)
        wide = FOUR * (self.best + 1)
        x = m.add("rate_beside", Join(3), x, mean)
        x = m.add("rate_row", Reshape((B, self.queries, wide)), x)
        x = products(m, "rate", x, (*self.rated, ONE), "relu")
        return m.add("kinds_rated", Map("add"), kinds, x)

    def _idle(self, m: Maker, layers: int) -> None:
        """What rates the boxes of ``layers`` that do not answer rests in memory."""
        widths = (FOUR * (self.best + 1), *self.rated, ONE)
        for layer in range(layers):
            for index, (wide, out) in enumerate(itertools.pairwise(widths)):
                m.weight(f"idle{layer}_rate{index}.weight", out, wide)
                m.vector(f"idle{layer}_rate{index}.bias", out)
