"""Decoders whose every position reads a frame: a token of text and a code of each codebook."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NoReturn

from sympy import Expr, Integer

from costgraph.errors import InputError
from costgraph.formula.terms import Limit
from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.program import Program, autoregressive
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Stack, Style
from costgraph.models.blocks.stack import close, run
from costgraph.ops import Embedding
from costgraph.ops.maps import Reduce
from costgraph.symbols import B, q


@dataclass(frozen=True)
class Summed:
    """A language model whose embeddings are sums of what a position reads.

    Attributes:
        text: the language model.
    """

    #: What such models do, for a refusal.
    does: ClassVar[str]

    text: Stack

    @property
    def limits(self) -> tuple[Limit, ...]:
        """What contexts the language model has positions for."""
        return self.text.limits

    def symbolic(self) -> NoReturn:
        """Refused.

        Raises:
            InputError: always.
        """
        raise InputError(f"models that {self.does} keep no symbolic dimensions")

    @abstractmethod
    def summed(self, m: Maker) -> tuple[str, str]:
        """Adds the sums: (hidden state, embedding table)."""

    def graph(self, name: str, style: Style) -> Graph:
        """The step graph over ``B``, ``q`` and ``T``."""
        m = Maker(name, style)
        x, table = self.summed(m)
        return m.build(close(m, self.text.ends, run(m, self.text.segments, x), table))

    def program(self, name: str, style: Style) -> Program:
        """The program of two phases, ``prefill`` and ``decode``."""
        return autoregressive(name, self.graph(name, style), limits=self.limits)


@dataclass(frozen=True)
class Frames(Summed):
    """A language model whose embeddings of several tokens of one table are summed.

    Attributes:
        text: the language model; the table of its ends has a row for every code, too.
        each: tokens that a position reads.
        codec: parameters of what makes codes of sound, or sound of codes, which rest in memory.
    """

    does: ClassVar[str] = "read frames"

    each: int
    codec: Expr

    def summed(self, m: Maker) -> tuple[str, str]:
        """Adds the sum of the embeddings of a frame."""
        ends = self.text.ends
        m.vector("codec.rows", self.codec)
        ids = m.source(Tensor("frame_ids", (B, q, Integer(self.each)), INT64))
        table = m.weight("embed.weight", ends.vocab + ends.unsaid, ends.d)
        x = m.add("embed", Embedding(result=m.style.acts), ids, table)
        return m.add("embed_sum", Reduce("sum", (2,)), x), table
