"""PoolFormer (Yu et al., arXiv 2111.11418): a pyramid whose layers average what is near."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Segment, Style
from costgraph.models.blocks.image import act, conv, group_norm
from costgraph.models.blocks.stack import run
from costgraph.models.convnet import ONE, Pyramid
from costgraph.ops import Add, AsSequence, Multiply
from costgraph.ops.image import AsImage, MeanPool
from costgraph.ops.maps import Map
from costgraph.ops.pool import Pool
from costgraph.symbols import B


@dataclass(frozen=True)
class PoolLayer:
    """Means over a neighbourhood less the place itself, then two products at each place.

    ``window``: side of the neighbourhood. ``scaled``: what both blocks make is multiplied by a
    vector before it is added.
    """

    size: tuple[Expr, ...]
    width: Expr
    wide: Expr
    window: int
    activation: str
    scaled: bool

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: image in, image out."""
        m = Maker("layer", style)
        x = m.source(Tensor("hidden", (B, self.width, *self.size), style.acts))
        y = group_norm(m, "pool_norm", x, ONE)
        side, around = Integer(self.window), Integer(self.window // 2 * 2)
        op = Pool((side,) * 2, (ONE,) * 2, (around,) * 2, (ONE,) * 2, function="average")
        y = m.add("less", Map("sub"), m.add("pool", op, y), y)
        x = m.add("pool_add", Add(), self._made(m, "pool", y), x)
        y = conv(m, "up", group_norm(m, "mlp_norm", x, ONE), self.wide, 1)
        y = conv(m, "down", act(m, "mlp_act", y, self.activation), self.width, 1)
        return m.build(m.add("mlp_add", Add(), self._made(m, "mlp", y), x))

    def _made(self, m: Maker, block: str, x: str) -> str:
        """What a block made, as it is added."""
        if not self.scaled:
            return x
        name = f"{block}_scale"
        x = m.add(f"{name}_rows", AsSequence(), x)
        x = m.add(name, Multiply(), x, m.vector(f"{name}.weight", self.width))
        return m.add(f"{name}_grid", AsImage(self.size), x)


@dataclass(frozen=True)
class PoolFormer(Pyramid):
    """The pyramid, and a classifier of the mean behind a norm.

    ``stages``: width, depth, and side, stride and padding of the convolution in front, from large
    to small. ``ratio``: width inside a layer over its own. Others are those of
    :class:`PoolLayer`.
    """

    stages: tuple[tuple[int, int, int, int, int], ...]
    ratio: Expr
    window: int = 3
    activation: str = "gelu"
    scaled: bool = True

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        x = self.start(m)
        for index, (width, depth, side, stride, padding) in enumerate(self.stages, start=1):
            d = Integer(width)
            x = conv(m, f"embed{index}", x, d, side, stride, padding)
            layer = PoolLayer(
                m.shape(x)[2:], d, self.ratio * d, self.window, self.activation, self.scaled
            )
            x = run(m, (Segment(f"stage{index}", layer, Integer(depth)),), x)
        if self.classes is None:
            return m.build(x)
        x = group_norm(m, "final_norm", x, ONE)
        return self.close(m, m.add("pool", MeanPool(), x))

    def positions(self, style: Style) -> Expr:
        """Positions of the smallest grid."""
        made = (node.outputs[0].shape for node in reversed(self.graph("", style).nodes))
        tall, wide = next(shape[2:] for shape in made if len(shape) == 4)
        return tall * wide
