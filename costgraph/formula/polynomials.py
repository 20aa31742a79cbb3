"""Polynomials in one symbol with rational coefficients: signs and roots, decided exactly.

Expectations over an acceptance are such polynomials, with coefficients of both signs: no test
of coefficients proves that ``1 + 2a + 3a² − 4a³ + a⁴`` is positive on ``0 … 1``. Isolating
its real roots there does (continued fractions, Akritas and Strzeboński 2005).
"""

from __future__ import annotations

from math import gcd

from sympy import Expr, Float, Poly, Rational, oo

from costgraph.formula.isolate import PRECISION

#: Digits of rational numbers around irrational ends.
_DIGITS = 40
#: Largest degree of polynomials whose roots are kept as algebraic numbers: factors beyond
#: take too long to find, and their roots are enclosed.
_FACTORED = 64


def rationalized(expr: Expr) -> Expr:
    """An expression with the rational number that each float is: sums of floats lose digits."""
    return expr.xreplace({f: Rational(f) for f in expr.atoms(Float)})


def is_rational(poly: Poly) -> bool:
    """Whether all coefficients are rational numbers."""
    return bool(poly.is_univariate and (poly.domain.is_ZZ or poly.domain.is_QQ))


def kept_sign(poly: Poly, lower: Expr, upper: Expr) -> int:
    """The sign that a polynomial keeps strictly between two numbers.

    0 where it has a zero there, or is not rational. A zero within a relative 1e-38 of an
    irrational end counts as inside.
    """
    if not is_rational(poly) or poly.is_zero or not (lower.is_number and upper.is_number):
        return 0
    if poly.degree() > 0:
        low, high = _below(lower), None if upper == oo else -_below(-upper)
        for (a, b), _ in poly.intervals(inf=low, sup=high):
            if a != b or a not in (low, high):
                return 0
    at = lower + 1 if upper == oo else (lower + upper) / 2
    at = at if at.is_Rational else Rational(str(at.evalf(_DIGITS)))
    return 1 if poly(at) > 0 else -1


def _below(value: Expr) -> Rational:
    """A rational number at or just below another number."""
    if value.is_Rational:
        return Rational(value)
    near = Rational(str(value.evalf(_DIGITS)))
    return near - abs(near) / 10 ** (_DIGITS - 2)


def roots_above_zero(poly: Poly) -> list[Expr]:
    """The positive real roots of a rational polynomial, in ascending order.

    Exact: of ``p(x^k)`` they are the k-th roots of those of ``p``. Beyond a degree of 64 each
    is a rational number within a relative 1e-14, and zeros without a change of sign are left
    out.
    """
    step = gcd(*(degree for (degree,) in poly.monoms()))
    if step > 1:
        inner = Poly.from_dict({(d // step,): c for (d,), c in poly.terms()}, poly.gen)
        return [root ** Rational(1, step) for root in roots_above_zero(inner)]
    if poly.degree() > _FACTORED:
        isolated = poly.intervals(inf=0)
        return [_enclosed(poly, a, b) for (a, b), times in isolated if times % 2 and b > 0]
    return [r for r in dict.fromkeys(poly.real_roots()) if r > 0]


def _enclosed(poly: Poly, low: Rational, high: Rational) -> Rational:
    """The only root between two numbers, where the sign changes."""
    rising = poly(high) > 0 or poly(low) < 0
    while high - low > PRECISION * low:
        middle = (low + high) / 2
        value = poly(middle)
        if value == 0:
            return middle
        low, high = (low, middle) if (value > 0) == rising else (middle, high)
    return (low + high) / 2
