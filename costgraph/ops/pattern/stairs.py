"""Sums over positions, in forms that fold for one position and for all."""

from __future__ import annotations

from sympy import Expr, Integer, Max, ceiling

from costgraph.formula.least import least as fewest

ONE = Integer(1)


def steps(q: Expr, last: Expr, block: Expr, least: Expr = ONE, early: bool = False) -> Expr:
    """``Σ ⌈max(p, n·b)/b⌉`` for the ``q`` positions ``p`` that end at ``last``; ``n = least``.

    With ``c`` the first position's step and ``m`` how many steps are begun after it:
    ``q·c + m·last − b·(m·c + m(m−1)/2)``. For one position ``m`` is zero by its form.
    ``early``: positions may be below one.
    """
    first = last - q + 1
    if early or least != 1:
        first, end = (Max(x, least * block) for x in (first, last))
    else:
        end = last
    start = ceiling(first / block)
    more = ceiling(end / block) - start
    return q * start + more * last - block * (more * start + more * (more - 1) / 2)


def rising(q: Expr, last: Expr) -> Expr:
    """``Σ p`` for the ``q`` positions that end at ``last``."""
    return q * last - q * (q - 1) / 2


def clipped(q: Expr, last: Expr, most: Expr) -> Expr:
    """``Σ Min(p, most)`` for the ``q`` positions that end at ``last``.

    ``n`` of them, from the first one ``f = Min(last − q + 1, most)`` on, are below the last
    value ``c = Min(last, most)``: ``n·(f + c − 1)/2 + (q − n)·c``. For one position ``n`` is
    zero by its form.
    """
    top, first = fewest(last, most), fewest(last - q + 1, most)
    below = top - first
    return below * (first + top - 1) / 2 + (q - below) * top
