"""Break-even points between formulas: acceptance, bits, batch; checked on both sides."""

from __future__ import annotations

from fractions import Fraction

import pytest

import costgraph as cg


def nudged(value, step):
    return Fraction(float(value)) * (1 + Fraction(step))


@pytest.fixture(scope="module")
def plain():
    return cg.compile("llama-2-70b", "h100", "fuse")


@pytest.fixture(scope="module")
def drafted():
    passes = "fuse,speculative{draft=llama-2-7b,gamma=4,alpha=acc}"
    return cg.compile("llama-2-70b", "h100", passes)


@pytest.mark.parametrize("batch", [1, 16, 64])
def test_break_even_acceptance(plain, drafted, batch):
    (better,) = cg.wins(plain.tpot, drafted.tpot, "acc", B=batch, T=2048)
    assert better.upper == 1  # a probability
    base = plain.tpot.evaluate(B=batch, T=2048)
    above = drafted.tpot.evaluate(B=batch, T=2048, acc=nudged(better.lower, "1e-9"))
    below = drafted.tpot.evaluate(B=batch, T=2048, acc=nudged(better.lower, "-1e-9"))
    assert float(above) < base < float(below)


def test_speculation_stops_paying_in_a_large_batch(plain, drafted):
    """At 256 sequences no acceptance below one breaks even."""
    assert cg.wins(plain.tpot, drafted.tpot, "acc", B=256, T=2048) == ()
    best = drafted.tpot.evaluate(B=256, T=2048, acc=1)
    assert best > plain.tpot.evaluate(B=256, T=2048)


def test_the_acceptance_that_a_budget_needs(drafted):
    found = drafted.tpot.solve_for("acc", budget=0.02, B=1, T=2048)
    ((lower, upper),) = found.intervals
    assert upper == 1
    at = drafted.tpot.evaluate(B=1, T=2048, acc=nudged(lower, "0"))
    assert float(at) == pytest.approx(0.02, rel=1e-12)


def test_break_even_bits(drafted):
    """How narrow weights must be to beat speculation at an acceptance of 0.7."""
    passes = "fuse,quantize{weights=int4,bits=bits}"
    narrow = cg.compile("llama-2-70b", "h100", passes)
    other = drafted.tpot.bind(acc=Fraction(7, 10))
    (better,) = cg.wins(other, narrow.tpot, "bits", B=1, T=2048)
    assert better.lower == 0
    assert 4 < better.upper < 16
    base = float(other.evaluate(B=1, T=2048))
    for step, wins in (("-1e-9", True), ("1e-9", False)):
        value = narrow.tpot.evaluate(B=1, T=2048, bits=nudged(better.upper, step))
        assert (float(value) < base) is wins


def test_experts_against_a_dense_model_cross_twice():
    """Expected experts are a power of the batch: ends are enclosed."""
    dense = cg.compile("llama-2-13b", "h100", "fuse").tpot
    experts = cg.compile("mixtral-8x7b", "h100", "fuse").tpot
    found = cg.wins(dense, experts, "B", T=2048)
    assert len(found) == 2
    edge = found[1].lower
    for step, wins in (("1e-9", True), ("-1e-9", False)):
        at = nudged(edge, step)
        faster = experts.evaluate(B=at, T=2048) < dense.evaluate(B=at, T=2048)
        assert bool(faster) is wins
    budget = experts.solve_for("B", budget=0.05, T=2048)
    best = budget.largest
    assert experts.evaluate(B=best, T=2048) <= 0.05 < experts.evaluate(B=best + 1, T=2048)
