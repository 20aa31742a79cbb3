"""Sums of ``⌈p/b⌉`` over positions, in a form that folds for one position and for all."""

from __future__ import annotations

from sympy import Expr, Integer, Max, ceiling

ONE = Integer(1)


def steps(q: Expr, last: Expr, block: Expr, least: Expr = ONE) -> Expr:
    """``Σ ⌈max(p, n·b)/b⌉`` for the ``q`` positions ``p`` that end at ``last``; ``n = least``.

    With ``c`` the first position's step and ``m`` how many steps are begun after it:
    ``q·c + m·last − b·(m·c + m(m−1)/2)``. For one position ``m`` is zero by its form.
    """
    first = last - q + 1
    if least != 1:
        first, end = (Max(x, least * block) for x in (first, last))
    else:
        end = last
    start = ceiling(first / block)
    more = ceiling(end / block) - start
    return q * start + more * last - block * (more * start + more * (more - 1) / 2)


def rising(q: Expr, last: Expr) -> Expr:
    """``Σ p`` for the ``q`` positions that end at ``last``."""
    return q * last - q * (q - 1) / 2
