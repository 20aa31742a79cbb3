"""Slots of a memory that are written from the text (Memformer)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.ops.pattern.base import Pattern


@dataclass(frozen=True)
class Slots(Pattern):
    """A slot sees itself and all rows of a text, and no other slot (Memformer, arXiv 2010.06891).

    The keys at hand are ``count`` slots and the rows behind them.
    """

    causal: ClassVar[bool] = False

    count: Expr

    @property
    def compact(self) -> bool:
        return True

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        return q * (rows - self.count + Integer(1))

    def branched(self, levels: tuple[tuple[Expr, Expr], ...]) -> Pattern:
        return self

    def __str__(self) -> str:
        return f"itself, and all behind {self.count} slots"
