"""Sliding windows, with or without sinks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer, ceiling, floor

from costgraph.formula.least import least
from costgraph.ops.pattern.base import CAUSAL, InContext, Pattern
from costgraph.ops.pattern.stairs import clipped


@dataclass(frozen=True)
class Window(InContext):
    """A position sees itself and the ``size − 1`` before it.

    A step finds only what one of its queries can still see: ``Min(T, W + q − 1)`` rows.
    The last ``Min(T, W)`` stay. ``sinks`` first positions stay as well and are seen by
    all (StreamingLLM, arXiv 2309.17453; LM-Infinite, arXiv 2308.16137): every count is
    that of a window ``W + sinks`` wide.
    """

    drops: ClassVar[bool] = True

    size: Expr
    sinks: Expr = Integer(0)

    @property
    def width(self) -> Expr:
        """The most positions that one sees."""
        return self.size + self.sinks

    def pairs(self, q: Expr, rows: Expr) -> Expr:
        """Position ``p`` sees ``Min(p, W)``, whether rows beyond the window are counted or not."""
        return clipped(q, rows, self.width)

    def seen(self, q: Expr, context: Expr) -> Expr:
        return least(context, self.width + q - 1)

    def keys(self, q: Expr, rows: Expr) -> Expr:
        return self.seen(q, rows)

    def tiled(self, q: Expr, rows: Expr, block: Expr) -> Expr:
        """A block that ends at position ``e`` reads ``Min(e, W + p − 1)`` keys.

        Sinks are read by every block.
        """
        blocks = ceiling(q / block)
        # Blocks before the last end at r + p, r + 2p, …; the first `rising` of them
        # end within what a window and a block reach.
        before, reach = rows - q, self.width + block - 1
        rising = least(blocks - 1, 1 + floor((self.width - 1 - before) / block))
        last = least(rows, self.width + q - (blocks - 1) * block - 1)
        return (
            rising * before
            + block * rising * (rising + 1) / 2
            + (blocks - 1 - rising) * reach
            + last
        )

    def kept(self, rows: Expr) -> Expr:
        return least(rows, self.width)

    def written(self, q: Expr) -> Expr:
        """Earlier rows of a long prefill are seen by its own queries alone."""
        return least(q, self.width)

    def __str__(self) -> str:
        return f"window {self.size}" + (f" + {self.sinks} sinks" if self.sinks != 0 else "")


def sliding(size: Expr | None) -> Pattern:
    """A window of ``size`` positions; the whole context without a size."""
    return CAUSAL if size is None else Window(size)
