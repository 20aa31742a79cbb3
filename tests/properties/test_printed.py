"""What is printed reads back as what it was, in every notation."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Add, Expr, Integer, Max, Min, Mul, Pow, Rational, ceiling, expand, floor

from costgraph.showing.export.latex import expr_latex
from costgraph.showing.export.layout import (
    Call,
    Name,
    Node,
    Norm,
    Number,
    Power,
    Product,
    Ratio,
    Series,
    Total,
    of_expr,
    to_latex,
    to_mathml,
    to_text,
)
from costgraph.showing.export.regimes import form_text
from costgraph.showing.export.text import expr_text
from costgraph.symbols import symbol

from .readers import CALLS, norm, read_latex, read_mathml, read_text

NAMES = ("B", "T", "Hk", "dh", "F_bf16", "A1", "p")

leaves = st.one_of(
    st.sampled_from([symbol(n) for n in NAMES]),
    st.integers(-9, 20).filter(bool).map(Integer),
    st.sampled_from(
        [Rational(3, 4), Rational(31, 32), Rational(255, 256), Rational(-2, 3), Rational(1, 1000),
         Rational(12345, 7), Integer(33554432), Rational(1, 10**7)]
    ),
)  # fmt: skip


def grown(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    several = st.lists(inner, min_size=2, max_size=3)
    exponents = st.sampled_from(
        [Integer(2), Integer(-1), Integer(-2), Rational(1, 2), Rational(3, 2), symbol("B"),
         -symbol("B"), symbol("B") / 2, symbol("B") + 1]
    )  # fmt: skip
    return st.one_of(
        several.map(lambda a: Add(*a)),
        several.map(lambda a: Mul(*a)),
        several.map(lambda a: Mul(a[0], 1 / (a[1] ** 2 + 1))),
        several.map(lambda a: Mul(a[0], 1 / Mul(*a[1:], symbol("T")))),
        several.map(lambda a: Max(*a, evaluate=False)),
        several.map(lambda a: Min(*a, evaluate=False)),
        inner.map(ceiling),
        inner.map(floor),
        st.builds(lambda b, e: Pow(b**2 + Rational(1, 3), e), inner, exponents),
        st.builds(Pow, st.sampled_from([Rational(3, 4), Integer(3), symbol("p")]), exponents),
    )


def value_of(expr: Expr, env: dict[str, float]) -> float | None:
    """The value; None where it is no ordinary number, or hangs on rounding."""
    at = {symbol(n): Rational(v).limit_denominator(10**6) for n, v in env.items()}
    for rounded in expr.atoms(ceiling, floor):
        # Four digits of what is rounded must decide.
        inner = complex(rounded.args[0].xreplace(at).evalf(30)).real
        if abs(inner - round(inner)) < 2e-3 * max(1.0, abs(inner)):
            return None
    found = expr.xreplace(at)
    value = complex(found.evalf(30))
    if abs(value.imag) > 0 or not math.isfinite(value.real):
        return None
    return value.real


@settings(max_examples=250)
@given(st.recursive(leaves, grown, max_leaves=9), st.integers(0, 5))
def test_an_expression_reads_back_in_every_notation(expr, seed):
    env = {n: 1.5 + ((7 * i + 3 * seed) % 11) for i, n in enumerate(NAMES)}
    env |= {"B": float(2 + seed), "p": 0.25 + 0.1 * seed}
    try:
        expected = value_of(expr, env)
    except (TypeError, OverflowError, ZeroDivisionError):
        return
    if expected is None or abs(expected) > 1e200:
        return
    node = of_expr(expr)
    shown = {
        "text": (read_text, to_text(node)),
        "latex": (read_latex, to_latex(node)),
        "mathml": (read_mathml, to_mathml(node)),
    }
    if not expr.has(ceiling, floor):
        shown |= {
            "expr_text": (read_text, expr_text(expr)),
            "expr_latex": (read_latex, expr_latex(expr)),
            "form_text": (read_text, form_text(expand(expr))),
        }
    # Numbers are printed to four digits; sums may cancel, so the size of their parts counts.
    scale = sum(abs(value_of(a, env) or 0.0) for a in Add.make_args(expand(expr)))
    for name, (read, text) in shown.items():
        assert read(text)(env) == pytest.approx(expected, rel=2e-2, abs=2e-3 * max(scale, 1e-12)), (
            name,
            text,
            expr,
        )


# --- trees of any kind, also those that no expression gives ----------------------------

numbers = st.sampled_from(
    [Integer(1), Integer(7), Integer(-3), Rational(3, 4), Rational(-2, 3), Rational(1, 10**7),
     Integer(33_550_000), Integer(10) ** 20]
)  # fmt: skip
atoms = st.one_of(st.sampled_from(NAMES).map(Name), st.builds(Number, numbers, st.booleans()))


def branches(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    some = st.lists(inner, min_size=1, max_size=3).map(tuple)
    sign = st.booleans()
    return st.one_of(
        some.map(Product),
        st.lists(st.tuples(sign, inner), min_size=1, max_size=3).map(lambda p: Total(tuple(p))),
        st.builds(Ratio, inner, inner),
        st.builds(Power, inner, st.one_of(inner, st.just(Number(Integer(2))))),
        st.builds(Call, st.sampled_from(["max", "min"]), some),
        st.builds(lambda n: Call("ceil", (n,)), inner),
        st.builds(Norm, some, st.just(Rational(9, 5))),
        st.builds(lambda n: Series(Name("T"), Number(Integer(1)), Number(Integer(3)), n), inner),
    )


def tree_value(node: Node, env: dict[str, float]) -> float:
    """The value of a tree, by its own definition."""
    match node:
        case Number(value):
            return float(value)
        case Name(text):
            return env[text]
        case Product(factors):
            return math.prod(tree_value(f, env) for f in factors)
        case Total(parts):
            return math.fsum((-1 if minus else 1) * tree_value(p, env) for minus, p in parts)
        case Ratio(top, bottom):
            return tree_value(top, env) / tree_value(bottom, env)
        case Power(base, exponent):
            return tree_value(base, env) ** tree_value(exponent, env)
        case Call(function, arguments):
            return CALLS[function]([tree_value(a, env) for a in arguments])
        case Norm(arguments, exponent):
            return norm([tree_value(a, env) for a in arguments], float(exponent))
        case Series(_, _, _, body):
            return sum(tree_value(body, {**env, "T": float(t)}) for t in (1, 2, 3))
    raise AssertionError(node)


@settings(max_examples=400)
@given(st.recursive(atoms, branches, max_leaves=8))
def test_a_tree_reads_back_in_every_notation(node):
    env = {n: 1.25 + ((5 * i) % 7) for i, n in enumerate(NAMES)}
    try:
        expected = tree_value(node, env)
    except (OverflowError, ZeroDivisionError, ValueError):
        return
    if isinstance(expected, complex) or not 1e-200 < abs(expected) < 1e200:
        return
    for read, shown in (
        (read_text, to_text(node)),
        (read_latex, to_latex(node)),
        (read_mathml, to_mathml(node)),
    ):
        assert read(shown)(env) == pytest.approx(expected, rel=1e-9), (shown, node)


@pytest.mark.parametrize("base", [Rational(255, 256), Rational(127, 128), Rational(1, 10**6) + 1])
def test_the_base_of_a_symbolic_power_is_exact(base):
    expr = 1000 * base ** symbol("B")
    env = {"B": 4000.0}
    expected = float(1000 * base**4000)
    for read, shown in (
        (read_text, to_text(of_expr(expr))),
        (read_text, expr_text(expr)),
        (read_latex, expr_latex(expr)),
        (read_mathml, to_mathml(of_expr(expr))),
    ):
        assert read(shown)(env) == pytest.approx(expected, rel=1e-6), shown
