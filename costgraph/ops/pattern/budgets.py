"""Caches that keep a part of what they are given, chosen by what attention has looked at."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.formula.least import least, most
from costgraph.ops.pattern.base import CAUSAL, InContext
from costgraph.symbols import S


@dataclass(frozen=True)
class Kept(InContext):
    """A cache keeps a part of its context, chosen behind a step.

    A step finds what is kept of the positions before it, and its own: new positions see
    each other as causal ones do. So a prompt that is read at once is read whole, and what
    is dropped is dropped behind it.
    """

    drops: ClassVar[bool] = True

    @abstractmethod
    def stays(self, context: Expr) -> Expr:
        """Rows that stay of ``context`` positions."""

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        return CAUSAL.pairs(q, rows)

    def seen(self, q: Expr, context: Expr) -> Expr:
        return self.stays(context - q) + q

    def tiled(self, q: Expr, rows: Expr, block: Expr) -> Expr:
        return CAUSAL.tiled(q, rows, block)

    def kept(self, rows: Expr) -> Expr:
        return self.stays(self.context)


@dataclass(frozen=True)
class Budget(Kept):
    """Of a context ``T`` a cache keeps ``Min(T, rows, ratio·T)`` rows per head.

    Shares of a row are means over heads or sequences. A step writes all of its rows: which
    are dropped is known once they have been attended.

    Attributes:
        ratio: share of the context that stays.
        most: rows that stay at the most, or None.
    """

    ratio: Expr
    most: Expr | None = None

    def stays(self, context: Expr) -> Expr:
        """Rows that stay of ``context`` positions."""
        share = self.ratio * context
        return share if self.most is None else least(share, self.most)

    def __str__(self) -> str:
        most = "" if self.most is None else f", at most {self.most} rows"
        return f"{self.ratio} of the context kept{most}"


@dataclass(frozen=True)
class Distilled(Kept):
    """Of a prompt ``S`` the ``count`` best rows stay, and all that come after it.

    Chosen once, behind the prompt, which attends to all of itself: ``t − max(min(t, S) −
    count, 0)`` of ``t`` positions (SnapKV, arXiv 2404.14469).

    Attributes:
        count: rows of the prompt that stay per head.
        prompt: its positions.
    """

    count: Expr
    prompt: Expr = S

    def stays(self, context: Expr) -> Expr:
        """Rows that stay of ``context`` positions."""
        return context - most(least(context, self.prompt) - self.count, Integer(0))

    def written(self, q: Expr) -> Expr:
        return least(q, self.count)

    def __str__(self) -> str:
        return f"best {self.count} of the prompt"
