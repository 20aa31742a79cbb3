"""Phi-4-multimodal's audio encoder: a conformer over a shrunk spectrogram (arXiv 2503.01743)."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import Hearing
from costgraph.models.blocks.image import act, conv
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.conformer import half_step
from costgraph.models.waves import as_channels
from costgraph.ops import Activation, Add, AsSequence, Multiply, RelativeBias
from costgraph.ops.maps import Map
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Reshape, Slice, Transpose
from costgraph.symbols import B, G

ONE, ZERO = Integer(1), Integer(0)
BIAS = "position_bias"


@dataclass(frozen=True)
class PhiLayer:
    """Half a feed-forward block, attention, a convolution, half a feed-forward block.

    Attributes:
        at, feed: heads and feed-forward block.
        kernel: taps of the depthwise convolution, which sees no later positions.
        activation: of gates and convolutions.
        multiplier: channels of the depthwise convolution for each of the sequence.
    """

    at: Heads
    feed: FeedForward
    kernel: int
    activation: str
    multiplier: int = 1

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The position bias that all layers share."""
        return (Tensor(BIAS, (self.at.heads, G, G), style.acts),)

    def graph(self, style: Style) -> Graph:
        """The layer: sequence and bias in, sequence out."""
        m, d = Maker("layer", style), self.at.d
        x = m.source(Tensor("hidden", (B, G, d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        x = half_step(m, self.feed, "first_", x)
        query, key, value = self.at.all(m, m.norm("attn_norm", x, d, LAYER_NORM))
        mixed = self.at.out(m, attended(m, query, key, value, FULL, BIAS))
        x = m.add("attn_add", Add(), mixed, x)
        x = m.add("conv_add", Add(), self._convolved(m, m.norm("conv_norm", x, d, LAYER_NORM)), x)
        return m.build(m.norm("out_norm", half_step(m, self.feed, "second_", x), d, LAYER_NORM))

    def _convolved(self, m: Maker, x: str) -> str:
        d, wide = self.at.d, self.at.d * self.multiplier
        y = conv(m, "widen", as_channels(m, "channels", x), 2 * d, 1)
        kept, gates = (m.add(f"{n}_half", Slice(1, i * d, d), y) for i, n in enumerate(("a", "b")))
        kept, gates = (
            m.add(f"{n}_shift", Map("add"), part, m.vector(f"{n}_shift.weight", ONE, d, ONE))
            for n, part in (("a", kept), ("b", gates))
        )
        gate = m.add("gate", Activation(self.activation), gates)
        y = m.add("gated", Multiply(), kept, gate)
        y = conv(m, "dwconv", y, wide, self.kernel, 1, self.kernel - 1, d)
        y = m.add("earlier", Slice(2, ZERO, G), y) if self.kernel > 1 else y
        y = act(m, "conv_act", conv(m, "mix", y, d, 1), self.activation)
        return m.add("conv_rows", AsSequence(), conv(m, "narrow", y, d, 1))


@dataclass(frozen=True)
class PhiEars(Hearing):
    """The encoder and its projectors; ``G`` tokens of ``reduction·G`` frames.

    Attributes:
        mels, channels, halvings: bands, and the convolutions that halve both axes.
        layer, layers: of the conformer.
        distances: rows of the table of biases.
        out: width of the language model.
    """

    mels: int
    channels: Expr
    halvings: int
    layer: PhiLayer
    layers: Expr
    distances: Expr
    out: Expr

    @property
    def assumptions(self) -> tuple[str, ...]:
        """One clip."""
        return ("G audio tokens are one clip of a sequence, which the prompt's S tokens include",)

    def positions(self, style: Style) -> Expr:
        """Positions of a sequence."""
        return G

    def add(self, m: Maker) -> tuple[str, ...]:
        """Adds encoder and projector: rows ``(B, G, d)``."""
        frames, mels = G * 2**self.halvings, Integer(self.mels)
        x = m.source(Tensor("spectrogram", (B, ONE, frames, mels), m.style.acts))
        for name, function in (("mean", "sub"), ("spread", "mul")):
            stored = m.source(Tensor(f"stored_{name}", (mels,), m.style.acts))
            x = m.add(f"band_{name}", Map(function), x, stored)
        for index in range(1, self.halvings + 1):
            name, groups = f"shrink{index}", ONE if index == 1 else self.channels
            x = conv(m, name, x, self.channels, 3, 2, 1, groups)
            x = x if index == 1 else conv(m, f"{name}_mix", x, self.channels, 1)
            x = act(m, f"{name}_act", x, "relu")
        d, at = self.layer.at.d, self.layer.at
        wide = self.channels * m.shape(x)[3]
        rows = m.add("flat_rows", Reshape((B, G, wide)), m.add("rows", Transpose((0, 2, 1, 3)), x))
        x = m.linear("front_proj", rows, d, wide, True)
        table = m.vector("relative_bias.weight", self.distances, at.heads)
        bias = m.add(BIAS, RelativeBias(G, G), table)
        x = run(m, (Segment("audio_layers", self.layer, self.layers),), x, **{BIAS: bias})
        x = m.linear("speech_up", x, self.out, d, True)
        x = m.linear(
            "speech_down", m.add("speech_act", Activation("gelu"), x), self.out, self.out, True
        )
        # What takes their places where a request shows images as well.
        for name, width in (("up", d), ("down", self.out)):
            m.weight(f"seen_speech_{name}.weight", self.out, width)
            m.vector(f"seen_speech_{name}.bias", self.out)
        return (x,)
