"""Where one formula is as large as another is elsewhere: a student's length at equal time."""

from __future__ import annotations

from dataclasses import dataclass, field

from sympy import Expr, Integer, Poly, Symbol, oo, sqrt

from costgraph.errors import InputError, independent
from costgraph.formula.formula import Formula, only_formulas
from costgraph.formula.regimes import regimes
from costgraph.symbols import symbol

ZERO = Integer(0)


@dataclass(frozen=True)
class Even:
    """A stretch on which one expression says where the second formula is as large.

    Attributes:
        lower, upper: values of the symbol in the first formula for which it holds.
        expr: the value of the symbol in the second formula, exact, in that of the first.
        over: the symbol.
    """

    lower: Expr
    upper: Expr
    expr: Expr
    over: str = field(default="x", compare=False)

    def __repr__(self) -> str:
        return f"<Even {self.over}' = {self.expr} for {self.lower} <= {self.over} <= {self.upper}>"


def even(a: Formula, b: Formula, over: str) -> tuple[Even, ...]:
    """Where ``b`` is as large as ``a``: ``b(x') = a(x)`` solved for ``x'``, piece by piece.

    Of two latencies along ``N`` it says how many tokens a smaller model may generate in the
    time that a larger one takes for ``N``. Values of ``x`` for which no ``x'`` is a size that
    there is (from one on) are left out.

    Args:
        a, b: formulas of one unit, of no other symbol than ``over``: bind the others first.
        over: the symbol.

    Raises:
        InputError: they are no formulas, units differ, symbols are left, or one is not
            piecewise of degree two at most and growing.
    """
    only_formulas("even", a, b)
    if a.unit != b.unit:
        raise InputError(f"{a.name} in {a.unit} and {b.name} in {b.unit} cannot be equal")
    x = symbol(over)
    for formula in (a, b):
        rest = sorted(s.name for s in formula.symbols if s != x)
        if x not in formula.symbols:
            raise independent(formula.name, over, (s.name for s in formula.symbols))
        if rest:
            raise InputError(f"{formula.name} has other symbols, too: give {', '.join(rest)}")
    first, second = _pieces(a, x), _pieces(b, x)
    found = []
    for low, high, mine in first:
        for start, end, its in second:
            lower = _reach(mine, low, high, its(start))
            upper = high if end == oo else _reach(mine, low, high, its(end))
            if lower < upper:
                found.append(Even(lower, upper, _inverse(its, mine.as_expr()), over))
    return tuple(sorted(found, key=lambda e: float(e.lower)))


def _pieces(formula: Formula, x: Symbol) -> list[tuple[Expr, Expr, Poly]]:
    """(lower, upper, polynomial) of each regime.

    Raises:
        InputError: a regime is no polynomial of degree one or two that grows.
    """
    found = []
    for part in regimes(formula, x.name):
        poly = part.expr.as_poly(x)
        if poly is None or not 1 <= poly.degree() <= 2:
            raise InputError(f"{formula.name} is of no degree up to two in {x.name}")
        slope = poly.diff(x)
        if not slope(part.lower) > 0 or slope.LC() < 0:
            raise InputError(f"{formula.name} does not grow with {x.name} everywhere")
        found.append((part.lower, part.upper, poly))
    return found


def _reach(poly: Poly, low: Expr, high: Expr, value: Expr) -> Expr:
    """Where a polynomial that grows from ``low`` to ``high`` reaches a value, or the end."""
    if value <= poly(low):
        return low
    if high != oo and value >= poly(high):
        return high
    return _inverse(poly, value)


def _inverse(poly: Poly, value: Expr) -> Expr:
    """The larger root of ``poly = value``."""
    c, b, a = poly.coeff_monomial(poly.gen**2), poly.coeff_monomial(poly.gen), poly(0)
    if c == 0:
        return (value - a) / b
    middle = b / (2 * c)
    return sqrt((middle**2 + (value - a) / c).expand()) - middle
