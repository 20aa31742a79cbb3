"""Sums over a range of contexts, as sympy expressions.

With affine arms ``a(t)`` and ``b(t)`` the sum of their maximum is
``Σ b + Σ max(a − b, 0)``; the difference changes sign at most once, so the
second sum is an arithmetic series from a clamped crossing to one end.
"""

from __future__ import annotations

from sympy import Expr, Max, Min, Sum, ceiling

from costgraph.formula.terms import Span, Term


def span_expr(term: Term) -> Expr:
    """The term's value without its count: its maximum, or the sum of it."""
    if term.span is None:
        return term.value
    from costgraph.formula.evaluate import affine, power_sum

    span = term.span
    if len(term.arms) == 1:
        closed = power_sum(term.arms[0].expr, span)
        if closed is not None:
            return closed
    elif len(term.arms) == 2:
        lines = [affine(arm.expr, span.symbol) for arm in term.arms]
        first, second = lines
        if first is not None and second is not None:
            closed = _two_lines(span, first, second)
            if closed is not None:
                return closed
    return Sum(term.value, (span.symbol, span.lower, span.upper))


def series(lower: Expr, upper: Expr, line: tuple[Expr, Expr]) -> Expr:
    """``Σ (a + b·t)`` for ``t = lower … upper`` (``upper >= lower − 1``)."""
    a, b = line
    n = upper - lower + 1
    return n * a + b * n * (lower + upper) / 2


def _two_lines(span: Span, a: tuple[Expr, Expr], b: tuple[Expr, Expr]) -> Expr | None:
    """``Σ max(a, b)`` in closed form if the order of the slopes is decided."""
    slope = (a[1] - b[1]).factor()
    if slope.is_negative:
        a, b, slope = b, a, -slope
    if slope.is_zero:
        return series(span.lower, span.upper, (Max(a[0], b[0], evaluate=False), a[1]))
    if not slope.is_positive:
        return None
    # From `start` on, a is the larger one.
    crossing = (b[0] - a[0]) / slope
    start = Min(Max(ceiling(crossing), span.lower), span.upper + 1)
    return series(span.lower, start - 1, b) + series(start, span.upper, a)


