"""SAM 3's image encoder (arXiv 2511.16719): rotated windows, and a map at each of four sizes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from sympy import Expr, Integer

from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.image import act, conv, enlarge, picture
from costgraph.models.blocks.pattern import gathered
from costgraph.models.blocks.sam import SamLayer
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.style import Maker
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.ops import Add, AsSequence
from costgraph.ops.arrays import Copy
from costgraph.ops.image import AsImage
from costgraph.ops.pool import Pool

ZERO, ONE, TWO = Integer(0), Integer(1), Integer(2)


@dataclass(frozen=True)
class TurnedEncoder:
    """Patches, a norm, and layers in windows or whole.

    Attributes:
        at, feed: heads, which are rotated, and feed-forward block.
        layers: their number; ``whole``: those that see the whole grid.
        channels, size, patch: channels of the image, its side, and that of a patch.
        window: side of the windows of the others.
        learned: side of the table of positions, which is repeated over the grid.
        out, scales: channels of the maps, and their sides over that of the grid; none without.
    """

    at: Heads
    feed: FeedForward
    layers: int
    whole: frozenset[int]
    channels: Expr
    size: int
    patch: int
    window: int
    learned: int
    out: Expr = ZERO
    scales: tuple[Fraction, ...] = ()

    @property
    def side(self) -> int:
        """Side of the grid of patches."""
        return self.size // self.patch

    def maps(self, m: Maker, batch: Expr) -> tuple[str, ...]:
        """Adds the encoder: all positions, then the maps."""
        x = self._layers(m, batch)
        if not self.scales:
            return (x,)
        side = Integer(self.side)
        grid = m.add("as_image", AsImage((side, side)), x)
        return (x, *(self._map(m, i, grid, scale) for i, scale in enumerate(self.scales)))

    def _layers(self, m: Maker, batch: Expr) -> str:
        d, count = self.at.d, Integer(self.side**2)
        x = picture(m, batch, self.channels, (Integer(self.size),) * 2)
        x = conv(m, "patch_embed", x, d, self.patch, self.patch, bias=False)
        x = m.add("patch_rows", AsSequence(), x)
        table = m.weight("positions.weight", Integer(self.learned**2), d)
        if self.learned != self.side:
            table = m.add("position_copies", Copy((count, d)), table)
        x = m.norm("front_norm", m.add("position_add", Add(), x, table), d, LAYER_NORM)
        kinds = [
            (
                "whole_layers" if i in self.whole else "window_layers",
                SamLayer(
                    batch,
                    self.side,
                    self.at,
                    self.feed,
                    None if i in self.whole else self.window,
                    placed=False,
                ),
            )
            for i in range(self.layers)
        ]
        for segment in gathered(kinds):
            (table_of,) = segment.layer.operands(m.style)
            name = f"{segment.name}_rope"
            turned = m.source(type(table_of)(name, table_of.shape, table_of.dtype))
            x = run(m, (segment,), x, rope_table=turned)
        return x

    def _map(self, m: Maker, index: int, x: str, scale: Fraction) -> str:
        """Adds a map of another size: two convolutions behind what enlarges or shrinks."""
        name = f"map{index}"
        if scale < 1:
            pool = Pool((TWO, TWO), (TWO, TWO), (ZERO, ZERO), (ONE, ONE))
            x = m.add(f"{name}_pool", pool, x)
        for step in range(1, int(scale).bit_length() if scale > 1 else 1):
            x = act(m, f"{name}_act{step}", x, "gelu") if step > 1 else x
            x = enlarge(m, f"{name}_enlarge{step}", x, m.shape(x)[1] / 2, TWO)
        return conv(
            m, f"{name}_second", conv(m, f"{name}_first", x, self.out, 1), self.out, 3, 1, 1
        )
