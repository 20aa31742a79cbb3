"""Resamplers: a fixed number of learned queries that attend to what a tower makes.

They are steps of a projector: so many positions of an image become so many tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.dtypes import INT64
from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.pattern import gathered
from costgraph.models.blocks.projector import Resampling
from costgraph.models.blocks.stack import run
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.ops import Activation, Add, Embedding, Multiply
from costgraph.ops.arrays import Join
from costgraph.ops.image import Cut
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Expand
from costgraph.symbols import G, S

ONE = Integer(1)
RMS = Norm()


@dataclass(frozen=True)
class QueryLayer:
    """A layer of BERT over queries, with attention to rows where ``cross`` says so.

    Attributes:
        batch, queries: sequences of queries, and how many in each.
        rows, source: rows that they attend to, and their width.
        at: heads; ``cross``: whether the layer attends to the rows as well.
        feed: the feed-forward block.
    """

    batch: Expr
    queries: Expr
    rows: Expr
    source: Expr
    at: Heads
    feed: FeedForward
    cross: bool

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rows, where it attends to them."""
        shape = (self.batch, self.rows, self.source)
        return (Tensor("rows", shape, style.acts),) if self.cross else ()

    def graph(self, style: Style) -> Graph:
        """The layer: queries and rows in, queries out."""
        m, d = Maker("layer", style), self.at.d
        x = m.source(Tensor("hidden", (self.batch, self.queries, d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        x = seen_by(m, self.at, x, x, "")
        if self.cross:
            x = seen_by(m, self.at, x, "rows", "cross_")
        x = m.add("mlp_add", Add(), self.feed.add(m, x), x)
        return m.build(m.norm("mlp_norm", x, d, LAYER_NORM))


def seen_by(m: Maker, at: Heads, x: str, rows: str, prefix: str) -> str:
    """Adds attention of ``x`` to ``rows``, the residual, and a norm behind it."""
    query = at.project(m, "q", x, prefix)
    key, value = (at.project(m, name, rows, prefix) for name in ("k", "v"))
    mixed = at.out(m, attended(m, query, key, value, FULL, prefix=prefix), prefix)
    x = m.add(f"{prefix}attn_add", Add(), mixed, x)
    return m.norm(f"{prefix}attn_norm", x, at.d, LAYER_NORM)


def _learned(m: Maker, prefix: str, batch: Expr, queries: Expr, d: Expr) -> str:
    """Adds learned queries, the same for each of ``batch``: ``(batch, queries, d)``."""
    name = f"{prefix}_queries"
    return m.add(f"{name}_rows", Expand((batch, queries, d)), m.vector(name, ONE, queries, d))


@dataclass(frozen=True)
class Asking(Resampling):
    """BLIP-2's Q-Former (Li et al., arXiv 2301.12597).

    Attributes:
        at, feed: heads and feed-forward block.
        layers: their number.
        every: each so many layers attend to the rows.
    """

    at: Heads
    feed: FeedForward
    layers: int
    every: int

    def add(self, m: Maker, prefix: str, x: str) -> str:
        """Adds the queries and their layers; ``x (batch, n, c)`` to ``(batch, queries, d)``."""
        batch, rows, source = m.shape(x)
        start = _learned(m, prefix, batch, self.queries, self.at.d)
        start = m.norm(f"{prefix}_query_norm", start, self.at.d, LAYER_NORM)
        kinds = (
            (
                f"{prefix}_{'asking' if i % self.every == 0 else 'plain'}_layers",
                QueryLayer(
                    batch, self.queries, rows, source, self.at, self.feed, i % self.every == 0
                ),
            )
            for i in range(self.layers)
        )
        return run(m, gathered(kinds), start, rows=x)


@dataclass(frozen=True)
class InstructedLayer:
    """A layer of BERT over queries and words together; queries alone attend to rows.

    Attributes:
        batch, queries, words: sequences, and what stands in each.
        rows, source: rows that queries attend to, and their width.
        at, feed: heads, and the feed-forward block, of which words have one of their own.
        cross: whether the layer attends to the rows as well.
    """

    batch: Expr
    queries: Expr
    words: Expr
    rows: Expr
    source: Expr
    at: Heads
    feed: FeedForward
    cross: bool

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The rows, where it attends to them."""
        shape = (self.batch, self.rows, self.source)
        return (Tensor("rows", shape, style.acts),) if self.cross else ()

    def graph(self, style: Style) -> Graph:
        """The layer: queries and words in, and out."""
        m, d = Maker("layer", style), self.at.d
        x = m.source(Tensor("hidden", (self.batch, self.queries + self.words, d), style.acts))
        for tensor in self.operands(style):
            m.source(tensor)
        x = seen_by(m, self.at, x, x, "")
        y, words = m.add_many("parts", Cut((self.queries, self.words)), x)
        if self.cross:
            y = seen_by(m, self.at, y, "rows", "cross_")
        return m.build(m.add("both", Join(1), self._fed(m, "", y), self._fed(m, "word_", words)))

    def _fed(self, m: Maker, prefix: str, x: str) -> str:
        x = m.add(f"{prefix}mlp_add", Add(), self.feed.add(m, x, prefix), x)
        return m.norm(f"{prefix}mlp_norm", x, self.at.d, LAYER_NORM)


@dataclass(frozen=True)
class Instructed(Asking):
    """InstructBLIP's Q-Former (Dai et al., arXiv 2305.06500), which reads the instruction as well.

    One image of a prompt: its words are the ``S − G`` tokens beside those of the image.

    Attributes:
        vocab, places: rows of the tables of words and of their positions.
    """

    vocab: Expr
    places: Expr

    def add(self, m: Maker, prefix: str, x: str) -> str:
        """Adds queries, words and their layers; ``x (batch, n, c)`` to ``(batch, queries, d)``."""
        batch, rows, source = m.shape(x)
        d, count, acts = self.at.d, S - G, m.style.acts
        ids = m.source(Tensor("instruction_ids", (batch, count), INT64))
        table = m.weight("instruction.weight", self.vocab, d)
        words = m.add("instruction_embed", Embedding(result=acts), ids, table)
        places = m.source(Tensor("instruction_places", (count,), INT64))
        table = m.weight("instruction_positions.weight", self.places, d)
        found = m.add("instruction_position", Embedding(result=acts), places, table)
        words = m.add("instruction_add", Add(), words, found)
        start = m.add(
            f"{prefix}_asked", Join(1), _learned(m, prefix, batch, self.queries, d), words
        )
        start = m.norm(f"{prefix}_query_norm", start, d, LAYER_NORM)
        kinds = (
            (
                f"{prefix}_{'asking' if i % self.every == 0 else 'plain'}_layers",
                InstructedLayer(
                    batch, self.queries, count, rows, source, self.at, self.feed,
                    i % self.every == 0,
                ),
            )
            for i in range(self.layers)
        )  # fmt: skip
        made = run(m, gathered(kinds), start, rows=x)
        return m.add_many(f"{prefix}_queries_alone", Cut((self.queries, count)), made)[0]


@dataclass(frozen=True)
class Perceiving(Resampling):
    """Idefics 2's resampler (Laurençon et al., arXiv 2405.02246): queries see rows and themselves.

    Attributes:
        at, feed: heads and feed-forward block.
        layers: their number.
    """

    at: Heads
    feed: FeedForward
    layers: int

    def add(self, m: Maker, prefix: str, x: str) -> str:
        """Adds the queries and their layers; ``x (batch, n, d)`` to ``(batch, queries, d)``."""
        batch, d = m.shape(x)[0], self.at.d
        y = _learned(m, prefix, batch, self.queries, d)
        for index in range(1, self.layers + 1):
            name = f"{prefix}{index}_"
            own = m.norm(f"{name}query_norm", y, d, RMS)
            rows = m.norm(f"{name}rows_norm", x, d, RMS)
            seen = m.add(f"{name}seen", Join(1), rows, own)
            query = self.at.project(m, "q", own, name)
            key, value = (self.at.project(m, part, seen, name) for part in ("k", "v"))
            mixed = self.at.out(m, attended(m, query, key, value, FULL, prefix=name), name)
            y = m.add(f"{name}attn_add", Add(), mixed, y)
            fed = self.feed.add(m, m.norm(f"{name}mlp_norm", y, d, RMS), name)
            y = m.add(f"{name}mlp_add", Add(), fed, y)
        return m.norm(f"{prefix}_final_norm", y, d, RMS)


@dataclass(frozen=True)
class Latent(Resampling):
    """Kosmos-2's resampler (Peng et al., arXiv 2306.14824): queries see rows and themselves, once.

    Attributes:
        at: heads.
    """

    at: Heads

    def add(self, m: Maker, prefix: str, x: str) -> str:
        """Adds the queries; ``x (batch, n, d)`` to ``(batch, queries, d)``."""
        own = _learned(m, prefix, m.shape(x)[0], self.queries, self.at.d)
        seen = m.add(f"{prefix}_seen", Join(1), x, own)
        query = self.at.project(m, "q", own, f"{prefix}_")
        key, value = (self.at.project(m, part, seen, f"{prefix}_") for part in ("k", "v"))
        mixed = attended(m, query, key, value, FULL, prefix=f"{prefix}_")
        return self.at.out(m, mixed, f"{prefix}_")


@dataclass(frozen=True)
class Looking(Resampling):
    """MiniCPM-V's resampler (arXiv 2408.01800): queries see the rows once, and a product.

    Places of rows are added to what keys are made of, from a table that is no parameter.

    Attributes:
        at: heads.
    """

    at: Heads

    def add(self, m: Maker, prefix: str, x: str) -> str:
        """Adds the queries and their layer; ``x (batch, n, c)`` to ``(batch, queries, d)``."""
        (batch, count, wide), d = m.shape(x), self.at.d
        y = _learned(m, prefix, batch, self.queries, d)
        y = m.norm(f"{prefix}_query_norm", y, d, LAYER_NORM)
        if wide != d:
            x = m.linear(f"{prefix}_rows_proj", x, d, wide)
        x = m.norm(f"{prefix}_rows_norm", x, d, LAYER_NORM)
        places = m.source(Tensor(f"{prefix}_places", (count, d), m.style.acts))
        placed = m.add(f"{prefix}_place_add", Add(), x, places)
        name = f"{prefix}_"
        query, key = self.at.project(m, "q", y, name), self.at.project(m, "k", placed, name)
        value = self.at.project(m, "v", x, name)
        y = self.at.out(m, attended(m, query, key, value, FULL, prefix=name), name)
        y = m.norm(f"{prefix}_final_norm", y, d, LAYER_NORM)
        return m.linear(f"{prefix}_proj", y, d, d)


@dataclass(frozen=True)
class Widened:
    """A gated feed-forward block without biases whose result has another width."""

    inner: Expr
    width: Expr
    activation: str

    def add(self, m: Maker, prefix: str, x: str) -> str:
        """Adds the block behind ``x (batch, n, c)``."""
        d = m.shape(x)[-1]
        gate = m.linear(f"{prefix}_gate_proj", x, self.inner, d)
        up = m.linear(f"{prefix}_up_proj", x, self.inner, d)
        acted = m.add(f"{prefix}_gate_act", Activation(self.activation), gate)
        both = m.add(f"{prefix}_gate_mul", Multiply(), acted, up)
        return m.linear(f"{prefix}_down_proj", both, self.width, self.inner)
