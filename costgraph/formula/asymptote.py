"""What a formula tends to when one symbol grows without bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy
from sympy import Expr, Symbol, fraction, together

from costgraph.errors import InputError
from costgraph.formula.regimes import regimes

if TYPE_CHECKING:
    from sympy.core.relational import Relational

    from costgraph.formula.formula import Formula


@dataclass(frozen=True)
class Asymptote:
    """Behaviour for a large symbol ``x``: ``f ~ leading·x**order``.

    Attributes:
        symbol: ``x``.
        start: from here on ``expr`` is not only the limit but exact.
        expr: the formula beyond ``start``, without maxima.
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


def asymptote(
    formula: Formula, over: str, at: Mapping[str, Any] | None = None, **values: Any
) -> Asymptote:
    """The behaviour of ``formula`` as the symbol ``over`` grows without bound.

    Arguments and errors as in :func:`costgraph.formula.regimes.regimes`.
    """
    found = regimes(formula, over, at, **values)
    x, last = found.symbol, found.pieces[-1]
    try:
        top, bottom = (sympy.Poly(p, x) for p in fraction(together(_settled(last.expr, x))))
    except sympy.PolynomialError:
        raise InputError(f"{formula.name}: no leading power of {x} in {last.expr}") from None
    leading = sympy.cancel(top.LC() / bottom.LC())
    order = int(top.degree() - bottom.degree())
    return Asymptote(x, last.lower, last.expr, order, leading, last.bound, found.conditions)


def _settled(expr: Expr, x: Symbol) -> Expr:
    """``expr`` without powers ``r**x`` of numbers below one: they die out."""
    return expr.replace(
        lambda e: e.is_Pow and e.base.is_number and e.exp.has(x) and bool(abs(e.base) < 1),
        lambda e: sympy.Integer(0),
    )
