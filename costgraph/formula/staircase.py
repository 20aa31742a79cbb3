"""Sums of staircases: expressions with ``ceiling(t / p)``, as paged caches bring."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer, Poly, Symbol, ceiling, expand, floor
from sympy.polys.polyerrors import PolynomialError

ZERO = Integer(0)


@dataclass(frozen=True)
class Staircase:
    """``flat + slope·t + rise·ceiling(t / period)``."""

    flat: Expr
    slope: Expr
    rise: Expr
    period: Expr


def staircase(expr: Expr, t: Symbol) -> Staircase | None:
    """``expr`` as a staircase in ``t``, or None if it is not one."""
    steps = [c for c in expr.atoms(ceiling) if t in c.free_symbols]
    if len(steps) != 1:
        return None
    period = expand(t / steps[0].args[0])
    if t in period.free_symbols:
        return None
    try:
        poly = Poly(expr, t, steps[0])
    except PolynomialError:
        return None
    found = dict(poly.terms())
    if any(sum(powers) > 1 for powers in found) or any(c.has(t, steps[0]) for c in found.values()):
        return None
    return Staircase(
        found.get((0, 0), ZERO), found.get((1, 0), ZERO), found.get((0, 1), ZERO), period
    )


def staircase_sum(expr: Expr, t: Symbol, lower: Expr, upper: Expr) -> Expr | None:
    """``Σ expr`` for ``t = lower … upper`` in closed form, or None.

    ``Σ ceiling(t/p)`` for ``t = 1 … n`` is ``p·m(m+1)/2 + (n − p·m)(m+1)`` with
    ``m = floor(n/p)`` full steps (``p`` a whole number).
    """
    found = staircase(expr, t)
    if found is None:
        return None

    def upto(n: Expr) -> Expr:
        m = floor(n / found.period)
        return found.period * m * (m + 1) / 2 + (n - found.period * m) * (m + 1)

    count = upper - lower + 1
    line = count * found.flat + found.slope * count * (lower + upper) / 2
    return line + found.rise * (upto(upper) - upto(lower - 1))
