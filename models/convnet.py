"""Convolutional classifiers, and Swin, which works on a pyramid as they do."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Integer, Mul

from costgraph.errors import InputError
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import act, batch_norm, channel_norm, conv, picture
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM, SwinLayer, SwinPair
from costgraph.models.vision import OnePass, Size
from costgraph.ops import Add, AsSequence, Multiply
from costgraph.ops.arrays import Join
from costgraph.ops.image import AsImage, MeanPool, Rearrange
from costgraph.ops.maps import Map, Reduce
from costgraph.ops.pool import AdaptivePool, Pool, Resize
from costgraph.ops.views import Reshape
from costgraph.symbols import B

ONE, TWO = Integer(1), Integer(2)


@dataclass(frozen=True)
class Pyramid(OnePass):
    """What classifiers share: an image of a size, classes at the end.

    Attributes:
        channels, size: of the image, where the import asks for no other size.
        classes: classes to tell apart; None for a model without a classifier.
    """

    channels: Expr
    size: Size
    classes: Expr | None

    def start(self, m: Maker) -> str:
        """Adds the image."""
        return picture(m, B, self.channels, m.style.image or self.size)

    def close(self, m: Maker, x: str) -> Graph:
        """Adds the classifier of ``x (B, d)``."""
        if self.classes is None:
            return m.build(x)
        return m.build(m.linear("classifier", x, self.classes, m.shape(x)[1], True))

    def positions(self, style: Style) -> Expr:
        """Positions of the grid that is pooled in the end."""
        graph = self.graph("", style)
        pools = [n for n in graph.nodes if isinstance(n.op, (MeanPool, AdaptivePool))]
        pooled = pools[-1]  # behind those of gates
        shape = graph.operands(pooled)[0].shape
        return shape[1] if len(shape) == 3 else Mul(*shape[2:])


@dataclass(frozen=True)
class Residual:
    """A residual layer of a ResNet, for the region of those that change no size.

    ``frozen``: what its norms multiply by and add is no parameter. ``averaged``: what is added is
    shrunk by means of squares, not by the stride of its convolution.
    """

    size: tuple[Expr, ...]
    width: Expr
    bottleneck: bool
    activation: str
    frozen: bool = False
    averaged: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """What frozen norms have, which is as long in every layer."""
        if not self.frozen:
            return ()
        return tuple(
            Tensor(f"conv{index}_norm.{part}", (width,), style.acts)
            for index, (width, _, _) in enumerate(self._plan(1, 1), start=1)
            for part in ("weight", "bias")
        )

    def graph(self, style: Style) -> Graph:
        """The layer: image in, image out."""
        m = Maker("layer", style)
        x = m.source(Tensor("hidden", (B, self.width, *self.size), style.acts))
        return m.build(self.add(m, x, 1, 1))

    def add(
        self, m: Maker, x: str, first: int, second: int, prefix: str = "", made: bool = False
    ) -> str:
        """Adds the layer with the strides of its first and second convolution.

        ``made``: what is added passes a convolution although its size stays.
        """
        out, name = self.width, self.activation
        plan = self._plan(first, second)
        y = x
        for index, (width, kernel, stride) in enumerate(plan, start=1):
            part = f"{prefix}conv{index}"
            y = conv(m, part, y, width, kernel, stride, kernel // 2, bias=False)
            y = batch_norm(m, f"{part}_norm", y, self.frozen)
            if index < len(plan):
                y = act(m, f"{part}_act", y, name)
        stride = first * second
        if self.averaged and stride != 1:
            two = (TWO, TWO)
            op = Pool(two, two, (Integer(0),) * 2, (ONE, ONE), ceil=True, function="average")
            x, stride, made = m.add(f"{prefix}shortcut_mean", op, x), 1, True
        if made or stride != 1 or m.shape(x)[1] != out:
            x = conv(m, f"{prefix}shortcut", x, out, 1, stride, bias=False)
            x = batch_norm(m, f"{prefix}shortcut_norm", x, self.frozen)
        return act(m, f"{prefix}act", m.add(f"{prefix}add", Add(), y, x), name)

    def _plan(self, first: int, second: int) -> list[tuple[Expr, int, int]]:
        """Channels, taps and stride of each convolution."""
        out = self.width
        if not self.bottleneck:
            return [(out, 3, first * second), (out, 3, 1)]
        return [(out / 4, 1, first), (out / 4, 3, second), (out, 1, 1)]


@dataclass(frozen=True)
class ResNet(Pyramid):
    """A residual network (He et al., arXiv 1512.03385).

    Attributes:
        stem: channels behind the first convolution and pooling.
        widths, depths: channels and layers of each stage.
        bottleneck: layers of three convolutions, the middle one a quarter as wide.
        early: stages shrink the image from the first one on.
        stride_first: the 1×1 convolution of a bottleneck has the stride, not the 3×3.
        activation: between convolutions.
        frozen: of :class:`Residual`.
        deep: three convolutions of 3×3 in front, and shrinking by means (ResNet-D, arXiv
            1812.01187).
    """

    stem: Expr
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    bottleneck: bool = True
    early: bool = False
    stride_first: bool = False
    activation: str = "relu"
    frozen: bool = False
    deep: bool = False

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        return self.close(m, m.add("pool", MeanPool(), self.body(m, self.start(m))))

    def body(self, m: Maker, x: str) -> str:
        """Adds all stages: ``x (B, C, h, w)`` to the image of the last one."""
        return self.maps(m, x)[-1]

    def maps(self, m: Maker, x: str) -> list[str]:
        """Adds all stages: the image of each."""
        made = []
        half = self.stem / 2
        plan = (
            ((half, 3, 2), (half, 3, 1), (self.stem, 3, 1)) if self.deep else ((self.stem, 7, 2),)
        )
        for index, (width, kernel, stride) in enumerate(plan):
            name = f"stem{index}" if index else "stem"
            x = conv(m, name, x, width, kernel, stride, kernel // 2, bias=False)
            x = batch_norm(m, f"{name}_norm", x, self.frozen)
            x = act(m, f"{name}_act", x, self.activation)
        three, two = (Integer(3),) * 2, (TWO,) * 2
        x = m.add("stem_pool", Pool(three, two, two, (ONE, ONE)), x)
        for index, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True), 1):
            stage = f"stage{index}"
            stride = 1 if index == 1 and not self.early else 2
            strides = (stride, 1) if self.stride_first else (1, stride)
            layer = Residual(
                (), Integer(width), self.bottleneck, self.activation, self.frozen, self.deep
            )
            made_first = self.deep and not self.bottleneck
            x = layer.add(m, x, *strides, prefix=f"{stage}_", made=made_first)
            if depth > 1:
                size = m.shape(x)[2:]
                layer = replace(layer, size=size)
                given = {
                    t.name: m.source(replace(t, name=f"{stage}_later_{t.name}"))
                    for t in layer.operands(m.style)
                }
                x = run(m, (Segment(stage, layer, Integer(depth - 1)),), x, **given)
            made.append(x)
        return made


@dataclass(frozen=True)
class VGG(Pyramid):
    """A VGG network (Simonyan and Zisserman, arXiv 1409.1556), from its layer table.

    Attributes:
        table: output channels of each 3×3 convolution; 0 is a pooling that halves.
        hidden: widths of the fully connected layers before the classifier.
        grid: side of the grid that the image is averaged to before them.
        norms: batch norms behind the convolutions.
    """

    table: tuple[int, ...]
    hidden: tuple[int, ...] = (4096, 4096)
    grid: int = 7
    norms: bool = False

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        x = self.start(m)
        two = (TWO, TWO)
        for index, width in enumerate(self.table, start=1):
            if width == 0:
                x = m.add(f"pool{index}", Pool(two, two, (Integer(0),) * 2, (ONE, ONE)), x)
                continue
            x = conv(m, f"conv{index}", x, Integer(width), 3, 1, 1)
            if self.norms:
                x = batch_norm(m, f"norm{index}", x)
            x = act(m, f"act{index}", x, "relu")
        x = m.add("average", AdaptivePool((Integer(self.grid),) * 2), x)
        x = m.add("flat", Reshape((B, Mul(*m.shape(x)[1:]))), x)
        for index, width in enumerate(self.hidden, start=1):
            x = m.linear(f"hidden{index}", x, Integer(width), m.shape(x)[1], True)
            x = act(m, f"hidden{index}_act", x, "relu")
        return self.close(m, x)


@dataclass(frozen=True)
class ConvNextLayer:
    """A ConvNeXt layer: a depthwise 7×7 convolution, then a feed-forward per position.

    ``responds``: inside the feed-forward channels are weighed by their norm over the image,
    relative to that of all (ConvNeXt V2, Woo et al., arXiv 2301.00808).
    """

    size: tuple[Expr, ...]
    width: Expr
    activation: str
    scaled: bool
    responds: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: image in, image out."""
        m, d = Maker("layer", style), self.width
        x = m.source(Tensor("hidden", (B, d, *self.size), style.acts))
        y = conv(m, "dwconv", x, d, 7, 1, 3, groups=d)
        y = m.norm("norm", m.add("as_sequence", AsSequence(), y), d, LAYER_NORM)
        if self.responds:
            y = act(m, "mlp_act", m.linear("up_proj", y, 4 * d, d, True), self.activation)
            y = m.linear("down_proj", self._weighed(m, y), d, 4 * d, True)
        else:
            y = FeedForward(d, 4 * d, self.activation, gated=False, bias=True).add(m, y)
        if self.scaled:
            y = m.add("layer_scale", Multiply(), y, m.vector("layer_scale.weight", d))
        y = m.add("as_image", AsImage(self.size), y)
        return m.build(m.add("add", Add(), y, x))

    def _weighed(self, m: Maker, x: str) -> str:
        """Adds the weighing of channels; ``x (B, n, 4d)`` in and out."""
        wide = 4 * self.width
        size = m.add("response", Reduce("norm2", (1,), keep=True), x)
        mean = m.add("response_mean", Reduce("mean", (2,), keep=True), size)
        mean = m.add("response_eps", Map("add_constant"), mean)
        share = m.add("response_share", Map("div"), size, mean)
        y = m.add("response_mul", Map("mul"), x, share)
        y = m.add("response_scale", Multiply(), y, m.vector("response.weight", wide))
        y = m.add("response_shift", Add(), y, m.vector("response.bias", wide))
        return m.add("response_add", Add(), y, x)


