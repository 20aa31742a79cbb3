"""FocalNet (Yang et al., arXiv 2203.11926): gated sums of what depthwise convolutions see."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Integer, Mul

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.image import act, conv
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.convnet import Pyramid
from costgraph.ops import Add, AsSequence, Multiply
from costgraph.ops.image import AsImage, MeanPool
from costgraph.ops.maps import Map, Reduce
from costgraph.ops.pool import Resize
from costgraph.ops.views import Slice
from costgraph.symbols import B

ONE = Integer(1)


@dataclass(frozen=True)
class FocalLayer:
    """A layer: modulation, then a feed-forward block.

    Attributes:
        size: of the image.
        feed: the feed-forward block.
        levels, window: convolutions, and taps a side of the first; later ones have two more each.
        behind: norms stand behind the blocks, not in front of them.
        inside: a norm in front of the modulation's last product.
        shared: sums are divided by their number.
        scaled: what the blocks make is multiplied by a vector.
    """

    size: tuple[Expr, ...]
    feed: FeedForward
    levels: int
    window: int
    behind: bool
    inside: bool
    shared: bool
    scaled: bool

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: rows in, rows out."""
        m, d = Maker("layer", style), self.feed.d
        x = m.source(Tensor("hidden", (B, Mul(*self.size), d), style.acts))
        for name, block in (("focal", self._modulated), ("mlp", self.feed.add)):
            y = x if self.behind else m.norm(f"{name}_norm", x, d, LAYER_NORM)
            y = block(m, y)
            y = m.norm(f"{name}_norm", y, d, LAYER_NORM) if self.behind else y
            if self.scaled:
                scale = m.vector(f"{name}_scale.weight", d)
                y = m.add(f"{name}_scale", Multiply(), y, scale)
            x = m.add(f"{name}_add", Add(), y, x)
        return m.build(x)

    def _modulated(self, m: Maker, x: str) -> str:
        """Adds the modulation of rows ``(B, n, d)``."""
        d, count = self.feed.d, Integer(self.levels + 1)
        x = m.linear("in_proj", x, 2 * d + count, d, True)
        x = m.add("in_image", AsImage(self.size), x)
        asked = m.add("asked", Slice(1, length=d), x)
        seen = m.add("seen", Slice(1, d, d), x)
        gates = [m.add(f"gate{i}", Slice(1, 2 * d + i, ONE), x) for i in range(self.levels + 1)]
        parts = []
        for level in range(self.levels):
            taps = self.window + 2 * level
            seen = conv(m, f"focus{level}", seen, d, taps, 1, taps // 2, groups=d, bias=False)
            seen = act(m, f"focus{level}_act", seen, "gelu")
            parts.append(m.add(f"focus{level}_gated", Map("mul"), seen, gates[level]))
        mean = act(m, "mean_act", m.add("mean", Reduce("mean", (2, 3), keep=True), seen), "gelu")
        # The last gate is as large as the image.
        total = m.add("mean_gated", Map("mul"), gates[-1], mean)
        for level, part in enumerate(parts):
            total = m.add(f"sum{level}", Add(), total, part)
        if self.shared:
            total = m.add("share", Map("scale"), total)
        y = m.add("modulated", Multiply(), asked, conv(m, "context", total, d, 1))
        y = m.add("rows", AsSequence(), y)
        y = m.norm("inner_norm", y, d, LAYER_NORM) if self.inside else y
        return m.linear("out_proj", y, d, d, True)


@dataclass(frozen=True)
class FocalNet(Pyramid):
    """The network.

    Attributes:
        layers: of each stage, without the size of their image; ``depths``: how many.
        patch: side of a patch.
        overlaps: patches and halves are convolutions that overlap.
        bare: no classifier: all positions, and their mean.
    """

    layers: tuple[FocalLayer, ...]
    depths: tuple[int, ...]
    patch: int
    overlaps: bool
    bare: bool

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        x = self._stages(m, self.start(m))
        x = m.add("final_rows", AsSequence(), x)
        x = m.norm("final_norm", x, m.shape(x)[2], LAYER_NORM)
        mean = m.add("pool", MeanPool(sequence=True), x)
        return m.build(x, mean) if self.bare else self.close(m, mean)

    def _stages(self, m: Maker, x: str) -> str:
        """Adds all stages: the last image."""
        x = self._patched(m, "patch", x, self.layers[0].feed.d, True)
        for index, (layer, depth) in enumerate(zip(self.layers, self.depths, strict=True)):
            size = m.shape(x)[2:]
            layer = replace(layer, size=size)
            x = m.add(f"stage{index + 1}_rows", AsSequence(), x)
            x = run(m, (Segment(f"stage{index + 1}", layer, Integer(depth)),), x)
            x = m.add(f"stage{index + 1}_image", AsImage(size), x)
            if index + 1 < len(self.layers):
                x = self._patched(m, f"shrink{index + 1}", x, self.layers[index + 1].feed.d, False)
        return x

    def _patched(self, m: Maker, name: str, x: str, out: Expr, first: bool) -> str:
        """Adds patches of the picture, or of four neighbours, behind a norm."""
        side = self.patch if first else 2
        batch, channels, *size = m.shape(x)
        whole = [-(-n // side) * side for n in size]
        if whole != size:
            x = m.add(f"{name}_pad", Resize((batch, channels, *whole)), x)
        if self.overlaps:
            x = conv(m, name, x, out, 7, 4, 2) if first else conv(m, name, x, out, 3, 2, 1)
        else:
            x = conv(m, name, x, out, side, side)
        grid = m.shape(x)[2:]
        x = m.norm(f"{name}_norm", m.add(f"{name}_in", AsSequence(), x), out, LAYER_NORM)
        return m.add(f"{name}_out", AsImage(grid), x)
