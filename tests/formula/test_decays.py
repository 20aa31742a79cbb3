"""Quotients of powers: the same signs without denominators."""

from __future__ import annotations

import random
import time

import pytest
from sympy import Integer, Rational, Symbol, oo

import costgraph as cg
from costgraph.formula.decays import without_fractions

x = Symbol("x", positive=True)


@pytest.mark.parametrize("seed", range(12))
def test_signs_are_those_of_the_quotients(seed):
    rng = random.Random(seed)

    def share() -> Rational:
        return Rational(rng.randrange(1, 9), 10)

    expr, w, r = Integer(0), share(), share()
    for _ in range(3):
        top = rng.randrange(-9, 10) * share() ** x + rng.randrange(-9, 10) * x * w**x
        expr += top / (1 - w**x * r**x) ** rng.randrange(1, 3)
    expr += rng.randrange(-3, 4) * w**x - Rational(1, 7) * r ** (2 * x)
    plain = without_fractions(expr, x, Integer(1), oo)
    assert not any(p.exp.is_negative and p.base.has(x) for p in plain.atoms(type(x**2)))
    for at in (1, Rational(5, 3), 2, 7, 30, 150):
        there = expr.subs(x, at).evalf(60)
        assert (plain.subs(x, at).evalf(60) > 0, plain.subs(x, at).evalf(60) < 0) == (
            there > 0,
            there < 0,
        )


def test_what_has_other_powers_or_no_denominator_stays():
    for expr in (3 ** (-x) + x, 1 / (1 - Rational(1, 2) ** (x / 3)), 1 / (1 - x**x / 9)):
        assert without_fractions(expr, x, Integer(1), oo) is expr
    turns = 1 / (Rational(1, 2) ** x - Rational(1, 5))  # its denominator changes its sign
    assert without_fractions(turns, x, Integer(1), oo) is turns


@pytest.mark.parametrize(
    "options",
    ["", "{distribution=uniform}", "{propagate=synchronised,p=1/2}", "{propagate=project}"],
)
def test_early_exits_on_experts_are_compared_in_seconds(options):
    plain = cg.compile("mixtral-8x7b", "h100", "fuse").tpot
    early = cg.compile("mixtral-8x7b", "h100", f"fuse,early-exit{options}").tpot
    start = time.process_time()
    (interval,) = cg.wins(plain, early, "B", T=512)
    assert time.process_time() - start < 20  # about one second
    assert interval.lower == 1
    assert early.evaluate(B=3, T=512) < plain.evaluate(B=3, T=512)
