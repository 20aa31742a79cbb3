"""Segformer (Xie et al., arXiv 2105.15203): attention to a shrunk grid, on a pyramid; its kin."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.errors import InputError
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Segment, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import act, batch_norm, class_first, conv
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.convnet import Pyramid
from costgraph.ops import Add, AsSequence, Scale, SelectLast
from costgraph.ops.arrays import Join
from costgraph.ops.image import AsImage, Cut, MeanPool
from costgraph.ops.maps import Map
from costgraph.ops.pattern import FULL
from costgraph.ops.pool import Resize
from costgraph.ops.views import Reshape
from costgraph.symbols import B

ONE, TWO = Integer(1), Integer(2)
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
    """A layer: attention to a shrunk grid, a feed-forward with a depthwise convolution inside.

    Attributes:
        stage: whose layer it is.
        size: of the grid.
        activation: of the feed-forward block.
        bias: of queries, keys and values.
        mixed: there is such a convolution.
        lead: positions in front of the grid, of layers that see it whole.
    """

    stage: Stage
    size: Size
    activation: str
    bias: bool = True
    mixed: bool = True
    lead: int = 0

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: sequence in, sequence out."""
        m, s = Maker("layer", style), self.stage
        d, wide = Integer(s.width), Integer(s.ratio * s.width)
        length = self.size[0] * self.size[1] + self.lead
        x = m.source(Tensor("hidden", (B, length, d), style.acts))
        at = Heads(d, Integer(s.heads), d / s.heads, self.bias, self.bias, True)
        y = m.norm("attn_norm", x, d, LAYER_NORM)
        query, few = at.project(m, "q", y), y
        if s.shrink > 1:
            few = conv(m, "shrink", m.add("grid", AsImage(self.size), y), d, s.shrink, s.shrink)
            few = m.norm("shrink_norm", m.add("shrunk", AsSequence(), few), d, LAYER_NORM)
        key, value = (at.project(m, name, few) for name in ("k", "v"))
        mixed = at.out(m, attended(m, query, key, value, FULL))
        x = m.add("attn_add", Add(), mixed, x)
        y = m.linear("up_proj", m.norm("mlp_norm", x, d, LAYER_NORM), wide, d, True)
        if self.mixed:
            y = conv(m, "dwconv", m.add("mlp_grid", AsImage(self.size), y), wide, 3, 1, 1, wide)
            y = m.add("mlp_rows", AsSequence(), y)
        y = act(m, "mlp_act", y, self.activation)
        y = m.linear("down_proj", y, d, wide, True)
        return m.build(m.add("mlp_add", Add(), y, x))


@dataclass(frozen=True)
class PlainPyramid(Pyramid):
    """PVT (Wang et al., arXiv 2102.12122): learned positions in each stage, a class token in the
    last.

    Attributes:
        stages: from large to small.
        activation: of the feed-forward blocks.
        bias: of queries, keys and values.
    """

    stages: tuple[Stage, ...]
    activation: str = "gelu"
    bias: bool = True

    def graph(self, name: str, style: Style) -> Graph:
        if style.image is not None and style.image != self.size:
            raise InputError(
                f"image: positions of this model are those of {self.size[0]} x {self.size[1]} "
                "pixels: the published class has no others"
            )
        m = Maker(name, style)
        x = self.start(m)
        for index, stage in enumerate(self.stages, start=1):
            d, last = Integer(stage.width), index == len(self.stages)
            # The class cuts windows of the stride's size, a patch apart.
            x = conv(m, f"embed{index}", x, d, stage.stride, stage.patch)
            size = m.shape(x)[2:]
            x = m.norm(f"embed{index}_norm", m.add(f"rows{index}", AsSequence(), x), d, LAYER_NORM)
            if last:
                x = class_first(m, x)
            places = m.weight(f"places{index}.weight", m.shape(x)[1], d)
            x = m.add(f"places{index}_add", Add(), x, places)
            layer = MixLayer(stage, size, self.activation, self.bias, False, int(last))
            x = run(m, (Segment(f"stage{index}", layer, Integer(stage.depth)),), x)
            if not last:
                x = m.add(f"grid{index}", AsImage(size), x)
        x = m.norm("final_norm", x, d, LAYER_NORM)
        if self.classes is None:
            return m.build(x)
        first = m.add("class_position", SelectLast(ONE), x)
        return self.close(m, m.add("class_vector", Reshape((B, d)), first))

    def positions(self, style: Style) -> Expr:
        """Positions of the smallest grid, and the class token."""
        return self.graph("", style).node("final_norm").outputs[0].shape[1]


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
        last = self.graph("", style).node(f"stage{len(self.stages)}_norm")
        return last.outputs[0].shape[1]


@dataclass(frozen=True)
class DepthPyramid(Segformer):
    """GLPN (Kim et al., arXiv 2201.07436): stages fused by learned shares, from small to large."""

    def _parts(self, m: Maker, made: list[tuple[str, Size]], d: Expr) -> str:
        """Adds the decoder: the depth of each pixel."""
        x = ""
        for index, (rows, size) in enumerate(reversed(made)):
            y = m.add(f"level{index}", AsImage(size), rows)
            if m.shape(y)[1] != d:
                y = conv(m, f"level{index}_conv", y, d, 1)
            if x and m.shape(x) != m.shape(y):
                raise InputError(
                    f"image: a stage of {m.shape(x)[2]} x {m.shape(x)[3]} positions does not fit "
                    f"one of {size[0]} x {size[1]}: each must be half as tall and wide as the one "
                    "in front"
                )
            x = self._fused(m, f"fuse{index}", y, x) if x else y
            x = self._doubled(m, f"level{index}_double", x)
        x = self._doubled(m, "last_double", x)
        x = act(m, "head1_act", conv(m, "head1", x, d, 3, 1, 1), "relu")
        x = act(m, "depth_bent", conv(m, "head2", x, ONE, 3, 1, 1), "sigmoid")
        return m.add("depth", Scale(), x)

    def _doubled(self, m: Maker, name: str, x: str) -> str:
        shape = m.shape(x)
        return m.add(name, Resize((*shape[:2], 2 * shape[2], 2 * shape[3]), "linear"), x)

    def _fused(self, m: Maker, name: str, near: str, far: str) -> str:
        """Adds both, each by its learned share at every position."""
        d = m.shape(near)[1]
        x = m.add(f"{name}_beside", Join(1), near, far)
        for index, width in enumerate((d, d / 2), start=1):
            x = conv(m, f"{name}_conv{index}", x, width, 3, 1, 1)
            x = act(m, f"{name}_act{index}", batch_norm(m, f"{name}_norm{index}", x), "relu")
        x = act(m, f"{name}_shares", conv(m, f"{name}_conv3", x, TWO, 3, 1, 1), "sigmoid")
        first, second = m.add_many(f"{name}_parts", Cut((ONE, ONE)), x)
        first = m.add(f"{name}_near", Map("mul"), near, first)
        second = m.add(f"{name}_far", Map("mul"), far, second)
        return m.add(f"{name}_add", Add(), first, second)
