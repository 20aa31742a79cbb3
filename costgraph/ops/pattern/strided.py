"""Strided attention: what is near, and every so many positions further back."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, ceiling

from costgraph.formula.least import least
from costgraph.ops.pattern.base import InContext
from costgraph.ops.pattern.stairs import clipped, steps


@dataclass(frozen=True)
class Strided(InContext):
    """A position sees the last ``stride``, and of those before every ``stride``-th (back from it).

    Sparse Transformer (Child et al., arXiv 1904.10509), its two strided heads as one.
    Another query sees other positions: nothing leaves the cache, and a step of several
    queries reads at most what they would read apart.
    """

    stride: Expr

    @property
    def compact(self) -> bool:
        return True

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        """``Min(p, l) + ⌈p/l⌉ − 1`` of position ``p``."""
        return clipped(q, rows, self.stride) + steps(q, rows, self.stride) - q

    def keys(self, q: Expr, rows: Expr) -> Expr:
        return least(rows, q * (self.stride + ceiling(rows / self.stride) - 1))

    def __str__(self) -> str:
        return f"stride {self.stride}"
