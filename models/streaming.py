"""Language models that hear as they write: each position reads a token and a piece of sound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.blocks import FeedForward, Maker, Norm, Segment, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import act, conv
from costgraph.models.blocks.layer import Block
from costgraph.models.blocks.projector import Steps, project
from costgraph.models.blocks.stack import embed, run
from costgraph.models.frames import Summed
from costgraph.ops import Activation, Add, AsSequence, KVAppend
from costgraph.ops.arrays import JoinState
from costgraph.ops.maps import Map
from costgraph.ops.pattern import Pattern, counted
from costgraph.symbols import B, T, q

ONE = Integer(1)
RMS = Norm()


@dataclass(frozen=True)
class HeardLayer:
    """A layer over pieces of sound, ``rate`` rows for each position, that sees earlier rows.

    Attributes:
        rate: rows of a position.
        at, feed: the heads and the feed-forward block.
        sees: which earlier rows each sees.
    """

    rate: Expr
    at: Heads
    feed: FeedForward
    sees: Pattern

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rotary table."""
        assert self.at.rotary is not None
        return (Tensor("rope_table", (self.rate * q, self.at.rotary), style.acts),)

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state and rotary table in, hidden state out."""
        m, at = Maker("layer", style), self.at
        new = self.rate * q
        x = m.source(Tensor("hidden", (B, new, at.d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        query, *made = at.all(m, m.norm("attn_norm", x, at.d, RMS))
        # As many earlier rows as the step can still see.
        shape = (B, self.sees.seen(new, self.rate * T) - new, at.keys, at.head_dim)
        keys, values = (
            m.add(
                f"{name}_append",
                KVAppend(self.sees),
                m.source(Tensor(f"{name}_cache", shape, style.kv, Role.KV)),
                part,
            )
            for name, part in zip("kv", made, strict=True)
        )
        pattern = counted(style.mask, self.sees)
        x = m.add("attn_add", Add(), at.out(m, attended(m, query, keys, values, pattern)), x)
        fed = self.feed.add(m, m.norm("mlp_norm", x, at.d, RMS))
        return m.build(m.add("mlp_add", Add(), fed, x))


@dataclass(frozen=True)
class Delayed:
    """A block whose input is scaled by what two products make of how late the text is.

    Attributes:
        block: reads the scaled input.
        d, inner: widths of the input and between the products.
    """

    block: Block
    d: Expr
    inner: Expr

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The row that stands for the delay, and those of the block."""
        return (Tensor("delay_row", (ONE, self.d), style.acts), *self.block.operands(style))

    def add(self, m: Maker, x: str) -> str:
        """Adds the scale and the block; ``x (B, q, d)`` in and out."""
        y = m.add(
            "delay_act",
            Activation("gelu"),
            m.linear("delay_down", "delay_row", self.inner, self.d),
        )
        y = m.linear("delay_up", y, self.d, self.inner)
        y = m.add("delay_more", Map("add_constant"), y)
        return self.block.add(m, m.add("delay_scale", Map("mul"), x, y))


@dataclass(frozen=True)
class StreamedEars:
    """An encoder of sound in pieces: two convolutions that keep their last rows, layers, steps.

    Attributes:
        mels: bands of a spectrogram.
        layer, layers: of the encoder.
        steps: what makes one row of those of a position, behind the last norm.
    """

    mels: Expr
    layer: HeardLayer
    layers: Expr
    steps: Steps

    def add(self, m: Maker) -> str:
        """Adds it over ``q`` pieces: rows ``(B, q, …)``."""
        d, rate = self.layer.at.d, self.layer.rate
        x = m.source(Tensor("spectrogram", (B, self.mels, 2 * rate * q), m.style.acts))
        for name, stride in (("conv1", 1), ("conv2", 2)):
            # Three taps: what a stride does not pass of them is of earlier frames.
            kept = m.state(
                f"{name}_state", B, m.shape(x)[1], Integer(3 - stride), dtype=m.style.acts
            )
            x = m.add_many(f"{name}_join", JoinState(), x, kept)[0]
            x = act(m, f"{name}_act", conv(m, name, x, d, 3, stride), "gelu")
        x = m.add("as_sequence", AsSequence(), x)
        (turned,) = self.layer.operands(m.style)
        table = m.source(Tensor("heard_rope_table", turned.shape, m.style.acts))
        x = run(m, (Segment("audio_layers", self.layer, self.layers),), x, rope_table=table)
        return project(m, "projector", x, self.steps)


@dataclass(frozen=True)
class Streaming(Summed):
    """A language model whose embeddings are sums of a token's and of a piece of sound.

    Attributes:
        text: the language model.
        ears: the encoder.
    """

    does: ClassVar[str] = "hear as they write"

    ears: StreamedEars

    def summed(self, m: Maker) -> tuple[str, str]:
        """Adds the sum of both embeddings."""
        x, table = embed(m, self.text.ends)
        return m.add("heard_add", Add(), x, self.ears.add(m)), table
