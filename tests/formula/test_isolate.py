"""Sign changes of powers with a symbol in the exponent, against fine sampling."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Integer, Rational, exp, oo, sin

import costgraph as cg
from costgraph.errors import InputError
from costgraph.formula import Formula
from costgraph.formula.isolate import sign_changes
from costgraph.formula.terms import Arm, Limit, make_term
from costgraph.symbols import B, T

small = st.integers(-9, 9)


@settings(max_examples=60, deadline=None)
@given(small, small, small, st.integers(1, 30), st.integers(0, 6))
def test_no_change_is_missed_and_none_invented(a, b, c, k, bend):
    expr = a + b * B + 40 * c * Rational(k, k + 1) ** B - Rational(bend, 50) * B**2
    if not expr.has(B):
        return

    def value(x: float) -> float:
        return a + b * x + 40 * c * (k / (k + 1)) ** x - bend / 50 * x * x

    found = [float(r) for r in sign_changes(expr, B, Integer(1))]
    grid = [1 + i / 64 for i in range(1, 64 * 400)]
    signs = [math.copysign(1, v) if abs(v) > 1e-9 else 0 for v in map(value, grid)]
    for (x, s), (y, t) in zip(
        zip(grid, signs, strict=True), zip(grid[1:], signs[1:], strict=True), strict=False
    ):
        if s * t < 0:
            assert any(x <= r <= y for r in found)
    for r in found:
        assert value(r * (1 - 1e-9)) * value(r * (1 + 1e-9)) <= 1e-6 or r > 400


def test_a_known_crossing():
    # 2^-B·8 = 1 at B = 3.
    (root,) = sign_changes(8 * Rational(1, 2) ** B - 1, B, Integer(1))
    assert abs(root - 3) < Rational(1, 10**12)
    (root,) = sign_changes(exp(B) - 20, B, Integer(1))
    assert float(root) == pytest.approx(math.log(20), rel=1e-13)


def test_what_it_cannot_enclose():
    with pytest.raises(InputError, match="bind T"):
        sign_changes(T**B - 2, B, Integer(1))
    with pytest.raises(InputError, match="polynomial"):
        sign_changes(sin(B) - 2, B, Integer(1))


@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen3-30b-a3b"])
def test_regimes_of_experts_along_the_batch(name):
    f = cg.compile(name, "h100", "fuse").tpot
    found = f.regimes("B", T=2048)
    assert len(found) > 3
    for batch in (1, 2, 9, 100, 400, 1500, 20000):
        value = found.at(batch).expr.xreplace({B: Integer(batch)})
        assert float(value) == pytest.approx(f.evaluate(B=batch, T=2048), rel=1e-12)
    for piece, after in zip(found.pieces, found.pieces[1:], strict=False):
        at = {B: piece.upper}
        edges = [float(p.expr.xreplace(at)) for p in (piece, after)]
        assert edges[0] == pytest.approx(edges[1], rel=1e-11)
    assert f.asymptote("B", T=2048).order == 1


def test_what_is_zero_everywhere_changes_no_sign():
    assert sign_changes(Integer(0), B, Integer(1)) == []
    degree = cg.compile("gpt2", "2xh100", "parallel{tp=p}").tpot
    with pytest.raises(InputError, match="is not a polynomial in p and B: use regimes along one"):
        degree.region_map("p", "B", T=64)


def _powers(*arms):
    """A time whose one maximum has these arms."""
    return Formula("time", "s", (make_term(Integer(1), [Arm(e, n) for e, n in arms], ("op",)),))


@pytest.mark.parametrize("at", [2, 3, 64, 1000])
def test_a_zero_that_is_a_whole_number_is_no_sample_beside_itself(at):
    """Zeros are enclosed: at one, or right beside it, no sign tells what comes behind."""
    grown = B - Rational(3, 4) ** B
    line = Integer(at) - Rational(3, 4) ** at + (B - at) / 7  # is as large where B is `at`
    rising = _powers((grown, "memory"))
    for nudge in (0, Rational(1, 10**18), -Rational(1, 10**18)):
        budget = Integer(at) - Rational(3, 4) ** at + nudge
        assert rising.solve_for("B", budget).largest == (at if nudge >= 0 else at - 1)
        for at_least in (False, True):
            ((low, high),) = rising.solve_for("B", budget, at_least=at_least).intervals
            assert (high == oo) is at_least
            assert (low if at_least else high) == pytest.approx(at, rel=1e-13)
    both = _powers((grown, "memory"), (line, "tensor:fp16"))
    last = both.regimes("B").pieces[-1]
    assert (last.upper, last.expr) == (oo, grown)
    flat = _powers((line, "tensor:fp16"))
    (found,) = cg.wins(rising, flat, "B")
    assert found.upper == oo
    assert found.lower == pytest.approx(at, rel=1e-13)


@pytest.mark.parametrize("end", [5, 64])
def test_a_budget_that_only_the_last_value_keeps(end):
    limit = Limit(B, Integer(end), "there are no more")
    rising = replace(_powers((B**2 + 3, "memory")), limits=(limit,))
    found = rising.solve_for("B", end**2 + 3, at_least=True)
    assert found.intervals == ((end, end),)
    assert found.largest == end
    assert rising.solve_for("B", end**2 + 4, at_least=True).intervals == ()
