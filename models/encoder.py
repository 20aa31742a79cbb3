"""Encoders, and encoders with a decoder, as programs.

An encoder has one phase, ``forward``, over ``B`` sequences of ``S`` tokens. An
encoder–decoder has three: ``encode`` (``S`` source positions, and the keys and
values that the decoder's cross-attention reads later), ``prefill`` (the start
token) and ``decode``, whose step ``i = 1 … N−1`` attends ``T = 1 + i`` decoder
positions and ``S`` source positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from sympy import Expr, Integer, Symbol, floor

from costgraph.errors import InputError
from costgraph.formula.terms import Limit, Span
from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.program import Phase, Program, Resident, single_pass
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Ends, Maker, Norm, Segment, Style
from costgraph.models.blocks.dimensions import Dimensions
from costgraph.models.blocks.encoder import CrossCache, CrossLayer
from costgraph.models.blocks.stack import close, embed, positions_end, run
from costgraph.models.encoder_heads import Head, LabelHead, MaskedHead, PooledHead, PretrainedHeads
from costgraph.ops import (
    Activation,
    Add,
    AsSequence,
    Conv,
    Embedding,
    RelativeBias,
)
from costgraph.symbols import B, N, S, T, q

ONE = Integer(1)
READ_TWICE = "the decoder reads the encoder's text again, in one pass: S counts its positions"


@dataclass(frozen=True)
class Buckets:
    """A relative position bias: ``count`` buckets for each of ``heads`` heads."""

    count: Expr
    heads: Expr

    def add(self, m: Maker, context: Expr) -> str:
        """Adds the bias ``(H, q, context)`` that all layers share."""
        table = m.vector("relative_bias.weight", self.count, self.heads)
        return m.add("position_bias", RelativeBias(q, context), table)

    def given(self, m: Maker, context: Expr) -> dict[str, str]:
        """Adds what layers share, by the names of their operands."""
        return {"position_bias": self.add(m, context)}


@dataclass(frozen=True)
class NearBuckets:
    """Biases between positions of a block and of both beside it, and to means of blocks.

    Attributes:
        count, heads: buckets, heads.
        block: positions of a block.
        means: positions that a mean is made of, or None.
    """

    count: Expr
    heads: Expr
    block: Expr
    means: Expr | None = None

    def given(self, m: Maker, context: Expr) -> dict[str, str]:
        """Adds what layers share, by the names of their operands."""
        table = m.vector("relative_bias.weight", self.count, self.heads)
        near = m.add("position_bias", RelativeBias(self.block, 3 * self.block), table)
        names = {"position_bias": near}
        if self.means is not None:
            own = m.vector("side_bias.weight", self.count, self.heads)
            op = RelativeBias(context, floor(context / self.means))
            names["side_bias"] = m.add("side_bias", op, own)
        return names


@dataclass(frozen=True)
class TextFront:
    """Token embeddings, with what is added to them.

    Attributes:
        ends: embeddings, positions and their norm.
        types: rows of a token type table, or 0.
        tables: further tables whose rows are added: name, rows, and how many are looked up.
    """

    ends: Ends
    types: int = 0
    tables: tuple[tuple[str, Expr, int], ...] = ()

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds the embeddings: (hidden state, embedding table)."""
        tables = self.tables
        if self.types:
            tables = (("type", Integer(self.types), 1), *tables)
        if not tables:
            return embed(m, self.ends)
        hidden, table = embed(m, replace(self.ends, embed_norm=None))
        for name, rows, times in tables:
            learned = m.weight(f"{name}s.weight", rows, self.ends.d)
            for index in range(times):
                one = f"{name}_{index}" if times > 1 else name
                ids = m.source(Tensor(f"{one}_ids", (B, q), INT64))
                found = m.add(f"{one}_embed", Embedding(result=m.style.acts), ids, learned)
                hidden = m.add(f"{one}_add", Add(), hidden, found)
        if self.ends.embed_norm is not None:
            hidden = m.norm("embed_norm", hidden, self.ends.d, self.ends.embed_norm)
        return hidden, table


