"""Stretches of a symbol on which an expression keeps its sign."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from sympy import Expr, Integer, Pow, Symbol, fraction, nan, oo, together, zoo

from costgraph.errors import InputError
from costgraph.formula.decays import without_fractions
from costgraph.formula.envelope import dominates
from costgraph.formula.isolate import sign_at, sign_changes
from costgraph.formula.ladder import as_poly, ordered, positive_roots
from costgraph.formula.polynomials import rationalized
from costgraph.formula.powers import has_norm, placed
from costgraph.formula.reals import inside
from costgraph.formula.regimes import Regime, Regimes
from costgraph.formula.rounded import rounds, sign_stretches
from costgraph.formula.signs import Judge, UndecidedError

ZERO = Integer(0)
#: Stairs of which each is asked on which side of zero it is.
MOST_STAIRS = 200


@dataclass(frozen=True)
class Stretch:
    """``lower < x < upper``: the sign of ``expr`` there is ``sign``.

    None where that changes from stair to stair of a length that rounds.
    """

    lower: Expr
    upper: Expr
    sign: int | None
    expr: Expr


def stretches(found: Regimes, judge: Judge) -> Iterator[Stretch]:
    """Every regime cut at the zeros of its expression, in order.

    Raises:
        UndecidedError: the order depends on symbols without a value.
        InputError: the zeros can be neither solved for nor enclosed.
    """
    x = found.symbol
    for piece in _forms(found):
        if rounds(piece.expr, x):
            for part in sign_stretches(piece.expr, x, piece.lower, piece.upper, MOST_STAIRS):
                yield Stretch(part.lower, part.upper, part.sign, piece.expr)
            continue
        tested, zeros, smooth = _zeros(piece, x, judge)
        cuts = [
            r
            for r in zeros
            if judge.sign(r - piece.lower) > 0
            and (piece.upper == oo or judge.sign(r - piece.upper) < 0)
        ]
        for lower, upper in pairwise([piece.lower, *ordered(set(cuts), judge), piece.upper]):
            at = between(lower, upper)
            # Exact values of powers have a million digits.
            sign = sign_at(tested, x, at) if smooth else judge.sign(placed(tested, {x: at}))
            yield Stretch(lower, upper, sign, piece.expr)


def sign_on(part: Stretch, at: Expr, x: Symbol, judge: Judge) -> int:
    """The sign of a stretch's expression at one of its ends; 0 where it is zero or not known."""
    if at.is_infinite:
        return 0
    if is_smooth(part.expr, x):
        return sign_at(part.expr, x, at) if at.is_Rational else 0
    value = placed(part.expr, {x: at})
    if value.has(zoo, nan):  # a rate of zero
        return 0
    try:
        return judge.sign(value)
    except UndecidedError:
        return 0


def between(lower: Expr, upper: Expr) -> Expr:
    """A value strictly inside an interval, rational where the ends are numbers."""
    if lower.is_number and (upper == oo or upper.is_number):
        return inside(lower, upper)
    return lower + 1 if upper == oo else (lower + upper) / 2


def _forms(found: Regimes) -> Iterator[Regime]:
    """The regimes, neighbours of one form (norms) as one."""
    whole: Regime | None = None
    for piece in found:
        if whole is not None and whole.expr == piece.expr:
            whole = replace(whole, upper=piece.upper)
            continue
        if whole is not None:
            yield whole
        whole = piece
    if whole is not None:
        yield whole


def _zeros(piece: Regime, x: Symbol, judge: Judge) -> tuple[Expr, list[Expr], bool]:
    """An expression of the same sign, where it may change, and if that was enclosed."""
    # Norms, and shares that vanish: over one denominator 2^-x would become a power that grows
    # beyond all numbers.
    if is_smooth(piece.expr, x):
        shown = without_fractions(piece.expr, x, piece.lower, piece.upper)
        return shown, list(sign_changes(shown, x, piece.lower, piece.upper)), True
    try:
        poly = as_poly(piece.expr, x, piece.lower, piece.upper)
    except InputError:
        return _other_zeros(piece, x, judge)
    return poly.as_expr(), positive_roots(poly, judge), False


def is_smooth(expr: Expr, x: Symbol) -> bool:
    """True for norms and powers of the symbol: signs are enclosed, never solved for."""
    return has_norm(expr) or any(p.exp.has(x) for p in expr.atoms(Pow))


def _other_zeros(piece: Regime, x: Symbol, judge: Judge) -> tuple[Expr, list[Expr], bool]:
    """Of a quotient, whose sign is that of a product; else enclosed numerically."""
    top, bottom = fraction(together(rationalized(piece.expr)))
    if bottom.has(x):
        if dominates(ZERO, bottom):
            top = -top
        elif not dominates(bottom, ZERO):
            top = top * bottom
    try:
        poly = as_poly(top, x, piece.lower, piece.upper)
    except InputError:
        return top, list(sign_changes(top, x, piece.lower, piece.upper)), True
    return poly.as_expr(), positive_roots(poly, judge), False
