"""A decoder of codes of sound behind an encoder of text (MusicGen, arXiv 2306.05284; Dia).

Every step makes one code of each codebook; ``N`` counts steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Integer

from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Segment, Style
from costgraph.models.blocks.stack import run
from costgraph.models.encoder import EncoderDecoder
from costgraph.ops import Add, Embedding, Sample, SelectLast
from costgraph.ops.maps import Reduce
from costgraph.ops.views import Reshape
from costgraph.symbols import B, q


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
        m, ends, books = Maker(name, style), self.ends, Integer(self.books)
        ids = m.source(Tensor("codes", (B, q, books), INT64))
        table = m.weight("embed.weight", books * (ends.vocab + self.spare), ends.d)
        x = m.add("embed", Embedding(result=style.acts), ids, table)
        x = m.add("embed_sum", Reduce("sum", (2,)), x)
        if self.placed:
            rows = m.source(Tensor("position_rows", (q, ends.d), style.acts))
            x = m.add("position_add", Add(), x, rows)
        x = run(m, (Segment("decoder", self.layer, self.layers),), x)
        assert ends.norm is not None
        x = m.norm("final_norm", x, ends.d, ends.norm)
        count = Integer(1) if style.logits == "last" else q
        x = m.add("last_position", SelectLast(count), x)
        logits = m.linear("lm_head", x, books * ends.vocab, ends.d)
        logits = m.add("each_book", Reshape((B, count * books, ends.vocab)), logits)
        return m.build(m.add("sample", Sample(), logits))
