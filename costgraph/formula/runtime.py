"""Small functions that compiled formulas call."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

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


#: Bits up to which a power is kept exact.
EXACT_BITS = 65536


def power(base: Fraction, exponent: Number) -> Number:
    """``base ** exponent``, exact up to :data:`EXACT_BITS` bits.

    Beyond them a power of a base below one is its value in double precision, off
    by less than 1e-16 / (1 − base).
    """
    whole = isinstance(exponent, int) or exponent == int(exponent)
    if whole:
        exponent = int(exponent)
        if abs(base) >= 1 or exponent * base.denominator.bit_length() <= EXACT_BITS:
            return base**exponent
        return Fraction(float(base) ** exponent)
    return base**exponent


def sum_loop(lower: int, upper: int, f: Callable[[int], Number]) -> Number:
    """``Σ f(t)`` term by term, for summands without a closed form."""
    return sum(f(t) for t in range(lower, upper + 1))
