"""Attention in both directions within a distance, with what is seen from everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer, Min, ceiling, floor

from costgraph.ops.pattern.base import Pattern

ZERO = Integer(0)


def near(q: Expr, reach: Expr) -> Expr:
    """Pairs at most ``reach`` apart among ``q`` positions: ``q + 2·Σ min(i, reach)``."""
    inner = Min(q, reach + 1)
    return q + inner * (inner - 1) + 2 * (q - inner) * reach


def beside(q: Expr, reach: Expr) -> Expr:
    """Pairs of a position and one behind it, at most ``reach`` apart: ``Σ min(i, reach)``."""
    inner = Min(q, reach + 1)
    return inner * (inner - 1) / 2 + (q - inner) * reach


def in_blocks(q: Expr, block: Expr) -> Expr:
    """Cells of ``q`` queries in blocks, each times its own block of keys and both beside it."""
    return ceiling(q / block) * 3 * block**2


@dataclass(frozen=True)
class Band(Pattern):
    """Positions at most ``reach`` apart see each other; as many keys as queries.

    Attributes:
        reach: the greatest distance of a pair.
        wide: positions, the first ones, that see all and are seen by all (Longformer,
            arXiv 2004.05150; ETC, arXiv 2004.08483).
        asked: False where what ``wide`` positions see is another operation's.
        block: where every pair is computed, blocks of so many queries against the keys of
            three blocks; None for all keys.
        ahead: how far ahead positions see where that is not ``reach``; none of them is wide then.
    """

    causal: ClassVar[bool] = False
    square: ClassVar[bool] = True

    reach: Expr
    wide: Expr = ZERO
    asked: bool = True
    block: Expr | None = None
    ahead: Expr | None = None

    @property
    def compact(self) -> bool:
        return True

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        """The local pairs of the others, and ``2gn − g²`` of ``g`` global positions.

        Of those that see all, ``gn`` are left out where they are not asked.
        """
        if self.ahead is not None:
            return q + beside(q, self.reach) + beside(q, self.ahead)
        if self.wide == 0:
            return near(q, self.reach)
        most = Min(q, self.wide)
        seen = most * q - most**2
        return near(q - most, self.reach) + (seen + most * q if self.asked else seen)

    def dense(self, q: Expr, rows: Expr) -> Expr:
        if self.block is None:
            return super().dense(q, rows)
        return in_blocks(q, self.block) + q * Min(q, self.wide) * (2 if self.asked else 1)

    def branched(self, levels: tuple[tuple[Expr, Expr], ...]) -> Pattern:
        return self

    def __str__(self) -> str:
        if self.ahead is not None:
            return f"within {self.reach} before and {self.ahead} ahead"
        wide = f" + {self.wide} global" if self.wide != 0 else ""
        return f"within {self.reach} both ways{wide}"


@dataclass(frozen=True)
class Pooled(Pattern):
    """A band, and the means of all blocks of ``block`` positions (LongT5, arXiv 2112.07916).

    A block that the sequence does not fill has none. The keys at hand are the positions
    and the means behind them; what the means cost to make is an operation of its own.
    """

    causal: ClassVar[bool] = False

    reach: Expr
    block: Expr

    @property
    def compact(self) -> bool:
        return True

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        return near(q, self.reach) + q * floor(q / self.block)

    def dense(self, q: Expr, rows: Expr) -> Expr:
        """Blocks of ``reach + 1`` queries against the keys of three blocks, and the means."""
        padded = ceiling(q / (self.reach + 1)) * (self.reach + 1)
        return in_blocks(q, self.reach + 1) + padded * floor(q / self.block)

    def branched(self, levels: tuple[tuple[Expr, Expr], ...]) -> Pattern:
        return self

    def __str__(self) -> str:
        return f"within {self.reach} both ways + means of {self.block}"


@dataclass(frozen=True)
class Sided(Pattern):
    """A band, and ``side`` rows besides that all positions see (ETC, arXiv 2004.08483).

    The keys at hand are the positions and those rows.
    """

    causal: ClassVar[bool] = False

    reach: Expr
    side: Expr

    @property
    def compact(self) -> bool:
        return True

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        return near(q, self.reach) + q * self.side

    def dense(self, q: Expr, rows: Expr) -> Expr:
        """Blocks of ``reach + 1`` queries against the keys of three blocks, and the rows."""
        block = self.reach + 1
        return in_blocks(q, block) + ceiling(q / block) * block * self.side

    def branched(self, levels: tuple[tuple[Expr, Expr], ...]) -> Pattern:
        return self

    def __str__(self) -> str:
        return f"within {self.reach} both ways + {self.side} rows"
