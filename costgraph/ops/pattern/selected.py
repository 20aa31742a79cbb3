"""What a query sees is chosen for it: rows, or blocks of rows, by scores of an index.

All rows stay in the cache; a query reads those that were chosen for it. How they are
scored and chosen is operations of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from sympy import Expr, Integer, ceiling

from costgraph.formula.least import least, most
from costgraph.ops.pattern.base import InContext, Pattern
from costgraph.ops.pattern.stairs import clipped, rising, steps


@dataclass(frozen=True)
class Selected(InContext):
    """A query sees the ``count`` best rows of those up to its own position.

    ``q`` queries read at most ``q`` times as many rows, and never more than there are:
    that bound is counted, as choices that have nothing in common would reach it.

    Attributes:
        count: rows that a query sees.
        apart: query heads that share a head of keys and choose each for itself.
    """

    count: Expr
    apart: Expr = Integer(1)

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
        return least(rows, q * self.apart * self.count)

    def __str__(self) -> str:
        return f"best {self.count}"


@dataclass(frozen=True)
class SelectedBlocks(InContext):
    """A query sees ``count`` blocks of ``block`` rows: its own up to itself, and the best others.

    MoBA (arXiv 2502.13189) takes the block that a query is in always; a cache of pages
    from which the best are taken (Quest, arXiv 2406.10774) has its newest page open.
    Blocks are read whole.

    Attributes:
        block, count: rows of a block, and blocks that a query sees.
        apart: query heads that share a head of keys and choose each for itself.
        over: blocks are chosen once they are over, and a query sees the rows behind the last
            of them beside those that it chose (Qwen4-Exp).
    """

    block: Expr
    count: Expr
    apart: Expr = Integer(1)
    over: bool = False

    @property
    def compact(self) -> bool:
        return True

    @property
    def indexed(self) -> bool:
        return True

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        """``p − b·max(⌈p/b⌉ − n, 0)`` of position ``p``; ``⌊p/b⌋ = ⌈(p + 1)/b⌉ − 1`` if over."""
        count, last = (self.count + 1, rows + 1) if self.over else (self.count, rows)
        beyond = steps(q, last, self.block, count) - q * count
        return rising(q, rows) - self.block * beyond

    @property
    def _most(self) -> Expr:
        """Rows that one query sees at the most."""
        return self.count * self.block + (self.block - 1 if self.over else 0)

    def dense(self, q: Expr, rows: Expr) -> Expr:
        return q * least(rows, self._most)

    def keys(self, q: Expr, rows: Expr) -> Expr:
        return least(rows, q * self.apart * self._most)

    def __str__(self) -> str:
        return f"best {self.count} blocks of {self.block}"


@dataclass(frozen=True)
class Summaries(InContext):
    """A query sees one row for each block of ``block`` positions up to its own.

    The keys at hand are those rows: of whole blocks (pooled keys), or of the block that
    is being filled as well (``begun``).

    Attributes:
        block: positions that one row is made of.
        begun: the newest block counts before it is full.
        stride: a whole block begins every so many positions, where blocks overlap (NSA,
            arXiv 2502.11089); None: where the one before it ends.
    """

    block: Expr
    begun: bool = False
    stride: Expr | None = None

    @property
    def compact(self) -> bool:
        return True

    @property
    def every(self) -> Expr:
        """From one block's first position to that of the next."""
        return self.block if self.stride is None else self.stride

    @property
    def _overlap(self) -> Expr:
        return self.block - self.every

    def rows(self, context: Expr) -> Expr:
        """Rows of ``context`` positions: ``⌈t/b⌉``, or ``⌊(t − o)/d⌋ = ⌈(t − o + 1)/d⌉ − 1``.

        Blocks begin every ``d`` positions and have ``o = b − d`` of them in common.
        """
        if self.begun:
            return ceiling(context / self.block)
        over = self._overlap
        first = context if over == 0 else most(context, over)
        return ceiling((first - over + 1) / self.every) - 1

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        if self.begun:
            return steps(q, self.context, self.block)
        over = self._overlap
        return steps(q, self.context - over + 1, self.every, early=over != 0) - q

    def __str__(self) -> str:
        every = "" if self.stride is None else f", every {self.stride}"
        return f"one row per {self.block}{every}"


@dataclass(frozen=True)
class Unfinished(Pattern):
    """Rows that blocks to come are made of (:class:`Summaries`): no query sees them.

    A step finds those behind the first position of the oldest block that was not over
    before it; fewer than a block stay.

    Attributes:
        of: the rows that blocks become.
    """

    drops: ClassVar[bool] = True

    of: Summaries

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        return Integer(0)

    def seen(self, q: Expr, context: Expr) -> Expr:
        return context - self.of.every * self.of.rows(context - q)

    def at(self, context: Expr) -> Self:
        return replace(self, of=self.of.at(context))

    def kept(self, rows: Expr) -> Expr:
        return least(self.of.context, self.of.block - 1)

    def written(self, q: Expr) -> Expr:
        return least(q, self.of.block - 1)

    def __str__(self) -> str:
        return f"what is not in {self.of} yet"
