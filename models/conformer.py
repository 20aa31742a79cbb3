"""Fast Conformer (Rekesh et al., arXiv 2305.05084): convolutions and relative positions."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import act, batch_norm, channel_norm, conv
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.encoder_heads import Head
from costgraph.models.waves import as_channels, gated_conv, samples_for
from costgraph.ops import (
    Activation,
    Add,
    AsSequence,
    AttentionScores,
    Embedding,
    Multiply,
    Rope,
    Scale,
)
from costgraph.ops.arrays import Copy
from costgraph.ops.matmul import MatMul
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Expand, Reshape, Slice, Transpose
from costgraph.symbols import B, q

ONE, ZERO = Integer(1), Integer(0)


def half_step(m: Maker, feed: FeedForward, prefix: str, x: str) -> str:
    """Adds half of what a feed-forward block makes: a conformer's layer begins and ends so."""
    y = feed.add(m, m.norm(f"{prefix}norm", x, feed.d, LAYER_NORM), prefix)
    return m.add(f"{prefix}add", Add(), m.add(f"{prefix}half", Scale(), y), x)


@dataclass(frozen=True)
class Shrinking:
    """Convolutions over a spectrogram, of which each halves both axes, and a product.

    ``q`` positions are made of the fewest frames that give as many.

    Attributes:
        d: width of the sequence.
        mels: bands of the spectrogram.
        channels, kernel, count: of the convolutions; all but the first are depthwise, each
            with a product behind it.
        scaled: rows are scaled behind the product.
    """

    d: Expr
    mels: int
    channels: Expr
    kernel: int
    count: int
    scaled: bool

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds the front: (hidden state, no table)."""
        c, pad = self.channels, self.kernel // 2
        # Padding stands in for the frames at both ends.
        frames = samples_for(q, ((1, 2),) * self.count)
        x = m.source(Tensor("spectrogram", (B, ONE, frames, Integer(self.mels)), m.style.acts))
        for index in range(1, self.count + 1):
            name = f"shrink{index}"
            if index == 1:
                x = conv(m, name, x, c, self.kernel, 2, pad)
            else:
                x = conv(m, name, x, c, self.kernel, 2, pad, c)
                x = conv(m, f"{name}_mix", x, c, 1)
            x = act(m, f"{name}_act", x, "relu")
        rows = m.add("rows", Transpose((0, 2, 1, 3)), x)
        wide = c * m.shape(x)[3]
        rows = m.add("flat_rows", Reshape((B, q, wide)), rows)
        x = m.linear("front_proj", rows, self.d, wide, True)
        return (m.add("front_scale", Scale(), x) if self.scaled else x), ""


#: How positions enter the attention of a layer.
FAR, NEAR, TURNED, NONE = "relative", "relative_key", "rotary", "none"


@dataclass(frozen=True)
class ConformerLayer:
    """Half a feed-forward block, attention, a convolution, half a feed-forward block.

    Attributes:
        at, feed: heads and feed-forward block.
        kernel: taps of the depthwise convolution.
        bias: of the convolutions.
        activation: between them.
        places: how positions enter the attention. :data:`FAR`: scores have a second part, of
            queries with the keys of 2q − 1 distances, shifted so that each query finds its own;
            :data:`NEAR`: of queries with a learned row for each distance, of which there are
            ``rows``; :data:`TURNED`: what queries and keys are made of is rotated.
        each: distances are projected for each sequence anew, as Parakeet's code does.
        back: the convolution sees earlier positions alone, and a layer norm stands behind it.
    """

    at: Heads
    feed: FeedForward
    kernel: int
    bias: bool
    activation: str
    places: str = FAR
    rows: Expr = ZERO
    each: bool = True
    back: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """A row for each distance, or its number, or the rotary table."""
        if self.places == FAR:
            shape = (B if self.each else ONE, 2 * q - 1, self.at.d)
            return (Tensor("distances", shape, style.acts),)
        if self.places == NEAR:
            return (Tensor("apart", (q, q), INT64),)
        if self.places == TURNED:
            return (Tensor("rope_table", (q, self.at.head_dim), style.acts),)
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: sequence and distances in, sequence out."""
        m, d = Maker("layer", style), self.at.d
        x = m.source(Tensor("hidden", (B, q, d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        x = half_step(m, self.feed, "first_", x)
        mixed = self._attention(m, m.norm("attn_norm", x, d, LAYER_NORM))
        x = m.add("attn_add", Add(), mixed, x)
        made = self._convolved(m, m.norm("conv_norm", x, d, LAYER_NORM))
        x = half_step(m, self.feed, "second_", m.add("conv_add", Add(), made, x))
        return m.build(m.norm("out_norm", x, d, LAYER_NORM))

    def _attention(self, m: Maker, x: str) -> str:
        at, asked = self.at, x
        if self.places == TURNED:
            asked = m.add("heads", Reshape((B, q, at.heads, at.head_dim)), x)
            asked = m.add("rope", Rope(), asked, "rope_table")
            asked = m.add("turned", Reshape((B, q, at.d)), asked)
        query, key = (at.project(m, name, asked) for name in ("q", "k"))
        value, bias = at.project(m, "v", x), ""
        if self.places == FAR:
            query, bias = self._far(m, query)
        elif self.places == NEAR:
            table = m.weight("distances.weight", self.rows, at.head_dim)
            rows = m.add("distance_embed", Embedding(result=m.style.acts), "apart", table)
            bias = m.add("distance_scale", Scale(), near_bias(m, query, rows))
        return at.out(m, attended(m, query, key, value, FULL, bias))

    def _far(self, m: Maker, query: str) -> tuple[str, str]:
        """Adds the part of scores that distances make; queries for the other part, and this one."""
        at = self.at
        content, place = (
            m.add(f"q_{name}", Add(), query, m.vector(f"bias_{name}", at.heads, at.head_dim))
            for name in "uv"
        )
        far = m.linear("distance_proj", "distances", at.width, at.d, False, (at.heads, at.head_dim))
        if not self.each:
            far = m.add("distance_all", Expand((B, 2 * q - 1, at.heads, at.head_dim)), far)
        bias = m.add("distance_scores", AttentionScores(FULL), place, far)
        # A column in front, and the whole read with rows of another length.
        bias = m.add("shift", Copy((B, at.heads, q, 2 * q)), bias)
        bias = m.add("shifted", Reshape((B, at.heads, 2 * q, q)), bias)
        bias = m.add("own", Slice(2, ONE, 2 * q - 1), bias)
        bias = m.add("own_rows", Reshape((B, at.heads, q, 2 * q - 1)), bias)
        bias = m.add("near", Slice(3, ZERO, q), bias)
        return content, m.add("distance_scale", Scale(), bias)

    def _convolved(self, m: Maker, x: str) -> str:
        d, bias = self.at.d, self.bias
        y = gated_channels(m, x, d, bias)
        if self.back:
            y = m.add("earlier", Copy((B, d, q + self.kernel - 1)), y)
            y = conv(m, "dwconv", y, d, self.kernel, 1, 0, d, bias)
            y = channel_norm(m, "depth_norm", y)
        else:
            y = conv(m, "dwconv", y, d, self.kernel, 1, self.kernel // 2, d, bias)
            y = batch_norm(m, "batch_norm", y)
        y = act(m, "conv_act", y, self.activation)
        y = conv(m, "mix", y, d, 1, bias=bias)
        return m.add("conv_rows", AsSequence(), y)


def gated_channels(m: Maker, x: str, d: Expr, bias: bool) -> str:
    """Adds a product to twice the width, of which one half gates the other: ``(B, d, n)``."""
    y = conv(m, "widen", as_channels(m, "channels", x), 2 * d, 1, bias=bias)
    first = m.add("kept", Slice(1, ZERO, d), y)
    gate = m.add("gate", Activation("sigmoid"), m.add("gates", Slice(1, d, d), y))
    return m.add("gated", Multiply(), first, gate)


def near_bias(m: Maker, query: str, rows: str) -> str:
    """Adds scores ``(B, H, n, k)`` of queries ``(B, n, H, dh)`` with rows ``(n, k, dh)``."""
    batch, length, heads, width = m.shape(query)
    keys = m.add("distance_keys", Transpose((0, 2, 1)), rows)
    asked = m.add("q_first", Transpose((1, 0, 2, 3)), query)
    asked = m.add("q_rows", Reshape((length, batch * heads, width)), asked)
    made = m.add("distance_matmul", MatMul(), asked, keys)
    made = m.add("distance_heads", Reshape((length, batch, heads, m.shape(rows)[1])), made)
    return m.add("distance_scores", Transpose((1, 2, 0, 3)), made)


@dataclass(frozen=True)
class NearRows:
    """``count`` learned rows of ``width`` for distances, looked up for each pair of positions."""

    count: Expr
    width: Expr

    def given(self, m: Maker, context: Expr) -> dict[str, str]:
        """Adds what layers share, by the names of their operands."""
        apart = m.source(Tensor("apart", (q, context), INT64))
        table = m.weight("distances.weight", self.count, self.width)
        return {"near_rows": m.add("near_embed", Embedding(result=m.style.acts), apart, table)}


@dataclass(frozen=True)
class NearHeads:
    """Attention whose scores also compare queries with the row of each distance."""

    at: Heads

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rows of all pairs."""
        return (Tensor("near_rows", (q, q, self.at.head_dim), style.acts),)

    def add(self, m: Maker, x: str) -> str:
        """Adds the block; ``x (B, q, d)`` in and out."""
        query, key, value = self.at.all(m, x)
        bias = near_bias(m, query, "near_rows")
        return self.at.out(m, attended(m, query, key, value, FULL, bias))


@dataclass(frozen=True)
class FeatureFront:
    """A norm and a product of features that are given (w2v-BERT 2.0).

    Attributes:
        d, width: of the sequence, of the features.
        mask: a vector for masked positions rests in memory.
    """

    d: Expr
    width: Expr
    mask: bool

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds the front: (hidden state, no table)."""
        x = m.source(Tensor("features", (B, q, self.width), m.style.acts))
        x = m.norm("feature_norm", x, self.width, LAYER_NORM)
        if self.mask:
            m.vector("mask", self.d)
        return m.linear("feature_proj", x, self.d, self.width, True), ""


@dataclass(frozen=True)
class Adapted:
    """Layers behind the encoder that shrink the sequence, and a head.

    Attributes:
        at, feed: of the layers.
        layers, kernel, stride: of them and of their convolutions.
        source: width of the encoder; a product and a norm bring it to that of the layers where
            it is another.
        first: half a feed-forward block in front of them, or None.
        head: what follows, or None.
    """

    at: Heads
    feed: FeedForward
    layers: int
    kernel: int
    stride: int
    source: Expr
    first: FeedForward | None
    head: Head | None

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the layers and the head."""
        x, d = hidden, self.at.d
        if self.first is not None:
            made = m.add("between_half", Scale(), self.first.add(m, x, "between_"))
            x = m.add("between_add", Add(), made, x)
        if self.source != d:
            x = m.linear("adapter_proj", x, d, self.source, True)
            x = m.norm("adapter_norm", x, d, LAYER_NORM)
        for index in range(1, self.layers + 1):
            name = f"adapter{index}_"
            beside = self._shrunk(m, f"{name}beside", x)
            y = self._shrunk(m, f"{name}own", x)
            query, key, value = (self.at.project(m, part, y, name) for part in ("q", "k", "v"))
            y = self.at.out(m, attended(m, query, key, value, FULL, prefix=name), name)
            x = m.add(f"{name}attn_add", Add(), y, beside)
            fed = self.feed.add(m, m.norm(f"{name}mlp_norm", x, d, LAYER_NORM), name)
            x = m.add(f"{name}mlp_add", Add(), fed, x)
        return x if self.head is None else self.head.add(m, x, table)

    def _shrunk(self, m: Maker, name: str, x: str) -> str:
        """Adds a norm and a gated convolution of the stride."""
        d = self.at.d
        y = as_channels(m, f"{name}_channels", m.norm(f"{name}_norm", x, d, LAYER_NORM))
        return gated_conv(m, name, y, d, self.kernel, self.stride, self.stride // 2)


@dataclass(frozen=True)
class PointHead:
    """Logits of every position by a convolution of one tap."""

    labels: Expr

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head."""
        x = conv(m, "lm_head", as_channels(m, "head_channels", hidden), self.labels, 1)
        return m.add("logits", AsSequence(), x)