@dataclass(frozen=True)
class Widened:
    """A front of another width, and a product with bias to the ``d`` of the layers."""

    front: TextFront
    d: Expr

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds both: (hidden state, embedding table)."""
        hidden, table = self.front.add(m)
        return m.linear("embed_proj", hidden, self.d, self.front.ends.d, True), table


@dataclass(frozen=True)
class TurnedRows:
    """A rotary table whose ``count`` rows of ``width`` are weights."""

    count: Expr
    width: Expr

    def given(self, m: Maker, context: Expr) -> dict[str, str]:
        """Adds what layers share, by the names of their operands."""
        places = m.source(Tensor("rope_ids", (q,), INT64))
        table = m.weight("rope.weight", self.count, self.width)
        return {"rope_table": m.add("rope_embed", Embedding(result=m.style.acts), places, table)}


@dataclass(frozen=True)
class RelativeRows:
    """``count`` learned rows for distances between positions, behind a norm or not."""

    count: Expr
    d: Expr
    norm: Norm | None = None

    def given(self, m: Maker, context: Expr) -> dict[str, str]:
        """Adds what layers share, by the names of their operands."""
        rows = m.weight("relative_rows.weight", self.count, self.d)
        if self.norm is not None:
            rows = m.norm("relative_norm", rows, self.d, self.norm)
        return {"relative_rows": rows}


def fixed_positions(m: Maker, x: str) -> str:
    """Adds sines of positions, which are no parameters, to ``x (batch, n, d)``."""
    table = m.source(Tensor("positions", m.shape(x)[1:], m.style.acts))
    return m.add("position_add", Add(), x, table)


@dataclass(frozen=True)
class AudioFront:
    """Whisper's front: two convolutions over a spectrogram, the second of stride 2.

    ``2q`` frames of ``mels`` bands become ``q`` positions; ``positions`` rows of
    a table are added, where there is one, or ``fixed`` ones that are no parameters.
    """

    d: Expr
    mels: Expr
    positions: Expr | None
    activation: str = "gelu"
    fixed: bool = False

    def add(self, m: Maker, batch: Expr = B, length: Expr = q) -> tuple[str, str]:
        """Adds the front over ``batch`` sounds of ``length``: (hidden state, no table)."""
        d = self.d
        x = m.source(Tensor("spectrogram", (batch, self.mels, 2 * length), m.style.acts))
        for index, (channels, stride) in enumerate(((self.mels, 1), (d, 2)), start=1):
            name = f"conv{index}"
            op = Conv((Integer(stride),), (ONE,), (ONE,), bias=True)
            kernel = m.weight(f"{name}.weight", d, channels, Integer(3))
            x = m.add(name, op, x, kernel, m.vector(f"{name}.bias", d))
            x = m.add(f"{name}_act", Activation(self.activation), x)
        x = m.add("as_sequence", AsSequence(), x)
        if self.fixed:
            return fixed_positions(m, x), ""
        if self.positions is None:
            return x, ""
        places = m.source(Tensor("position_ids", (length,), INT64))
        table = m.weight("positions.weight", self.positions, d)
        position = m.add("position_embed", Embedding(result=m.style.acts), places, table)
        return m.add("position_add", Add(), x, position), ""


class Shared(Protocol):
    """What all layers of an encoder share: biases of positions, rows of distances."""

    def given(self, m: Maker, context: Expr) -> dict[str, str]:
        """Adds what layers share, by the names of their operands."""


class Front(Protocol):
    """What makes the first hidden state of an encoder."""

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds it over ``B`` and ``q``: (hidden state, embedding table or nothing)."""


