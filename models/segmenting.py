"""SAM: an image encoder, prompts of points and boxes, and a decoder of masks (arXiv 2304.02643).

SAM 2 (arXiv 2408.00714) is the same behind another encoder, whose finer maps are added to the
masks, on a picture or on a frame that no memory precedes. SAM-HQ (arXiv 2306.01567) adds to each
mask a finer one, made of an early layer of the encoder as well.

``B`` images with ``S`` prompt tokens each: points, corners of boxes, and the empty point that
follows points without a box.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.hiera import Hiera, Neck
from costgraph.models.blocks.image import act, channel_norm, conv, enlarge
from costgraph.models.blocks.sam import SamEncoder
from costgraph.models.blocks.sam3 import TurnedEncoder
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.vision import OnePass
from costgraph.ops import Activation, Add, AsSequence, Concat, Linear
from costgraph.ops.arrays import Join
from costgraph.ops.image import AsImage
from costgraph.ops.maps import Map
from costgraph.ops.matmul import MatMul
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Expand, Reshape, Slice
from costgraph.symbols import B, S

ONE, TWO = Integer(1), Integer(2)


@dataclass(frozen=True)
class ImageEncoder(OnePass):
    """SAM's image encoder alone."""

    encoder: SamEncoder | Neck | TurnedEncoder

    def positions(self, style: Style) -> Expr:
        return Integer(self.encoder.side**2)

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        return m.build(*self.encoder.maps(m, B))


@dataclass(frozen=True)
class Pyramids(OnePass):
    """SAM 2's pyramid alone: what every stage makes."""

    pyramid: Hiera

    def positions(self, style: Style) -> Expr:
        tall, wide = self.pyramid.grids[-1]
        return Integer(tall * wide)

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        return m.build(*self.pyramid.add(m, B))


@dataclass(frozen=True)
class Fine:
    """SAM 3's encoder as SAM 2's masks read it: three maps, the coarsest of the grid's size."""

    encoder: TurnedEncoder

    @property
    def size(self) -> int:
        """Side of the image."""
        return self.encoder.size

    @property
    def side(self) -> int:
        """Side of the grid."""
        return self.encoder.side

    @property
    def out(self) -> Expr:
        """Channels."""
        return self.encoder.out

    def maps(self, m: Maker, batch: Expr) -> tuple[str, ...]:
        """Adds the encoder: its maps without the rows that they are made of."""
        return self.encoder.maps(m, batch)[1:]


