"""Algebra and sums of structured formulas."""

from __future__ import annotations

from fractions import Fraction
from math import prod

from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Integer, Max, Min, Rational, Symbol, ceiling, expand, sqrt

from costgraph.formula import Arm, Formula, Span, Term
from costgraph.formula.coefficients import covers
from costgraph.formula.envelope import _shift, dominates, pruned
from costgraph.formula.runtime import sum_max
from costgraph.formula.sums import power_sum, span_expr
from costgraph.formula.terms import make_term
from costgraph.symbols import B, N, S, T, symbol

fractions = st.builds(Fraction, st.integers(-30, 30), st.integers(1, 6))
lines = st.lists(st.tuples(fractions, fractions), min_size=1, max_size=5)


@settings(max_examples=300)
@given(st.integers(0, 20), st.integers(-3, 40), lines)
def test_the_sum_of_a_maximum_equals_brute_force(lower, length, arms):
    upper = lower + length - 1
    brute = sum(max(a + b * t for a, b in arms) for t in range(lower, upper + 1))
    assert sum_max(lower, upper, tuple(arms)) == brute


def test_the_sum_handles_crossings_on_integers_and_equal_slopes():
    arms = ((Fraction(10), Fraction(1)), (Fraction(0), Fraction(2)))  # equal at t = 10
    assert sum_max(5, 15, arms) == sum(max(10 + t, 2 * t) for t in range(5, 16))
    same = ((Fraction(3), Fraction(1)), (Fraction(5), Fraction(1)))
    assert sum_max(1, 4, same) == sum(5 + t for t in range(1, 5))
    assert sum_max(5, 4, same) == 0


coefficients = st.builds(Rational, st.integers(0, 9), st.integers(1, 4))


@st.composite
def polynomials(draw):
    c = [draw(coefficients) for _ in range(4)]
    return c[0] + c[1] * B + c[2] * T + c[3] * B * T


@settings(max_examples=80)
@given(polynomials(), polynomials(), st.integers(1, 9), st.integers(1, 9))
def test_dominance_is_never_claimed_wrongly(a, b, batch, context):
    values = {B: Integer(batch), T: Integer(context)}
    if dominates(a, b):
        assert a.xreplace(values) >= b.xreplace(values)
    kept = pruned([a, b])
    assert max(x.xreplace(values) for x in kept) == Max(a.xreplace(values), b.xreplace(values))


def test_dominance_uses_that_sizes_are_at_least_one():
    assert dominates(B * T, B)
    assert dominates(2 * B, B + 1)
    assert not dominates(B, T)
    assert not dominates(2 * symbol("x"), symbol("x") + 1)


F, X = symbol("F"), symbol("x")
factors = st.sampled_from(
    (B, T, B + 2, T - 1, X, 3 * X - B, 1 / F, F, X / F**2, S**2, (B - X) ** 3)
)
amounts = st.lists(st.tuples(fractions, st.lists(factors, max_size=3)), max_size=4).map(
    lambda parts: sum(
        (Rational(c.numerator, c.denominator) * prod(given) for c, given in parts), Integer(0)
    )
)


@settings(max_examples=100)
@given(amounts, amounts, st.booleans())
def test_tables_of_coefficients_say_what_expanding_says(a, b, above):
    a = a + b if above else a
    coefficients_ = expand((a - b).xreplace(_shift())).as_coefficients_dict()
    assert covers(a, b) is all(c >= 0 for c in coefficients_.values())


def test_what_is_no_polynomial_is_not_compared_by_coefficients():
    other = Symbol("x")  # may be negative
    for expr in (Min(B, X), B * ceiling(X / 2), sqrt(X), 1 / B, X**B, B * 0.5, other, 1 / (X + 1)):
        assert covers(expr, X) is None
        assert covers(B, expr + T) is None


