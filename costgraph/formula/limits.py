"""A formula's limits at a point and along a symbol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sympy import Expr, Integer, Symbol, ceiling, floor

from costgraph.errors import InputError
from costgraph.formula.sums import affine
from costgraph.symbols import SIZES

if TYPE_CHECKING:
    from costgraph.formula.formula import Formula

ZERO, ONE = Integer(0), Integer(1)


def check(formula: Formula, point: Mapping[Symbol, Expr]) -> None:
    """Refuses a point outside the formula's limits, as far as it decides them.

    Raises:
        InputError: which limit is broken, and by how much.
    """
    for limit in formula.limits:
        if (broken := limit.broken(point)) is not None:
            raise InputError(f"{formula.name}: {broken}")


def domain_of(formula: Formula, x: Symbol) -> tuple[Expr, Expr | None]:
    """The smallest and the largest value of ``x`` that the limits over it alone allow.

    The largest is None where there is none.

    Raises:
        InputError: they allow none.
    """
    check(formula, {})
    whole = is_whole(formula, x)
    first, last, told = start_of(x), None, None
    for limit in formula.limits:
        line = affine(limit.excess, x)
        if limit.symbols != {x} or line is None:
            continue
        end = -line[0] / line[1] if line[1] else ZERO
        if line[1].is_positive:
            end = floor(end) if whole else end
            if last is None or end < last:
                last, told = end, limit
        elif line[1].is_negative:
            end = ceiling(end) if whole else end
            if end > first:
                first, told = end, told or limit
    if last is not None and told is not None and last < first:
        raise InputError(f"{formula.name}: no {x} keeps {told.expr} <= {told.bound}: {told.why}")
    return first, last


def is_whole(formula: Formula, x: Symbol) -> bool:
    """Whether a symbol stands for whole numbers: sizes, and those that passes say so of.

    All others are real: acceptances, shares, rates, prices.
    """
    return x.name in SIZES or (formula.setting is not None and x.name in formula.setting.whole)


def start_of(x: Symbol) -> Expr:
    """Where a symbol's values begin: one for sizes, zero otherwise."""
    return ONE if x.name in SIZES else ZERO
