"""MobileBERT's layer (Sun et al., arXiv 2004.02984): narrow blocks between two products."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.stack import Transform
from costgraph.models.blocks.style import Maker, Style
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.ops import Add, Embedding, Linear, Multiply
from costgraph.ops.arrays import Join
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Slice
from costgraph.symbols import B, q


def scaled(m: Maker, name: str, x: str, width: Expr, plain: bool) -> str:
    """Adds a layer norm, or where ``plain`` a weight and a bias per element alone."""
    if not plain:
        return m.norm(name, x, width, LAYER_NORM)
    x = m.add(f"{name}_mul", Multiply(), x, m.vector(f"{name}.weight", width))
    return m.add(f"{name}_shift", Add(), x, m.vector(f"{name}.bias", width))


@dataclass(frozen=True)
class BottleneckLayer:
    """A layer whose blocks work at the width ``at.d`` of a product in front.

    Attributes:
        d: width of the layer.
        at: heads, and the width of the blocks.
        feed: a feed-forward block, of which there are ``blocks`` in a row.
        plain: norms are a weight and a bias alone.
        narrow: there are products around, to the width of the blocks and back.
        idle: where they do not come from it, such a product rests in memory.
        shared: queries and keys come from a product of their own, values from the layer's input;
            else all three from the narrow rows.
    """

    d: Expr
    at: Heads
    feed: FeedForward
    blocks: int
    plain: bool
    narrow: bool = True
    shared: bool = True
    idle: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state in, hidden state out."""
        m, at = Maker("layer", style), self.at
        x = m.source(Tensor("hidden", (B, q, self.d), style.acts))
        y = self._product(m, "input", x, at.d) if self.narrow else x
        asked, told = y, y
        if self.narrow and self.shared:
            asked, told = self._product(m, "shared", x, at.d), x
        elif self.idle:
            m.vector("shared.rows", at.d * (self.d + 3))  # a matrix, a bias, a norm
        query, key = (at.project(m, name, asked) for name in ("q", "k"))
        value = at.project(m, "v", told)
        mixed = at.out(m, attended(m, query, key, value, FULL))
        y = self._added(m, "attn", mixed, y)
        for index in range(1, self.blocks + 1):
            made = self.feed.add(m, y, f"block{index}_")
            y = self._added(m, f"block{index}", made, y)
        if self.narrow:
            made = m.linear("output_proj", y, self.d, at.d, True)
            y = self._added(m, "output", made, x)
        return m.build(y)

    def _product(self, m: Maker, name: str, x: str, width: Expr) -> str:
        made = m.linear(f"{name}_proj", x, width, m.shape(x)[-1], True)
        return scaled(m, f"{name}_norm", made, width, self.plain)

    def _added(self, m: Maker, name: str, made: str, x: str) -> str:
        both = m.add(f"{name}_add", Add(), made, x)
        return scaled(m, f"{name}_norm", both, m.shape(both)[-1], self.plain)


@dataclass(frozen=True)
class TrigramFront:
    """Embeddings of each token beside those of both neighbours, brought to width ``d``.

    Attributes:
        vocab, width, d: rows, their width, and that of the layers.
        positions, types: rows of tables ``d`` wide.
        trigram: neighbours stand beside each token.
        plain: of the norm behind.
    """

    vocab: Expr
    width: Expr
    d: Expr
    positions: Expr
    types: Expr
    trigram: bool
    plain: bool

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds the embeddings: (hidden state, embedding table)."""
        acts = m.style.acts
        ids = m.source(Tensor("ids", (B, q), INT64))
        table = m.weight("embed.weight", self.vocab, self.width)
        x = m.add("embed", Embedding(result=acts), ids, table)
        if self.trigram:
            x = m.add("trigrams", Join(2), x, x, x)
        if self.trigram or self.width != self.d:
            x = m.linear("embed_proj", x, self.d, m.shape(x)[-1], True)
        for name, rows, shape in (("position", self.positions, (q,)), ("type", self.types, (B, q))):
            places = m.source(Tensor(f"{name}_ids", shape, INT64))
            learned = m.weight(f"{name}s.weight", rows, self.d)
            found = m.add(f"{name}_embed", Embedding(result=acts), places, learned)
            x = m.add(f"{name}_add", Add(), x, found)
        return scaled(m, "embed_norm", x, self.d, self.plain), table


@dataclass(frozen=True)
class SplitHead:
    """Masked tokens from a transform, by the embedding table beside a matrix of its own."""

    d: Expr
    width: Expr
    vocab: Expr
    activation: str

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head; every position gets logits."""
        x = Transform(self.activation, LAYER_NORM, True).add(m, hidden, self.d)
        bias = m.vector("lm_head.bias", self.vocab)
        if self.width == self.d:
            return m.add("lm_head", Linear(bias=True), x, table, bias)
        first = m.add("tied_part", Slice(2, Integer(0), self.width), x)
        rest = m.add("own_part", Slice(2, self.width, self.d - self.width), x)
        first = m.add("lm_head", Linear(bias=True), first, table, bias)
        rest = m.linear("own_head", rest, self.vocab, self.d - self.width)
        return m.add("lm_head_add", Add(), first, rest)
