"""BiT (Kolesnikov et al., arXiv 1912.11370): a residual network with group norms."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Integer

from costgraph.errors import InputError
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Segment, Style
from costgraph.models.blocks.image import act, conv, group_norm
from costgraph.models.blocks.stack import run
from costgraph.models.convnet import Pyramid
from costgraph.ops import Add
from costgraph.ops.arrays import Copy
from costgraph.ops.image import MeanPool
from costgraph.ops.pool import Pool
from costgraph.symbols import B

ZERO, ONE, TWO, THREE = (Integer(n) for n in range(4))


def eighths(width: int) -> int:
    """The multiple of eight nearest to ``width``, and no less than nine tenths of it."""
    found = max(8, (width + 4) // 8 * 8)
    return found + 8 if found < 0.9 * width else found


def spread(m: Maker, name: str, x: str, taps: int, stride: int) -> str:
    """Adds rows and columns of zeros, as many as a stride leaves ``⌈n / stride⌉`` windows."""
    shape = m.shape(x)
    sides = []
    for n in shape[2:]:
        if not n.is_Integer:
            raise InputError("image: a network whose edges follow from its size needs a number")
        short = (-(-int(n) // stride) - 1) * stride + taps - int(n)
        sides.append(n + max(short, 0))
    if tuple(sides) == shape[2:]:
        return x
    return m.add(f"{name}_pad", Copy((*shape[:2], *sides)), x)


@dataclass(frozen=True)
class BitLayer:
    """A layer of three convolutions.

    Attributes:
        size: of the image, for the region of layers that change none.
        width, groups, function: channels, groups of norms, activation.
        before: norms stand in front of convolutions, and nothing behind the sum.
        same: edges follow from the size, not from the taps alone.
    """

    size: tuple[Expr, ...]
    width: Expr
    groups: Expr
    function: str
    before: bool
    same: bool

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: image in, image out."""
        m = Maker("layer", style)
        x = m.source(Tensor("hidden", (B, self.width, *self.size), style.acts))
        return m.build(self.add(m, x))

    def add(self, m: Maker, x: str, stride: int = 1, prefix: str = "", first: bool = False) -> str:
        """Adds the layer; what is added passes a convolution in the ``first`` of a stage."""
        out, inner = self.width, Integer(eighths(int(self.width) // 4))
        y = self._normed(m, f"{prefix}norm1", x) if self.before else x
        beside = x
        if first:
            beside = conv(m, f"{prefix}shortcut", y, out, 1, stride, bias=False)
            if not self.before:
                beside = group_norm(m, f"{prefix}shortcut_norm", beside, self.groups)
        for index, (width, taps, step) in enumerate(
            ((inner, 1, 1), (inner, 3, stride), (out, 1, 1)), start=1
        ):
            y = self.conv(m, f"{prefix}conv{index}", y, width, taps, step)
            if index < 3:
                y = self._normed(m, f"{prefix}norm{index + self.before}", y)
            elif not self.before:
                y = group_norm(m, f"{prefix}norm3", y, self.groups)
        y = m.add(f"{prefix}add", Add(), y, beside)
        return y if self.before else act(m, f"{prefix}act", y, self.function)

    def _normed(self, m: Maker, name: str, x: str) -> str:
        return act(m, f"{name}_act", group_norm(m, name, x, self.groups), self.function)

    def conv(self, m: Maker, name: str, x: str, out: Expr, taps: int, stride: int) -> str:
        """Adds a convolution without bias."""
        if self.same and stride > 1:
            x = spread(m, name, x, taps, stride)
            return conv(m, name, x, out, taps, stride, bias=False)
        return conv(m, name, x, out, taps, stride, (stride + taps - 2) // 2, bias=False)


@dataclass(frozen=True)
class Bit(Pyramid):
    """The network.

    Attributes:
        stem: channels behind the first convolution.
        widths, depths: channels and layers of each stage.
        groups, function, before, same: of :class:`BitLayer`.
        spread: edges of the first pooling follow from its size.
    """

    stem: Expr
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    groups: Expr
    function: str
    before: bool
    same: bool
    spread: bool

    def maps(self, m: Maker, x: str) -> list[str]:
        """Adds the stem and the stages: the image of each, from large to small."""
        layer = BitLayer((), self.stem, self.groups, self.function, self.before, self.same)
        x = layer.conv(m, "stem", x, self.stem, 7, 2)
        if not self.same:
            shape = m.shape(x)
            x = m.add("stem_edge", Copy((*shape[:2], shape[2] + 2, shape[3] + 2)), x)
        if not self.before:
            x = act(m, "stem_act", group_norm(m, "stem_norm", x, self.groups), self.function)
        x = spread(m, "pool", x, 3, 2) if self.spread else x
        if any(n < THREE for n in m.shape(x)[2:]):
            raise InputError("image: too small for this network's first pooling, of 3 x 3")
        x = m.add("stem_pool", Pool((THREE, THREE), (TWO, TWO), (ZERO, ZERO), (ONE, ONE)), x)
        made = []
        for index, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True), start=1):
            name = f"stage{index}"
            layer = replace(layer, width=Integer(width))
            x = layer.add(m, x, 1 if index == 1 else 2, f"{name}_", first=True)
            if depth > 1:
                same = replace(layer, size=m.shape(x)[2:])
                x = run(m, (Segment(name, same, Integer(depth - 1)),), x)
            made.append(x)
        return made

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        x = self.maps(m, self.start(m))[-1]
        if self.before:
            x = act(m, "final_act", group_norm(m, "final_norm", x, self.groups), self.function)
        pooled = m.add("pool", MeanPool(), x)
        return m.build(x, pooled) if self.classes is None else self.close(m, pooled)
