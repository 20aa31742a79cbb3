"""Where one formula is smaller than another: exact intervals of one symbol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from sympy import Expr, oo
from sympy.core.relational import Relational

from costgraph.errors import InputError
from costgraph.formula.formula import Formula, exact, only_formulas
from costgraph.formula.limits import domain_of
from costgraph.formula.regimes import refuse_given, regimes
from costgraph.formula.rounded import rounds
from costgraph.formula.signs import Judge
from costgraph.formula.stretches import Stretch, sign_on, stretches
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
        lower, upper: bounds; exact numbers, closed forms, or infinity. At one inside the
            symbol's range the two formulas are equal, or a stair begins.
        pieces: the difference on the interval, piece by piece.
        conditions: inequalities among other symbols that the answer rests on.
        over: the symbol.
        partly: it is smaller on some stairs of a length that rounds, and not on others; they
            are too many to name.
        closed: it is smaller at the lower end, too: where sizes begin, or stairs do.
        to_end: it is smaller at the upper end, too: the largest value that both have.
    """

    lower: Expr
    upper: Expr
    pieces: tuple[Piece, ...]
    conditions: tuple[Relational, ...] = ()
    over: str = field(default="x", compare=False)
    partly: bool = False
    closed: bool = False
    to_end: bool = False

    @property
    def text(self) -> str:
        """As sentences tell it: ``3 < B < 17``."""
        lower, upper = (view_text("end_text", end) for end in (self.lower, self.upper))
        first, last = ("<=" if held else "<" for held in (self.closed, self.to_end))
        said = " (on some stairs)" if self.partly else ""
        return f"{lower} {first} {self.over} {last} {upper}{said}"

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
    x = symbol(over)
    known = {s.name for s in (*a.symbols, *b.symbols)}
    if over not in known:
        raise InputError(f"neither formula depends on {over}")
    refuse_given(over, values)
    difference = b - a
    if not difference.terms:
        return ()
    # What cancels needs no value, and may have one.
    names = {s.name for s in difference.symbols}
    left = {k: v for k, v in values.items() if k in names or k not in known}
    point = {symbol(k): exact(v) for k, v in (at or {}).items()}
    if over in names:
        found = regimes(difference, over, at, **left)
        judge = Judge(point, list(found.conditions))
        parts = list(stretches(found, judge))
        first, last = found.pieces[0].lower, found.pieces[-1].upper
    else:  # the same everywhere
        difference.reject_unknown(left)
        rest = difference.bind(**{k: v for k, v in left.items() if k in names})
        first, end = domain_of(rest, x)
        last = oo if end is None else end
        judge = Judge(point)
        parts = [Stretch(first, last, judge.sign(rest.expr), rest.expr)]
    made: list[Interval] = []
    for partly, group in groupby(parts, lambda part: part.sign is None):
        for joined in _joined(part for part in group if part.sign is None or part.sign < 0):
            lower, upper = joined[0], joined[-1]
            made.append(
                Interval(
                    lower.lower,
                    upper.upper,
                    tuple(Piece(part.lower, part.upper, part.expr) for part in joined),
                    tuple(judge.conditions),
                    over,
                    partly,
                    closed=(lower.lower == first or rounds(lower.expr, x))
                    and sign_on(lower, lower.lower, x, judge) < 0,
                    to_end=upper.upper == last and sign_on(upper, last, x, judge) < 0,
                )
            )
    return tuple(made)


def _joined(parts: Iterable[Stretch]) -> Iterator[list[Stretch]]:
    """Adjacent stretches together: the difference is continuous across them."""
    group: list[Stretch] = []
    for part in parts:
        if group and group[-1].upper != part.lower:
            yield group
            group = []
        group.append(part)
    if group:
        yield group
