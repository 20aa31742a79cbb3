"""Aria's resampler: learned queries look at rows once, through two projections each."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.projector import Resampling
from costgraph.models.blocks.style import Maker
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.ops.image import Cut
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Expand

ONE = Integer(1)


@dataclass(frozen=True)
class Beholding(Resampling):
    """Queries that see rows (arXiv 2410.05993): a product without bias stands in front of each
    of queries, keys and values, and one with bias behind the attention.

    Attributes:
        at: heads.
        rows: learned queries that there are, the first of which look.
    """

    at: Heads
    rows: Expr

    def add(self, m: Maker, prefix: str, x: str) -> str:
        """Adds the queries; ``x (batch, n, d)`` to ``(batch, queries, d)``."""
        batch, d, name = m.shape(x)[0], self.at.d, f"{prefix}_"
        y = m.vector(f"{name}queries", ONE, self.rows, d)
        if self.rows != self.queries:
            y, _ = m.add_many(f"{name}first", Cut((self.queries, self.rows - self.queries)), y)
        y = m.add(f"{name}queries_rows", Expand((batch, self.queries, d)), y)
        y = m.norm(f"{name}query_norm", y, d, LAYER_NORM)
        x = m.norm(f"{name}rows_norm", x, d, LAYER_NORM)
        query, key, value = (
            self.at.project(m, part, m.linear(f"{name}{part}_in", given, d, d), name)
            for part, given in (("q", y), ("k", x), ("v", x))
        )
        y = self.at.out(m, attended(m, query, key, value, FULL, prefix=name), name)
        return m.linear(f"{name}looked", y, d, d, True)
