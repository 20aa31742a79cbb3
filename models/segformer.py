"""Segformer (Xie et al., arXiv 2105.15203): attention to a shrunk grid, on a pyramid."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Segment, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import act, batch_norm, conv
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.convnet import Pyramid
from costgraph.ops import Add, AsSequence
from costgraph.ops.arrays import Join
from costgraph.ops.image import AsImage, MeanPool
from costgraph.ops.pattern import FULL
from costgraph.ops.pool import Resize
from costgraph.symbols import B

Size = tuple[Expr, ...]


@dataclass(frozen=True)
class Stage:
    """A stage of the pyramid.

    Attributes:
        width, depth, heads: channels, layers, heads.
        patch, stride: of the convolution in front, whose windows overlap.
        shrink: side of the squares of positions that keys and values are made of.
        ratio: feed-forward width over width.
    """

    width: int
    depth: int
    heads: int
    patch: int
    stride: int
    shrink: int
    ratio: int


@dataclass(frozen=True)
class MixLayer:
    """A layer: attention to a shrunk grid, a feed-forward with a depthwise convolution inside."""

    stage: Stage
    size: Size
    activation: str

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: sequence in, sequence out."""
        m, s = Maker("layer", style), self.stage
        d, wide = Integer(s.width), Integer(s.ratio * s.width)
        x = m.source(Tensor("hidden", (B, self.size[0] * self.size[1], d), style.acts))
        at = Heads(d, Integer(s.heads), d / s.heads, True, True, True)
        y = m.norm("attn_norm", x, d, LAYER_NORM)
        query, few = at.project(m, "q", y), y
        if s.shrink > 1:
            few = conv(m, "shrink", m.add("grid", AsImage(self.size), y), d, s.shrink, s.shrink)
            few = m.norm("shrink_norm", m.add("shrunk", AsSequence(), few), d, LAYER_NORM)
        key, value = (at.project(m, name, few) for name in ("k", "v"))
        mixed = at.out(m, attended(m, query, key, value, FULL))
        x = m.add("attn_add", Add(), mixed, x)
        y = m.linear("up_proj", m.norm("mlp_norm", x, d, LAYER_NORM), wide, d, True)
        y = conv(m, "dwconv", m.add("mlp_grid", AsImage(self.size), y), wide, 3, 1, 1, wide)
        y = act(m, "mlp_act", m.add("mlp_rows", AsSequence(), y), self.activation)
        y = m.linear("down_proj", y, d, wide, True)
        return m.build(m.add("mlp_add", Add(), y, x))


@dataclass(frozen=True)
class Segformer(Pyramid):
    """The pyramid, and a classifier of the image or, where ``decoder`` has a width, of its parts.

    Attributes:
        stages: from large to small.
        decoder: width to which all stages are brought, side by side in the largest grid; None
            for a classifier of the image.
        activation: of the feed-forward blocks.
    """

    stages: tuple[Stage, ...]
    decoder: int | None = None
    activation: str = "gelu"

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        x = self.start(m)
        made = []
        for index, stage in enumerate(self.stages, start=1):
            d = Integer(stage.width)
            x = conv(m, f"embed{index}", x, d, stage.patch, stage.stride, stage.patch // 2)
            size = m.shape(x)[2:]
            x = m.add(f"rows{index}", AsSequence(), x)
            x = m.norm(f"embed{index}_norm", x, d, LAYER_NORM)
            layer = MixLayer(stage, size, self.activation)
            x = run(m, (Segment(f"stage{index}", layer, Integer(stage.depth)),), x)
            x = m.norm(f"stage{index}_norm", x, d, LAYER_NORM)
            made.append((x, size))
            if stage is not self.stages[-1]:
                x = m.add(f"grid{index}", AsImage(size), x)
        if self.decoder is None and self.classes is None:
            return m.build(m.add("grid_out", AsImage(made[-1][1]), x))
        if self.decoder is None:
            return self.close(m, m.add("pool", MeanPool(sequence=True), x))
        return m.build(self._parts(m, made, Integer(self.decoder)))

    def _parts(self, m: Maker, made: list[tuple[str, Size]], d: Expr) -> str:
        """Adds the decoder: classes of each position of the largest grid."""
        parts = []
        for index, (x, size) in enumerate(made, start=1):
            x = m.linear(f"unify{index}", x, d, m.shape(x)[2], True)
            x = m.add(f"unify{index}_grid", AsImage(size), x)
            parts.append(m.add(f"enlarge{index}", Resize((B, d, *made[0][1]), "linear"), x))
        x = m.add("beside", Join(1), *reversed(parts))
        x = batch_norm(m, "fuse_norm", conv(m, "fuse", x, d, 1, bias=False))
        x = act(m, "fuse_act", x, "relu")
        assert self.classes is not None
        return conv(m, "classifier", x, self.classes, 1)

    def positions(self, style: Style) -> Expr:
        """Positions of the smallest grid."""
        graph = self.graph("", style)
        last = next(n for n in graph.nodes if n.name == f"stage{len(self.stages)}_norm")
        return last.outputs[0].shape[1]
