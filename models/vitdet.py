"""ViTDet (Li et al., arXiv 2203.16527): a plain transformer in windows, some of whose layers
are followed by convolutions."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import act, channel_norm, conv, picture
from costgraph.models.blocks.sam import SamLayer
from costgraph.models.blocks.stack import run
from costgraph.models.vision import OnePass
from costgraph.ops import Add, AsSequence
from costgraph.ops.image import AsImage, Interpolate
from costgraph.ops.views import Slice
from costgraph.symbols import B

ONE = Integer(1)


@dataclass(frozen=True)
class VitDet(OnePass):
    """Layers over a square grid, and the images behind some of them.

    Attributes:
        at, feed: heads and feed-forward block.
        layers: their number; ``near``: those in windows of side ``window``.
        mixed: those that convolutions follow.
        channels, size, patch: channels of the image, its side, and that of a patch.
        learned: side of the grid that the table of positions is of, or None without one.
        placed: scores get biases that are made of queries.
        taken: numbers of layers whose images are answered, from 0 for the patches.
    """

    at: Heads
    feed: FeedForward
    layers: int
    near: frozenset[int]
    mixed: frozenset[int]
    window: int
    channels: Expr
    size: int
    patch: int
    learned: int | None
    placed: bool
    taken: tuple[int, ...]

    @property
    def side(self) -> int:
        """Side of the grid."""
        return self.size // self.patch

    def positions(self, style: Style) -> Expr:
        return Integer(self.side**2)

    def graph(self, name: str, style: Style) -> Graph:
        m, grid = Maker(name, style), (Integer(self.side),) * 2
        x, made, start = self._patched(m), [], 0
        ends = sorted({*self.taken, *(i + 1 for i in self.mixed), self.layers})
        for end in ends:
            x = self._through(m, start, end, x)
            image = m.add(f"image{end}", AsImage(grid), x)
            if end - 1 in self.mixed:
                image = self._mixed(m, f"mix{end}_", image)
                x = m.add(f"rows{end}", AsSequence(), image)
            if end in self.taken:
                made.append(image)
            start = end
        return m.build(*made, *(() if self.layers in self.taken else (image,)))

    def _patched(self, m: Maker) -> str:
        """Adds the rows of patches."""
        d, count = self.at.d, Integer(self.side**2)
        x = picture(m, B, self.channels, (Integer(self.size),) * 2)
        x = conv(m, "patch_embed", x, d, self.patch, self.patch)
        x = m.add("patch_rows", AsSequence(), x)
        if self.learned is None:
            return x
        # The table's first row is that of a class token, which there is not.
        rows = Integer(self.learned**2)
        table = m.weight("positions.weight", rows + 1, d)
        table = m.add("positions_kept", Slice(0, ONE, rows), table)
        if rows != count:
            table = m.add("position_resample", Interpolate(count, 16), table)
        return m.add("position_add", Add(), x, table)

    def _through(self, m: Maker, start: int, end: int, x: str) -> str:
        """Adds the layers from ``start`` to ``end``, equal ones together."""
        first = start
        for index in range(start, end):
            if index + 1 < end and (index + 1 in self.near) == (index in self.near):
                continue
            window = self.window if index in self.near else None
            layer = SamLayer(B, self.side, self.at, self.feed, window, self.placed)
            part = Segment(f"layers{index + 1}", layer, Integer(index + 1 - first))
            x, first = run(m, (part,), x), index + 1
        return x

    def _mixed(self, m: Maker, name: str, x: str) -> str:
        """Adds three convolutions with norms, and what they were made of."""
        d, y = self.at.d, x
        for step, (out, taps) in enumerate(((d // 2, 1), (d // 2, 3), (d, 1)), start=1):
            y = conv(m, f"{name}{step}", y, out, taps, 1, taps // 2, bias=False)
            y = channel_norm(m, f"{name}norm{step}", y)
            y = act(m, f"{name}act{step}", y, self.feed.activation) if step < 3 else y
        return m.add(f"{name}add", Add(), x, y)
