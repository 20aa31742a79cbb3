"""Sums over paged contexts against adding them up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from sympy import Integer, Rational, ceiling

from costgraph.formula.sums import power_sum
from costgraph.formula.terms import Span
from costgraph.symbols import B, T, symbol

small = st.integers(0, 9)


@given(small, small, small, st.integers(1, 9), st.integers(0, 9), st.integers(1, 40), small)
def test_closed_form_equals_the_sum(flat, slope, rise, period, shift, lower, length):
    expr = flat + slope * T + rise * ceiling((T + shift) / period) + ceiling(T / 4)
    upper = lower + length - 1
    total = sum(expr.subs(T, t) for t in range(lower, upper + 1))
    assert power_sum(expr, Span(T, Integer(lower), Integer(upper))) == total


def test_a_symbolic_period_and_batch():
    p = symbol("page")
    expr = B * (3 + Rational(1, 2) * T + 7 * ceiling(T / p))
    closed = power_sum(expr, Span(T, symbol("S") + 1, symbol("S") + symbol("N") - 1))
    assert closed is not None
    values = {B: 2, p: 4, symbol("S"): 5, symbol("N"): 11}
    steps = (2 * (3 + Rational(t, 2) + 7 * -(-t // 4)) for t in range(6, 16))
    assert closed.subs(values) == sum(steps)


def test_what_is_no_staircase():
    span = Span(T, Integer(1), Integer(5))
    assert power_sum(T * ceiling(T / 4), span) is None
    assert power_sum(ceiling(T**2 / 4), span) is None