@dataclass(frozen=True)
class ConvNext(Pyramid):
    """ConvNeXt (Liu et al., arXiv 2201.03545).

    Attributes:
        widths, depths: channels and layers of each stage.
        patch: side and stride of the first convolution.
        activation: of the feed-forward blocks.
        scaled: layers end with a learned scale per channel.
        responds: of :class:`ConvNextLayer`.
        bare: no classifier: the mean of all positions in front of them, all behind a norm
            (DINOv3, arXiv 2508.10104).
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    patch: int = 4
    activation: str = "gelu"
    scaled: bool = True
    responds: bool = False
    bare: bool = False

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        x = self.maps(m, self.start(m))[-1]
        made = m.add("pool", MeanPool(), x)
        d = m.shape(made)[1]
        if self.bare:
            first = m.add("pooled_row", Reshape((B, ONE, d)), made)
            rows = m.add("rows", AsSequence(), x)
            return m.build(m.norm("final_norm", m.add("all", Join(1), first, rows), d, LAYER_NORM))
        return self.close(m, m.norm("final_norm", made, d, LAYER_NORM))

    def maps(self, m: Maker, x: str) -> list[str]:
        """Adds all stages: the image of each."""
        made = []
        x = conv(m, "stem", x, Integer(self.widths[0]), self.patch, self.patch)
        x = channel_norm(m, "stem_norm", x)
        for index, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True), 1):
            if index > 1:
                x = channel_norm(m, f"shrink{index}_norm", x)
                x = conv(m, f"shrink{index}", x, Integer(width), 2, 2)
            size = m.shape(x)[2:]
            layer = ConvNextLayer(size, Integer(width), self.activation, self.scaled, self.responds)
            x = run(m, (Segment(f"stage{index}", layer, Integer(depth)),), x)
            made.append(x)
        return made


@dataclass(frozen=True)
class Swin(Pyramid):
    """Swin (Liu et al., arXiv 2103.14030): windowed attention on a pyramid.

    Attributes:
        width: of the first stage; each later one is twice as wide.
        depths, heads: layers and heads of each stage.
        patch, window: sides in pixels and positions.
        ratio: feed-forward width over width.
        bias: of queries, keys and values.
        activation: of the feed-forward blocks.
        cosine: layers of Swin V2 (:class:`~costgraph.models.blocks.tower.SwinLayer`).
        normed: a norm stands behind the last stage (Donut's encoder has none).
        bare: no classifier: all positions, and their mean.
        whole: windows keep their side and are shifted however small the grid, which is padded
            (as published classes do where other models read their stages).
    """

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    patch: int = 4
    window: int = 7
    ratio: Expr = Integer(4)
    bias: bool = True
    activation: str = "gelu"
    cosine: bool = False
    normed: bool = True
    bare: bool = False
    whole: bool = False

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        every, mean = self.features(m)
        return m.build(every, mean) if self.bare else self.close(m, mean)

    def features(self, m: Maker) -> tuple[str, str]:
        """Adds all stages: all positions of the last one, and their mean."""
        x = self.rows(m, self.start(m))[-1][0]
        if self.normed:
            x = m.norm("final_norm", x, m.shape(x)[2], LAYER_NORM)
        return x, m.add("pool", MeanPool(sequence=True), x)

    def rows(self, m: Maker, x: str) -> list[tuple[str, Size]]:
        """Adds all stages: rows of each, and their grid."""
        made = []
        batch, channels, *size = m.shape(x)
        if min(size) < self.patch:
            shown = " x ".join(map(str, size))
            raise InputError(f"an image of {shown} is smaller than a patch of {self.patch}")
        whole = [-(-n // self.patch) * self.patch for n in size]
        if whole != size:  # the last patches are filled up
            x = m.add("image_pad", Resize((batch, channels, *whole)), x)
        x = conv(m, "patch_embed", x, Integer(self.width), self.patch, self.patch)
        height, wide = (int(n) for n in m.shape(x)[2:])
        x = m.add("as_sequence", AsSequence(), x)
        x = m.norm("patch_norm", x, Integer(self.width), LAYER_NORM)
        for index, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True), 1):
            d = Integer(self.width * 2 ** (index - 1))
            if index > 1:
                height, wide = (height + 1) // 2, (wide + 1) // 2
                x = self._merged(m, index, x, (height, wide), d)
            layer = self._layer(d, heads, (height, wide), index - 1)
            parts = [Segment(f"stage{index}", SwinPair(layer), Integer(depth // 2))]
            if depth % 2:
                parts.append(Segment(f"stage{index}_last", SwinPair(layer, False), ONE))
            x = run(m, tuple(p for p in parts if p.count != 0), x, **self._mask(m, index, layer))
            made.append((x, (Integer(height), Integer(wide))))
        return made

    def maps(self, m: Maker, x: str) -> list[str]:
        """Adds all stages, and the norm behind the last one: the image of each, without it."""
        made = self.rows(m, x)
        last = made[-1][0]
        if self.normed:
            m.norm("final_norm", last, m.shape(last)[2], LAYER_NORM)
        return [m.add(f"map{i}", AsImage(size), rows) for i, (rows, size) in enumerate(made, 1)]

    def _layer(self, d: Expr, heads: int, size: tuple[int, int], index: int) -> SwinLayer:
        at = Heads(
            d=d,
            heads=Integer(heads),
            head_dim=d / heads,
            qv_bias=self.bias,
            k_bias=self.bias and not self.cosine,
            out_bias=True,
        )
        feed = FeedForward(d, self.ratio * d, self.activation, gated=False, bias=True)
        side, shifts = self.window, True
        if not self.whole:
            # The second version's windows are those of the configured image, whatever it reads.
            grid = (int(n) // self.patch // 2**index for n in self.size) if self.cosine else size
            room = min(grid)
            side, shifts = min(side, room), room > side
        return SwinLayer(B, size, at, feed, self.window, side, shifts and side > 1, self.cosine)

    def _mask(self, m: Maker, index: int, layer: SwinLayer) -> dict[str, str]:
        """What layers of a stage share, under names of its own."""
        pair = SwinPair(layer, self.depths[index - 1] > 1)
        return {
            t.name: m.source(Tensor(f"{t.name}{index}", t.shape, t.dtype))
            for t in pair.operands(m.style)
        }

    def _merged(self, m: Maker, index: int, x: str, size: tuple[int, int], d: Expr) -> str:
        """Four neighbours become one position: a norm and a product over all four."""
        name, count = f"merge{index}", Integer(size[0] * size[1])
        if m.shape(x)[1] != 4 * count:
            x = m.add(f"{name}_pad", Resize((B, 4 * count, d / 2)), x)
        x = m.add(name, Rearrange((B, count, 2 * d)), x)
        if self.cosine:
            x = m.linear(f"{name}_proj", x, d, 2 * d)
            return m.norm(f"{name}_norm", x, d, LAYER_NORM)
        x = m.norm(f"{name}_norm", x, 2 * d, LAYER_NORM)
        return m.linear(f"{name}_proj", x, d, 2 * d)
