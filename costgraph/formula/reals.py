"""Exact real numbers: what orders them, and rational ones between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from sympy import Expr, Rational, floor, oo

#: Digits that numbers are ordered by.
DIGITS = 40


def number_key(value: Expr) -> Expr:
    """What orders exact numbers: themselves where rational, 40 digits otherwise."""
    return value if value.is_Rational else value.evalf(DIGITS)


def inside(lower: Expr, upper: Expr) -> Rational:
    """A rational number strictly between two numbers, well apart from ends that are enclosed."""
    if upper == oo:
        return Rational(floor(lower) + 2)
    middle = (lower + upper) / 2
    if middle.is_Rational:
        return Rational(middle)
    digits = 20
    while True:
        guess = Rational(str(middle.evalf(digits)))
        if lower < guess < upper:
            return guess
        digits *= 2


def parts(lower: Expr, upper: Expr, cuts: Iterable[Expr]) -> Iterator[tuple[Expr, Expr]]:
    """From one number to another in parts: those of the cuts that are between them divide it."""
    inner = sorted((c for c in cuts if lower < c < upper), key=number_key)
    return pairwise((lower, *inner, upper))
