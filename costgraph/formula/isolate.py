"""Sign changes of smooth expressions that are no polynomials, enclosed with certainty.

Expected numbers of experts bring powers such as ``(31/32)**B``, calibrated formulas
norms with broken exponents: no closed form solves for ``B`` there. Interval arithmetic
encloses every sign change instead: a part of the axis on which the enclosure
excludes zero has none, a part on which that of the derivative does has at most one;
where neither does, the derivative may still keep the value in the middle from reaching zero.
Doubles are tried first, more digits where they leave a sign open.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import mpmath
from sympy import Add, Expr, Integer, Mul, Pow, Rational, Symbol, ceiling, floor, log, oo

from costgraph.errors import InputError, UnboundSymbolError, clip
from costgraph.formula.intervals import WHOLE, Interval, by_slope, enclosure

#: Beyond this no batch or length is meant.
FARTHEST = 2**40
#: Relative width of an enclosure.
PRECISION = Rational(1, 10**14)
#: Parts of a relative width above this are split before digits are spent on them.
WIDE = Rational(1, 10**9)
_TINY = 1e-280
_DIGITS = 30
_MOST_PARTS = 20_000


def sign_changes(expr: Expr, x: Symbol, lower: Expr, upper: Expr = oo) -> list[Rational]:
    """Values of ``x`` between two bounds at which ``expr`` changes its sign, in order.

    Each is given by a rational number within a relative 1e-14 of it. Values
    beyond 2⁴⁰ and points where the sign only touches zero are left out.

    Args:
        expr: built of numbers, ``x``, sums, products and powers.
        x: the only symbol.
        lower: positive.
        upper: above it.

    Raises:
        InputError: the expression has other symbols or functions.
    """
    if expr.free_symbols - {x}:
        names = sorted(s.name for s in expr.free_symbols - {x})
        what = f"{clip(str(expr), 120)} is not a polynomial in {x}: bind {', '.join(names)}"
        raise UnboundSymbolError(what, names)
    if expr == 0:
        return []
    curve, slope = _Curve(expr, x), None
    start = Rational(lower) if lower.is_Rational else Rational(str(lower.evalf(_DIGITS)))
    start = max(start, Rational(1, 10**9))
    found: list[Rational] = []
    todo = [(start, _end(upper))] if _end(upper) > start else []
    parts = 0
    while todo:
        a, b = todo.pop()
        parts += 1
        if parts > _MOST_PARTS:
            raise InputError(f"{clip(str(expr), 120)}: its sign changes cannot be separated")
        if curve.sign(a, b) != 0:
            continue
        slope = slope or _Curve(_derivative(expr, x), x)
        steepness = slope.over(a, b)
        if slope.sign(a, b, steepness) != 0:  # monotone: at most one
            root = _bisected(curve, a, b)
            if root is not None and root > lower and (upper == oo or root < upper):
                found.append(root)
            continue
        if curve.stays(a, b, steepness):
            continue
        if b - a <= PRECISION * a:
            continue  # a touch, or a change too close to another to matter
        # Split in the middle of the logarithms while the part is wide.
        middle = Rational(math.isqrt(int(a * b))) if b > 4 * a else (a + b) / 2
        if not a < middle < b:
            middle = (a + b) / 2
        todo += [(middle, b), (a, middle)]
    return sorted(found)


def _derivative(expr: Expr, x: Symbol) -> Expr:
    """The derivative along ``x``, of sums of many powers without questions about their signs."""
    if not expr.has(x):
        return Integer(0)
    if isinstance(expr, Add):
        return Add(*(_derivative(part, x) for part in expr.args))
    if isinstance(expr, Mul):
        whole, moving = expr.as_independent(x, as_Add=False)
        if not isinstance(moving, Mul):
            return whole * _derivative(moving, x)
    elif isinstance(expr, Pow) and expr.base.is_Rational:
        return expr * log(expr.base) * _derivative(expr.exp, x)
    return expr.diff(x)


def _end(upper: Expr) -> Rational:
    """A rational number at or just above ``upper``, and no farther than any is meant."""
    if upper == oo or upper > FARTHEST:
        return Rational(FARTHEST)
    if upper.is_Rational:
        return Rational(upper)
    return Rational(str(upper.evalf(_DIGITS))) * (1 + Rational(1, 10**20))


def sign_at(expr: Expr, x: Symbol, at: Rational) -> int:
    """The sign of ``expr`` at a number: proved, or 0 where it cannot be told from zero."""
    return _Curve(expr, x).sign(at, at)


class _Curve:
    """An expression along a symbol: the sign that it keeps over a part of the axis."""

    def __init__(self, expr: Expr, x: Symbol) -> None:
        self.expr, self.x = expr, x
        self._fast = enclosure(expr, x)

    def over(self, a: Rational, b: Rational) -> Interval:
        """All values on ``a … b``, enclosed in doubles."""
        return WHOLE if self._fast is None else self._fast(*_outside(a, b))

    def stays(self, a: Rational, b: Rational, steepness: Interval) -> bool:
        """True if its values in the middle and slopes on ``a … b`` keep it from zero there."""
        if self._fast is None:
            return False
        below, above = by_slope(self._fast, steepness, *_outside(a, b))
        return below > 0 or above < 0

    def sign(self, a: Rational, b: Rational, known: Interval | None = None) -> int:
        """−1 or 1 if proved for all of ``a … b``; 0 if not, or if it is zero.

        ``known`` is :meth:`over` there, where that was asked already.
        """
        below, above = known or self.over(a, b)
        if below > 0 or above < 0:
            return 1 if below > 0 else -1
        # More digits say no more about a wide part, unless doubles went out of range.
        if b - a > WIDE * a and -math.inf < below < -_TINY and _TINY < above < math.inf:
            return 0
        iv = _context()
        value = _enclosed(self.expr, self.x, iv.mpf([_number(iv, a).a, _number(iv, b).b]), iv)
        return int(value.a > 0) - int(value.b < 0)


def _outside(a: Rational, b: Rational) -> tuple[float, float]:
    """Doubles just outside of ``a … b``."""
    return math.nextafter(int(a.p) / int(a.q), 0), math.nextafter(int(b.p) / int(b.q), math.inf)


def _bisected(curve: _Curve, a: Rational, b: Rational) -> Rational | None:
    left, right = curve.sign(a, a), curve.sign(b, b)
    if left == 0:
        return a
    if right == 0:
        return b
    if left == right:
        return None
    while b - a > PRECISION * a:
        middle = (a + b) / 2
        middle = Rational(int(middle * 2**60), 2**60)
        if not a < middle < b:
            break
        side = curve.sign(middle, middle)
        if side == 0:
            return middle
        a, b = (middle, b) if side == left else (a, middle)
    return (a + b) / 2


@lru_cache(maxsize=1)
def _context() -> Any:
    """An interval context of its own: the library's global one stays as it is."""
    iv = mpmath.ctx_iv.MPIntervalContext()
    iv.dps = _DIGITS
    return iv


