"""Chunks that do not see each other, or only what lies just in front of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from sympy import Expr, Max, ceiling

from costgraph.formula.least import least
from costgraph.ops.pattern.base import InContext, Pattern
from costgraph.ops.pattern.stairs import rising, steps


@dataclass(frozen=True)
class Chunks(InContext):
    """A position sees its own chunk of ``size`` positions up to itself (Llama 4's local layers).

    The room for a chunk stays and is used again by the next: ``Min(T, size)`` rows.

    Attributes:
        size: positions of a chunk.
    """

    drops: ClassVar[bool] = True

    size: Expr

    def _whole(self, position: Expr) -> Expr:
        """Positions of chunks that are over before ``position``, counted from one."""
        return self.size * (ceiling(position / self.size) - 1)

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        """A position sees ``p − C·(⌈p/C⌉ − 1)``; rows of earlier chunks are not found."""
        return rising(q, rows) - self.size * (steps(q, rows, self.size) - q)

    def seen(self, q: Expr, context: Expr) -> Expr:
        return context - self._whole(context - q + 1)

    def kept(self, rows: Expr) -> Expr:
        return least(self.context, self.size)

    def written(self, q: Expr) -> Expr:
        return least(q, self.size)

    def __str__(self) -> str:
        return f"chunks of {self.size}"


@dataclass(frozen=True)
class Segments(InContext):
    """A position sees its own segment of ``size`` up to itself, and ``before`` whole ones in front.

    Transformer-XL (arXiv 1901.02860): the states of earlier segments are kept as a memory,
    here of whole segments. Without a memory it is :class:`Chunks`.

    Attributes:
        size: positions of a segment.
        before: segments of memory.
    """

    drops: ClassVar[bool] = True

    size: Expr
    before: Expr

    @property
    def width(self) -> Expr:
        """The most positions that one sees."""
        return self.size * (self.before + 1)

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        """A position sees ``p − s·max(⌈p/s⌉ − 1 − before, 0)``."""
        n = self.before + 1
        beyond = steps(q, self.context, self.size, n) - q * n
        return rising(q, self.context) - self.size * beyond

    def seen(self, q: Expr, context: Expr) -> Expr:
        gone = ceiling(Max(context - q + 1, self.width) / self.size) - self.before - 1
        return context - self.size * gone

    def kept(self, rows: Expr) -> Expr:
        return least(self.context, self.width)

    def written(self, q: Expr) -> Expr:
        return least(q, self.width)

    def __str__(self) -> str:
        return f"segments of {self.size}, {self.before} in front"


@dataclass(frozen=True)
class Fronted(Pattern):
    """``rows`` in front that every position sees beside what another pattern says.

    They take the place of what is lost: the memory tokens of a segment (RMT, arXiv
    2207.06881).

    Attributes:
        of: the pattern of the others, whose positions are counted without them.
        front: the rows.
    """

    drops: ClassVar[bool] = True

    of: Pattern
    front: Expr

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        return self.of.pairs(q, rows - self.front) + q * self.front

    def seen(self, q: Expr, context: Expr) -> Expr:
        return self.of.seen(q, context) + self.front

    @property
    def context(self) -> Expr:
        return self.of.context

    def at(self, context: Expr) -> Self:
        return replace(self, of=self.of.at(context))

    def kept(self, rows: Expr) -> Expr:
        return self.of.kept(rows - self.front) + self.front

    def written(self, q: Expr) -> Expr:
        return self.of.written(q)

    def __str__(self) -> str:
        return f"{self.of}, {self.front} rows in front"
