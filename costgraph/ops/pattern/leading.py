"""Attention in both directions among the first positions, and forwards behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr

from costgraph.ops.pattern.base import CAUSAL, Pattern


@dataclass(frozen=True)
class Leading(Pattern):
    """The first ``front`` positions see one another; each later one sees itself and all before.

    ``n`` positions at once: the pairs of causal attention, and the other half of those in front.
    """

    causal: ClassVar[bool] = False

    front: Expr

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        return CAUSAL.pairs(q, rows) + self.front * (self.front - 1) / 2

    def __str__(self) -> str:
        return f"the first {self.front} in both directions, causal behind"