@dataclass(frozen=True)
class RestingFront:
    """A front beside weights that a pass leaves alone: they only rest in memory."""

    front: Front
    weights: tuple[tuple[str, Expr], ...]

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds the weights and the front."""
        for name, size in self.weights:
            m.vector(name, size)
        return self.front.add(m)


@dataclass(frozen=True)
class Encoder:
    """An encoder: a front, layers that see both ways, a final norm, a head.

    Attributes:
        front: makes the first hidden state.
        segments: runs of equal layers.
        d, norm: hidden size and final normalisation, or None.
        head: what follows, or None.
        buckets: what layers share of positions, or None.
        longest: most positions, where a table bounds them.
        shortest: fewest positions, where some are none of the text.
        why: what those are, where fewer are refused.
    """

    front: Front
    segments: tuple[Segment, ...]
    d: Expr
    norm: Norm | None = None
    head: Head | PretrainedHeads | None = None
    buckets: Shared | None = None
    longest: int | None = None
    shortest: int = 0
    why: str = "S counts positions that are no text, too"

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The source is no longer than the table of positions, and longer than what sees all."""
        ends = positions_end(S, self.longest)
        if not self.shortest:
            return ends
        return (*ends, Limit(Integer(self.shortest), S, self.why))

    def graph(self, name: str, style: Style) -> Graph:
        """The graph over ``B`` and ``q``."""
        m = Maker(name, style)
        hidden, table = self.body(m)
        if self.head is None:
            return m.build(hidden)
        if isinstance(self.head, PretrainedHeads):
            return m.build(*self.head.both(m, hidden, table))
        return m.build(self.head.add(m, hidden, table))

    def positions(self, style: Style) -> Expr:
        """Positions of a sequence."""
        return S

    def features(self, m: Maker) -> tuple[str, ...]:
        """Adds everything: all positions, then what the class makes of them besides."""
        hidden, table = self.body(m)
        if self.head is None:
            return (hidden,)
        if isinstance(self.head, PretrainedHeads):
            return (hidden, *self.head.both(m, hidden, table))
        return hidden, self.head.add(m, hidden, table)

    def body(self, m: Maker) -> tuple[str, str]:
        """Adds everything but the head: (last hidden state, embedding table)."""
        hidden, table = self.front.add(m)
        given = {} if self.buckets is None else self.buckets.given(m, q)
        hidden = run(m, self.segments, hidden, **given)
        if self.norm is not None:
            hidden = m.norm("final_norm", hidden, self.d, self.norm)
        return hidden, table

    def symbolic(self) -> tuple[Encoder, dict[Symbol, Expr]]:
        """The model over symbols for its dimensions, and their values.

        Raises:
            InputError: something in it is of a kind that keeps none.
        """
        found = _dimensions()
        return found.of(self), found.values

    def program(self, name: str, style: Style) -> Program:
        """The program of one phase, ``forward``."""
        return single_pass(name, self.graph(name, style), limits=self.limits)


