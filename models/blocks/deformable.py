"""Attention to a few points of several maps (Deformable DETR, Zhu et al., arXiv 2010.04159)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sympy import Expr, Integer, Mul

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.image import conv, group_norm
from costgraph.models.blocks.style import Maker, Style
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.ops import Activation, Add, AsSequence, Linear
from costgraph.ops.arrays import Join
from costgraph.ops.features import TakeRows
from costgraph.ops.image import Cut
from costgraph.ops.maps import Map, Reduce, SoftmaxOver, TopK
from costgraph.ops.pattern import FULL
from costgraph.ops.signal import GridSample
from costgraph.ops.views import Reshape, Slice, Transpose
from costgraph.symbols import B

ONE, TWO, FOUR = Integer(1), Integer(2), Integer(4)
Grids = tuple[tuple[Expr, Expr], ...]
#: Groups of the norms behind convolutions, in all that read several maps.
GROUPS = Integer(32)


def shared_linear(m: Maker, name: str, of: str, x: str, out: Expr) -> str:
    """Adds a product with bias whose weights, called ``of``, other products have as well."""
    weight = m.weight(f"{of}.weight", out, m.shape(x)[-1])
    return m.add(name, Linear(bias=True), x, weight, m.vector(f"{of}.bias", out))


def shared_products(m: Maker, name: str, of: str, x: str, widths: tuple[Expr, ...]) -> str:
    """Adds products whose weights others have as well, and ReLU between them."""
    for step, width in enumerate(widths, start=1):
        x = shared_linear(m, f"{name}{step}", f"{of}{step}", x, width)
        if step < len(widths):
            x = m.add(f"{name}{step}_act", Activation("relu"), x)
    return x


def placed(m: Maker, at: Heads, x: str, place: str, prefix: str) -> str:
    """Adds attention of rows to one another; what asks and is asked has places added to it."""
    asked = m.add(f"{prefix}q_place", Add(), x, place)
    query, key = (at.project(m, part, asked, prefix) for part in "qk")
    value = at.project(m, "v", x, prefix)
    return at.out(m, attended(m, query, key, value, FULL, prefix=prefix), prefix)


def one_width(m: Maker, maps: list[str], d: Expr, count: int) -> list[str]:
    """Adds ``count`` maps of width ``d`` behind a group norm each, from ``maps`` large to small.

    Beyond those there are, each halves the one before; the first of them reads the last of
    ``maps`` as it is.
    """
    made: list[str] = []
    for index in range(count):
        name = f"level{index}"
        if index < len(maps):
            x = conv(m, name, maps[index], d, 1)
        else:
            x = conv(m, name, maps[-1] if index == len(maps) else made[-1], d, 3, 2, 1)
        made.append(group_norm(m, f"{name}_norm", x, GROUPS))
    return made


def in_a_row(m: Maker, maps: list[str]) -> tuple[str, Grids]:
    """Adds the rows ``(B, k, d)`` of all maps, and their grids."""
    grids = tuple((m.shape(x)[2], m.shape(x)[3]) for x in maps)
    rows = [m.add(f"rows{index}", AsSequence(), x) for index, x in enumerate(maps)]
    return m.add("all_rows", Join(1), *rows), grids


def levelled(m: Maker, grids: Grids, d: Expr) -> str:
    """Adds places ``(k, d)`` of all maps, to which each map adds a learned row."""
    count = Integer(len(grids))
    table = m.vector("level_places", count, d)
    parts = []
    for index, grid in enumerate(grids):
        row = m.add(f"level{index}_row", Slice(0, Integer(index), ONE), table)
        places = m.source(Tensor(f"grid_places{index}", (Mul(*grid), d), m.style.acts))
        parts.append(m.add(f"level{index}_places", Map("add"), places, row))
    return m.add("places", Join(0), *parts)


def box_waves(m: Maker, prefix: str, boxes: str, d: Expr) -> str:
    """Adds sines and cosines of boxes ``(B, n, 4)``: ``(B, n, 2d)``."""
    batch, count, _ = m.shape(boxes)
    column = m.add(f"{prefix}column", Reshape((batch, count, FOUR, ONE)), boxes)
    waves = m.source(Tensor(f"{prefix}waves", (ONE, ONE, FOUR, d / 4), m.style.acts))
    angles = m.add(f"{prefix}angles", Map("mul"), column, waves)
    parts = [
        m.add(f"{prefix}{part}_rows", Reshape((batch, count, d)), m.add(f"{prefix}{part}",
              Map(part), angles))
        for part in ("sin", "cos")
    ]  # fmt: skip
    return m.add(f"{prefix}wave_rows", Join(2), *parts)


def promising(m: Maker, memory: str) -> str:
    """Adds the rows of all maps ``(B, k, d)`` that promises are made of."""
    _, length, d = m.shape(memory)
    inside = m.source(Tensor("inside", (ONE, length, ONE), m.style.acts))
    x = m.add("inside_rows", Map("mul"), memory, inside)
    return m.norm("promise_norm", m.linear("promise_proj", x, d, d, True), d, LAYER_NORM)


def chosen(m: Maker, best: str, moves: str, count: Expr) -> tuple[str, str]:
    """Adds the choice of the ``count`` rows that promise most: their places, and their boxes.

    ``best`` are the promises of all rows, ``moves (B, k, 4)`` what moves the anchors.
    """
    anchors = m.source(Tensor("anchors", (ONE, *m.shape(moves)[1:]), m.style.acts))
    boxes = m.add("anchored", Map("add"), moves, anchors)
    places = m.add_many("most", TopK(count, 1), best)[1]
    boxes = m.add("promised_boxes", TakeRows(count), boxes, places)
    return places, m.add("first_boxes", Activation("sigmoid"), boxes)


def moved(m: Maker, name: str, move: str, before: str) -> str:
    """Adds boxes ``(B, n, 4)``: those ``before``, or points ``(B, n, 2)``, moved by ``move``."""
    start = m.add(f"{name}logit", Map("logit"), before)
    if m.shape(before)[2] == FOUR:
        made = m.add(f"{name}moved", Add(), move, start)
    else:
        middle = m.add(f"{name}middle", Slice(2, Integer(0), TWO), move)
        middle = m.add(f"{name}middle_moved", Add(), middle, start)
        size = m.add(f"{name}size", Slice(2, TWO, TWO), move)
        made = m.add(f"{name}moved", Join(2), middle, size)
    return m.add(f"{name}boxes", Activation("sigmoid"), made)


@dataclass(frozen=True)
class PointLayer:
    """Rows of several maps read points of all of them, then a feed-forward block; norms behind."""

    read: Points
    feed: FeedForward

    @property
    def length(self) -> Expr:
        """Rows of all maps."""
        return sum((Mul(*grid) for grid in self.read.grids), Integer(0))

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Places of the rows, where they are in their maps, and the sizes of those."""
        return (
            Tensor("places", (self.length, self.read.d), style.acts),
            Tensor("spots", (ONE, self.length, TWO), style.acts),
            self.read.sizes(style),
        )

    def graph(self, style: Style) -> Graph:
        """The layer: rows in, rows out."""
        m = Maker("layer", style)
        x = m.source(Tensor("hidden", (B, self.length, self.read.d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        return m.build(self.add(m, x))

    def add(self, m: Maker, x: str, prefix: str = "") -> str:
        """Adds the layer; rows in and out."""
        d = self.read.d
        asked = m.add(f"{prefix}q_place", Add(), x, "places")
        y = self.read.add(m, f"{prefix}seen_", asked, x, "spots")
        x = m.norm(f"{prefix}attn_norm", m.add(f"{prefix}attn_add", Add(), y, x), d, LAYER_NORM)
        y = self.feed.add(m, x, prefix)
        return m.norm(f"{prefix}mlp_norm", m.add(f"{prefix}mlp_add", Add(), y, x), d, LAYER_NORM)


@dataclass(frozen=True)
class Points:
    """Rows read ``points`` places of each map, which they choose by offsets from boxes.

    Attributes:
        d, heads, points: width, heads, and points of a head on each map.
        grids: height and width of the maps.
    """

    d: Expr
    heads: int
    points: int
    grids: Grids

    def sizes(self, style: Style) -> Tensor:
        """One over height and width of each map."""
        return Tensor("map_sizes", (ONE, ONE, ONE, Integer(len(self.grids)), ONE, TWO), style.acts)

    def add(self, m: Maker, prefix: str, asked: str, rows: str, boxes: str) -> str:
        """Adds the attention.

        ``asked (B, n, d)`` makes offsets and weights, ``rows (B, k, d)`` of all maps in a row the
        values; ``boxes (B, n, 4)`` are middles and sizes. Of ``(…, n, 2)`` middles alone offsets
        count in places of each map, whose sizes are the operand ``map_sizes``.
        """
        d, heads, count = self.d, Integer(self.heads), m.shape(asked)[1]
        levels, points = len(self.grids), Integer(self.points)
        every = levels * points
        value = m.linear(f"{prefix}value_proj", rows, d, d, True)
        places = m.linear(f"{prefix}offset_proj", asked, heads * every * 2, d, True)
        places = self._places(m, prefix, places, boxes)
        weights = m.linear(f"{prefix}weight_proj", asked, heads * every, d, True)
        weights = m.add(f"{prefix}weights", Reshape((B, count, heads, every)), weights)
        weights = m.add(f"{prefix}shares", SoftmaxOver(3), weights)
        each = [
            m.add(f"{prefix}map{level}_at", Slice(3, Integer(level), ONE), places)
            for level in range(levels)
        ]
        x = sampled(m, prefix, value, self.grids, each, weights)
        return m.linear(f"{prefix}o_proj", x, d, d, True)

    def _places(self, m: Maker, prefix: str, offsets: str, boxes: str) -> str:
        """Adds the places from −1 to 1 that offsets from boxes are: ``(B, n, H, L, P, 2)``."""
        batch, count, _ = m.shape(offsets)
        levels = Integer(len(self.grids))
        shape = (batch, count, Integer(self.heads), levels, Integer(self.points), TWO)
        x = m.add(f"{prefix}offsets", Reshape(shape), offsets)
        if m.shape(boxes)[2] == TWO:
            lead = m.shape(boxes)[0]
            row = Reshape((lead, count, ONE, ONE, ONE, TWO))
            middle, size = m.add(f"{prefix}middle_row", row, boxes), "map_sizes"
        else:
            rows = []
            for name, start in (("middle", Integer(0)), ("size", TWO)):
                part = m.add(f"{prefix}box_{name}", Slice(2, start, TWO), boxes)
                row = Reshape((B, count, ONE, ONE, ONE, TWO))
                rows.append(m.add(f"{prefix}box_{name}_row", row, part))
            middle, size = rows
            x = m.add(f"{prefix}by_size", Map("scale"), x)
        x = m.add(f"{prefix}offset_size", Map("mul"), x, size)
        x = m.add(f"{prefix}offset_middle", Map("add"), x, middle)
        x = m.add(f"{prefix}twice", Map("scale"), x)
        return m.add(f"{prefix}places", Map("add_constant"), x)


def sampled(m: Maker, prefix: str, rows: str, grids: Grids, places: list[str], weights: str) -> str:
    """Adds what is read of maps, each share by its weight: ``(B, n, d)``.

    ``rows (B, k, d)`` are those of all maps, ``places (B, n, H, …, 2)`` of each one, from −1 to 1;
    ``weights (B, n, H, every)``.
    """
    batch, count, heads, every = m.shape(weights)
    d = m.shape(rows)[2]
    weights = m.add(f"{prefix}shares_first", Transpose((0, 2, 1, 3)), weights)
    weights = m.add(f"{prefix}share_rows", Reshape((batch * heads, ONE, count, every)), weights)
    parts = m.add_many(f"{prefix}maps", Cut(tuple(Mul(*grid) for grid in grids)), rows)
    found = []
    for level, (part, at, grid) in enumerate(zip(parts, places, grids, strict=True)):
        name, shape = f"{prefix}map{level}", m.shape(at)
        x = m.add(f"{name}_channels", Transpose((0, 2, 1)), part)
        x = m.add(f"{name}_image", Reshape((batch * heads, d / heads, *grid)), x)
        at = m.add(f"{name}_first", Transpose((0, 2, 1, *range(3, len(shape)))), at)
        at = m.add(f"{name}_grid", Reshape((batch * heads, count, Mul(*shape[3:-1]), TWO)), at)
        found.append(m.add(f"{name}_sample", GridSample(), x, at))
    x = m.add(f"{prefix}samples", Join(3), *found)
    x = m.add(f"{prefix}weighed", Map("mul"), x, weights)
    x = m.add(f"{prefix}summed", Reduce("sum", (3,)), x)
    x = m.add(f"{prefix}heads", Reshape((batch, d, count)), x)
    return m.add(f"{prefix}rows", Transpose((0, 2, 1)), x)


def over_maps(
    m: Maker, maps: list[str], heads: int, points: int, feed: FeedForward
) -> tuple[str, PointLayer, dict[str, str]]:
    """Adds the rows of all maps, and what layers over them share.

    Returns:
        The rows, such a layer, and the names of its operands.
    """
    x, grids = in_a_row(m, maps)
    d = m.shape(x)[2]
    layer = PointLayer(Points(d, heads, points, grids), feed)
    given = {"places": levelled(m, grids, d)}
    for tensor in layer.operands(m.style)[1:]:
        given[tensor.name] = m.source(tensor)
    return x, layer, given


class Reads(Protocol):
    """What rows read of the maps."""

    def add(self, m: Maker, prefix: str, asked: str, rows: str, boxes: str) -> str:
        """Adds it for rows that ask, ``(B, n, d)``, with ``boxes (B, n, 4)``."""


def looked(
    m: Maker, prefix: str, own: Heads, read: Reads, x: str, place: str, memory: str, boxes: str
) -> tuple[str, str]:
    """Adds what queries hear of one another, with a norm behind it, and what they read then.

    Returns:
        Both, the second not yet added to the first.
    """
    y = placed(m, own, x, place, prefix)
    x = m.norm(f"{prefix}attn_norm", m.add(f"{prefix}attn_add", Add(), y, x), own.d, LAYER_NORM)
    asked = m.add(f"{prefix}cross_place", Add(), x, place)
    return x, read.add(m, f"{prefix}cross_", asked, memory, boxes)


@dataclass(frozen=True)
class QueryLayer:
    """Queries attend to one another and read points of the maps, then a feed-forward block.

    Norms stand behind each of the three.
    """

    own: Heads
    read: Points
    feed: FeedForward

    def add(self, m: Maker, prefix: str, x: str, place: str, memory: str, boxes: str) -> str:
        """Adds the layer: rows ``(B, n, d)`` in and out, with what is added where they ask."""
        d = self.own.d
        x, y = looked(m, prefix, self.own, self.read, x, place, memory, boxes)
        x = m.norm(f"{prefix}cross_norm", m.add(f"{prefix}cross_add", Add(), y, x), d, LAYER_NORM)
        y = self.feed.add(m, x, prefix)
        return m.norm(f"{prefix}mlp_norm", m.add(f"{prefix}mlp_add", Add(), y, x), d, LAYER_NORM)