@dataclass(frozen=True)
class Segmenter(OnePass):
    """SAM as a whole, one prompt a picture.

    Attributes:
        encoder: of images.
        d, heads: width and heads of the decoder; ``rate``: by how much most of its attention
            is narrower.
        feed: its feed-forward block.
        layers: its layers, which attend both ways.
        masks: masks that it makes, and one more.
        depth, inner: products and width of the head that rates masks.
        points: rows of the table of kinds of points.
        shown: channels in front of a mask that is given; its part rests in memory.
        second: SAM 2: finer maps are added to the masks, a token of its own says whether there is
            anything, and random waves are no parameters.
    """

    encoder: SamEncoder | Neck | Fine
    d: Expr
    heads: Expr
    rate: int
    feed: FeedForward
    layers: int
    masks: int
    depth: int
    inner: Expr
    points: int
    shown: Expr
    second: bool = False

    @property
    def lead(self) -> int:
        """Tokens in front of those of masks."""
        return 2 if self.second else 1

    @property
    def beside(self) -> int:
        """Tokens behind those of masks."""
        return 0

    def positions(self, style: Style) -> Expr:
        return Integer(self.encoder.side**2)

    def graph(self, name: str, style: Style) -> Graph:
        m, d = Maker(name, style), self.d
        *fine, image = self.encoder.maps(m, B)
        if self.second:
            image = self._unremembered(m, image)
            for index, out in enumerate((d / 8, d / 4)):
                fine[index] = conv(m, f"fine{index}", fine[index], out, 1)
        side = Integer(self.encoder.side)
        grid = m.source(Tensor("grid_places", (side**2, TWO), style.acts))
        places = self._placed(m, "grid", grid)
        x = m.add("image_rows", AsSequence(), image)
        x = m.add("empty_mask_add", Add(), x, m.vector("empty_mask", d))
        self._resting(m)
        prompt = m.source(Tensor("prompt_places", (B, S, TWO), style.acts))
        prompt = self._placed(m, "prompt", prompt)
        kinds = m.source(Tensor("prompt_kinds", (B, S, d), style.acts))
        prompt = m.add("prompt_add", Add(), prompt, kinds)
        count = Integer(self.lead + self.masks + 1 + self.beside)
        own = m.vector("output_tokens", count, d)
        own = m.add("output_rows", Expand((B, count, d)), own)
        tokens = y = m.add("tokens", Join(1), own, prompt)
        for index in range(1, self.layers + 1):
            y, x = self._both_ways(m, f"layer{index}_", y, x, tokens, places, index > 1)
        query, key = self._with(m, "last_", y, x, tokens, places)
        made = self._attended(m, "last_", query, key, x, self.rate)
        y = m.norm("last_norm", m.add("last_add", Add(), made, y), d, LAYER_NORM)
        return m.build(*self._masks(m, y, x, side, tuple(fine)))

    def _unremembered(self, m: Maker, image: str) -> str:
        """Adds what stands for a memory where there is none; ``image (B, d, n, n)``."""
        size = m.shape(image)[2:]
        x = m.add("unremembered_rows", AsSequence(), image)
        x = m.add("unremembered_add", Add(), x, m.vector("no_memory", self.d))
        return m.add("unremembered", AsImage(size), x)

    def _placed(self, m: Maker, name: str, places: str) -> str:
        """Adds sines and cosines of places by random waves."""
        shape = (self.d / 2, TWO)
        if self.second:
            waves = m.source(Tensor("waves", shape, m.style.acts))
        else:
            waves = m.weight("waves.weight", *shape)
        x = m.add(f"{name}_waves", Linear(), places, waves)
        x = m.add(f"{name}_turn", Map("scale"), x)
        parts = (m.add(f"{name}_{f}", Map(f), x) for f in ("sin", "cos"))
        return m.add(f"{name}_places_row", Concat(), *parts)

    def _resting(self, m: Maker) -> None:
        """Declares what rests in memory: kinds of points, and the part that reads a mask."""
        d, c = self.d, self.shown
        first, kinds = Integer(int(c) // 4), Integer(self.points + 1)
        m.add("kinds_rest", Reshape((kinds * d,)), m.vector("kinds.weight", kinds, d))
        kernels = ((first, ONE, TWO), (c, first, TWO), (d, c, ONE))
        for index, (out, into, taps) in enumerate(kernels, start=1):
            name, count = f"mask{index}", out * into * taps**2
            kernel = m.weight(f"{name}.weight", out, into, taps, taps)
            m.add(f"{name}_kernel_rest", Reshape((count,)), kernel)
            vectors = Integer(3 if index < 3 else 1)  # a bias, and a norm behind the first two
            beside = m.vector(f"{name}.rows", vectors, out)
            m.add(f"{name}_rows_rest", Reshape((vectors * out,)), beside)

    def _with(
        self, m: Maker, name: str, y: str, x: str, tokens: str, places: str
    ) -> tuple[str, str]:
        """Tokens and image with their places."""
        return (
            m.add(f"{name}q_place", Add(), y, tokens),
            m.add(f"{name}k_place", Add(), x, places),
        )

    def _attended(self, m: Maker, name: str, q: str, k: str, v: str, rate: int) -> str:
        width = self.d / rate / self.heads
        at = Heads(self.d, self.heads, width, True, True, True)
        query, key, value = (at.project(m, n, x, name) for n, x in (("q", q), ("k", k), ("v", v)))
        return at.out(m, attended(m, query, key, value, FULL, prefix=name), name)

    def _both_ways(
        self, m: Maker, name: str, y: str, x: str, tokens: str, places: str, later: bool
    ) -> tuple[str, str]:
        """Adds a layer: tokens to themselves, to the image, a block, the image to tokens."""
        d = self.d
        query = m.add(f"{name}own_place", Add(), y, tokens) if later else y
        made = self._attended(m, f"{name}own_", query, query, y, 1)
        y = m.add(f"{name}own_add", Add(), made, y) if later else made
        y = m.norm(f"{name}own_norm", y, d, LAYER_NORM)
        query, key = self._with(m, f"{name}to_", y, x, tokens, places)
        made = self._attended(m, f"{name}to_", query, key, x, self.rate)
        y = m.norm(f"{name}to_norm", m.add(f"{name}to_add", Add(), made, y), d, LAYER_NORM)
        fed = self.feed.add(m, y, name)
        y = m.norm(f"{name}mlp_norm", m.add(f"{name}mlp_add", Add(), fed, y), d, LAYER_NORM)
        query, key = self._with(m, f"{name}from_", y, x, tokens, places)
        made = self._attended(m, f"{name}from_", key, query, y, self.rate)
        x = m.norm(f"{name}from_norm", m.add(f"{name}from_add", Add(), made, x), d, LAYER_NORM)
        return y, x

    def _masks(
        self, m: Maker, y: str, x: str, side: Expr, fine: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Adds masks, what they are rated, and whether there is anything, where a token says so."""
        d = self.d
        x = m.add("mask_image", AsImage((side, side)), x)
        for index, out in enumerate((d / 4, d / 8), start=1):
            name = f"enlarge{index}"
            x = enlarge(m, name, x, out, TWO)
            if self.second:
                x = m.add(f"{name}_fine", Add(), x, fine[2 - index])
            x = channel_norm(m, f"{name}_norm", x) if index == 1 else x
            x = act(m, f"{name}_act", x, "gelu")
        wide = m.add("mask_pixels", Reshape((B, d / 8, (4 * side) ** 2)), x)
        rows = [self._row(m, index, y) for index in range(self.masks + 1)]
        masks = m.add("masks", MatMul(), m.add("mask_rows", Join(1), *rows), wide)
        token = m.add("rating_token", Slice(1, Integer(self.lead - 1), ONE), y)
        count = Integer(self.masks + 1)
        rated = self._products(m, "rating", token, self.inner, count, self.depth)
        if not self.second:
            return masks, rated
        token = m.add("object_token", Slice(1, Integer(0), ONE), y)
        return masks, rated, self._products(m, "object", token, d, ONE, 3)

    def _row(self, m: Maker, index: int, y: str) -> str:
        """Adds what the token of a mask multiplies pixels by: ``(B, 1, d / 8)``."""
        name = f"mask_row{index}"
        token = m.add(f"{name}_token", Slice(1, Integer(self.lead + index), ONE), y)
        return self._products(m, name, token, self.d, self.d / 8, 3)

    def _products(self, m: Maker, name: str, x: str, inner: Expr, out: Expr, count: int) -> str:
        """Adds ``count`` products with activations between."""
        for index in range(1, count):
            x = m.linear(f"{name}_{index}", x, inner, m.shape(x)[-1], True)
            x = m.add(f"{name}_act{index}", Activation("relu"), x)
        return m.linear(f"{name}_{count}", x, out, m.shape(x)[-1], True)


@dataclass(frozen=True)
class FinerSegmenter(Segmenter):
    """SAM-HQ: a token of its own makes a finer mask, which is added to each of the others.

    Its pixels are those of the others behind two convolutions, and what is made of the encoder's
    result and of its first layer that sees the whole grid.
    """

    @property
    def beside(self) -> int:
        return 1

    def _masks(
        self, m: Maker, y: str, x: str, side: Expr, fine: tuple[str, ...]
    ) -> tuple[str, ...]:
        d, (early, image) = self.d, fine
        masks, rated = super()._masks(m, y, x, side, ())
        kept = self._twice(m, "late", image, d / 4)
        size = (side, side)
        seen = self._twice(m, "early", m.add("early_image", AsImage(size), early), d)
        kept = m.add("early_add", Add(), kept, seen)
        pixels = conv(m, "finer1", "enlarge2_act", d / 4, 3, 1, 1)
        pixels = act(m, "finer_act", channel_norm(m, "finer_norm", pixels), "gelu")
        pixels = m.add("finer_add", Add(), conv(m, "finer2", pixels, d / 8, 3, 1, 1), kept)
        pixels = m.add("finer_pixels", Reshape((B, d / 8, (4 * side) ** 2)), pixels)
        row = self._row(m, self.masks + 1, y)
        finer = m.add("finer_mask", MatMul(), row, pixels)
        count = Integer(self.masks)
        taken = m.add("masks_taken", Slice(1, ONE, count), masks)
        finer = m.add("finer_masks", Expand((B, count, (4 * side) ** 2)), finer)
        return m.add("masks_add", Add(), taken, finer), rated

    def _twice(self, m: Maker, name: str, x: str, inner: Expr) -> str:
        """Adds two enlargements with a norm and an activation between: ``d / 8`` channels."""
        x = enlarge(m, f"{name}_enlarge1", x, inner, TWO)
        x = act(m, f"{name}_act", channel_norm(m, f"{name}_norm", x), "gelu")
        return enlarge(m, f"{name}_enlarge2", x, self.d / 8, TWO)
