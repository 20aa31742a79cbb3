"""Enclosures in double precision: fast, and wide enough for its rounding.

What :mod:`.isolate` asks first; where doubles leave a sign open, more digits decide.
Sums, products and quotients are rounded outwards by one unit in the last place,
powers, exponentials and logarithms by four: C libraries promise one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from sympy import Add, Expr, Integer, Mul, Pow, Rational, Symbol

Interval: TypeAlias = tuple[float, float]
#: An instruction: the intervals of its arguments to its own.
_Operation: TypeAlias = Callable[[Sequence[Interval]], Interval]

INF = math.inf
WHOLE: Interval = (-INF, INF)


def enclosure(expr: Expr, x: Symbol) -> Callable[[float, float], Interval] | None:
    """A function that encloses ``expr`` over ``lower … upper``; None if it cannot.

    ``expr`` is built of numbers, ``x``, sums, products, powers, ``exp`` and ``log``.
    Parts that occur several times are evaluated once.
    """
    places: dict[Expr, int] = {x: 0}
    steps: list[tuple[_Operation, tuple[int, ...]]] = []

    def place(e: Expr) -> int | None:
        if e in places:
            return places[e]
        made = _operation(e, x)
        if made is None:
            return None
        operation, arguments = made
        found = [place(a) for a in arguments]
        at = tuple(i for i in found if i is not None)
        if len(at) < len(found):
            return None
        steps.append((operation, at))
        places[e] = len(steps)
        return len(steps)

    last = place(expr)
    if last is None:
        return None

    def over(lower: float, upper: float) -> Interval:
        values: list[Interval] = [(lower, upper)]
        for operation, at in steps:
            try:
                low, high = operation([values[i] for i in at])
            except OverflowError:
                low, high = WHOLE
            values.append((low, high) if low <= high else WHOLE)  # also where either is NaN
        return values[last]

    return over


def by_slope(
    curve: Callable[[float, float], Interval], slope: Interval, lower: float, upper: float
) -> Interval:
    """Encloses a curve over a part by its value in the middle and its slope over the part.

    Closer than :func:`enclosure` on small parts, where what cancels between summands counts
    as much as they do there (the mean value theorem).
    """
    middle = lower + (upper - lower) / 2
    try:
        away = _sum(((lower, upper), (-middle, -middle)))
        return _sum((curve(middle, middle), _product((slope, away))))
    except OverflowError:
        return WHOLE


def _operation(e: Expr, x: Symbol) -> tuple[_Operation, tuple[Expr, ...]] | None:
    """How an expression follows from its arguments."""
    if e.is_Rational or e.is_Float:
        constant = _around(Rational(e))
        return None if constant is None else (lambda _: constant, ())
    if isinstance(e, Add):
        return _sum, e.args
    if isinstance(e, Mul):
        return _product, e.args
    if isinstance(e, Pow):
        if isinstance(e.exp, Integer):
            n = int(e.exp)
            return (lambda given: _whole_power(given[0], n)), (e.base,)
        return _power, (e.base, e.exp)
    if e.func.__name__ == "exp" and len(e.args) == 1:
        return (lambda given: _exp(given[0])), e.args
    if e.func.__name__ == "log" and len(e.args) == 1:
        return (lambda given: _log(given[0])), e.args
    return None


def _around(value: Rational) -> Interval | None:
    try:
        near = int(value.p) / int(value.q)
    except OverflowError:
        return None
    if Rational(near) == value:
        return near, near
    return _out(near, near)


def _out(low: float, high: float, units: int = 1) -> Interval:
    """Rounded outwards by units in the last place."""
    for _ in range(units):
        low, high = math.nextafter(low, -INF), math.nextafter(high, INF)
    return low, high


def _sum(given: Sequence[Interval]) -> Interval:
    lows, highs = zip(*given, strict=True)
    if -INF in lows or INF in highs:
        return (-INF if -INF in lows else sum(lows), INF if INF in highs else sum(highs))
    return _out(math.fsum(lows), math.fsum(highs))


def _product(given: Sequence[Interval]) -> Interval:
    low, high = given[0]
    for a, b in given[1:]:
        ends = (_times(low, a), _times(low, b), _times(high, a), _times(high, b))
        low, high = _out(min(ends), max(ends))
    return low, high


def _times(a: float, b: float) -> float:
    """A product in which zero annihilates an infinite end."""
    return 0.0 if a == 0 or b == 0 else a * b


def _whole_power(base: Interval, n: int) -> Interval:
    low, high = base
    if n < 0:
        if low <= 0 <= high:
            return WHOLE
        low, high = _out(1 / high, 1 / low)
        n = -n
    ends = (low**n, high**n)
    if n % 2 == 0 and low < 0 < high:
        return _out(0.0, max(ends), 4)
    return _out(min(ends), max(ends), 4)


def _power(given: Sequence[Interval]) -> Interval:
    base, exponent = given
    if base[0] <= 0:
        return WHOLE
    return _exp(_product((_log(base), exponent)))


def _exp(x: Interval) -> Interval:
    low, high = (0.0 if v == -INF else INF if v > 709 else math.exp(v) for v in x)
    low = min(low, 8e307)
    below, above = _out(low, high, 4)
    return max(below, 0.0), above


def _log(x: Interval) -> Interval:
    low, high = x
    if low <= 0:
        return WHOLE
    return _out(math.log(low), math.log(high) if high < INF else INF, 4)
