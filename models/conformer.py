"""Fast Conformer (Rekesh et al., arXiv 2305.05084): convolutions and relative positions."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Style
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import act, batch_norm, conv
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.waves import as_channels, samples_for
from costgraph.ops import (
    Activation,
    Add,
    AsSequence,
    AttentionScores,
    AttentionValues,
    Multiply,
    Scale,
    Softmax,
)
from costgraph.ops.arrays import Copy
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Reshape, Slice, Transpose
from costgraph.symbols import B, q

ONE, ZERO = Integer(1), Integer(0)


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


@dataclass(frozen=True)
class ConformerLayer:
    """Half a feed-forward block, attention, a convolution, half a feed-forward block.

    Scores have a second part, of queries with the keys of 2q − 1 distances, shifted so that
    each query finds its own.

    Attributes:
        at, feed: heads and feed-forward block.
        kernel: taps of the depthwise convolution.
        bias: of the convolutions.
        activation: between them.
    """

    at: Heads
    feed: FeedForward
    kernel: int
    bias: bool
    activation: str

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """A row for each distance."""
        return (Tensor("distances", (B, 2 * q - 1, self.at.d), style.acts),)

    def graph(self, style: Style) -> Graph:
        """The layer: sequence and distances in, sequence out."""
        m, d = Maker("layer", style), self.at.d
        x = m.source(Tensor("hidden", (B, q, d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        x = self._half(m, "first_", x)
        mixed = self._attention(m, m.norm("attn_norm", x, d, LAYER_NORM))
        x = m.add("attn_add", Add(), mixed, x)
        made = self._convolved(m, m.norm("conv_norm", x, d, LAYER_NORM))
        x = self._half(m, "second_", m.add("conv_add", Add(), made, x))
        return m.build(m.norm("out_norm", x, d, LAYER_NORM))

    def _half(self, m: Maker, prefix: str, x: str) -> str:
        y = self.feed.add(m, m.norm(f"{prefix}norm", x, self.at.d, LAYER_NORM), prefix)
        return m.add(f"{prefix}add", Add(), m.add(f"{prefix}half", Scale(), y), x)

    def _attention(self, m: Maker, x: str) -> str:
        at = self.at
        query, key, value = at.all(m, x)
        content, place = (
            m.add(f"q_{name}", Add(), query, m.vector(f"bias_{name}", at.heads, at.head_dim))
            for name in "uv"
        )
        far = m.linear("distance_proj", "distances", at.width, at.d, False, (at.heads, at.head_dim))
        bias = m.add("distance_scores", AttentionScores(FULL), place, far)
        # A column in front, and the whole read with rows of another length.
        bias = m.add("shift", Copy((B, at.heads, q, 2 * q)), bias)
        bias = m.add("shifted", Reshape((B, at.heads, 2 * q, q)), bias)
        bias = m.add("own", Slice(2, ONE, 2 * q - 1), bias)
        bias = m.add("own_rows", Reshape((B, at.heads, q, 2 * q - 1)), bias)
        bias = m.add("near", Slice(3, ZERO, q), bias)
        bias = m.add("distance_scale", Scale(), bias)
        scores = m.add("qk_matmul", AttentionScores(FULL), content, key)
        scores = m.add("bias_add", Add(), scores, bias)
        shares = m.add("softmax", Softmax(FULL), scores)
        return at.out(m, m.add("sv_matmul", AttentionValues(FULL), shares, value))

    def _convolved(self, m: Maker, x: str) -> str:
        d, bias = self.at.d, self.bias
        y = conv(m, "widen", as_channels(m, "channels", x), 2 * d, 1, bias=bias)
        first = m.add("kept", Slice(1, ZERO, d), y)
        gate = m.add("gate", Activation("sigmoid"), m.add("gates", Slice(1, d, d), y))
        y = m.add("gated", Multiply(), first, gate)
        y = conv(m, "dwconv", y, d, self.kernel, 1, self.kernel // 2, d, bias)
        y = act(m, "conv_act", batch_norm(m, "batch_norm", y), self.activation)
        y = conv(m, "mix", y, d, 1, bias=bias)
        return m.add("conv_rows", AsSequence(), y)


@dataclass(frozen=True)
class PointHead:
    """Logits of every position by a convolution of one tap."""

    labels: Expr

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head."""
        x = conv(m, "lm_head", as_channels(m, "head_channels", hidden), self.labels, 1)
        return m.add("logits", AsSequence(), x)
