"""Sums of staircases: polynomials with ``ceiling((t + k) / m)``, as paged caches bring."""

from __future__ import annotations

from collections.abc import Callable

from sympy import Add, Expr, Integer, ceiling, expand, floor

from costgraph.formula.terms import Span


def staircase_sum(
    expr: Expr, span: Span, polynomial: Callable[[Expr, Span], Expr | None]
) -> Expr | None:
    """``Σ expr`` in closed form for a polynomial plus multiples of ``⌈(t + k)/m⌉``.

    ``k`` is whole; ``m`` is whole or a symbol. With ``n = m·q + r``, ``⌈t/m⌉``
    adds up to ``m·q·(q + 1)/2 + r·(q + 1)`` from 1 to ``n``: ``q`` full steps
    and the rest.

    Args:
        expr: the summand.
        span: the range of ``t``.
        polynomial: sums what has no ceilings in ``t``.
    """

    def upto(n: Expr, m: Expr) -> Expr:
        full = floor(n / m)
        return m * full * (full + 1) / 2 + (n - m * full) * (full + 1)

    t = span.symbol
    rest: Expr = Integer(0)
    total: Expr = Integer(0)
    for part in Add.make_args(expand(expr)):
        factor, varying = part.as_independent(t, as_Add=False)
        if not isinstance(varying, ceiling):
            rest += part
            continue
        inner = expand(varying.args[0])
        slope = inner.coeff(t, 1)
        offset = expand(inner - slope * t)
        if slope == 0 or t in slope.free_symbols or t in offset.free_symbols:
            return None
        m = 1 / slope
        k = expand(m * offset)
        if not (k.is_Integer and m.is_positive and (m.is_Integer or m.is_Symbol)):
            return None
        total += factor * (upto(span.upper + k, m) - upto(span.lower + k - 1, m))
    summed = polynomial(rest, span)
    return None if summed is None else total + summed
