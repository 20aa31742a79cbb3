"""Diffusion models of images as programs: one pass per denoising step, ``K`` steps.

``B`` is the samples that one pass works on: guidance with and without a prompt
doubles it. Text encoders and the image decoder are models of their own and not
part of the program; nothing is kept between steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Integer

from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.program import Phase, Program
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Norm, Segment, Style
from costgraph.models.blocks.adaptive import (
    AdaptiveLayer,
    JointLayer,
    SingleLayer,
    Streams,
    last_layer,
    of_number,
    two_layers,
)
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import Patches, latent_patches, picture
from costgraph.models.blocks.prompted import RefinerLayer
from costgraph.models.blocks.stack import run
from costgraph.models.vision import OnePass, Size, of_image
from costgraph.ops import Add, Embedding
from costgraph.ops.arrays import Join
from costgraph.ops.image import Cut, MeanPool
from costgraph.symbols import B, G, K, S, T, q

#: Sentences that every count of a diffusion model rests on.
ASSUMPTIONS = (
    "B counts the samples of one pass: classifier-free guidance doubles it",
    "text encoders and the image decoder are not part of the program",
)
#: Pixels per latent position and axis, in the autoencoders of these models.
SHRINK = 8


class Denoiser(OnePass):
    """A model that every denoising step runs once."""

    def program(self, name: str, style: Style) -> Program:
        """The program of one phase, ``denoise``, of ``K`` steps."""
        count = self.positions(style)
        phase = Phase(
            "denoise",
            self.graph(name, style),
            ((q, count), (T, count)),
            tokens=Integer(0),
            weight=K,
        )
        program = Program(name, (phase,), ASSUMPTIONS, self.limits)
        return of_image(program, self.image_tokens(style), style)

    def image_tokens(self, style: Style) -> Expr | None:
        """Tokens of an image of the size that is asked for; None where ``G`` is no symbol."""
        return None


def latent(style: Style, size: Size) -> Size:
    """Latent height and width: those asked for in pixels, shrunk, or the configured ones."""
    if style.image is None:
        return size
    height, width = (Integer(int(n) // SHRINK) for n in style.image)
    return height, width


def packed_tokens(style: Style) -> Expr | None:
    """Tokens of the image that is asked for, 2 × 2 latents each; None where none is."""
    if style.image is None:
        return None
    height, width = (int(n) // (2 * SHRINK) for n in style.image)
    return Integer(height * width)


def sequence(m: Maker, name: str, count: Expr, width: Expr) -> str:
    """Declares an input ``(B, count, width)``."""
    return m.source(Tensor(name, (B, count, width), m.style.acts))


@dataclass(frozen=True)
class ClassTransformer(Denoiser):
    """DiT: a transformer over latent patches, told a class (arXiv 2212.09748).

    Attributes:
        patches: of the latent image.
        at, feed, layers: heads, feed-forward block, number of layers.
        size: latent height and width.
        classes: rows of the class table, the empty one included.
        out: channels of the result.
    """

    patches: Patches
    at: Heads
    feed: FeedForward
    layers: Expr
    size: Size
    classes: Expr
    out: Expr

    def positions(self, style: Style) -> Expr:
        return self.patches.count(latent(style, self.size))

    def graph(self, name: str, style: Style) -> Graph:
        m, d = Maker(name, style), self.at.d
        x = picture(m, B, self.patches.channels, latent(style, self.size), "latent")
        x = self.patches.add(m, x)
        time = of_number(m, "time", d, d)
        labels = m.source(Tensor("labels", (B,), INT64))
        table = m.weight("classes.weight", self.classes, d)
        told = m.add("class_embed", Embedding(result=style.acts), labels, table)
        vector = m.add("conditioning", Add(), time, told)
        layer = AdaptiveLayer(m.shape(x)[1], self.at, self.feed)
        x = run(m, (Segment("layers", layer, self.layers),), x, conditioning=vector)
        across = self.patches.patch
        return m.build(last_layer(m, x, vector, across[0] * across[1] * self.out))


@dataclass(frozen=True)
class Flux(Denoiser):
    """Flux: joint layers of two streams, then layers of one.

    The image is ``G`` packed latent patches of width ``channels``, the text ``S`` tokens.

    Attributes:
        at: the heads.
        joint, single: layers of two streams and of one.
        channels, out: width of a patch, in and out.
        text, pooled: widths of text vectors, per token and per prompt (None without).
        guided: the guidance scale is an input.
        patch: the axes of a latent patch of ``channels`` that a convolution embeds (video).
        text_norm: of the text vectors, or None.
        refiner: layers that refine the text by itself.
    """

    at: Heads
    joint: Expr
    single: Expr
    channels: Expr
    out: Expr
    text: Expr
    pooled: Expr | None
    guided: bool
    patch: tuple[Expr, ...] = ()
    text_norm: Norm | None = None
    refiner: Expr = Integer(0)

    def positions(self, style: Style) -> Expr:
        return G + S

    def image_tokens(self, style: Style) -> Expr | None:
        return None if self.patch else packed_tokens(style)

    def graph(self, name: str, style: Style) -> Graph:
        m, d = Maker(name, style), self.at.d
        streams = Streams(S, G, self.at, Norm())
        x = self._image(m)
        vector = of_number(m, "time", d, d)
        if self.guided:
            vector = m.add("guidance_add", Add(), vector, of_number(m, "guidance", d, d))
        text = self._text(m)
        if self.pooled is not None:
            pooled = m.source(Tensor("pooled_prompt", (B, self.pooled), style.acts))
            vector = m.add("conditioning", Add(), vector, two_layers(m, "pooled", pooled, d, d))
        given = {"conditioning": vector}
        feed = FeedForward(d, 4 * d, "gelu_tanh", gated=False, bias=True)
        x, text = two_streams(m, JointLayer(streams, feed), self.joint, x, text, **given)
        if self.single != 0:
            x = m.add("streams_join", Join(1), text, x)
            layer = SingleLayer(streams, 4 * d)
            x = run(m, (Segment("single_layers", layer, self.single),), x, **given)
            x = m.add_many("streams_cut", Cut((S, G)), x)[1]
        return m.build(last_layer(m, x, vector, self.out))

    def _image(self, m: Maker) -> str:
        if self.patch:
            return latent_patches(m, self.channels, self.patch, self.at.d)
        x = sequence(m, "latent", G, self.channels)
        return m.linear("image_embed", x, self.at.d, self.channels, True)

    def _text(self, m: Maker) -> str:
        """The prompt's vectors, normed and embedded, and refined among themselves."""
        d = self.at.d
        text = given = sequence(m, "prompt", S, self.text)
        if self.text_norm is not None:
            text = m.norm("text_norm", text, self.text, self.text_norm)
        text = m.linear("text_embed", text, d, self.text, True)
        if self.refiner == 0:
            return text
        mean = two_layers(m, "text_mean", m.add("prompt_mean", MeanPool(True), given), d, d)
        vector = m.add("text_vector", Add(), of_number(m, "text_time", d, d), mean)
        feed = FeedForward(d, 4 * d, "silu", gated=False, bias=True)
        layer = RefinerLayer(S, replace(self.at, rotary=None), feed)
        segment = Segment("refiner", layer, self.refiner)
        return run(m, (segment,), text, text_conditioning=vector)


