"""An encoder–decoder whose source holds images: Florence-2.

Its phases are ``vision``, ``encode``, ``prefill`` and ``decode``. The source's ``S`` tokens
include ``G`` image tokens, whose rows a tower makes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Integer, Symbol

from costgraph.errors import InputError
from costgraph.formula.terms import Limit
from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.program import Phase, Program, Resident
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Style
from costgraph.models.blocks.eyes import Eyes
from costgraph.models.blocks.stack import embed
from costgraph.models.encoder import EncoderDecoder, TextFront
from costgraph.models.multimodal import of_pictures, with_images
from costgraph.ops import Add, Embedding
from costgraph.symbols import G, S, T, q

ONE = Integer(1)


@dataclass(frozen=True)
class ShownFront:
    """A front of text, some of whose embeddings are rows of a tower."""

    text: TextFront

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds both: (hidden state, embedding table)."""
        ends = self.text.ends
        x, table = embed(m, replace(ends, positions=None, embed_norm=None))
        x = with_images(m, x)
        if ends.positions is not None:
            places = m.source(Tensor("position_ids", (q,), INT64))
            learned = m.weight("positions.weight", ends.positions, ends.d)
            found = m.add("position_embed", Embedding(result=m.style.acts), places, learned)
            x = m.add("position_add", Add(), x, found)
        if ends.embed_norm is not None:
            x = m.norm("embed_norm", x, ends.d, ends.embed_norm)
        return x, table


@dataclass(frozen=True)
class Answering:
    """An encoder–decoder with eyes.

    Attributes:
        eyes: the tower.
        text: the encoder–decoder, whose encoder's front takes rows.
    """

    eyes: Eyes
    text: EncoderDecoder

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Those of the text; a source holds its image tokens."""
        within = Limit(G, S, "the source's tokens include those of the images")
        return (*self.text.limits, within)

    def graph(self, name: str, style: Style) -> Graph:
        """The decoder's step graph."""
        return self.text.graph(name, style)

    def symbolic(self) -> tuple[Answering, dict[Symbol, Expr]]:
        """Refused: several parts, no common names for dimensions."""
        raise InputError("multimodal models keep no symbolic dimensions")

    def program(self, name: str, style: Style) -> Program:
        """The program of four phases; the tower is in memory in all of them."""
        if not style.images:
            raise InputError(f"{name}: a request without images is not counted in this family")
        if style.pictures:
            looking, told = self.eyes.showing(name, style.pictures)
            whole = replace(self, eyes=looking).program(name, replace(style, pictures=()))
            return of_pictures(whole, told, style.pictures)
        seen = self.eyes_graph(f"{name} vision", style)
        made = self.text.program(name, style)
        encode = made.phase("encode")
        beside = (Resident(encode.graph, part=True), *encode.resident)
        count = self.eyes.positions(style)
        vision = Phase("vision", seen, ((q, count), (T, ONE)), tokens=Integer(0), resident=beside)
        rest = Resident(seen)
        phases = (vision, *(replace(p, resident=(*p.resident, rest)) for p in made.phases))
        said = (*self.eyes.assumptions, *made.assumptions)
        return Program(name, phases, said, self.limits)

    def eyes_graph(self, name: str, style: Style) -> Graph:
        """The tower over ``B`` and ``G``."""
        m = Maker(name, style)
        return m.build(*self.eyes.add(m))
