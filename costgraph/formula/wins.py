"""Where one formula is smaller than another: exact intervals of one symbol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from sympy import Expr, oo
from sympy.core.relational import Relational

from costgraph.errors import InputError
from costgraph.formula.formula import Formula, exact, only_formulas
from costgraph.formula.limits import start_of
from costgraph.formula.regimes import regimes
from costgraph.formula.signs import Judge
from costgraph.formula.stretches import stretches
from costgraph.symbols import symbol
from costgraph.views import view_text


@dataclass(frozen=True)
class Piece:
    """A stretch of an interval on which the difference is one polynomial.

    ``difference`` is ``b − a`` between ``lower`` and ``upper``: negative there.
    """

    lower: Expr
    upper: Expr
    difference: Expr


@dataclass(frozen=True)
class Interval:
    """Values of a symbol for which one formula is smaller than another.

    Attributes:
        lower, upper: bounds; exact numbers, closed forms, or infinity. At a
            finite positive bound the two formulas are equal.
        pieces: the difference on the interval, piece by piece.
        conditions: inequalities among other symbols that the answer rests on.
        over: the symbol.
        partly: it is smaller on some stairs of a length that rounds, and not on others; they
            are too many to name.
    """

    lower: Expr
    upper: Expr
    pieces: tuple[Piece, ...]
    conditions: tuple[Relational, ...] = ()
    over: str = field(default="x", compare=False)
    partly: bool = False

    @property
    def closed(self) -> bool:
        """Whether it is smaller at the lower end, too: where sizes begin, or stairs do."""
        first = self.pieces[0].difference.xreplace({symbol(self.over): self.lower})
        return bool(first.is_number and first < 0)

    @property
    def text(self) -> str:
        """As sentences tell it: ``3 < B < 17``."""
        lower, upper = (view_text("end_text", end) for end in (self.lower, self.upper))
        sign = "<=" if self.closed else "<"
        said = " (on some stairs)" if self.partly else ""
        return f"{lower} {sign} {self.over} < {upper}{said}"

    def __repr__(self) -> str:
        return f"<Interval {self.text}>"


def wins(
    a: Formula,
    b: Formula,
    /,
    over: str,
    at: Mapping[str, Any] | None = None,
    **values: Any,
) -> tuple[Interval, ...]:
    """The intervals of ``over`` in which ``b`` is smaller than ``a``, exactly.

    Where lengths round (chunks, blocks, pages) ends are those of whole values: the first
    that wins, the first that does not. Where it is one on some stairs and the other on
    others, and there are too many, the interval is ``partly``: outside of it all is certain.

    The difference of two formulas is piecewise polynomial; its pieces are its
    regimes, and its sign changes at the roots of each piece.

    Args:
        a, b: formulas of one unit.
        over: the symbol to vary: sizes from one, others from zero, to infinity.
        at: reference values that decide orders among symbols without a value;
            see :func:`costgraph.formula.regimes.regimes`.
        values: numbers for other symbols.

    Raises:
        UndecidedError: the answer depends on symbols without a value.
        InputError: they are no formulas, or not piecewise polynomial in ``over``.
    """
    only_formulas("wins", a, b)
    difference = b - a
    if not difference.terms:
        return ()
    x = symbol(over)
    if x not in (*a.symbols, *b.symbols):
        raise InputError(f"neither formula depends on {over}")
    if x not in difference.symbols:  # the same everywhere
        names = {s.name for s in difference.symbols}
        rest = difference.bind(**{k: v for k, v in values.items() if k in names}).expr
        judge = Judge({symbol(k): exact(v) for k, v in (at or {}).items()})
        if judge.sign(rest) >= 0:
            return ()
        start = start_of(x)
        whole = Piece(start, oo, rest)
        return (Interval(start, oo, (whole,), tuple(judge.conditions), over),)
    found = regimes(difference, over, at, **values)
    judge = Judge({symbol(k): exact(v) for k, v in (at or {}).items()}, list(found.conditions))
    made: list[Interval] = []
    for partly, group in groupby(stretches(found, judge), lambda part: part.sign is None):
        pieces = [
            Piece(part.lower, part.upper, part.expr)
            for part in group
            if part.sign is None or part.sign < 0
        ]
        made += _joined(pieces, tuple(judge.conditions), over, partly)
    return tuple(made)


def _joined(
    pieces: list[Piece], conditions: tuple[Relational, ...], over: str, partly: bool
) -> Iterator[Interval]:
    """Adjacent pieces as one interval: the difference is continuous across them."""
    group: list[Piece] = []

    def made() -> Interval:
        lower, upper = group[0].lower, group[-1].upper
        return Interval(lower, upper, tuple(group), conditions, over, partly)

    for piece in pieces:
        if group and group[-1].upper != piece.lower:
            yield made()
            group = []
        group.append(piece)
    if group:
        yield made()