def two_streams(
    m: Maker,
    layer: JointLayer,
    count: Expr,
    x: str,
    text: str,
    region_name: str = "joint_layers",
    **given: str,
) -> tuple[str, str]:
    """Adds ``count`` joint layers as a region that carries both streams."""
    if count == 0:
        return x, text
    shared = [given.get(t.name) or m.source(t) for t in layer.operands(m.style)]
    region = Repeat(layer.graph(m.style), count, carried=2)
    found = m.add_many(region_name, region, x, text, *shared)
    return found[0], found[1]


@dataclass(frozen=True)
class StableDiffusion3(Denoiser):
    """SD3: joint layers throughout, the text stream ends in the last (arXiv 2403.03206).

    Attributes:
        patches: of the latent image; positions come from a fixed table.
        at, layers: heads and number of layers.
        size: latent height and width.
        out: channels of the result.
        text, pooled: widths of text vectors, per token and per prompt.
        qk_norm: queries and keys are normalised (SD 3.5).
        dual: layers at the start whose image attends to itself a second time (SD 3.5 medium).
    """

    patches: Patches
    at: Heads
    layers: int
    size: Size
    out: Expr
    text: Expr
    pooled: Expr
    qk_norm: bool
    dual: int = 0

    def positions(self, style: Style) -> Expr:
        return self.patches.count(latent(style, self.size)) + S

    def graph(self, name: str, style: Style) -> Graph:
        m, d = Maker(name, style), self.at.d
        x = picture(m, B, self.patches.channels, latent(style, self.size), "latent")
        x = self.patches.add(m, x)
        count = m.shape(x)[1]
        fixed = m.source(Tensor("position_table", (count, d), style.acts))
        x = m.add("position_add", Add(), x, fixed)
        text = m.linear("text_embed", sequence(m, "prompt", S, self.text), d, self.text, True)
        pooled = m.source(Tensor("pooled_prompt", (B, self.pooled), style.acts))
        time = of_number(m, "time", d, d)
        vector = m.add("conditioning", Add(), time, two_layers(m, "pooled", pooled, d, d))
        streams = Streams(S, count, self.at, Norm() if self.qk_norm else None)
        feed = FeedForward(d, 4 * d, "gelu_tanh", gated=False, bias=True)
        layer = JointLayer(streams, feed)
        twice, plain = Integer(self.dual), Integer(self.layers - 1 - self.dual)
        given = {"conditioning": vector}
        both = replace(layer, dual=True)
        x, text = two_streams(m, both, twice, x, text, region_name="dual_layers", **given)
        x, text = two_streams(m, layer, plain, x, text, **given)
        x = self._end(m, replace(layer, ends=True), x, text, vector)
        across = self.patches.patch
        return m.build(last_layer(m, x, vector, across[0] * across[1] * self.out))

    def _end(self, m: Maker, layer: JointLayer, x: str, text: str, vector: str) -> str:
        """The last joint layer, a region that runs once and gives the image alone."""
        inner = layer.graph(m.style)
        region = Repeat(inner, Integer(1), carried=2)
        return m.add_many("last_layer", region, x, text, vector)[0]
