"""CvT (Wu et al., arXiv 2103.15808): queries, keys and values are made by convolutions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Integer, Mul

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import batch_norm, channel_norm, class_first, conv
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.convnet import Pyramid
from costgraph.ops import Add, AsSequence
from costgraph.ops.arrays import Join
from costgraph.ops.image import AsImage, Cut
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Reshape
from costgraph.symbols import B

ONE = Integer(1)


@dataclass(frozen=True)
class CvtLayer:
    """A layer over an image, and a class token in front of its positions or none.

    Attributes:
        size: of the image.
        at, feed: heads and feed-forward block.
        kernel: taps a side of the convolutions.
        near, far: stride and padding of queries; of keys and values.
        led: a class token stands in front.
    """

    size: tuple[Expr, ...]
    at: Heads
    feed: FeedForward
    kernel: int
    near: tuple[int, int]
    far: tuple[int, int]
    led: bool

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: rows in, rows out."""
        m, d = Maker("layer", style), self.at.d
        count = Mul(*self.size) + (1 if self.led else 0)
        x = m.source(Tensor("hidden", (B, count, d), style.acts))
        y = self._attention(m, m.norm("attn_norm", x, d, LAYER_NORM))
        x = m.add("attn_add", Add(), y, x)
        y = self.feed.add(m, m.norm("mlp_norm", x, d, LAYER_NORM))
        return m.build(m.add("mlp_add", Add(), y, x))

    def _attention(self, m: Maker, x: str) -> str:
        first, rest = "", x
        if self.led:
            first, rest = m.add_many("lead_parts", Cut((ONE, Mul(*self.size))), x)
        image = m.add("image", AsImage(self.size), rest)
        parts = []
        for name, (stride, padding) in (("q", self.near), ("k", self.far), ("v", self.far)):
            y = conv(m, f"{name}_conv", image, self.at.d, self.kernel, stride, padding,
                     groups=self.at.d, bias=False)  # fmt: skip
            y = m.add(f"{name}_rows", AsSequence(), batch_norm(m, f"{name}_conv_norm", y))
            y = m.add(f"{name}_led", Join(1), first, y) if first else y
            parts.append(self.at.project(m, name, y))
        query, key, value = parts
        return self.at.out(m, attended(m, query, key, value, FULL))


@dataclass(frozen=True)
class CvtStage:
    """A stage: a convolution, and layers over the image it makes.

    Attributes:
        patch: taps a side, stride and padding of the convolution.
        layer: without the size of its image.
        depth: layers.
    """

    patch: tuple[int, int, int]
    layer: CvtLayer
    depth: int


@dataclass(frozen=True)
class Cvt(Pyramid):
    """The network of ``stages``; a classifier reads the class token of the last one."""

    stages: tuple[CvtStage, ...]

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        x, first = self.start(m), ""
        for index, stage in enumerate(self.stages, start=1):
            part, layer = f"stage{index}", stage.layer
            x = channel_norm(m, f"{part}_norm", conv(m, part, x, layer.at.d, *stage.patch))
            size = m.shape(x)[2:]
            x = m.add(f"{part}_rows", AsSequence(), x)
            x = class_first(m, x) if layer.led else x
            x = run(
                m, (Segment(f"{part}_layers", replace(layer, size=size), Integer(stage.depth)),), x
            )
            if layer.led:
                first, x = m.add_many(f"{part}_parts", Cut((ONE, Mul(*size))), x)
            x = m.add(f"{part}_image", AsImage(size), x)
        if self.classes is None:
            return m.build(x, *([first] if first else []))
        d = self.stages[-1].layer.at.d
        y = m.norm("final_norm", first, d, LAYER_NORM)
        return self.close(m, m.add("class_vector", Reshape((B, d)), y))

    def positions(self, style: Style) -> Expr:
        m = Maker("", style)
        x = self.start(m)
        for index, stage in enumerate(self.stages):
            x = conv(m, f"stage{index}", x, stage.layer.at.d, *stage.patch)
        return Mul(*m.shape(x)[2:])
