"""Attention to a window and, in one softmax with it, to rows that earlier blocks became."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from sympy import Expr

from costgraph.formula.least import least
from costgraph.ops.pattern.base import InContext
from costgraph.ops.pattern.selected import Summaries
from costgraph.ops.pattern.stairs import steps
from costgraph.ops.pattern.windows import Window


@dataclass(frozen=True)
class WindowAndRows(InContext):
    """A query sees the last positions, and one row for each whole block before it.

    Keys are the window's rows and behind them those of all blocks. With a ``count`` it sees the
    best so many of the latter, which an index holds.

    Attributes:
        window: the last positions.
        of: the rows of blocks.
        count: most of them that a query sees, or None.
    """

    window: Window
    of: Summaries
    count: Expr | None = None

    def at(self, context: Expr) -> Self:
        window, of = self.window.at(context), self.of.at(context)
        return replace(self, window=window, of=of, context=context)

    @property
    def compact(self) -> bool:
        return True

    @property
    def indexed(self) -> bool:
        return self.count is not None

    def seen(self, q: Expr, context: Expr) -> Expr:
        return self.window.seen(q, context) + self.of.rows(context)

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        near = self.window.pairs(q, self.context)
        if self.count is None:
            return near + self.of.pairs(q, rows)
        # Σ Min(⌊p/m⌋, k) = Σ ⌈(p + 1)/m⌉ − Σ Max(⌈(p + 1)/m⌉, k + 1) + q·k
        block, end = self.of.block, self.context + 1
        beyond = steps(q, end, block, least=self.count + 1)
        return near + steps(q, end, block) - beyond + q * self.count

    def keys(self, q: Expr, rows: Expr) -> Expr:
        far = self.of.rows(self.context)
        near = self.window.seen(q, self.context)
        return near + (far if self.count is None else least(far, q * self.count))

    def __str__(self) -> str:
        best = "" if self.count is None else f"best {self.count} of "
        return f"{self.window} and {best}{self.of}"