def _number(iv: Any, value: Expr) -> Any:
    return iv.mpf(int(value.p)) / iv.mpf(int(value.q))


def _enclosed(
    expr: Expr, x: Symbol, box: Any, iv: Any, known: dict[Expr, Any] | None = None
) -> Any:
    """An interval that contains every value of ``expr`` over the box.

    ``known`` holds those of its parts: a slope repeats most of them.
    """
    if expr == x:
        return box
    if expr.is_Rational:
        return _number(iv, expr)
    if expr.is_Float:  # the rational number that it is
        return _number(iv, Rational(expr))
    known = {} if known is None else known
    found = known.get(expr)
    if found is None:
        found = known[expr] = _composed(expr, x, box, iv, known)
    return found


def _composed(expr: Expr, x: Symbol, box: Any, iv: Any, known: dict[Expr, Any]) -> Any:
    if isinstance(expr, Add):
        total = iv.mpf(0)
        for part in expr.args:
            total += _enclosed(part, x, box, iv, known)
        return total
    if isinstance(expr, Mul):
        product = iv.mpf(1)
        for part in expr.args:
            product *= _enclosed(part, x, box, iv, known)
        return product
    if isinstance(expr, Pow):
        base = _enclosed(expr.base, x, box, iv, known)
        if isinstance(expr.exp, Integer):
            return base ** int(expr.exp)
        if base.a > 0:
            return iv.exp(_enclosed(expr.exp, x, box, iv, known) * iv.log(base))
        if base.b > 0:  # smaller boxes decide
            return iv.mpf(["-inf", "inf"])
    if expr.func.__name__ == "log" and len(expr.args) == 1:
        inner = _enclosed(expr.args[0], x, box, iv, known)
        if inner.a > 0:
            return iv.log(inner)
    if expr.func.__name__ == "exp" and len(expr.args) == 1:
        return iv.exp(_enclosed(expr.args[0], x, box, iv, known))
    hint = ": it rounds; ask solve_for for a budget, or local for the trend around a point"
    raise InputError(
        f"{clip(str(expr), 120)} is not a polynomial in {x}"
        + (hint if expr.has(ceiling, floor) else f": use evaluate at values of {x}, or solve_for")
    )
