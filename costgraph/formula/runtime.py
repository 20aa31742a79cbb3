"""Small functions that compiled formulas call."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from costgraph.errors import InputError
from costgraph.formula.quadrature import DIRECT, gauss, longest, rule

Number = Any  # int, float or Fraction: all of Python's exact and inexact reals


def sum_affine(lower: int, upper: int, a: Number, b: Number) -> Number:
    """``Σ (a + b·t)`` for ``t = lower … upper``; zero for an empty range."""
    n = upper - lower + 1
    if n <= 0:
        return 0
    return n * a + b * (n * (lower + upper) // 2)


def sum_max(lower: int, upper: int, arms: tuple[tuple[Number, Number], ...]) -> Number:
    """``Σ max_i (a_i + b_i·t)`` for ``t = lower … upper``, in constant time.

    Affine arms form a convex upper envelope: sorted by slope, arm ``i`` is the
    largest on one interval, bounded by its crossings with the others.
    """
    if upper < lower:
        return 0
    # The largest arm at `lower`; of equal ones the steepest, as it stays largest.
    total: Number = 0
    start = lower
    while start <= upper:
        a, b = max(arms, key=lambda arm: (arm[0] + arm[1] * start, arm[1]))
        end = upper
        for c, d in arms:
            if d > b:  # a steeper arm overtakes where a + b·t < c + d·t
                last = math.ceil((a - c) / (d - b)) - 1
                # Rounding may place the crossing at or before `start`, where the
                # arms are equal up to rounding: always advance.
                end = min(end, max(last, start))
        total = total + sum_affine(start, end, a, b)
        start = end + 1
    return total


def power(base: Number, exponent: Number) -> Number:
    """``base ** exponent`` of exact numbers; long ones rounded as in :mod:`.powers`."""
    whole = isinstance(exponent, int) or exponent == int(exponent)
    if not whole or isinstance(base, float):
        return base**exponent
    # Loaded here: most formulas have no powers.
    from costgraph.formula.powers import is_short, rounded

    base, exponent = Fraction(base), int(exponent)
    return base**exponent if is_short(base, Fraction(exponent)) else rounded(base, exponent)


#: Most terms that a sum without closed form is added up from.
MOST_TERMS = 1_000_000


def sum_loop(lower: int, upper: int, f: Callable[[int], Number]) -> Number:
    """``Σ f(t)`` term by term, for summands without a closed form.

    Raises:
        InputError: there are more than :data:`MOST_TERMS`.
    """
    if upper - lower >= MOST_TERMS:
        raise InputError(
            f"a sum of {upper - lower + 1} steps has no closed form here: at most {MOST_TERMS} "
            "are added up"
        )
    return sum(f(t) for t in range(lower, upper + 1))


def norm(p: float, *arms: Number) -> float:
    """``(Σ aᵖ)^(1/p)``, scaled by the largest arm so that powers never underflow."""
    top = max(arms)
    if not top > 0:
        return 0.0
    total: float = math.fsum((a / top) ** p for a in arms) ** (1 / p)
    return float(top) * total


def pair(p: float, root: float, a: Number, b: Number) -> Number:
    """``(aᵖ + bᵖ)^root`` with ``root = 1/p``: the norm of two arms."""
    if a < b:
        a, b = b, a
    return a * (1 + (b / a) ** p) ** root if a > 0 else 0.0


def sum_smooth(lower: int, upper: int, f: Callable[[Any], list[Number]]) -> Number:
    """``Σ f(t)`` for an ``f`` that is smooth in ``t``, by the rule of :mod:`.quadrature`.

    ``f`` takes several ``t`` and gives its values there. The time depends on
    ``upper/lower`` and hardly on the count.
    """
    known, start, total = rule(), lower, 0.0
    while start <= upper:
        n = min(upper - start + 1, longest(start))
        part: Number = None
        while part is None:
            if n <= DIRECT:
                part = sum(f(range(start, start + n)))
            else:
                half, center = n / 2, start + (n - 1) / 2
                part = known.total(f([center + half * x for x in known.nodes]), n)
            reached, n = start + n, n // 2
        total, start = total + part, reached
    return total


#: Relative agreement of a range with its halves.
_AGREE = 1e-11
_DIRECT = 64


def sum_pieces(lower: int, upper: int, f: Callable[[Any], Number]) -> Number:
    """``Σ f(t)`` for a continuous ``f`` that is smooth but for a few kinks.

    Maxima of chains of norms are such. A range counts as smooth where its sum by
    Euler–Maclaurin agrees with that of its halves to 1e-11; else it is halved, and short
    ones are added up. Nothing is evaluated beyond the ends of a range, where there may
    be a kink.
    """
    if upper - lower < _DIRECT:
        return sum_loop(lower, upper, f)
    middle = (lower + upper) // 2
    if upper - lower >= 4 * _DIRECT:
        whole = _euler(lower, upper, f)
        halves = _euler(lower, middle, f) + _euler(middle + 1, upper, f)
        if abs(whole - halves) <= _AGREE * abs(halves):
            return halves
    return sum_pieces(lower, middle, f) + sum_pieces(middle + 1, upper, f)


#: One-sided differences of five values: first derivative (over 12), third (over 2).
_FIRST = (-25, 48, -36, 16, -3)
_THIRD = (-5, 18, -24, 14, -3)


def _euler(a: int, b: int, f: Callable[[Any], Number]) -> Number:
    """``Σ f`` as ``∫ f`` from ``a`` to ``b`` with corrections at both ends."""
    first: Number = 0
    third: Number = 0
    for end, inwards in ((a, 1), (b, -1)):
        values = [f(end + inwards * i) for i in range(5)]
        # Seen from the upper end both derivatives change their sign: they subtract.
        first = first - math.fsum(c * v for c, v in zip(_FIRST, values, strict=True)) / 12
        third = third - math.fsum(c * v for c, v in zip(_THIRD, values, strict=True)) / 2
    inner = _gauss(a, b, f)
    return inner + (f(a) + f(b)) / 2 + first / 12 - third / 720


def _gauss(a: int, b: int, f: Callable[[Any], Number]) -> Number:
    center, half = (a + b) / 2, (b - a) / 2
    return half * math.fsum(w * f(center + half * x) for x, w in gauss(16))