@st.composite
def formulas(draw):
    terms = []
    for index in range(draw(st.integers(1, 4))):
        arms = [Arm(draw(polynomials()), r) for r in ("memory", "tensor:bf16")]
        term = make_term(Integer(draw(st.integers(1, 5))), arms, (f"op{index}",))
        if term is not None:
            terms.append(term)
    return Formula("f", "byte", tuple(terms))


@settings(max_examples=50)
@given(formulas(), formulas(), st.integers(1, 9), st.integers(1, 9))
def test_formulas_form_a_vector_space(f, g, batch, context):
    def value(x):
        return Rational(x.expr.xreplace({B: Integer(batch), T: Integer(context)}))

    assert (f - f).terms == ()
    assert (f - f).expr == 0
    assert value(f + g) == value(f) + value(g)
    assert value(f - g) == value(f) - value(g)
    assert value(f * 3) == 3 * value(f)
    assert value(f / 4) == value(f) / 4
    names = {s.name for s in f.symbols}
    given_values = {k: v for k, v in {"B": batch, "T": context}.items() if k in names}
    assert Fraction(f.evaluate(**given_values)) == Fraction(float(value(f))) or int(
        value(f)
    ) == f.evaluate(**given_values)


@settings(max_examples=50)
@given(formulas(), st.integers(1, 9), st.integers(1, 9))
def test_binding_then_evaluating_equals_evaluating(f, batch, context):
    names = {s.name for s in f.symbols}
    values = {k: v for k, v in {"B": batch, "T": context}.items() if k in names}
    half = f.bind(B=batch) if "B" in names else f
    rest = {s.name: values[s.name] for s in half.symbols}
    assert half.evaluate(**rest) == f.evaluate(**values)


affine = st.tuples(st.integers(0, 40), st.integers(0, 6))


@settings(max_examples=80)
@given(affine, affine, st.integers(1, 30), st.integers(1, 30))
def test_the_closed_form_expression_of_a_sum_equals_the_loop(a, b, prompt, generated):
    span = Span(T, S + 1, S + N - 1)
    arms = (Arm(a[0] + a[1] * T + 0 * B, "x"), Arm(b[0] + b[1] * T, "y"))
    expr = span_expr(Term(Integer(1), arms, (), span))
    loop = sum(max(a[0] + a[1] * t, b[0] + b[1] * t) for t in range(prompt + 1, prompt + generated))
    assert expr.subs({S: prompt, N: generated}).doit() == loop


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=4), st.integers(1, 9), st.integers(1, 9))
def test_polynomials_sum_in_closed_form(c, prompt, generated):
    expr = sum((k * T**i for i, k in enumerate(c)), Integer(0))
    closed = power_sum(expr, Span(T, S + 1, S + N - 1))
    loop = sum(
        sum(k * t**i for i, k in enumerate(c)) for t in range(prompt + 1, prompt + generated)
    )
    assert closed is not None
    assert closed.subs({S: prompt, N: generated}) == loop


@settings(max_examples=25)
@given(
    st.integers(-20, 20),
    st.integers(-1, 40),
    st.integers(1, 9),
    st.integers(-9, 9),
    st.integers(-3, 3),
)
def test_rounded_quotients_add_up_as_by_brute_force(lower, length, m, k, slope):
    upper = lower + length
    expr = B * ceiling((T + k) / m) + slope * T**2 - ceiling(T / 3)
    closed = power_sum(expr, Span(T, symbol("a"), symbol("b")))
    brute = sum(5 * -(-(t + k) // m) + slope * t * t + (-t // 3) for t in range(lower, upper + 1))
    values = {symbol("a"): Integer(lower), symbol("b"): Integer(upper), B: Integer(5)}
    assert closed.xreplace(values) == brute


def test_other_rounded_summands_have_no_such_form():
    span = Span(T, S, N)
    for expr in (ceiling(2 * T / 3), ceiling(T / 4 + S), T * ceiling(T / 4)):
        assert power_sum(expr, span) is None
