"""Attention to a few points of several maps (Deformable DETR, Zhu et al., arXiv 2010.04159)."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer, Mul

from costgraph.models.blocks.style import Maker
from costgraph.ops import Linear
from costgraph.ops.arrays import Join
from costgraph.ops.image import Cut
from costgraph.ops.maps import Map, Reduce, SoftmaxOver
from costgraph.ops.signal import GridSample
from costgraph.ops.views import Reshape, Slice, Transpose
from costgraph.symbols import B

ONE, TWO, FOUR = Integer(1), Integer(2), Integer(4)
Grids = tuple[tuple[Expr, Expr], ...]


def shared_linear(m: Maker, name: str, of: str, x: str, out: Expr) -> str:
    """Adds a product with bias whose weights, called ``of``, other products have as well."""
    weight = m.weight(f"{of}.weight", out, m.shape(x)[-1])
    return m.add(name, Linear(bias=True), x, weight, m.vector(f"{of}.bias", out))


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

    def add(self, m: Maker, prefix: str, asked: str, rows: str, boxes: str) -> str:
        """Adds the attention.

        ``asked (B, n, d)`` makes offsets and weights, ``rows (B, k, d)`` of all maps in a row the
        values; ``boxes (B, n, 4)`` are middles and sizes.
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
        weights = m.add(f"{prefix}shares_first", Transpose((0, 2, 1, 3)), weights)
        weights = m.add(f"{prefix}share_rows", Reshape((B * heads, ONE, count, every)), weights)
        lengths = tuple(Mul(*grid) for grid in self.grids)
        parts = m.add_many(f"{prefix}maps", Cut(lengths), value)
        found = []
        for level, (part, grid) in enumerate(zip(parts, self.grids, strict=True)):
            name = f"{prefix}map{level}"
            x = m.add(f"{name}_channels", Transpose((0, 2, 1)), part)
            x = m.add(f"{name}_image", Reshape((B * heads, d / heads, *grid)), x)
            at = m.add(f"{name}_at", Slice(3, Integer(level), ONE), places)
            at = m.add(f"{name}_first", Transpose((0, 2, 1, 3, 4, 5)), at)
            at = m.add(f"{name}_grid", Reshape((B * heads, count, points, TWO)), at)
            found.append(m.add(f"{name}_sample", GridSample(), x, at))
        x = m.add(f"{prefix}samples", Join(3), *found)
        x = m.add(f"{prefix}weighed", Map("mul"), x, weights)
        x = m.add(f"{prefix}summed", Reduce("sum", (3,)), x)
        x = m.add(f"{prefix}heads", Reshape((B, d, count)), x)
        x = m.add(f"{prefix}rows", Transpose((0, 2, 1)), x)
        return m.linear(f"{prefix}o_proj", x, d, d, True)

    def _places(self, m: Maker, prefix: str, offsets: str, boxes: str) -> str:
        """Adds the places from −1 to 1 that offsets from boxes are: ``(B, n, H, L, P, 2)``."""
        batch, count, _ = m.shape(offsets)
        levels = Integer(len(self.grids))
        shape = (batch, count, Integer(self.heads), levels, Integer(self.points), TWO)
        rows = []
        for name, start in (("middle", Integer(0)), ("size", TWO)):
            part = m.add(f"{prefix}box_{name}", Slice(2, start, TWO), boxes)
            row = Reshape((B, count, ONE, ONE, ONE, TWO))
            rows.append(m.add(f"{prefix}box_{name}_row", row, part))
        middle, size = rows
        x = m.add(f"{prefix}offsets", Reshape(shape), offsets)
        x = m.add(f"{prefix}by_size", Map("scale"), x)
        x = m.add(f"{prefix}offset_size", Map("mul"), x, size)
        x = m.add(f"{prefix}offset_middle", Map("add"), x, middle)
        x = m.add(f"{prefix}twice", Map("scale"), x)
        return m.add(f"{prefix}places", Map("add_constant"), x)
