"""DETR's masks: a picture of what each query looks at, enlarged stage by stage."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer, Mul

from costgraph.ir.graph import Graph
from costgraph.models.blocks import Maker, Style
from costgraph.models.blocks.image import act, conv, group_norm, picture
from costgraph.models.detecting import Detr
from costgraph.ops import Add, AttentionScores
from costgraph.ops.arrays import Join
from costgraph.ops.maps import SoftmaxOver
from costgraph.ops.pattern import FULL
from costgraph.ops.pool import Resize
from costgraph.ops.views import Expand, Reshape, Transpose
from costgraph.symbols import B

ONE = Integer(1)
#: Most groups of its norms, and steps that each halve its channels.
GROUPS, HALVES = 8, 4


@dataclass(frozen=True)
class PanopticDetr(Detr):
    """DETR with a mask for each query (Carion et al., arXiv 2005.12872).

    All convolutions run once for each query, as in the class.
    """

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        size = style.image or self.size
        *finer, last = self.stem.maps(m, picture(m, B, self.stem.channels, size))
        seen = conv(m, "input_proj", last, self.at.d, 1)
        x, places = self._encoded(m, seen)
        rows = self._decoded(m, x, places)
        kinds, boxes = self._answers(m, rows)
        y = m.add("mask_start", Join(1), self._each(m, "seen", seen), self._looks(m, rows, x, seen))
        wide, half = m.shape(y)[1], self.at.d / 2
        y = self._mixed(m, "mask2", self._mixed(m, "mask1", y, wide), half)
        for index, stage in enumerate(reversed(finer)):
            near = self._each(m, f"stage{index}", stage)
            near = conv(m, f"adapter{index}", near, half, 1)
            y = m.add(f"enlarge{index}", Resize(m.shape(near), "nearest"), y)
            half = half / 2
            y = self._mixed(m, f"refine{index}", m.add(f"fuse{index}", Add(), near, y), half)
        y = conv(m, "mask_out", y, ONE, 3, 1, 1)
        made = m.add("masks", Reshape((B, self.queries, *m.shape(y)[2:])), y)
        return m.build(kinds, boxes, made)

    def _looks(self, m: Maker, rows: str, x: str, seen: str) -> str:
        """Adds where each query looks: ``(B·Q, heads, h, w)``, whose sum is one."""
        heads, count, grid = self.at.heads, self.queries, m.shape(seen)[2:]
        query, key = (self.at.project(m, n, y, "look_") for n, y in (("q", rows), ("k", x)))
        scores = m.add("look_matmul", AttentionScores(FULL), query, key)
        scores = m.add("look_queries", Transpose((0, 2, 1, 3)), scores)
        scores = m.add("look_flat", Reshape((B, count, heads * Mul(*grid))), scores)
        shares = m.add("look_softmax", SoftmaxOver(2), scores)
        return m.add("looks", Reshape((B * count, heads, *grid)), shares)

    def _each(self, m: Maker, name: str, x: str) -> str:
        """Adds an image once for each query."""
        shape = m.shape(x)
        one = m.add(f"{name}_one", Reshape((B, ONE, *shape[1:])), x)
        every = m.add(f"{name}_each", Expand((B, self.queries, *shape[1:])), one)
        return m.add(f"{name}_all", Reshape((B * self.queries, *shape[1:])), every)

    def _mixed(self, m: Maker, name: str, x: str, out: Expr) -> str:
        """Adds a convolution with norm and activation."""
        x = conv(m, name, x, out, 3, 1, 1)
        x = group_norm(m, f"{name}_norm", x, Integer(min(GROUPS, int(out))))
        return act(m, f"{name}_act", x, self.feed.activation)
