"""A formula's limits at a point and along a symbol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sympy import Expr, Symbol, floor

from costgraph.errors import InputError
from costgraph.formula.sums import affine
from costgraph.symbols import SIZES

if TYPE_CHECKING:
    from costgraph.formula.formula import Formula


def check(formula: Formula, point: Mapping[Symbol, Expr]) -> None:
    """Refuses a point outside the formula's limits, as far as it decides them.

    Raises:
        InputError: which limit is broken, and by how much.
    """
    for limit in formula.limits:
        if (broken := limit.broken(point)) is not None:
            raise InputError(f"{formula.name}: {broken}")


def last_of(formula: Formula, x: Symbol) -> Expr | None:
    """The largest value of ``x`` that the limits over it alone allow; None without one.

    Raises:
        InputError: they allow none.
    """
    check(formula, {})
    ends = []
    for limit in formula.limits:
        line = affine(limit.excess, x)
        if limit.symbols == {x} and line is not None and line[1].is_positive:
            ends.append((-line[0] / line[1], limit))
    if not ends:
        return None
    end, limit = min(ends, key=lambda pair: pair[0])
    if x.name in SIZES:
        end = floor(end)
    if end < (1 if x.name in SIZES else 0):
        raise InputError(f"{formula.name}: no {x} keeps {limit.expr} <= {limit.bound}: {limit.why}")
    return end
