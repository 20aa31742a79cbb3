"""Attention in both directions within a distance, with what is seen from everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer, Min, floor

from costgraph.ops.pattern.base import Pattern
from costgraph.symbols import T

ZERO = Integer(0)


def near(q: Expr, reach: Expr) -> Expr:
    """Pairs at most ``reach`` apart among ``q`` positions: ``q + 2·Σ min(i, reach)``."""
    inner = Min(q, reach + 1)
    return q + inner * (inner - 1) + 2 * (q - inner) * reach


@dataclass(frozen=True)
class Band(Pattern):
    """Positions at most ``reach`` apart see each other; as many keys as queries.

    Attributes:
        reach: the greatest distance of a pair.
        wide: positions, the first ones, that see all and are seen by all (Longformer,
            arXiv 2004.05150; ETC, arXiv 2004.08483).
    """

    causal: ClassVar[bool] = False
    square: ClassVar[bool] = True

    reach: Expr
    wide: Expr = ZERO

    @property
    def compact(self) -> bool:
        return True

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        """The local pairs of the others, and ``2gn − g²`` of ``g`` global positions."""
        if self.wide == 0:
            return near(q, self.reach)
        most = Min(q, self.wide)
        return near(q - most, self.reach) + 2 * most * q - most**2

    def branched(self, levels: tuple[tuple[Expr, Expr], ...], context: Expr = T) -> Pattern:
        return self

    def __str__(self) -> str:
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

    def branched(self, levels: tuple[tuple[Expr, Expr], ...], context: Expr = T) -> Pattern:
        return self

    def __str__(self) -> str:
        return f"within {self.reach} both ways + means of {self.block}"
