"""A decoder of codes of sound behind an encoder of text (MusicGen, arXiv 2306.05284; Dia).

Every step makes one code of each codebook; ``N`` counts steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from sympy import Expr, Integer

from costgraph.errors import InputError
from costgraph.formula.terms import Limit, Span
from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.program import Phase, Program, Resident
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Ends, Layer, Maker, Segment, Style
from costgraph.models.blocks.stack import run
from costgraph.models.encoder import Encoder, EncoderDecoder
from costgraph.ops import Add, Embedding, Sample, SelectLast
from costgraph.ops.arrays import Join
from costgraph.ops.maps import Reduce
from costgraph.ops.views import Reshape
from costgraph.symbols import B, N, S, T, q

ONE = Integer(1)


@dataclass(frozen=True)
class Codes(EncoderDecoder):
    """The decoder reads and makes a code of each of ``books`` codebooks at once.

    Attributes:
        books: codebooks, each with ``ends.vocab`` codes.
        spare: further rows of each one's table, which stand for no code.
        placed: a table of positions that is no parameter is added.
    """

    books: int = 1
    spare: int = 1
    placed: bool = True

    def graph(self, name: str, style: Style) -> Graph:
        """The decoder's step graph over ``B``, ``q``, ``T`` and ``S``."""
        m, ends = Maker(name, style), self.ends
        x = summed(m, ends, self.books, self.spare, q)
        if self.placed:
            rows = m.source(Tensor("position_rows", (q, ends.d), style.acts))
            x = m.add("position_add", Add(), x, rows)
        x = run(m, (Segment("decoder", self.layer, self.layers),), x)
        return m.build(each_book(m, ends, self.books, x))


def summed(m: Maker, ends: Ends, books: int, spare: int, length: Expr) -> str:
    """Adds the sum of what a code of each codebook stands for: ``(B, length, d)``."""
    count = Integer(books)
    ids = m.source(Tensor("codes", (B, length, count), INT64))
    table = m.weight("embed.weight", count * (ends.vocab + spare), ends.d)
    x = m.add("embed", Embedding(result=m.style.acts), ids, table)
    return m.add("embed_sum", Reduce("sum", (2,)), x)


def each_book(m: Maker, ends: Ends, books: int, x: str) -> str:
    """Adds the last norm, the logits of each codebook, and a code of each."""
    assert ends.norm is not None
    x = m.norm("final_norm", x, ends.d, ends.norm)
    count = ONE if m.style.logits == "last" else q
    x = m.add("last_position", SelectLast(count), x)
    logits = m.linear("lm_head", x, books * ends.vocab, ends.d)
    logits = m.add("each_book", Reshape((B, count * books, ends.vocab)), logits)
    return m.add("sample", Sample(), logits)


@dataclass(frozen=True)
class Led:
    """A decoder of codes whose prompt is a melody and a text (MusicGen's melody models).

    Attributes:
        encoder: of the text.
        layer, layers: of the decoder, which sees itself alone.
        ends, books: as those of :class:`Codes`, with a further code that stands for none.
        notes, length: numbers of a step of the melody, and its steps.
    """

    encoder: Encoder
    layer: Layer
    layers: Expr
    ends: Ends
    books: int
    notes: Expr
    length: Expr

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Those of the text."""
        return self.encoder.limits

    def symbolic(self) -> NoReturn:
        """Refused.

        Raises:
            InputError: always.
        """
        raise InputError("this model's decoder has parts of its own: its dimensions stay numbers")

    def encode_graph(self, name: str, style: Style) -> Graph:
        """The encoder, and what the decoder is led by: the melody, then the text."""
        m, d = Maker(name, style), self.ends.d
        text, _ = self.encoder.body(m)
        melody = m.source(Tensor("melody", (B, self.length, self.notes), style.acts))
        if self.encoder.d != d:
            text = m.linear("text_proj", text, d, self.encoder.d, True)
        if self.notes != d:
            melody = m.linear("melody_proj", melody, d, self.notes, True)
        return m.build(m.add("led_by", Join(1), melody, text))

    def graph(self, name: str, style: Style, first: bool = False) -> Graph:
        """A step over ``B``, ``q`` and ``T``; the ``first`` holds what it is led by, and a code."""
        m, ends = Maker(name, style), self.ends
        x = summed(m, ends, self.books, 1, ONE if first else q)
        if first:
            x = m.add("led", Join(1), m.source(Tensor("led_by", (B, q - 1, ends.d), style.acts)), x)
        rows = m.source(Tensor("position_rows", (q, ends.d), style.acts))
        x = m.add("position_add", Add(), x, rows)
        x = run(m, (Segment("decoder", self.layer, self.layers),), x)
        return m.build(each_book(m, ends, self.books, x))

    def program(self, name: str, style: Style) -> Program:
        """The program of three phases: ``encode``, ``prefill``, ``decode``."""
        encode, step = self.encode_graph(f"{name} encoder", style), self.graph(name, style)
        first, led = self.graph(name, style, first=True), S + self.length
        beside, decoder = (Resident(encode),), (Resident(step, part=True),)
        phases = (
            Phase("encode", encode, ((q, S), (T, ONE)), tokens=Integer(0), resident=decoder),
            Phase("prefill", first, ((q, led + 1), (T, led + 1)), resident=beside),
            Phase("decode", step, ((q, ONE),), Span(T, led + 2, led + N), resident=beside),
        )
        return Program(name, phases, (), self.limits)
