"""How rows are dealt out, and how bands of rows compare where shares are symbols."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from sympy import Expr, Integer, Rational, Symbol, expand, floor

from costgraph.errors import PipelineError
from costgraph.formula.terms import Limit
from costgraph.passes.spatial.rows import Interval, Window

ZERO, HALF = Integer(0), Rational(1, 2)
#: Where shares that are symbols are taken to lie while bands are put in order.
SAMPLE = Rational(1, 4)
WHY = "bands of rows keep their order, and each has what its neighbours need of it"


@dataclass(frozen=True)
class Cuts:
    """Where the rows of every layer are cut, as shares of them: whole rows for numbers.

    Attributes:
        at: shares of the rows before each cut, in order.
    """

    at: tuple[Expr, ...]

    def bands(self, rows: Expr) -> tuple[Interval, ...]:
        """The rows of each part. A part with a share has a row where there are enough."""
        ends = [ZERO, *(self._whole(c * rows) for c in self.at), rows]
        shares = [ZERO, *self.at, Integer(1)]
        for i in range(1, len(ends) - 1):
            empty = ends[i + 1] == ends[i] and shares[i + 1] != shares[i]
            if empty and i + 1 < len(ends) - 1 and ends[i + 1] < rows - 1:
                ends[i + 1] += 1
        return tuple(pairwise(ends))

    @staticmethod
    def _whole(rows: Expr) -> Expr:
        return floor(rows + HALF) if rows.is_number else expand(rows)


@dataclass
class Order:
    """Puts row numbers in order; of symbols as they lie at a sample, with what that rests on.

    Attributes:
        least, most: bounds of symbols that comparisons rest on.
    """

    least: dict[Symbol, Expr] = field(default_factory=dict)
    most: dict[Symbol, Expr] = field(default_factory=dict)

    def at_most(self, a: Expr, b: Expr) -> bool:
        """Whether ``a <= b``.

        Raises:
            PipelineError: sizes do not divide so that this is a bound of one share.
        """
        room = expand(b - a)
        if room.is_number:
            return bool(room >= 0)
        symbols = sorted(room.free_symbols, key=str)
        holds = bool(room.xreplace(dict.fromkeys(symbols, SAMPLE)) >= 0)
        x, slope = symbols[0], room.diff(symbols[0])
        if len(symbols) > 1 or not slope.is_number:
            raise PipelineError("split-rows: one share may be a symbol: give the other a number")
        bound = -room.xreplace({x: ZERO}) / slope
        if (slope > 0) == holds:
            self.least[x] = max(self.least.get(x, bound), bound)
        else:
            self.most[x] = min(self.most.get(x, bound), bound)
        return holds

    def needs(self, window: Window, wanted: Interval, rows: Expr) -> Interval:
        """Rows of an operand with ``rows`` that some rows of the result need.

        Padding is nobody's: what is needed ends at the image.
        """
        first, last = window.reach(wanted)
        return (
            ZERO if self.at_most(first, ZERO) else first,
            last if self.at_most(last, rows) else rows,
        )

    def overlap(self, a: Interval, b: Interval) -> Interval | None:
        """The rows in both; None for none."""
        first = b[0] if self.at_most(a[0], b[0]) else a[0]
        last = a[1] if self.at_most(a[1], b[1]) else b[1]
        return None if self.at_most(last, first) else (first, last)

    def union(self, found: Iterable[Interval]) -> Interval:
        """The band that has all of some bands."""
        (first, last), *others = found
        for a, b in others:
            first = first if self.at_most(first, a) else a
            last = last if self.at_most(b, last) else b
        return first, last

    def without(self, whole: Interval, taken: Iterable[Interval]) -> tuple[Interval, ...]:
        """What is left of a band."""
        left = [whole]
        for piece in taken:
            rest: list[Interval] = []
            for band in left:
                both = self.overlap(band, piece)
                if both is None:
                    rest.append(band)
                    continue
                sides = ((band[0], both[0]), (both[1], band[1]))
                rest.extend(s for s in sides if not self.at_most(s[1], s[0]))
            left = rest
        return tuple(left)

    def limits(self) -> tuple[Limit, ...]:
        """What the comparisons so far rest on."""
        low = (Limit(b, x, WHY) for x, b in self.least.items() if b > 0)
        return (*low, *(Limit(x, b, WHY) for x, b in self.most.items() if b < 1))
