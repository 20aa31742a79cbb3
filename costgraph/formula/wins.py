"""Where one formula is smaller than another: exact intervals of one symbol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import sympy
from sympy import Add, Expr, Integer, Poly, Rational, Symbol, oo

from costgraph.errors import InputError
from costgraph.formula.formula import Formula
from costgraph.formula.terms import Term
from costgraph.symbols import symbol


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
        lower, upper: bounds; exact numbers, or infinity. At a finite positive
            bound the two formulas are equal.
        pieces: the difference on the interval, piece by piece.
    """

    lower: Expr
    upper: Expr
    pieces: tuple[Piece, ...]


def wins(a: Formula, b: Formula, over: str, **values: Any) -> tuple[Interval, ...]:
    """The intervals of ``over`` in which ``b`` is smaller than ``a``, exactly.

    The difference of two formulas is piecewise polynomial; its pieces end where
    arms of a maximum cross, its sign changes at the roots of each piece. Both
    are computed exactly (rational where rational, algebraic otherwise).

    Args:
        a, b: formulas of one unit.
        over: the symbol to vary, from zero to infinity.
        values: a number for every other symbol.

    Raises:
        InputError: a symbol has no value, or the formulas are not piecewise
            polynomial in ``over``.
    """
    x = symbol(over)
    difference = b - a
    given = {s.name: s for s in difference.symbols if s != x}
    missing = sorted(set(given) - set(values))
    if missing:
        raise InputError(f"wins over {over}: no value for {', '.join(missing)}")
    bound = difference.bind(**{k: v for k, v in values.items() if k in given})
    cuts = [Integer(0), *breakpoints(bound.terms, x), oo]
    found: list[Piece] = []
    for lower, upper in pairwise(cuts):
        piece = _piece(bound.terms, x, _inside(lower, upper))
        found.extend(_negative(piece, x, lower, upper))
    return tuple(_joined(found))


def breakpoints(terms: tuple[Term, ...], x: Symbol) -> list[Expr]:
    """Positive values of ``x`` at which two arms of a maximum are equal, in order."""
    found: set[Expr] = set()
    for term in terms:
        if term.span is not None:
            raise InputError("a sum over contexts is not piecewise polynomial; bind N and S first")
        for i, first in enumerate(term.arms):
            for second in term.arms[i + 1 :]:
                found.update(_positive_roots(first.expr - second.expr, x))
    return sorted(found, key=_key)


def _key(value: Expr) -> Rational | Expr:
    return value if value.is_Rational else value.evalf(40)


def _positive_roots(expr: Expr, x: Symbol) -> list[Expr]:
    try:
        poly = Poly(expr, x)
    except sympy.PolynomialError:
        raise InputError(f"{expr} is not a polynomial in {x}") from None
    if poly.free_symbols - {x}:
        raise InputError(f"{expr} still depends on other symbols than {x}")
    if poly.is_zero:
        return []
    return [r for r in dict.fromkeys(poly.real_roots()) if r > 0]


def _inside(lower: Expr, upper: Expr) -> Rational:
    """A rational number strictly between two exact numbers."""
    if upper == oo:
        return Rational(sympy.floor(lower) + 1)
    middle = (lower + upper) / 2
    if middle.is_Rational:
        return Rational(middle)
    digits = 20
    while True:
        guess = Rational(str(middle.evalf(digits)))
        if lower < guess < upper:
            return guess
        digits *= 2


def _piece(terms: tuple[Term, ...], x: Symbol, at: Rational) -> Expr:
    """The polynomial that the terms are around ``x = at``."""
    parts = []
    for term in terms:
        best = max(term.arms, key=lambda arm: arm.expr.xreplace({x: at}))
        parts.append(term.count * best.expr)
    return sympy.expand(Add(*parts))


def _negative(piece: Expr, x: Symbol, lower: Expr, upper: Expr) -> Iterator[Piece]:
    inner = [r for r in _positive_roots(piece, x) if lower < r < upper]
    for start, end in pairwise([lower, *sorted(inner, key=_key), upper]):
        if piece.xreplace({x: _inside(start, end)}) < 0:
            yield Piece(start, end, piece)


def _joined(pieces: list[Piece]) -> Iterator[Interval]:
    """Adjacent pieces as one interval: the difference is continuous across them."""
    group: list[Piece] = []
    for piece in pieces:
        if group and group[-1].upper != piece.lower:
            yield Interval(group[0].lower, group[-1].upper, tuple(group))
            group = []
        group.append(piece)
    if group:
        yield Interval(group[0].lower, group[-1].upper, tuple(group))
