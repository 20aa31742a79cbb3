"""Layers of vision towers: attention in both directions over rows of any batch and length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import (
    Activation,
    Add,
    AttentionScores,
    AttentionValues,
    Multiply,
    RelativeBias,
    Scale,
    Softmax,
)
from costgraph.ops.image import Rearrange, WindowMask
from costgraph.ops.maps import Map
from costgraph.ops.pattern import FULL, Pattern, counted
from costgraph.ops.pool import Resize
from costgraph.ops.views import Expand, Reshape

ONE = Integer(1)
LAYER_NORM = Norm("layer", True)


@dataclass(frozen=True)
class TowerLayer:
    """A pre-norm layer over ``(batch, length, d)``.

    Attributes:
        batch, length: sequences and positions of each.
        at: the heads; a rotary width asks for a table ``(length, width)``, buckets for a table
            of biases of this layer's own, a position bias for one of all layers.
        feed: the feed-forward block.
        norm: of both blocks.
        sees: which positions each sees.
        windows: windows of equal length that each sequence attends in, or None.
        scaled: what the blocks make is multiplied by a vector before it is added.
        around: norms stand behind both blocks too.
    """

    batch: Expr
    length: Expr
    at: Heads
    feed: FeedForward
    norm: Norm = LAYER_NORM
    sees: Pattern = FULL
    windows: Expr | None = None
    scaled: bool = False
    around: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rotary table, and the position bias that all layers share."""
        found: tuple[Tensor, ...] = ()
        if self.at.rotary is not None:
            found += (Tensor("rope_table", (self.length, self.at.rotary), style.acts),)
        if self.at.relative:
            shape = (self.at.heads, self.length, self.length)
            found += (Tensor("position_bias", shape, style.acts),)
        return found

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state and shared operands in, hidden state out."""
        m = Maker("layer", style)
        d = self.at.d
        x = m.source(Tensor("hidden", (self.batch, self.length, d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        return m.build(self.add(m, x))

    def add(self, m: Maker, x: str) -> str:
        """Adds the layer; ``x (batch, length, d)`` in and out."""
        d = self.at.d
        mixed = self._attention(m, m.norm("attn_norm", x, d, self.norm))
        x = m.add("attn_add", Add(), self._made(m, "attn", mixed), x)
        fed = self.feed.add(m, m.norm("mlp_norm", x, d, self.norm))
        return m.add("mlp_add", Add(), self._made(m, "mlp", fed), x)

    def _attention(self, m: Maker, x: str) -> str:
        query, key, value = self.at.all(m, x)
        pattern = FULL if self.sees == FULL else counted(m.style.mask, self.sees)
        if self.windows is None:
            bias = self.at.bias(m, self.length, self.length)
            return self.at.out(m, attended(m, query, key, value, pattern, bias))
        cut = (self.batch * self.windows, self.length / self.windows)
        query, key, value = (
            m.add(f"{name}_windows", Reshape((*cut, *m.shape(part)[2:])), part)
            for name, part in (("q", query), ("k", key), ("v", value))
        )
        mixed = attended(m, query, key, value, pattern)
        whole = (self.batch, self.length, self.at.heads, self.at.head_dim)
        return self.at.out(m, m.add("whole", Reshape(whole), mixed))

    def _made(self, m: Maker, block: str, x: str) -> str:
        """What a block made, as it is added."""
        if self.around:
            x = m.norm(f"{block}_post_norm", x, self.at.d, self.norm)
        if not self.scaled:
            return x
        name = f"{block}_scale"
        return m.add(name, Multiply(), x, m.vector(f"{name}.weight", self.at.d))


class Pooled(Protocol):
    """What makes one vector of all positions."""

    def add(self, m: Maker, x: str) -> str:
        """Adds it; ``x (batch, n, d)`` to ``(batch, d)``."""


@dataclass(frozen=True)
class TokenPooling:
    """AIMv2's head: a learned token asks as it is, and what it finds is projected."""

    at: Heads

    def add(self, m: Maker, x: str) -> str:
        """Adds the head; ``x (batch, n, d)`` to ``(batch, d)``."""
        at, (batch, _, d) = self.at, m.shape(x)
        query = m.add("probe_rows", Expand((batch, ONE, d)), m.vector("probe", ONE, ONE, d))
        query = m.add("probe_heads", Reshape((batch, ONE, at.heads, at.head_dim)), query)
        key, value = (at.project(m, name, x, "pool_") for name in "kv")
        x = at.out(m, attended(m, query, key, value, FULL, prefix="pool_"), "pool_")
        return m.add("pooled", Reshape((batch, d)), x)