class Source(Protocol):
    """What a decoder attends to: an encoder of text, of sound, or of images."""

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Bounds on the symbols of its graph."""

    def positions(self, style: Style) -> Expr:
        """Positions of a sequence: ``S``, or as many as an image has."""

    def features(self, m: Maker) -> tuple[str, ...]:
        """Adds it: all positions, then what the class makes of them besides."""


@dataclass(frozen=True)
class EncoderDecoder:
    """An encoder and a decoder that attends to it.

    Attributes:
        encoder: what makes the positions that are attended to.
        layer, layers: the decoder's layers.
        ends: the decoder's embeddings, final norm and projection to logits.
        buckets: relative position bias of the decoder, or None.
        shared: names of weights that both parts use (the embedding table).
        longest: most decoder positions, where a table bounds them.
        kinds: runs of the decoder's layers where not all are like ``layer``, whose attention to
            the encoder they have.
        joined: width that a product with bias brings the encoder's result to, or None.
        front: embeddings with more than ``ends`` has, or None.
        again: the decoder reads the encoder's text again, in one pass, and answers nothing.
    """

    encoder: Source
    layer: CrossLayer
    layers: Expr
    ends: Ends
    buckets: Buckets | None = None
    shared: tuple[str, ...] = ("embed.weight",)
    longest: int | None = None
    kinds: tuple[Segment, ...] = ()
    joined: Expr | None = None
    front: Front | None = None
    again: bool = False

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Source and answer are no longer than the tables of positions."""
        return (*self.encoder.limits, *positions_end(T, self.longest))

    def graph(self, name: str, style: Style) -> Graph:
        """The decoder's step graph over ``B``, ``q``, ``T`` and ``S``."""
        m = Maker(name, style)
        hidden, table = embed(m, self.ends) if self.front is None else self.front.add(m)
        given = {} if self.buckets is None else self.buckets.given(m, T)
        segments = self.kinds or (Segment("decoder", self.layer, self.layers),)
        hidden = run(m, segments, hidden, **given)
        return m.build(close(m, self.ends, hidden, table))

    def encode_graph(self, name: str, style: Style) -> Graph:
        """The encoder over ``B`` and ``q``, and the decoder's view of its result."""
        m = Maker(name, style)
        hidden, *beside = self.encoder.features(m)
        if self.joined is not None:
            wide = m.shape(hidden)[-1]
            hidden = m.linear("joined_proj", hidden, self.joined, wide, True)
        _, length, wide = m.shape(hidden)
        segment = Segment("cross", CrossCache(self.layer.cross, wide, length), self.layers)
        return m.build(run(m, (segment,), hidden), *beside)

    def symbolic(self) -> tuple[EncoderDecoder, dict[Symbol, Expr]]:
        """The model over symbols for its dimensions, and their values.

        Raises:
            InputError: both parts differ in more than their numbers of layers, or one is of a
                kind that keeps no symbols.
        """
        if self.kinds or self.joined is not None or self.front is not None:
            raise InputError(
                "this model's decoder has parts of its own: its dimensions stay numbers"
            )
        found = _dimensions()
        model = replace(
            self,
            layer=found.of(self.layer),
            layers=found.named("L", self.layers),
            ends=found.of(self.ends),
            encoder=found.of(self.encoder),
            buckets=None if self.buckets is None else found.of(self.buckets),
        )
        return model, found.values

    def program(self, name: str, style: Style) -> Program:
        """The program of three phases: ``encode``, ``prefill``, ``decode``.

        Where the text is read ``again``: of two, ``encode`` and ``forward``.
        """
        encode = self.encode_graph(f"{name} encoder", style)
        step = self.graph(name, style)
        encoder = Resident(encode, shared=self.shared)
        decoder = Resident(step, shared=self.shared, part=True)
        if self.again:
            both = (
                Phase("encode", encode, ((q, S), (T, ONE)), tokens=Integer(0), resident=(decoder,)),
                Phase("forward", step, ((q, S), (T, S)), tokens=Integer(0), resident=(encoder,)),
            )
            return Program(name, both, (READ_TWICE,), self.limits)
        phases: tuple[Phase, ...] = (
            Phase(
                "encode",
                encode,
                # No decoder position is attended yet; the limit on T is not one on S.
                ((q, S), (T, ONE)),
                tokens=Integer(0),
                resident=(decoder,),
            ),
            Phase("prefill", step, ((q, ONE), (T, ONE)), resident=(encoder,)),
            Phase(
                "decode",
                step,
                ((q, ONE),),
                Span(T, Integer(2), N),
                resident=(encoder,),
            ),
        )
        count = self.encoder.positions(style)
        if count == S:
            said = "the decoder starts from one token; S counts the encoder's positions"
        else:
            said = f"the decoder starts from one token; the encoder's result has {count} positions"
            phases = tuple(p.with_binding(S, count) for p in phases)
        return Program(name, phases, (said,), self.limits)


def _dimensions() -> Dimensions:
    """Symbols for the dimensions of encoders and what stands around their layers."""
    return Dimensions(
        {
            AudioFront: {"d": "d"},
            Buckets: {"heads": "H"},
            Encoder: {"d": "d"},
            LabelHead: {"d": "d"},
            MaskedHead: {"d": "d", "vocab": "V"},
            PooledHead: {"d": "d"},
            PretrainedHeads: {},
            TextFront: {},
        }
    )
