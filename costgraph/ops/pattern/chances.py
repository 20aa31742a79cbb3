"""Patterns of steps whose sequences bring one of two numbers of positions, by chance."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr

from costgraph.ops.pattern.base import ONE, Around


@dataclass(frozen=True)
class Hit(Around):
    """What sequences see that bring ``few`` new positions with a chance, and else ``many``.

    ``q`` of the step is the mean of both: what grows by the position is exact so. Pairs are
    the mean of those of both, which is less than those of the mean.

    Attributes:
        of: the pattern of each sequence; all that it finds is the context either way.
        chance: of ``few``.
        few, many: new positions.
    """

    chance: Expr
    few: Expr
    many: Expr

    def _mean(self, few: Expr, many: Expr) -> Expr:
        return self.chance * few + (ONE - self.chance) * many

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        return self._mean(self.of.pairs(self.few, rows), self.of.pairs(self.many, rows))

    def tiled(self, q: Expr, rows: Expr, block: Expr) -> Expr | None:
        few, many = (self.of.tiled(n, rows, block) for n in (self.few, self.many))
        return None if few is None or many is None else self._mean(few, many)

    def __str__(self) -> str:
        return f"{self.of}, {self.few} new with a chance of {self.chance}"
