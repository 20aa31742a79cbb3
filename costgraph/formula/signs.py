"""Signs of expressions: by proof, or at a reference point with the condition recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sympy import Expr, Gt, Lt, Symbol, factor, factor_list, fraction, sstr, together
from sympy.core.relational import Relational

from costgraph.errors import UnboundSymbolError, clip
from costgraph.formula.envelope import dominates
from costgraph.formula.powers import placed

#: Digits of a number that show its sign, and those that are tried where they cancel.
_DIGITS, _MOST_DIGITS = 15, 100


class UndecidedError(UnboundSymbolError):
    """An order that regimes rest on depends on symbols without a value."""


@dataclass
class Judge:
    """Decides signs; remembers what it had to assume.

    Attributes:
        point: reference values of symbols, used only where no proof is found.
        conditions: inequalities that hold at the point and were not proved.
    """

    point: Mapping[Symbol, Expr] = field(default_factory=dict)
    conditions: list[Relational] = field(default_factory=list)

    def sign(self, expr: Expr) -> int:
        """−1, 0 or 1.

        Raises:
            UndecidedError: there is no proof, and the point does not give values
                for all symbols; names the expression and the symbols.
        """
        if expr.is_number:
            return _number_sign(expr)
        top, bottom = fraction(together(expr))
        proved = _proved(top)
        below = _proved(bottom)
        if proved is not None and below is not None and below != 0:
            return proved * below
        missing = sorted(s.name for s in expr.free_symbols - set(self.point))
        if missing:
            raise UndecidedError(
                f"whether {clip(str(expr), 120)} is positive depends on {', '.join(missing)}: "
                "bind them, or give a reference point",
                missing,
            )
        value = _number_sign(placed(expr, self.point))
        if value != 0:
            self._assume(expr)
        return value

    def _assume(self, expr: Expr) -> None:
        """Records the signs of the unproved factors of an expression."""
        for part in fraction(factor(together(expr))):
            for base, exponent in factor_list(part)[1]:
                if exponent % 2 == 0 or _proved(base) is not None:
                    continue
                positive = _number_sign(placed(base, self.point)) > 0
                condition = Gt(base, 0) if positive else Lt(base, 0)
                if condition not in self.conditions:
                    self.conditions.append(condition)


def _number_sign(expr: Expr) -> int:
    """The sign of a number; 0 also where its first hundred digits cancel.

    Proofs that nested roots and logarithms cancel may never end.
    """
    if not expr.is_Rational:
        expr = expr.evalf(_DIGITS, maxn=_MOST_DIGITS)
        if expr.is_Float and expr._prec == 1:  # no digit is known: they cancel
            return 0
    return int(bool(expr > 0)) - int(bool(expr < 0))


def _proved(expr: Expr) -> int | None:
    """The sign if it is proved for all admissible symbols, else None."""
    from sympy import Integer

    if expr.is_number:
        return _number_sign(expr)
    zero = Integer(0)
    above, below = dominates(expr, zero), dominates(zero, expr)
    if above and below:
        return 0
    if above:
        return 1
    if below:
        return -1
    return None


def tightest(conditions: Iterable[Relational]) -> tuple[Relational, ...]:
    """The conditions without those that another one of the same ratio implies.

    ``a·x < b·y`` bounds the ratio ``x / y``; of several bounds on one ratio only
    the closest on either side says something.
    """
    kept: list[Relational] = []
    bounds: dict[tuple[Expr, Expr, bool], tuple[Expr, Relational]] = {}
    for condition in conditions:
        parts = condition.lhs.expand().as_coefficients_dict()
        above = [(m, c) for m, c in parts.items() if c > 0]
        below = [(m, -c) for m, c in parts.items() if c < 0]
        if len(above) != 1 or len(below) != 1:
            kept.append(condition)
            continue
        (x, p), (y, n) = above[0], below[0]
        smaller = isinstance(condition, Lt)  # x / y < n / p
        bound = n / p
        if sstr(y) < sstr(x):
            x, y, bound, smaller = y, x, 1 / bound, not smaller
        known = bounds.get((x, y, smaller))
        if known is None or (bound < known[0] if smaller else bound > known[0]):
            bounds[x, y, smaller] = (bound, condition)
    return (*kept, *(condition for _, condition in bounds.values()))
