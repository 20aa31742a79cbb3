"""LXMERT (Tan and Bansal, arXiv 1908.07490): words and regions of an image ask one another.

``B`` texts of ``S`` words, each beside ``G`` regions that a detector has found.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.formula.terms import Limit
from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.deformable import shared_linear
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import same_norm
from costgraph.models.blocks.stack import positions_end, run
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.vision import OnePass
from costgraph.ops import Activation, Add, Embedding, Scale, SelectLast
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Reshape
from costgraph.symbols import B, G, S

ONE = Integer(1)


def read(m: Maker, vocab: Expr, places: int, types: Expr, d: Expr) -> str:
    """Adds ``S`` words with their positions and types, and a norm behind: ``(B, S, d)``."""
    x = ""
    for name, rows in (("word", vocab), ("position", Integer(places)), ("type", types)):
        ids = m.source(Tensor(f"{name}_ids", (B, S), INT64))
        table = m.weight(f"{name}s.weight", rows, d)
        found = m.add(f"{name}_embed", Embedding(result=m.style.acts), ids, table)
        x = m.add(f"{name}_add", Add(), x, found) if x else found
    return m.norm("embed_norm", x, d, LAYER_NORM)


@dataclass(frozen=True)
class BehindLayer:
    """Rows attend to one another, then a feed-forward block; norms stand behind both."""

    length: Expr
    at: Heads
    feed: FeedForward

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: rows in, rows out."""
        m = Maker("layer", style)
        x = m.source(Tensor("hidden", (B, self.length, self.at.d), style.acts))
        return m.build(self.add(m, x))

    def add(self, m: Maker, x: str, prefix: str = "") -> str:
        """Adds the layer; ``x (B, n, d)`` in and out."""
        d = self.at.d
        query, key, value = (self.at.project(m, part, x, prefix) for part in "qkv")
        y = self.at.out(m, attended(m, query, key, value, FULL, prefix=prefix), prefix)
        x = m.norm(f"{prefix}attn_norm", m.add(f"{prefix}attn_add", Add(), y, x), d, LAYER_NORM)
        y = self.feed.add(m, x, prefix)
        return m.norm(f"{prefix}mlp_norm", m.add(f"{prefix}mlp_add", Add(), y, x), d, LAYER_NORM)


@dataclass(frozen=True)
class Lxmert(OnePass):
    """Both encoders, and the layers in which they ask one another.

    Attributes:
        vocab, places, types: rows of the tables of words, of positions and of types.
        features, corners: width of what a detector says of a region, and of where it is.
        at, feed: heads and feed-forward block of all layers.
        words, regions, both: layers over words, over regions, and over both.
        labels: answers to a question, or None for the bare model.
    """

    vocab: Expr
    places: int
    types: Expr
    features: Expr
    corners: Expr
    at: Heads
    feed: FeedForward
    words: int
    regions: int
    both: int
    labels: Expr | None

    def positions(self, style: Style) -> Expr:
        return S

    @property
    def limits(self) -> tuple[Limit, ...]:
        return positions_end(S, self.places)

    def graph(self, name: str, style: Style) -> Graph:
        m, d = Maker(name, style), self.at.d
        x = read(m, self.vocab, self.places, self.types, d)
        y = self._seen(m)
        for part, length, count in (("word", S, self.words), ("region", G, self.regions)):
            segment = Segment(
                f"{part}_layers", BehindLayer(length, self.at, self.feed), Integer(count)
            )
            if part == "word":
                x = run(m, (segment,), x)
            else:
                y = run(m, (segment,), y)
        for index in range(self.both):
            x, y = self._asked(m, f"both{index}_", x, y)
        first = m.add("first_word", SelectLast(ONE), x)
        first = m.linear("pooler", m.add("first", Reshape((B, d)), first), d, d, True)
        first = m.add("pooler_act", Activation("tanh"), first)
        if self.labels is None:
            return m.build(x, y, first)
        z = m.add("answer_act", Activation("gelu"), m.linear("answer1", first, 2 * d, d, True))
        z = m.norm("answer_norm", z, 2 * d, LAYER_NORM)
        return m.build(m.linear("answer2", z, self.labels, 2 * d, True))

    def _seen(self, m: Maker) -> str:
        """Adds regions: the mean of what they are and where they are."""
        d, made = self.at.d, []
        for name, width in (("feature", self.features), ("corner", self.corners)):
            given = m.source(Tensor(f"region_{name}s", (B, G, width), m.style.acts))
            x = m.linear(f"{name}_proj", given, d, width, True)
            made.append(m.norm(f"{name}_norm", x, d, LAYER_NORM))
        return m.add("regions", Scale(), m.add("regions_add", Add(), *made))

    def _asked(self, m: Maker, name: str, x: str, y: str) -> tuple[str, str]:
        """Adds a layer over both: each asks the other with the same weights, then itself."""
        asked = [
            self._across(m, name, f"{name}{part}_", one, other)
            for part, one, other in (("word", x, y), ("region", y, x))
        ]
        x, y = (
            BehindLayer(m.shape(rows)[1], self.at, self.feed).add(m, rows, f"{name}{part}_own_")
            for part, rows in zip(("word", "region"), asked, strict=True)
        )
        return x, y

    def _across(self, m: Maker, of: str, name: str, x: str, other: str) -> str:
        """Adds what rows hear of the others, with a norm behind it."""
        at, parts = self.at, []
        for part, rows in (("q", x), ("k", other), ("v", other)):
            made = shared_linear(m, f"{name}{part}_proj", f"{of}{part}", rows, at.d)
            shape = (B, m.shape(rows)[1], at.heads, at.head_dim)
            parts.append(m.add(f"{name}{part}_heads", Reshape(shape), made))
        query, key, value = parts
        mixed = attended(m, query, key, value, FULL, prefix=name)
        mixed = m.add(f"{name}rows", Reshape(m.shape(x)), mixed)
        made = shared_linear(m, f"{name}o_proj", f"{of}o", mixed, at.d)
        return same_norm(m, f"{name}norm", f"{of}norm", m.add(f"{name}add", Add(), made, x))
