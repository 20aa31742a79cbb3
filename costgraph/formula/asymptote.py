"""What a formula tends to when one symbol grows without bound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy
from sympy import Add, Expr, Float, Integer, Mul, Symbol, fraction, together

from costgraph.errors import InputError, clip
from costgraph.formula.powers import has_norm
from costgraph.formula.regimes import regimes
from costgraph.formula.rounded import unrounded
from costgraph.views import view_text

if TYPE_CHECKING:
    from sympy.core.relational import Relational

    from costgraph.formula.formula import Formula


#: Powers closer than this differ by rounding.
_NEAR = 1e-9


@dataclass(frozen=True)
class Asymptote:
    """Behaviour for a large symbol ``x``: ``f ~ leading·x**order``.

    Attributes:
        symbol: ``x``.
        start: from here on ``expr`` is not only the limit but exact.
        expr: the formula beyond ``start``, without maxima; norms stay.
        order: power of ``x`` that dominates; 0 where the formula saturates.
        leading: coefficient of that power; the limit itself for order 0.
        bound: operations by the resource that bounds them there.
        conditions: inequalities the answer rests on; see ``Regimes``.
    """

    symbol: Symbol
    start: Expr
    expr: Expr
    order: int
    leading: Expr
    bound: Mapping[str, tuple[str, ...]]
    conditions: tuple[Relational, ...] = ()

    def __repr__(self) -> str:
        term = view_text("expr_text", self.leading * self.symbol**self.order)
        return f"<Asymptote {term} for large {self.symbol}>"


def asymptote(
    formula: Formula, over: str, at: Mapping[str, Any] | None = None, **values: Any
) -> Asymptote:
    """The behaviour of ``formula`` as the symbol ``over`` grows without bound.

    Arguments and errors as in :func:`costgraph.formula.regimes.regimes`.
    """
    found = regimes(formula, over, at, **values)
    x, last = found.symbol, found.pieces[-1]
    if last.upper != sympy.oo:
        raise InputError(f"{formula.name}: {x} ends at {last.upper}, so it has no limit in {x}")
    # A stair is its line, and a slack that does not grow.
    settled, slacks = unrounded(_settled(last.expr, x), x)
    if has_norm(settled):
        leading, power = _leading(settled, x)
        _check(formula, leading, slacks, x)
        start = next(p.lower for p in found.pieces if p.expr == last.expr)
        return Asymptote(x, start, last.expr, int(power), leading, last.bound, found.conditions)
    try:
        top, bottom = (sympy.Poly(p, x) for p in fraction(together(settled)))
    except sympy.PolynomialError:
        raise InputError(
            f"{formula.name}: no leading power of {x} in {clip(str(last.expr), 120)}: "
            f"use evaluate at a large {x}"
        ) from None
    leading = sympy.cancel(top.LC() / bottom.LC())
    _check(formula, leading, slacks, x)
    order = int(top.degree() - bottom.degree())
    return Asymptote(x, last.lower, last.expr, order, leading, last.bound, found.conditions)


def _check(formula: Formula, leading: Expr, slacks: Iterable[Symbol], x: Symbol) -> None:
    if leading.has(*slacks):
        raise InputError(f"{formula.name}: it rises and falls with every stair of {x} for good")


def _settled(expr: Expr, x: Symbol) -> Expr:
    """``expr`` without powers ``r**x`` of numbers below one: they die out."""
    return expr.replace(
        lambda e: e.is_Pow and e.base.is_number and e.exp.has(x) and bool(abs(e.base) < 1),
        lambda e: sympy.Integer(0),
    )


def _leading(expr: Expr, x: Symbol) -> tuple[Expr, Expr]:
    """``(c, k)`` with ``expr ~ c·x**k`` for large ``x``; of a norm that of its largest arms."""
    if not expr.has(x):
        return expr, Integer(0)
    if expr == x:
        return Integer(1), Integer(1)
    if expr.is_Mul:
        parts = [_leading(e, x) for e in expr.args]
        return Mul(*(c for c, _ in parts)), _whole(Add(*(k for _, k in parts)))
    if expr.is_Add:
        kept, power = _largest(expr, x)
        total = Add(*(c for _, c in kept))
        size = Add(*(abs(c) for _, c in kept))
        if total == 0 or (total.is_Float and abs(total) < size * Float("1e-12")):
            raise InputError(f"the leading powers of {x} cancel: what is left is not decided")
        return total, power
    if expr.is_Pow and not expr.exp.has(x):
        if expr.base.is_Add:
            kept, _ = _largest(expr.base, x)
            inner = kept[0][0]
            if len(kept) == 1 and inner.is_Pow and not inner.exp.has(x):
                # One arm leads: its power and the root cancel, exactly.
                whole = _whole(inner.exp * expr.exp)
                coefficient, power = _leading(inner.base, x)
                return coefficient**whole, _whole(power * whole)
        coefficient, power = _leading(expr.base, x)
        return coefficient**expr.exp, _whole(power * expr.exp)
    raise InputError(
        f"no leading power of {x} in {clip(str(expr), 120)}: use evaluate at a large {x}"
    )


def _largest(expr: Expr, x: Symbol) -> tuple[list[tuple[Expr, Expr]], Expr]:
    """The summands of the largest power with their coefficients, and the power."""
    parts = [(e, *_leading(e, x)) for e in expr.args]
    power = max(k for _, _, k in parts)
    return [(e, c) for e, c, k in parts if abs(power - k) < _NEAR], power


def _whole(power: Expr) -> Expr:
    """A power without the rounding of its factors: roots of floats undo their powers."""
    nearest = Integer(round(power))
    return nearest if abs(power - nearest) < _NEAR else power
