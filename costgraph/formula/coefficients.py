"""Polynomials as tables of coefficients, which are compared without being written out.

Most comparisons of :func:`costgraph.formula.envelope.dominates` are of such: amounts of work
and traffic over rates. Tables are added and multiplied exactly, each expression's once, where
sympy would expand every difference anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import cache, lru_cache
from typing import TypeAlias

from sympy import Expr, Symbol

from costgraph.symbols import SIZES, symbol

#: Symbols with their exponents, none of which is zero.
Monomial: TypeAlias = frozenset[tuple[Symbol, int]]
Table: TypeAlias = Mapping[Monomial, int | Fraction]

_ONE: Monomial = frozenset()
#: Products of tables and powers beyond these are left to sympy.
_MOST_PRODUCTS, _MOST_POWER = 512, 8


def covers(a: Expr, b: Expr) -> bool | None:
    """Whether no coefficient of ``a − b`` is negative once each size ``x`` is ``1 + x'``.

    None where one of them is no polynomial with rational coefficients in positive symbols.
    Symbols that are no sizes, as rates are, may stand below a line.
    """
    above, below = _moved(a), _moved(b)
    if above is None or below is None:
        return None
    return all(above.get(m, 0) >= c for m, c in below.items()) and all(
        c >= 0 for m, c in above.items() if m not in below
    )


@cache
def _sizes() -> frozenset[Symbol]:
    return frozenset(map(symbol, SIZES))


@lru_cache(maxsize=16384)
def _moved(expr: Expr) -> Table | None:
    """The coefficients of an expression whose sizes ``x`` are written as ``1 + x'``."""
    if isinstance(expr, Symbol):
        if not expr.is_positive:
            return None
        own = frozenset(((expr, 1),))
        return {own: 1, _ONE: 1} if expr in _sizes() else {own: 1}
    if expr.is_Rational:
        if expr.is_Integer:
            return {_ONE: int(expr)}
        return {_ONE: Fraction(int(expr.p), int(expr.q))}
    if expr.is_Pow:
        return _power(*expr.args)
    if not (expr.is_Add or expr.is_Mul):
        return None
    found: Table | None = None
    for arg in expr.args:
        part = _moved(arg)
        if part is None:
            return None
        if found is None:
            found = part
        elif expr.is_Add:
            found = _sum(found, part)
        elif (found := _product(found, part)) is None:
            return None
    return found


def _power(base: Expr, exponent: Expr) -> Table | None:
    if not exponent.is_Integer or abs(int(exponent)) > _MOST_POWER:
        return None
    if int(exponent) < 0:
        alone = isinstance(base, Symbol) and base.is_positive and base not in _sizes()
        return {frozenset(((base, int(exponent)),)): 1} if alone else None
    factor = _moved(base)
    found: Table | None = {_ONE: 1}
    for _ in range(int(exponent)):
        found = None if factor is None or found is None else _product(found, factor)
    return found


def _sum(one: Table, other: Table) -> Table:
    found = dict(one)
    for monomial, coefficient in other.items():
        found[monomial] = found.get(monomial, 0) + coefficient
    return found


def _product(one: Table, other: Table) -> Table | None:
    if len(one) * len(other) > _MOST_PRODUCTS:
        return None
    found: dict[Monomial, int | Fraction] = {}
    for m, c in one.items():
        for n, k in other.items():
            both = _times(m, n)
            found[both] = found.get(both, 0) + c * k
    return found


def _times(one: Monomial, other: Monomial) -> Monomial:
    if not one or not other:
        return one or other
    exponents = dict(one)
    for held, exponent in other:
        exponents[held] = exponents.get(held, 0) + exponent
    return frozenset((held, e) for held, e in exponents.items() if e)
