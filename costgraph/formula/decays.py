"""Quotients of powers ``r^x`` over one denominator: what is left has no cancellations to enclose.

Tokens that wait for others bring expectations such as ``(3/4)^B / (1 − (3/8)^B)``. A difference
of them may vanish faster than each part, so that no number of digits encloses its sign.
"""

from __future__ import annotations

from sympy import (
    Add,
    Dummy,
    Expr,
    Mul,
    Poly,
    PolynomialError,
    Pow,
    Rational,
    Symbol,
    cancel,
    factorint,
    fraction,
)

from costgraph.errors import InputError
from costgraph.formula.isolate import sign_at, sign_changes


def without_fractions(expr: Expr, x: Symbol, lower: Expr, upper: Expr) -> Expr:
    """An expression of the same sign between two bounds with no ``r^x`` in a denominator.

    ``expr`` itself where it has none, where its powers are no ``r^(k·x)`` with rational ``r``
    and integer ``k``, or where the denominator changes its sign.
    """
    if not any(p.exp.is_negative and p.base.is_Add and p.has(x) for p in expr.atoms(Pow)):
        return expr
    primes: dict[int, Dummy] = {}
    named: dict[Expr, Expr] = {}
    for power in expr.atoms(Pow):
        if not power.exp.has(x):
            continue
        times = power.exp / x
        if not (power.base.is_Rational and power.base > 0 and times.is_Integer):
            return expr
        named[power] = Mul(
            *(
                primes.setdefault(p, Dummy(positive=True)) ** (k * times)
                for p, k in _factors(power.base).items()
            )
        )
    try:
        top, bottom = (_back(f, x, primes) for f in fraction(cancel(expr.xreplace(named))))
        side = _only_sign(bottom, x, lower, upper)
    except (PolynomialError, InputError):
        return expr
    return top * side if side else expr


def _only_sign(expr: Expr, x: Symbol, lower: Expr, upper: Expr) -> int:
    """The sign that an expression keeps between two bounds; 0 if it changes or is not told."""
    if sign_changes(expr, x, lower, upper):
        return 0
    inside = lower + 1 if upper.is_infinite else (lower + upper) / 2
    return sign_at(expr, x, Rational(str(inside.evalf(30))))


def _factors(number: Rational) -> dict[int, int]:
    found = dict(factorint(number.p))
    for prime, power in factorint(number.q).items():
        found[prime] = found.get(prime, 0) - power
    return {p: k for p, k in found.items() if p != 1}


def _back(polynomial: Expr, x: Symbol, primes: dict[int, Dummy]) -> Expr:
    """The polynomial with ``p^x`` for the names, times a power that leaves none that grows."""
    made = Poly(polynomial, x, *primes.values())
    terms = []
    for (degree, *powers), coefficient in made.terms():
        base = Mul(*(Rational(p) ** k for p, k in zip(primes, powers, strict=True)))
        terms.append((coefficient * x**degree, base))
    largest = max(base for _, base in terms)
    return Add(*(c * (base / largest) ** x for c, base in terms))
