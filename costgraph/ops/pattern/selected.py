"""What a query sees is chosen for it: rows, or blocks of rows, by scores of an index.

All rows stay in the cache; a query reads those that were chosen for it. How they are
scored and chosen is operations of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, ceiling

from costgraph.formula.least import least
from costgraph.ops.pattern.base import Pattern
from costgraph.ops.pattern.stairs import clipped, rising, steps
from costgraph.symbols import T


@dataclass(frozen=True)
class Selected(Pattern):
    """A query sees the ``count`` best rows of those up to its own position.

    ``q`` queries read at most ``q`` times as many rows, and never more than there are:
    that bound is counted, as choices that have nothing in common would reach it.
    """

    count: Expr

    @property
    def compact(self) -> bool:
        return True

    @property
    def indexed(self) -> bool:
        return True

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        return clipped(q, rows, self.count)

    def dense(self, q: Expr, rows: Expr) -> Expr:
        return q * least(rows, self.count)

    def keys(self, q: Expr, rows: Expr) -> Expr:
        return least(rows, q * self.count)

    def __str__(self) -> str:
        return f"best {self.count}"


@dataclass(frozen=True)
class SelectedBlocks(Pattern):
    """A query sees ``count`` blocks of ``block`` rows: its own up to itself, and the best others.

    MoBA (arXiv 2502.13189) takes the block that a query is in always; a cache of pages
    from which the best are taken (Quest, arXiv 2406.10774) has its newest page open.
    Blocks are read whole.
    """

    block: Expr
    count: Expr

    @property
    def compact(self) -> bool:
        return True

    @property
    def indexed(self) -> bool:
        return True

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        """``p − b·max(⌈p/b⌉ − n, 0)`` of position ``p``."""
        beyond = steps(q, rows, self.block, self.count) - q * self.count
        return rising(q, rows) - self.block * beyond

    def dense(self, q: Expr, rows: Expr) -> Expr:
        return q * least(rows, self.count * self.block)

    def keys(self, q: Expr, rows: Expr) -> Expr:
        return least(rows, q * self.count * self.block)

    def __str__(self) -> str:
        return f"best {self.count} blocks of {self.block}"


@dataclass(frozen=True)
class Summaries(Pattern):
    """A query sees one row for each block of ``block`` positions up to its own.

    The keys at hand are those rows: of whole blocks (pooled keys), or of the block that
    is being filled as well (``begun``).

    Attributes:
        block: positions that one row is made of.
        context: positions of the sequence, new ones included.
        begun: the newest block counts before it is full.
    """

    block: Expr
    context: Expr = T
    begun: bool = False

    @property
    def compact(self) -> bool:
        return True

    def rows(self, context: Expr) -> Expr:
        """Rows of ``context`` positions: ``⌈t/b⌉``, or ``⌊t/b⌋ = ⌈(t + 1)/b⌉ − 1``."""
        if self.begun:
            return ceiling(context / self.block)
        return ceiling((context + 1) / self.block) - 1

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        if self.begun:
            return steps(q, self.context, self.block)
        return steps(q, self.context + 1, self.block) - q

    def __str__(self) -> str:
        return f"one row per {self.block}"
