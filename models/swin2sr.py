"""Swin2SR (Conde et al., arXiv 2209.11345): Swin 2 over single pixels, which makes finer images."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Integer, Mul

from costgraph.errors import InputError
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Segment, Style
from costgraph.models.blocks.image import conv, picture
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM, SwinLayer, SwinPair
from costgraph.models.vision import OnePass, Size
from costgraph.ops import Add, AsSequence
from costgraph.ops.image import AsImage, Rearrange
from costgraph.ops.maps import Map
from costgraph.ops.pool import Resize
from costgraph.symbols import B

#: Channels of what makes images finer.
FEATURES = Integer(64)
ONE = Integer(1)


@dataclass(frozen=True)
class Swin2SR(OnePass):
    """The network.

    Attributes:
        channels, out, size: channels of the image and of the finer one, and its size where the
            import asks for no other.
        layers: of each stage, for images of ``size``; ``depths``: how many.
        narrow: stages end with three convolutions, the middle one a quarter as wide.
        finer: how many times finer the image becomes; ``way``: by what, or None for none.
        bare: what makes it finer is left out.
    """

    channels: Expr
    out: Expr
    size: Size
    layers: tuple[SwinLayer, ...]
    depths: tuple[int, ...]
    narrow: bool
    finer: int
    way: str | None
    bare: bool

    def positions(self, style: Style) -> Expr:
        return Mul(*(style.image or self.size))

    def graph(self, name: str, style: Style) -> Graph:
        m, size, d = Maker(name, style), style.image or self.size, self.layers[0].at.d
        window = self.layers[0].window
        if any(n % window for n in size):
            raise InputError(
                f"image: {size[0]} x {size[1]} pixels: windows of {window} must fill it, as the "
                "published class asks for"
            )
        shown = picture(m, B, self.channels, size)
        # Pictures of colours have one for each; all others share a zero.
        means = Integer(3) if self.channels == self.out == 3 else ONE
        mean = m.source(Tensor("mean", (ONE, means, ONE, ONE), style.acts))
        x = m.add("centred_scale", Map("scale"), m.add("centred", Map("sub"), shown, mean))
        start = conv(m, "first", x, d, 3, 1, 1)
        x = m.add("rows", AsSequence(), conv(m, "patch_embed", start, d, 1))
        x = m.norm("patch_norm", x, d, LAYER_NORM)
        for index, (layer, depth) in enumerate(zip(self.layers, self.depths, strict=True), start=1):
            part, before = f"stage{index}", x
            layer = replace(layer, size=(int(size[0]), int(size[1])))
            parts = [Segment(part, SwinPair(layer), Integer(depth // 2))] if depth > 1 else []
            if depth % 2:
                parts.append(Segment(f"{part}_last", SwinPair(layer, False), Integer(1)))
            given = {
                t.name: m.source(replace(t, name=f"{part}_{t.name}"))
                for t in SwinPair(layer, depth > 1).operands(style)
            }
            x = m.add(f"{part}_image", AsImage(size), run(m, tuple(parts), x, **given))
            x = self._convolved(m, f"{part}_conv", x, self.narrow)
            x = m.add(f"{part}_rows", AsSequence(), conv(m, f"{part}_embed", x, d, 1))
            x = m.add(f"{part}_add", Add(), x, before)
        x = m.add("image_rows", AsImage(size), m.norm("final_norm", x, d, LAYER_NORM))
        x = m.add("body_add", Add(), self._convolved(m, "body", x, False), start)
        if self.bare:
            return m.build(x)
        made = enumerate(self._finer(m, x, shown))
        return m.build(*(self._whole(m, f"made{index}", y, mean) for index, y in made))

    def _whole(self, m: Maker, name: str, x: str, mean: str) -> str:
        """Adds an image as large as pictures are, about the ``mean`` that was taken off."""
        return m.add(f"{name}_mean", Map("add"), m.add(f"{name}_scale", Map("scale"), x), mean)

    def _convolved(self, m: Maker, name: str, x: str, narrow: bool) -> str:
        """Adds a convolution that keeps size and channels, or three."""
        d = m.shape(x)[1]
        if not narrow:
            return conv(m, name, x, d, 3, 1, 1)
        x = self._bent(m, f"{name}_act1", conv(m, f"{name}1", x, d // 4, 3, 1, 1))
        x = self._bent(m, f"{name}_act2", conv(m, f"{name}2", x, d // 4, 1))
        return conv(m, f"{name}3", x, d, 3, 1, 1)

    def _bent(self, m: Maker, name: str, x: str) -> str:
        return m.add(name, Map("leaky_relu"), x)

    def _finer(self, m: Maker, x: str, shown: str) -> tuple[str, ...]:
        """Adds what makes the image finer."""
        if self.way is None:
            return (m.add("last_add", Add(), shown, conv(m, "last", x, self.out, 3, 1, 1)),)
        if self.way == "pixelshuffledirect":
            return (self._dealt(m, "finer", x, self.finer, self.out),)
        x = self._bent(m, "before_act", conv(m, "before", x, FEATURES, 3, 1, 1))
        if self.way == "nearest+conv":
            for part in ("up1", "up2"):
                sizes = tuple(2 * n for n in m.shape(x)[2:])
                x = m.add(f"{part}_enlarge", Resize((*m.shape(x)[:2], *sizes), "nearest"), x)
                x = self._bent(m, f"{part}_act", conv(m, part, x, FEATURES, 3, 1, 1))
            x = self._bent(m, "fine_act", conv(m, "fine", x, FEATURES, 3, 1, 1))
            return (conv(m, "last", x, self.out, 3, 1, 1),)
        beside: tuple[str, ...] = ()
        if self.way == "pixelshuffle_aux":
            coarse = conv(m, "coarse", x, self.channels, 3, 1, 1)
            beside = (coarse,)
            x = self._bent(m, "coarse_act", conv(m, "behind", coarse, FEATURES, 3, 1, 1))
        steps = (3,) if self.finer == 3 else (2,) * (self.finer.bit_length() - 1)
        for index, step in enumerate(steps):
            x = self._dealt(m, f"finer{index}", x, step, FEATURES)
        if beside:
            sizes = m.shape(x)[2:]
            plain = m.add("shown_enlarge", Resize((*m.shape(shown)[:2], *sizes), "cubic"), shown)
            x = m.add("shown_add", Add(), x, conv(m, "shown", plain, FEATURES, 3, 1, 1))
        return (conv(m, "last", x, self.out, 3, 1, 1), *beside)

    def _dealt(self, m: Maker, name: str, x: str, times: int, out: Expr) -> str:
        """Adds a convolution whose channels become neighbours."""
        x = conv(m, name, x, out * times**2, 3, 1, 1)
        batch, _, tall, wide = m.shape(x)
        return m.add(f"{name}_dealt", Rearrange((batch, out, times * tall, times * wide)), x)
