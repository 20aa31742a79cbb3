"""Segments with a memory whose oldest positions are compressed."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer, Max, ceiling

from costgraph.ops.pattern.chunks import Segments
from costgraph.ops.pattern.stairs import steps

ONE = Integer(1)


@dataclass(frozen=True)
class Compressed(Segments):
    """As :class:`Segments`; ``older`` ones behind are seen as a row for each ``share`` positions.

    Compressive Transformer (arXiv 1911.05507). Segments are compressed as they leave the
    memory of whole ones; what leaves the other is lost.

    Attributes:
        older: segments that are kept compressed.
        share: positions that become one row; ``size`` is a multiple of it.
        by: how they do.
    """

    older: Expr = ONE
    share: Expr = ONE
    by: str = "mean"

    @property
    def merging(self) -> str:
        return self.by

    @property
    def into_one(self) -> Expr:
        return self.share

    @property
    def each(self) -> Expr:
        """Rows that a segment becomes."""
        return self.size / self.share

    @property
    def _ends(self) -> tuple[Expr, Expr]:
        """From how many segments on one is compressed, and one is lost."""
        near = self.before + 1
        return near, near + self.older

    def begun(self, context: Expr, least: Expr) -> Expr:
        """Segments at ``context`` positions beyond the ``least`` first ones."""
        return ceiling(Max(context, least * self.size) / self.size) - least

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        """Segments' own, and ``s/c·(max(k − n, 0) − max(k − n − m, 0))`` in segment ``k``."""
        near, far = (steps(q, self.context, self.size, n) - q * n for n in self._ends)
        return super().pairs(q, rows) + self.each * (near - far)

    def seen(self, q: Expr, context: Expr) -> Expr:
        near, far = self._ends
        found = self.begun(context, near) - self.begun(context - q + 1, far)
        return super().seen(q, context) + self.each * found

    def kept(self, rows: Expr) -> Expr:
        near, far = (self.begun(self.context, n) for n in self._ends)
        return super().kept(rows) + self.each * (near - far)

    def made(self, q: Expr) -> Expr:
        """Rows of the segments that ``q`` new positions push out."""
        near, _ = self._ends
        return self.each * (self.begun(self.context, near) - self.begun(self.context - q, near))

    def __str__(self) -> str:
        return f"{super().__str__()}, {self.older} at {self.share} to one"
