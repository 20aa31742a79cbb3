"""Formulas whose arms are chains: random trees of series, parallel and repeat."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Integer, Rational, oo

from costgraph.errors import InputError
from costgraph.formula import Formula, Span
from costgraph.formula.regimes import crossovers, regimes
from costgraph.formula.terms import Arm, Term, chained, merged, remade
from costgraph.symbols import B, N, S, T

RESOURCES = ("memory", "tensor:bf16", "vector:fp32")
small = st.integers(0, 9)
#: a + b·B + c·T of an arm.
arm = st.tuples(small, small, st.integers(0, 3))
#: A tree: a maximum of plain arms, or of bodies that are lists of trees, with a count.
leaf = st.tuples(st.integers(1, 3), st.lists(arm, min_size=1, max_size=3))
trees = st.recursive(
    leaf,
    lambda inner: st.tuples(
        st.integers(1, 3),
        st.lists(st.lists(inner, min_size=0, max_size=3), min_size=1, max_size=3),
    ),
    max_leaves=6,
)
series = st.lists(trees, min_size=1, max_size=3)


def is_leaf(tree):
    return not tree[1] or (isinstance(tree[1][0], tuple) and isinstance(tree[1][0][0], int))


def term(tree, name="x"):
    """The tree as a term, nothing simplified."""
    count, arms = tree
    if is_leaf(tree):
        made = tuple(
            Arm(Integer(a) + b * B + c * T, r)
            for (a, b, c), r in zip(arms, RESOURCES, strict=False)
        )
        return Term(Integer(count), made, (name,))
    bodies = tuple(
        chained((term(t, f"{name}.{i}.{j}") for j, t in enumerate(body)), f"{name}.{i}")
        for i, body in enumerate(arms)
    )
    return Term(Integer(count), bodies, (name,))


def value(tree, b, t):
    """The tree's value by its definition."""
    count, arms = tree
    if is_leaf(tree):
        return count * max(x + y * b + z * t for x, y, z in arms)
    return count * max(sum(value(t_, b, t) for t_ in body) for body in arms)


def formula(trees, span=None):
    terms = tuple(term(t, f"op{i}") for i, t in enumerate(trees))
    if span is not None:
        terms = tuple(Term(t.count, t.arms, t.ops, span) for t in terms)
    return Formula("f", "s", merged(remade(t) for t in terms))


def total(trees, b, t):
    return sum(value(tree, b, t) for tree in trees)


@settings(max_examples=150, deadline=None)
@given(series, st.integers(1, 9), st.integers(1, 9))
def test_every_way_to_a_value_agrees(trees, b, t):
    f = formula(trees)
    names = {s.name for s in f.symbols}
    values = {k: v for k, v in {"B": b, "T": t}.items() if k in names}
    brute = total(trees, b, t)
    assert f.evaluate(**values) == pytest.approx(brute, rel=1e-13)
    assert f.expr.xreplace({B: Integer(b), T: Integer(t)}) == brute
    if names:
        assert f.evaluate(**{k: [v, v] for k, v in values.items()})[1] == pytest.approx(brute)
    near = f.local(**values)
    assert near.expr.xreplace({B: Integer(b), T: Integer(t)}) == brute
    assert (f - f).terms == ()
    half = f.bind(**{k: v for k, v in values.items() if k == "B"})
    rest = {s.name: values[s.name] for s in half.symbols}
    assert half.evaluate(**rest) == pytest.approx(brute, rel=1e-13)


@settings(max_examples=100, deadline=None)
@given(series, st.integers(1, 5))
def test_regimes_agree_with_the_value_everywhere(trees, t):
    f = formula(trees)
    if B not in f.symbols:
        return
    values = {"T": t} if T in f.symbols else {}
    found = regimes(f, "B", **values)
    assert found.pieces[0].lower == 1
    assert found.pieces[-1].upper == oo
    for piece, after in pairwise(found.pieces):
        assert piece.upper == after.lower > piece.lower
        edge = {B: piece.upper}
        assert piece.expr.xreplace(edge) == after.expr.xreplace(edge)
        assert (piece.expr, piece.bound) != (after.expr, after.bound)
    for n in range(3, 40):
        at = Rational(n, 3)
        assert found.at(at).expr.xreplace({B: at}) == total(trees, Fraction(n, 3), t)
    for cross in crossovers(f, "B", **values):
        assert cross.below != cross.above
        assert cross.value in found.breakpoints


@settings(max_examples=80, deadline=None)
@given(series, st.integers(1, 9), st.integers(1, 30), st.integers(1, 40))
def test_sums_over_a_generation_agree_with_the_loop(trees, b, prompt, generated):
    span = Span(T, S + 1, S + N - 1)
    f = formula(trees, span)
    brute = sum(total(trees, b, t) for t in range(prompt + 1, prompt + generated))
    values = {"B": b, "S": prompt, "N": generated}
    names = {s.name for s in f.symbols}
    given_values = {k: v for k, v in values.items() if k in names}
    assert f.evaluate(**given_values) == pytest.approx(brute, rel=1e-12)
    scope: dict[str, object] = {}
    exec(f.code("python", "f"), scope)
    arguments = [given_values[s.name] for s in f.symbols]
    assert scope["f"](*arguments) == pytest.approx(brute, rel=1e-12)  # type: ignore[operator]
    if generated > 1:
        at = {k: Integer(v) for k, v in zip((B, S, N), (b, prompt, generated), strict=True)}
        assert f.local(**given_values).expr.xreplace(at) == brute


@settings(max_examples=25, deadline=None)
@given(st.lists(trees, min_size=1, max_size=2))
def test_maps_agree_with_the_value(trees):
    f = formula(trees)
    if not {B, T} <= set(f.symbols):
        return
    with suppress(InputError):  # too many curves
        _check_map(f.region_map("B", "T"), trees)


def _check_map(found, trees):
    for b in (1, 2, Rational(7, 3), 5, 40):
        for t in (1, Rational(5, 2), 6, 33):
            expr = found.at(b, t).expr
            brute = total(trees, Fraction(str(Rational(b))), Fraction(str(Rational(t))))
            assert expr.xreplace({B: Rational(b), T: Rational(t)}) == brute


def test_normal_form():
    one, two = (
        Term(Integer(2), (Arm(B, "memory"), Arm(3 + T, "tensor:bf16")), ("a",)),
        Term(Integer(1), (Arm(T, "memory"),), ("b",)),
    )
    empty = chained((), "empty")
    single = Term(Integer(3), (chained((one,), "body"), empty), ("a",))
    # One body, of one term: that term; an empty body vanishes.
    (made,) = merged((remade(single),))
    assert not made.is_nested
    assert made.count == 3
    assert [a.expr for a in made.arms] == [2 * B, 2 * T + 6]
    # One body of several terms is a series.
    series_of_two = Term(Integer(3), (chained((one, two), "body"), empty), ("a", "b"))
    assert [t.count for t in merged((remade(series_of_two),))] == [6, 3]
    # Equal bodies are one, and a body that is always shorter is left out.
    twice = Term(Integer(1), (chained((one, two), "x"), chained((one, two), "y")), ("a", "b"))
    assert not any(t.is_nested for t in merged((remade(twice),)))
    longer = Term(Integer(1), (chained((one, two), "x"), chained((two,), "y")), ("a", "b"))
    assert not any(t.is_nested for t in merged((remade(longer),)))
