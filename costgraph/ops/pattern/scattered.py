"""Blocks that see their neighbours, both ends, and some blocks at random (BigBird)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Min, ceiling, floor

from costgraph.ops.pattern.base import Pattern


@dataclass(frozen=True)
class Scattered(Pattern):
    """A block sees itself, both beside it, the first, the last, and ``random`` others, as a whole.

    The first and the last block see all. Up to ``5 + 2·random`` blocks every position sees
    every other, as the published code has it. Source: Zaheer et al., arXiv 2007.14062.

    Attributes:
        block: positions of a block; the last may hold fewer.
        random: blocks at random that all but the first and the last see.
    """

    causal: ClassVar[bool] = False
    square: ClassVar[bool] = True

    block: Expr
    random: Expr

    @property
    def compact(self) -> bool:
        return True

    @property
    def whole(self) -> Expr:
        """The longest sequence of which all positions see all."""
        return (5 + 2 * self.random) * self.block

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        last = q - self.block * (ceiling(q / self.block) - 1)
        return self._chosen(q, q, last)

    def dense(self, q: Expr, rows: Expr) -> Expr:
        """The last block is filled up."""
        return self._chosen(q, self.block * ceiling(q / self.block), self.block)

    def _chosen(self, q: Expr, length: Expr, last: Expr) -> Expr:
        """All pairs of a short sequence, or those of ``length`` with ``last`` in its last block."""
        b, r = self.block, self.random
        blocks = ceiling(q / b)
        ends = (b + last) * length
        beside = 2 * b * ((3 + r) * b + last)
        inner = (blocks - 4) * b * ((4 + r) * b + last)
        long = Min(1, floor(q / (self.whole + 1)))  # 0 or 1
        return q**2 + long * (ends + beside + inner - q**2)

    def branched(self, levels: tuple[tuple[Expr, Expr], ...]) -> Pattern:
        return self

    def __str__(self) -> str:
        return f"blocks of {self.block}: neighbours, ends, {self.random} at random"
