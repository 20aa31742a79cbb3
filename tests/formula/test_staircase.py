"""Sums over paged contexts against adding them up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from sympy import Integer, Rational, ceiling

from costgraph.formula.staircase import staircase, staircase_sum
from costgraph.symbols import B, T, symbol

small = st.integers(0, 9)


@given(small, small, small, st.integers(1, 9), st.integers(1, 40), st.integers(0, 60))
def test_closed_form_equals_the_sum(flat, slope, rise, period, lower, length):
    expr = flat + slope * T + rise * ceiling(T / period)
    upper = lower + length - 1
    total = sum(expr.subs(T, t) for t in range(lower, upper + 1))
    if staircase(expr, T) is None:  # no step left: another rule's business
        assert rise == 0 or period == 1
        return
    assert staircase_sum(expr, T, Integer(lower), Integer(upper)) == total


def test_a_symbolic_period_and_batch():
    p = symbol("page")
    expr = B * (3 + Rational(1, 2) * T + 7 * ceiling(T / p))
    closed = staircase_sum(expr, T, symbol("S") + 1, symbol("S") + symbol("N") - 1)
    values = {B: 2, p: 4, symbol("S"): 5, symbol("N"): 11}
    assert closed.subs(values) == sum(
        2 * (3 + Rational(t, 2) + 7 * -(-t // 4)) for t in range(6, 16)
    )


def test_what_is_no_staircase():
    assert staircase(T * ceiling(T / 4), T) is None
    assert staircase(ceiling(T / 4) + ceiling(T / 8), T) is None
    assert staircase(ceiling(T**2 / 4), T) is None
