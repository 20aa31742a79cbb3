"""Sums of terms over a range of contexts in terms of the range's two bounds."""

from __future__ import annotations

from sympy import Dummy, Expr, Integer, Max, Piecewise

from costgraph.formula.envelope import dominates
from costgraph.formula.sums import affine, power_sum, two_lines
from costgraph.formula.terms import Span, Term

# Stand for the two bounds of the span that is being lowered.
LOWER = Dummy("lower", positive=True)
UPPER = Dummy("upper", positive=True)


def closed_form(term: Term, span: Span) -> Expr | None:
    """The sum in terms of its two bounds, or None if there is no such form here.

    A single polynomial arm (Faulhaber), perhaps with rounded quotients, or two
    affine arms of which one is provably the steeper. Ranges that may be empty are guarded.
    """
    local = Span(span.symbol, LOWER, UPPER)
    never_empty = dominates(span.upper - span.lower + 1, Integer(0))
    n = UPPER - LOWER + 1
    if not never_empty:
        n = Max(n, 0, evaluate=False)  # which nothing is known of
    if len(term.arms) == 1:
        line = affine(term.arms[0].expr, span.symbol)
        if line is not None:
            return n * line[0] + line[1] * n * (LOWER + UPPER) / 2
        total = power_sum(term.arms[0].expr, local)
    else:
        opened = [affine(a.expr, span.symbol) for a in term.arms]
        first, second, *more = opened
        if term.is_nested or more or first is None or second is None:
            return None
        total = two_lines(local, first, second)
    if total is None or never_empty:
        return total
    return Piecewise((total, UPPER >= LOWER), (Integer(0), True))