@dataclass(frozen=True)
class Pooling:
    """SigLIP's head: one learned query attends to all positions, then a feed-forward block."""

    at: Heads
    feed: FeedForward

    def add(self, m: Maker, x: str) -> str:
        """Adds the head; ``x (batch, n, d)`` to ``(batch, d)``."""
        at, (batch, _, d) = self.at, m.shape(x)
        probe = m.add("probe_rows", Expand((batch, ONE, d)), m.vector("probe", ONE, ONE, d))
        query = at.project(m, "q", probe, "pool_")
        key, value = (at.project(m, name, x, "pool_") for name in ("k", "v"))
        x = at.out(m, attended(m, query, key, value, FULL, prefix="pool_"), "pool_")
        fed = self.feed.add(m, m.norm("pool_norm", x, d, LAYER_NORM), "pool_")
        return m.add("pooled", Reshape((batch, d)), m.add("pool_add", Add(), fed, x))


@dataclass(frozen=True)
class SwinLayer:
    """A Swin layer: attention in windows of an image, shifted in every other layer.

    Source: Liu et al., arXiv 2103.14030. Windows, and the shift, are one copy in and
    one copy out; sizes that windows do not divide are padded. The mask of shifted
    windows is one addition per score, the position bias another; both sit between
    scores and softmax.

    Attributes:
        batch, size: images, height and width of the grid.
        at, feed: heads and feed-forward block.
        window: side of a window that the table of biases is made for.
        side: of the windows that there are; ``shifts``: every other layer shifts them.
        cosine: a layer of Swin V2 (Liu et al., arXiv 2111.09883): norms behind the blocks,
            scores of vectors of unit length times a learned scale, and biases that a small
            network makes of offsets.
    """

    batch: Expr
    size: tuple[int, int]
    at: Heads
    feed: FeedForward
    window: int
    side: int
    shifts: bool
    cosine: bool = False

    def add(self, m: Maker, x: str, shifted: bool, prefix: str = "") -> str:
        """Adds the layer; ``x (batch, n, d)`` in and out."""
        d, (height, width), side = self.at.d, self.size, self.side
        tall, wide = -(-height // side) * side, -(-width // side) * side
        padded = (tall, wide) != self.size
        count, inside = Integer(tall * wide // side**2), Integer(side * side)
        start = m.shape(x)
        y = x if self.cosine else m.norm(f"{prefix}attn_norm", x, d, LAYER_NORM)
        if padded:
            y = m.add(f"{prefix}pad", Resize((self.batch, Integer(tall * wide), d)), y)
        shape = (self.batch * count, inside, d)
        if count == 1:
            y = m.add(f"{prefix}windows", Reshape(shape), y)
        else:
            y = m.add(f"{prefix}windows", Rearrange(shape), y)
        y = self._attention(m, y, shifted and self.shifts, count, prefix)
        whole = (self.batch, Integer(tall * wide), d)
        y = m.add(f"{prefix}whole", Reshape(whole) if count == 1 else Rearrange(whole), y)
        if padded:
            y = m.add(f"{prefix}crop", Resize(start), y)
        y = m.norm(f"{prefix}attn_norm", y, d, LAYER_NORM) if self.cosine else y
        x = m.add(f"{prefix}attn_add", Add(), y, x)
        if self.cosine:
            fed = m.norm(f"{prefix}mlp_norm", self.feed.add(m, x, prefix), d, LAYER_NORM)
        else:
            fed = self.feed.add(m, m.norm(f"{prefix}mlp_norm", x, d, LAYER_NORM), prefix)
        return m.add(f"{prefix}mlp_add", Add(), fed, x)

    def _attention(self, m: Maker, x: str, masked: bool, windows: Expr, prefix: str) -> str:
        at, inside = self.at, m.shape(x)[1]
        query, key, value = (at.project(m, name, x, prefix) for name in ("q", "k", "v"))
        if self.cosine:
            scores = self._cosines(m, query, key, prefix)
            bias = self._made_bias(m, inside, prefix)
        else:
            scores = m.add(f"{prefix}qk_matmul", AttentionScores(FULL), query, key)
            # The table is made for the configured window, however small the image.
            offsets = Integer((2 * self.window - 1) ** 2)
            table = m.vector(f"{prefix}relative_bias.weight", offsets, at.heads)
            bias = m.add(f"{prefix}position_bias", RelativeBias(inside, inside), table)
        scores = m.add(f"{prefix}bias_add", Add(), scores, bias)
        if masked:
            mask = m.source(Tensor("window_mask", (windows, inside, inside), m.style.acts))
            scores = m.add(f"{prefix}mask_add", WindowMask(), scores, mask)
        probabilities = m.add(f"{prefix}softmax", Softmax(FULL), scores)
        mixed = m.add(f"{prefix}sv_matmul", AttentionValues(FULL), probabilities, value)
        return at.out(m, mixed, prefix)

    def _cosines(self, m: Maker, query: str, key: str, prefix: str) -> str:
        """Adds Swin V2's scores: of vectors of unit length, times a learned scale."""
        unit = Norm("rms", weight=False)
        query, key = (
            m.norm(f"{prefix}{n}_unit", part, self.at.head_dim, unit)
            for n, part in (("q", query), ("k", key))
        )
        scores = m.add(f"{prefix}qk_matmul", AttentionScores(FULL), query, key)
        scale = m.vector(f"{prefix}logit_scale", self.at.heads, ONE, ONE)
        scale = m.add(f"{prefix}logit_clip", Map("clip"), scale)
        scale = m.add(f"{prefix}logit_exp", Map("exp"), scale)
        return m.add(f"{prefix}logit_mul", Map("mul"), scores, scale)

    def _made_bias(self, m: Maker, inside: Expr, prefix: str) -> str:
        """Adds Swin V2's biases ``(H, n, n)``: offsets through two products, bent into bounds."""
        inner = Integer(512)
        x = m.linear(f"{prefix}bias_fc1", "offsets", inner, Integer(2), True)
        x = m.add(f"{prefix}bias_act", Activation("relu"), x)
        x = m.linear(f"{prefix}bias_fc2", x, self.at.heads, inner)
        x = m.add(f"{prefix}position_bias", RelativeBias(inside, inside), x)
        x = m.add(f"{prefix}bias_bent", Activation("sigmoid"), x)
        return m.add(f"{prefix}bias_scale", Scale(), x)

    @property
    def mask(self) -> tuple[int, int]:
        """(windows, positions in each) of the mask of shifted layers."""
        side = self.side
        tall, wide = (-(-n // side) for n in self.size)
        return tall * wide, side * side


@dataclass(frozen=True)
class SwinPair:
    """A plain layer and a shifted one, as they alternate; or the plain one alone."""

    layer: SwinLayer
    both: bool = True

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The mask of the shifted layer, where it shifts, and Swin V2's offsets."""
        found: tuple[Tensor, ...] = ()
        if self.both and self.layer.shifts:
            windows, inside = (Integer(n) for n in self.layer.mask)
            found += (Tensor("window_mask", (windows, inside, inside), style.acts),)
        if self.layer.cosine:
            offsets = Integer((2 * self.layer.side - 1) ** 2)
            found += (Tensor("offsets", (offsets, Integer(2)), style.acts),)
        return found

    def graph(self, style: Style) -> Graph:
        """The layers: hidden state and mask in, hidden state out."""
        m = Maker("pair" if self.both else "layer", style)
        layer = self.layer
        count = Integer(layer.size[0] * layer.size[1])
        x = m.source(Tensor("hidden", (layer.batch, count, layer.at.d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        x = layer.add(m, x, False)
        return m.build(layer.add(m, x, True, "shifted_") if self.both else x)
