"""Resamplers: a fixed number of learned queries that attend to what a tower makes.

They are steps of a projector: so many positions of an image become so many tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

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
from costgraph.ops import Activation, Add, Multiply
from costgraph.ops.arrays import Join
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Expand

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
        x = self._attended(m, x, x, "")
        if self.cross:
            x = self._attended(m, x, "rows", "cross_")
        x = m.add("mlp_add", Add(), self.feed.add(m, x), x)
        return m.build(m.norm("mlp_norm", x, d, LAYER_NORM))

    def _attended(self, m: Maker, x: str, rows: str, prefix: str) -> str:
        query = self.at.project(m, "q", x, prefix)
        key, value = (self.at.project(m, name, rows, prefix) for name in ("k", "v"))
        mixed = self.at.out(m, attended(m, query, key, value, FULL, prefix=prefix), prefix)
        x = m.add(f"{prefix}attn_add", Add(), mixed, x)
        return m.norm(f"{prefix}attn_norm", x, self.at.d, LAYER_NORM)


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
