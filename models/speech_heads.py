"""What classes of wav2vec 2.0's kin make of its positions: labels, speakers, shorter sequences."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Integer

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Style
from costgraph.models.blocks.image import act, conv
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.encoder import Encoder
from costgraph.models.encoder_heads import Head
from costgraph.models.waves import as_channels, gated_conv
from costgraph.ops import Concat
from costgraph.ops.arrays import Join
from costgraph.ops.maps import Map, Reduce, SoftmaxOver
from costgraph.ops.views import Reshape

ONE = Integer(1)


@dataclass(frozen=True)
class MeanHead:
    """A product, the mean of all positions, and labels."""

    d: Expr
    width: Expr
    labels: Expr

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head."""
        x = m.linear("projector", hidden, self.width, self.d, True)
        x = m.add("mean", Reduce("mean", (1,)), x)
        return m.linear("classifier", x, self.labels, self.width, True)


@dataclass(frozen=True)
class SpeakerHead:
    """x-vectors (Snyder et al., 2018): convolutions with gaps, mean and deviation, two products.

    Attributes:
        d: width of the encoder.
        widths, kernels, gaps: of the convolutions.
        out: width of the vector.
        labels: speakers of the loss, whose matrix only rests in memory.
    """

    d: Expr
    widths: tuple[int, ...]
    kernels: tuple[int, ...]
    gaps: tuple[int, ...]
    out: Expr
    labels: Expr

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head."""
        x = m.linear("projector", hidden, Integer(self.widths[0]), self.d, True)
        x = as_channels(m, "tdnn_channels", x)
        each = zip(self.widths, self.kernels, self.gaps, strict=True)
        for index, (width, kernel, gap) in enumerate(each, start=1):
            name = f"tdnn{index}"
            x = act(m, f"{name}_act", conv(m, name, x, Integer(width), kernel, gap=gap), "relu")
        mean = m.add("mean", Reduce("mean", (2,)), x)
        both = m.add("both", Concat(), mean, m.add("deviation", Reduce("std", (2,)), x))
        x = m.linear("vector", both, self.out, m.shape(both)[1], True)
        m.weight("speakers.weight", self.out, self.labels)
        return m.linear("classifier", x, self.out, self.out, True)


@dataclass(frozen=True)
class ShorterHead:
    """Gated convolutions behind the encoder, which shrink the sequence, and a head.

    Attributes:
        d, source: widths of them and of the encoder; a product and a norm stand between where
            these differ.
        layers, kernel, stride: of the convolutions.
        head: what follows, or None.
    """

    d: Expr
    source: Expr
    layers: int
    kernel: int
    stride: int
    head: Head | None

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the convolutions and the head."""
        x = hidden
        if self.source != self.d:
            x = m.linear("adapter_proj", x, self.d, self.source, True)
            x = m.norm("adapter_norm", x, self.d, LAYER_NORM)
        for index in range(1, self.layers + 1):
            name = f"adapter{index}"
            x = as_channels(m, f"{name}_channels", x)
            x = gated_conv(m, name, x, self.d, self.kernel, self.stride, 1)
        return x if self.head is None else self.head.add(m, x, table)


@dataclass(frozen=True)
class SpreadHead:
    """A product that makes ``factor`` rows of each position again (SEW), and a head.

    ``d``: width of positions and of rows.
    """

    d: Expr
    factor: Expr
    activation: str
    head: Head | None

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the product and the head."""
        batch, length, _ = m.shape(hidden)
        x = m.linear("spread_proj", hidden, self.d * self.factor, self.d, True)
        x = act(m, "spread_act", x, self.activation)
        x = m.add("spread_rows", Reshape((batch, length * self.factor, self.d)), x)
        return x if self.head is None else self.head.add(m, x, table)


@dataclass(frozen=True)
class Adapter:
    """Two products and an activation, which a layer of their own adds (adapters of MMS)."""

    d: Expr
    inner: Expr

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared."""
        return ()

    def add(self, m: Maker, x: str) -> str:
        """Adds the block; ``x (B, q, d)`` in and out."""
        y = act(m, "adapter_act", m.linear("adapter_down", x, self.inner, self.d, True), "relu")
        return m.linear("adapter_up", y, self.d, self.inner, True)


@dataclass(frozen=True)
class Weighed(Encoder):
    """An encoder whose head reads all layers, each with a learned weight.

    What the layers read and the last makes are summed: one state more than there are layers.
    """

    def body(self, m: Maker) -> tuple[str, str]:
        hidden, table = self.front.add(m)
        given = {} if self.buckets is None else self.buckets.given(m, m.shape(hidden)[1])
        kept = [hidden]
        for segment in self.segments:
            for index in range(1, int(segment.count) + 1):
                one = replace(segment, name=f"{segment.name}_{index}", count=ONE)
                hidden = run(m, (one,), hidden, **given)
                kept.append(hidden)
        if self.norm is not None:
            kept[-1] = m.norm("final_norm", hidden, self.d, self.norm)
        return self._summed(m, kept), table

    def _summed(self, m: Maker, kept: list[str]) -> str:
        """Adds the sum of all states ``(B, n, d)``."""
        batch, length, d = m.shape(kept[0])
        count = Integer(len(kept))
        rows = [m.add(f"state{n}", Reshape((batch, ONE, length, d)), x) for n, x in enumerate(kept)]
        every = m.add("states", Join(1), *rows)
        shares = m.add("state_shares", SoftmaxOver(0), m.vector("layer_weights", count))
        shares = m.add("state_columns", Reshape((count, ONE, ONE)), shares)
        return m.add("summed", Reduce("sum", (1,)), m.add("weighed", Map("mul"), every, shares))
