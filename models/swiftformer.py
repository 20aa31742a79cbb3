"""SwiftFormer (Shaker et al., arXiv 2303.15446): one query for all positions of an image."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer, Mul

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Norm, Segment, Style
from costgraph.models.blocks.image import act, batch_norm, conv
from costgraph.models.blocks.stack import run
from costgraph.models.convnet import Pyramid
from costgraph.ops import Add, AsSequence, Scale
from costgraph.ops.image import AsImage, MeanPool
from costgraph.ops.maps import Map, Reduce, SoftmaxOver
from costgraph.symbols import B

ONE = Integer(1)


@dataclass(frozen=True)
class LocalLayer:
    """A depthwise convolution and two pointwise ones, ``inner`` wide; for a region of those."""

    size: tuple[Expr, ...]
    width: Expr
    inner: Expr

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: image in, image out."""
        m = Maker("layer", style)
        x = m.source(Tensor("hidden", (B, self.width, *self.size), style.acts))
        return m.build(self.add(m, "local", x))

    def add(self, m: Maker, name: str, x: str) -> str:
        """Adds the layer; an image in and out."""
        y = conv(m, f"{name}_each", x, self.width, 3, 1, 1, groups=self.width)
        y = conv(m, f"{name}_up", batch_norm(m, f"{name}_norm", y), self.inner, 1)
        y = conv(m, f"{name}_down", act(m, f"{name}_act", y, "gelu"), self.width, 1)
        return m.add(f"{name}_add", Add(), scaled(m, name, y), x)


def scaled(m: Maker, name: str, x: str) -> str:
    """Adds an image times a number per channel."""
    return m.add(
        f"{name}_scale", Map("mul"), x, m.vector(f"{name}_scale.weight", m.shape(x)[1], ONE, ONE)
    )


@dataclass(frozen=True)
class SwiftStage:
    """A stage: ``depth`` layers, of which the last attends.

    Attributes:
        width, inner: channels, and of feed-forward blocks.
        shrink: taps a side, stride and padding of the convolution behind, or None.
    """

    width: int
    inner: int
    depth: int
    shrink: tuple[int, int, int] | None


@dataclass(frozen=True)
class SwiftFormer(Pyramid):
    """The network.

    Attributes:
        stages: of layers.
        activation: of the feed-forward blocks.
        scaled: what blocks make is multiplied by a number per channel.
    """

    stages: tuple[SwiftStage, ...]
    activation: str
    scaled: bool

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        x = self._stages(m, self.start(m))
        if self.classes is None:
            return m.build(x)
        d = m.shape(x)[1]
        x = m.add("pool", MeanPool(), batch_norm(m, "final_norm", x))
        both = [
            m.linear(name, x, self.classes, d, True) for name in ("classifier", "second_classifier")
        ]
        return m.build(m.add("half", Scale(), m.add("both", Add(), *both)))

    def positions(self, style: Style) -> Expr:
        m = Maker("", style)
        return Mul(*m.shape(self._stages(m, self.start(m)))[2:])

    def _stages(self, m: Maker, x: str) -> str:
        """Adds all stages: the last image."""
        first = Integer(self.stages[0].width)
        for index, width in enumerate((first // 2, first)):
            x = batch_norm(m, f"stem{index}_norm", conv(m, f"stem{index}", x, width, 3, 2, 1))
            x = act(m, f"stem{index}_act", x, "relu")
        for index, stage in enumerate(self.stages, start=1):
            name, d, size = f"stage{index}", Integer(stage.width), m.shape(x)[2:]
            if stage.depth > 1:
                layer = LocalLayer(size, d, Integer(stage.inner))
                x = run(m, (Segment(name, layer, Integer(stage.depth - 1)),), x)
            x = self._attending(m, f"{name}_last_", x, stage)
            if stage.shrink is not None:
                out = Integer(self.stages[index].width)
                x = conv(m, f"{name}_shrink", x, out, *stage.shrink)
                x = batch_norm(m, f"{name}_shrink_norm", x)
        return x

    def _attending(self, m: Maker, name: str, x: str, stage: SwiftStage) -> str:
        """Adds the layer whose positions all meet one query."""
        d, size = Integer(stage.width), m.shape(x)[2:]
        x = LocalLayer(size, d, d).add(m, f"{name}local", x)
        y = self._met(m, name, m.add(f"{name}rows", AsSequence(), x))
        y = m.add(f"{name}image", AsImage(size), y)
        x = m.add(f"{name}attn_add", Add(), self._made(m, f"{name}attn", y), x)
        y = conv(m, f"{name}up", batch_norm(m, f"{name}mlp_norm", x), Integer(stage.inner), 1)
        y = conv(m, f"{name}down", act(m, f"{name}mlp_act", y, self.activation), d, 1)
        return m.add(f"{name}mlp_add", Add(), self._made(m, f"{name}mlp", y), x)

    def _made(self, m: Maker, name: str, x: str) -> str:
        return scaled(m, name, x) if self.scaled else x

    def _met(self, m: Maker, name: str, x: str) -> str:
        """Adds the attention of rows ``(B, n, d)``: a weighed sum of queries times each key."""
        d, unit = m.shape(x)[2], Norm("rms", weight=False)
        query, key = (
            m.norm(f"{name}{part}_unit", m.linear(f"{name}{part}_proj", x, d, d, True), d, unit)
            for part in "qk"
        )
        share = m.linear(f"{name}share", query, ONE, d)
        share = m.add(f"{name}share_scale", Scale(), share)
        # Over an axis of one number, as in the published code.
        share = m.add(f"{name}share_softmax", SoftmaxOver(2), share)
        whole = m.add(f"{name}shared", Map("mul"), query, share)
        whole = m.add(f"{name}whole", Reduce("sum", (1,), keep=True), whole)
        y = m.add(f"{name}met", Map("mul"), key, whole)
        y = m.add(f"{name}query_add", Add(), m.linear(f"{name}proj", y, d, d, True), query)
        return m.linear(f"{name}final", y, d, d, True)
