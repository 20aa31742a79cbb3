"""The conditional U-Net of Stable Diffusion (Rombach et al., arXiv 2112.10752).

Residual convolution blocks down and up a pyramid of latents, with transformers on
some levels that attend to ``S`` prompt tokens. Keys and values of the prompt are made
anew in every step, as the published code does.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer, Mul

from costgraph.errors import InputError
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.adaptive import of_number, two_layers
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import act, conv, group_norm, picture
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.denoise import Denoiser, latent
from costgraph.models.vision import Size
from costgraph.ops import Add, AsSequence, Concat
from costgraph.ops.arrays import Join
from costgraph.ops.image import AddChannels, AsImage, Sinusoid, Upsample
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Reshape
from costgraph.symbols import B, S

ONE = Integer(1)


@dataclass(frozen=True)
class PromptLayer:
    """A transformer layer: attention to itself, to the prompt, and a feed-forward block."""

    length: Expr
    at: Heads
    prompt: Expr
    feed: FeedForward

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The prompt's vectors."""
        return (Tensor("prompt", (B, S, self.prompt), style.acts),)

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state and prompt in, hidden state out."""
        m, at = Maker("layer", style), self.at
        x = m.source(Tensor("hidden", (B, self.length, at.d), style.acts))
        prompt = m.source(self.operands(style)[0])
        y = m.norm("attn_norm", x, at.d, LAYER_NORM)
        y = at.out(m, attended(m, *at.all(m, y), FULL))
        x = m.add("attn_add", Add(), y, x)
        y = m.norm("cross_norm", x, at.d, LAYER_NORM)
        query = at.project(m, "q", y, "cross_")
        split = (at.heads, at.head_dim)
        key, value = (
            m.linear(f"cross_{name}_proj", prompt, at.width, self.prompt, False, split)
            for name in "kv"
        )
        y = at.out(m, attended(m, query, key, value, FULL, prefix="cross_"), "cross_")
        x = m.add("cross_add", Add(), y, x)
        y = self.feed.add(m, m.norm("mlp_norm", x, at.d, LAYER_NORM))
        return m.build(m.add("mlp_add", Add(), y, x))


@dataclass(frozen=True)
class Level:
    """One level of the pyramid.

    Attributes:
        width: channels.
        blocks: residual blocks on the way down; one more on the way up.
        heads: of the transformers.
        down, up: transformer layers behind each residual block; 0 for none.
    """

    width: int
    blocks: int
    heads: int
    down: int
    up: int


@dataclass(frozen=True)
class UNet(Denoiser):
    """A U-Net with cross-attention.

    Attributes:
        levels: from the finest to the coarsest.
        channels, out: of the latents, in and out.
        size: latent height and width.
        prompt: width of a prompt token's vector.
        middle: transformer layers in the middle; 0 for none.
        groups: of the group norms.
        linear: transformers project by products, not by 1×1 convolutions.
        pooled: width of a prompt's own vector (SDXL), or None.
        sizes: how many numbers (original size, crop) tell about the image.
        size_width: width of the vector of each of them.
    """

    levels: tuple[Level, ...]
    channels: Expr
    out: Expr
    size: Size
    prompt: Expr
    middle: int
    groups: Expr = Integer(32)
    linear: bool = False
    pooled: Expr | None = None
    sizes: Expr = Integer(6)
    size_width: Expr = Integer(256)

    def positions(self, style: Style) -> Expr:
        return Mul(*latent(style, self.size))

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        size = latent(style, self.size)
        factor = 2 ** (len(self.levels) - 1)
        if any(int(n) % factor or n == 0 for n in size):
            raise InputError(
                f"{name}: latents of {size[0]}×{size[1]} do not halve {len(self.levels) - 1} times"
            )
        m.source(Tensor("prompt", (B, S, self.prompt), style.acts))
        first = Integer(self.levels[0].width)
        time = self._time(m, first)
        x = conv(m, "conv_in", picture(m, B, self.channels, size, "latent"), first, 3, 1, 1)
        skips = [x]
        for index, level in enumerate(self.levels):
            for block in range(level.blocks):
                part = f"down{index + 1}_{block + 1}"
                x = self._residual(m, part, x, time, Integer(level.width))
                x = self._transformer(m, part, x, level.heads, level.down)
                skips.append(x)
            if index + 1 < len(self.levels):
                x = conv(m, f"down{index + 1}_shrink", x, Integer(level.width), 3, 2, 1)
                skips.append(x)
        last = self.levels[-1]
        x = self._residual(m, "middle_1", x, time, Integer(last.width))
        x = self._transformer(m, "middle", x, last.heads, self.middle)
        x = self._residual(m, "middle_2", x, time, Integer(last.width))
        for index, level in reversed(list(enumerate(self.levels))):
            for block in range(level.blocks + 1):
                part = f"up{index + 1}_{block + 1}"
                x = m.add(f"{part}_join", Join(1), x, skips.pop())
                x = self._residual(m, part, x, time, Integer(level.width))
                x = self._transformer(m, part, x, level.heads, level.up)
            if index:
                x = m.add(f"up{index + 1}_grow", Upsample(), x)
                x = conv(m, f"up{index + 1}_conv", x, Integer(level.width), 3, 1, 1)
        x = act(m, "out_act", group_norm(m, "out_norm", x, self.groups), "silu")
        return m.build(conv(m, "conv_out", x, self.out, 3, 1, 1))

    def _time(self, m: Maker, first: Expr) -> str:
        """The conditioning vector ``(B, 4·first)``, activated once for all blocks that use it."""
        width = 4 * first
        vector = of_number(m, "time", width, width, first)
        if self.pooled is not None:
            # Six numbers per sample become a vector each, beside the prompt's own.
            numbers = m.source(Tensor("image_numbers", (B * self.sizes,), m.style.acts))
            waves = m.add("numbers_waves", Sinusoid(self.size_width), numbers)
            waves = m.add("numbers_flat", Reshape((B, self.sizes * self.size_width)), waves)
            pooled = m.source(Tensor("pooled_prompt", (B, self.pooled), m.style.acts))
            both = m.add("pooled_concat", Concat(), pooled, waves)
            vector = m.add(
                "conditioning", Add(), vector, two_layers(m, "pooled", both, width, width)
            )
        return vector

    def _residual(self, m: Maker, part: str, x: str, time: str, out: Expr) -> str:
        """A residual block: two convolutions, the time added to each channel between them."""
        y = act(m, f"{part}_act1", group_norm(m, f"{part}_norm1", x, self.groups), "silu")
        y = conv(m, f"{part}_conv1", y, out, 3, 1, 1)
        told = act(m, f"{part}_time_act", time, "silu")
        told = m.linear(f"{part}_time_proj", told, out, m.shape(time)[1], True)
        y = m.add(f"{part}_time_add", AddChannels(), y, told)
        y = act(m, f"{part}_act2", group_norm(m, f"{part}_norm2", y, self.groups), "silu")
        y = conv(m, f"{part}_conv2", y, out, 3, 1, 1)
        if m.shape(x)[1] != out:
            x = conv(m, f"{part}_shortcut", x, out, 1)
        return m.add(f"{part}_add", Add(), y, x)

    def _transformer(self, m: Maker, part: str, x: str, heads: int, layers: int) -> str:
        """Transformer layers over the positions of an image, and a residual around them."""
        if not layers:
            return x
        d, size = m.shape(x)[1], m.shape(x)[2:]
        y = group_norm(m, f"{part}_front_norm", x, self.groups)
        if self.linear:
            y = m.add(f"{part}_as_sequence", AsSequence(), y)
            y = m.linear(f"{part}_proj_in", y, d, d, True)
        else:
            y = conv(m, f"{part}_proj_in", y, d, 1)
            y = m.add(f"{part}_as_sequence", AsSequence(), y)
        at = Heads(d, Integer(heads), d / heads, out_bias=True)
        feed = FeedForward(d, 4 * d, "gelu", gated=True, bias=True, fused_gate_up=True)
        layer = PromptLayer(Mul(*size), at, self.prompt, feed)
        y = run(m, (Segment(f"{part}_layers", layer, Integer(layers)),), y, prompt="prompt")
        if self.linear:
            y = m.linear(f"{part}_proj_out", y, d, d, True)
            y = m.add(f"{part}_as_image", AsImage(size), y)
        else:
            y = m.add(f"{part}_as_image", AsImage(size), y)
            y = conv(m, f"{part}_proj_out", y, d, 1)
        return m.add(f"{part}_attn_add", Add(), y, x)
