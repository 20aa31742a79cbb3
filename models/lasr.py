"""Google's LASR (MedASR): a conformer whose heads rotate, and that weighs what it adds."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Norm, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import act, batch_norm, conv
from costgraph.models.conformer import gated_channels
from costgraph.models.waves import as_channels, samples_for
from costgraph.ops import Activation, Add, AsSequence, Scale
from costgraph.ops.arrays import Copy
from costgraph.ops.pattern import FULL
from costgraph.symbols import B, q

ZERO = Integer(0)
NORM = Norm("layer")


@dataclass(frozen=True)
class BandFront:
    """A product of each frame's bands, two convolutions over frames, and a product.

    ``q`` positions are made of the fewest frames that give as many.

    Attributes:
        d, bands: width of the sequence, bands of the spectrogram.
        channels: behind the second convolution.
        kernel, stride: of both.
    """

    d: Expr
    bands: Expr
    channels: Expr
    kernel: int
    stride: int

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds the front: (hidden state, no table)."""
        frames = samples_for(q, ((self.kernel, self.stride),) * 2)
        x = m.source(Tensor("spectrogram", (B, frames, self.bands), m.style.acts))
        x = m.linear("band_proj", x, self.d, self.bands, True)
        x = as_channels(m, "channels", m.add("band_act", Activation("relu"), x))
        for index, out in enumerate((self.d, self.channels), 1):
            x = conv(m, f"shrink{index}", x, out, self.kernel, self.stride)
            x = act(m, f"shrink{index}_act", x, "relu")
        rows = m.add("rows", AsSequence(), x)
        return m.linear("front_proj", rows, self.d, self.channels, True), ""


@dataclass(frozen=True)
class WeighedLayer:
    """A conformer's layer: halves of feed-forward blocks, attention and a convolution.

    What a feed-forward block or the convolution adds, and what it is added to, is multiplied
    by a constant each.

    Attributes:
        at, feed: heads, which rotate, and feed-forward block.
        kernel: taps of the depthwise convolution, which keeps the length.
        bias: of the convolutions.
        activation: between them.
    """

    at: Heads
    feed: FeedForward
    kernel: int
    bias: bool
    activation: str

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rotary table."""
        return self.at.shared(style, q)

    def graph(self, style: Style) -> Graph:
        """The layer: sequence and table in, sequence out."""
        m, d = Maker("layer", style), self.at.d
        x = m.source(Tensor("hidden", (B, q, d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        x = self._fed(m, "first_", x)
        query, key, value = self.at.all(m, m.norm("attn_norm", x, d, NORM))
        mixed = self.at.out(m, attended(m, query, key, value, FULL))
        x = m.add("attn_add", Add(), mixed, x)
        x = self._weighed(m, "conv_", x, self._convolved(m, m.norm("conv_norm", x, d, NORM)))
        return m.build(m.norm("out_norm", self._fed(m, "second_", x), d, NORM))

    def _fed(self, m: Maker, prefix: str, x: str) -> str:
        y = self.feed.add(m, m.norm(f"{prefix}norm", x, self.at.d, NORM), prefix)
        return self._weighed(m, prefix, x, y)

    def _weighed(self, m: Maker, prefix: str, x: str, y: str) -> str:
        both = (m.add(f"{prefix}{name}", Scale(), t) for name, t in (("old", x), ("new", y)))
        return m.add(f"{prefix}add", Add(), *both)

    def _convolved(self, m: Maker, x: str) -> str:
        d, bias = self.at.d, self.bias
        y = gated_channels(m, x, d, bias)
        pad = self.kernel // 2
        if self.kernel % 2 == 0:  # one row more in front than behind: it is copied beside zeros
            y, pad = m.add("padded", Copy((B, d, q + self.kernel - 1)), y), 0
        y = batch_norm(m, "batch_norm", conv(m, "dwconv", y, d, self.kernel, 1, pad, d, bias))
        y = act(m, "conv_act", y, self.activation)
        return m.add("conv_rows", AsSequence(), conv(m, "mix", y, d, 1, bias=bias))
