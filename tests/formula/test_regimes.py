"""Regimes, crossovers and solutions, against brute force and by hand."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sympy import Integer, Min, Rational, oo, simplify

import costgraph as cg
from costgraph.errors import InputError
from costgraph.formula import Arm, Formula
from costgraph.formula.regimes import crossovers, regimes
from costgraph.formula.signs import UndecidedError
from costgraph.formula.solve import solve_for
from costgraph.formula.terms import Term
from costgraph.models import load_model, model_names
from costgraph.symbols import B, T, symbol

RESOURCES = ("memory", "tensor:bf16", "vector:fp32")


def formula(lines: list[list[tuple[int, int, int]]]) -> Formula:
    """Terms with arms ``a + b·B + c·B²``, nothing pruned."""
    terms = [
        Term(
            Integer(i + 1),
            tuple(
                Arm(Integer(a) + b * B + c * B**2, r)
                for (a, b, c), r in zip(arms, RESOURCES, strict=False)
            ),
            (f"op{i}",),
        )
        for i, arms in enumerate(lines)
    ]
    return Formula("f", "s", tuple(terms))


small = st.integers(0, 9)
arms = st.lists(st.tuples(small, small, st.integers(0, 2)), min_size=1, max_size=3)


@settings(max_examples=120)
@given(st.lists(arms, min_size=1, max_size=3))
def test_regimes_agree_with_the_maximum_everywhere(lines):
    f = formula(lines)
    if B not in f.symbols:
        return
    found = regimes(f, "B")
    assert found.pieces[0].lower == 1
    assert found.pieces[-1].upper == oo
    for piece, after in zip(found.pieces, found.pieces[1:], strict=False):
        assert piece.upper == after.lower
        assert piece.lower < piece.upper
        edge = {B: piece.upper}
        assert simplify(piece.expr.xreplace(edge) - after.expr.xreplace(edge)) == 0
    for n in range(4, 40):
        at = Rational(n, 3)
        brute = sum(
            (i + 1) * max(a + b * at + c * at**2 for a, b, c in arms)
            for i, arms in enumerate(lines)
        )
        assert found.at(at).expr.xreplace({B: at}) == brute
    # No breakpoint is idle: some operation changes its bound at each.
    for piece, after in zip(found.pieces, found.pieces[1:], strict=False):
        assert piece.bound != after.bound


def test_breakpoints_on_integers_equal_slopes_and_zero_intercepts():
    f = formula([[(4, 1, 0), (0, 3, 0)], [(5, 2, 0), (3, 2, 0)], [(0, 0, 0), (0, 1, 0)]])
    found = regimes(f, "B")
    assert found.breakpoints == (2,)
    assert found.pieces[0].expr == 14 + 8 * B
    assert found.pieces[1].expr == 10 + 10 * B
    assert found.pieces[0].bound["memory"] == ("op0", "op1")


def test_three_arms_meeting_in_one_point_make_one_breakpoint():
    f = formula([[(4, 0, 0), (2, 1, 0), (0, 2, 0)]])
    assert regimes(f, "B").breakpoints == (2,)


def test_algebraic_breakpoints_are_exact():
    f = formula([[(2, 0, 0), (0, 0, 1)]])
    (edge,) = regimes(f, "B").breakpoints
    assert edge**2 == 2


@pytest.fixture(scope="module")
def symbolic():
    return cg.compile("llama-2-7b", "a6000", symbolic_hardware=True)


@pytest.fixture(scope="module")
def machine(symbolic):
    return {s.name: v for s, v in symbolic.bound.bindings().items()}


def test_the_critical_batch_is_a_closed_form_in_the_machine(symbolic, machine):
    found = symbolic.tpot.crossover("B", at=machine, T=2048)
    by_op = {op: c for c in found for op in c.ops}
    peak, bandwidth = symbol("F_fp16"), symbol("BW")
    # 2·d²·B / F = (2·d² + 4·d·B) / BW at d = 4096.
    by_hand = 2 * 4096**2 / bandwidth / (2 * 4096**2 / peak - 4 * 4096 / bandwidth)
    assert simplify(by_op["q_proj"].value - by_hand) == 0
    assert (by_op["q_proj"].below, by_op["q_proj"].above) == ("memory", "tensor:fp16")


def test_symbolic_regimes_state_their_conditions_and_agree_with_numbers(symbolic, machine):
    found = symbolic.tpot.regimes("B", at=machine, T=2048)
    values = symbolic.bound.bindings()
    assert found.conditions
    for condition in found.conditions:
        assert bool(condition.xreplace(values))
    numbers = cg.compile("llama-2-7b", "a6000").tpot.regimes("B", T=2048)
    assert [b.xreplace(values) for b in found.breakpoints] == list(numbers.breakpoints)
    for one, two in zip(found, numbers, strict=True):
        assert (one.expr.xreplace(values) - two.expr).expand() == 0


def test_without_a_reference_the_answer_says_on_what_it_depends(symbolic):
    with pytest.raises(UndecidedError, match="F_"):
        symbolic.tpot.regimes("B", T=2048)


def test_as_a_piecewise(symbolic):
    f = cg.compile("llama-2-7b", "a6000").tpot
    found = f.regimes("B", T=1000)
    for batch in (1, 200, 214, 300, 5000):
        value = found.piecewise().subs(B, batch)
        assert float(value) == pytest.approx(f.evaluate(B=batch, T=1000), rel=1e-12)
    assert "regimes" in str(found)


#: Models that generate text from a prompt: their step depends on the batch and the context.
DECODERS = [n for n in model_names() if load_model(n).phases[0].name == "prefill"]


@pytest.mark.parametrize("name", DECODERS)
def test_regimes_of_every_shipped_model(name):
    f = cg.compile(name, "h100", "fuse").tpot
    plain = cg.compile(name, "h100").tpot
    if T in plain.symbols:
        along = plain.regimes("T", B=3)
        for context in {min(n, along.pieces[-1].upper) for n in (100, 5000, 40000)}:
            exact = along.at(Integer(context)).expr.xreplace({T: Integer(context)})
            assert float(exact) == pytest.approx(plain.evaluate(B=3, T=context), rel=1e-12)
    found = f.regimes("B", T=512)
    for batch in (1, 37, 300, 4096):
        at = {B: Integer(batch), T: Integer(512)}
        exact = found.at(Integer(batch)).expr.xreplace(at)
        terms = (t.count * max(a.expr.xreplace(at).evalf(30) for a in t.arms) for t in f.terms)
        assert float(exact.evalf(30)) == pytest.approx(float(sum(terms)), rel=1e-14)
        # Tiles of a window of 2^17 tokens cancel to a few of them: floats lose digits there.
        assert float(exact) == pytest.approx(f.evaluate(B=batch, T=512), rel=1e-10)


def test_regimes_of_a_rate_are_rational():
    f = cg.compile("llama-2-7b", "a6000").throughput.bind(S=512, N=1)
    found = f.regimes("B")
    for batch in (1, 100, 400):
        value = found.at(batch).expr.xreplace({B: Integer(batch)})
        assert float(value) == pytest.approx(f.evaluate(B=batch), rel=1e-12)


@settings(max_examples=60)
@given(st.lists(arms, min_size=1, max_size=2), st.integers(1, 400))
@example([[(0, 0, 1)]], 1)  # kept exactly where the sizes begin, and nowhere else
def test_the_largest_batch_under_a_budget_is_the_largest(lines, budget):
    f = formula(lines)
    if B not in f.symbols:
        return
    solution = solve_for(f, "B", budget)

    def value(n):
        tops = (max(a + b * n + c * n * n for a, b, c in line) for line in lines)
        return sum(times * top for times, top in enumerate(tops, 1))

    assert value(7) == f.expr.xreplace({B: Integer(7)})
    best = max((n for n in range(1, 600) if value(n) <= budget), default=0)
    if solution.largest is None or solution.largest >= 600:
        assert best == 599
    else:
        assert solution.largest == best


def test_budgets_on_time_memory_and_rate():
    compiled = cg.compile("llama-3-8b", "a100-80g")
    for f, budget, values in (
        (compiled.tpot, 0.05, {"T": 4096}),
        (compiled.memory, 80e9, {"S": 1000, "N": 100}),
        (compiled.latency, 20, {"S": 1000, "N": 100}),
    ):
        best = solve_for(f, "B", budget, **values).largest
        assert f.evaluate(B=best, **values) <= budget < f.evaluate(B=best + 1, **values)
    rate = compiled.throughput
    at = {"S": 1000, "N": 100}
    floor = solve_for(rate, "B", 500, at_least=True, **at)
    (first, _), *_ = floor.intervals
    edge = int(first) + 1
    assert rate.evaluate(B=edge, **at) >= 500 > rate.evaluate(B=edge - 1, **at)


def test_ceilings_are_solved_exactly():
    f = cg.compile("llama-2-7b", "h100", "fuse{reuse=none}").ttft
    solution = f.solve_for("S", budget=1.0, B=1)
    assert not solution.tried
    best = solution.largest
    assert f.evaluate(B=1, S=best) <= 1.0 < f.evaluate(B=1, S=best + 1)


def test_what_cannot_be_answered_says_so(symbolic):
    f = cg.compile("gpt2", "a6000").tpot
    with pytest.raises(InputError, match="depend"):
        f.regimes("S")
    with pytest.raises(InputError, match="positive"):
        f.solve_for("B", budget=0, T=5)
    with pytest.raises(InputError, match="symbol"):
        f.regimes("B", Q=1)
    assert crossovers(f, "B", T=10)
    assert T in f.symbols


@settings(max_examples=80)
@given(
    st.lists(
        st.lists(st.tuples(small, small, small), min_size=1, max_size=3), min_size=1, max_size=2
    ),
    st.integers(1, 12),
)
def test_lengths_that_stop_growing_are_breakpoints(lines, window):
    """Arms ``a + b·B + c·Min(B, window)``, as sliding windows make them."""
    terms = tuple(
        Term(
            Integer(1),
            tuple(
                Arm(a + b * B + c * Min(B, window), r)
                for (a, b, c), r in zip(arms, RESOURCES, strict=False)
            ),
            (f"op{i}",),
        )
        for i, arms in enumerate(lines)
    )
    f = Formula("f", "s", terms)
    if B not in f.symbols:
        return
    found = regimes(f, "B")
    for n in range(3, 60):
        at = Rational(n, 3)
        brute = sum(max(a + b * at + c * min(at, window) for a, b, c in arms) for arms in lines)
        assert found.at(at).expr.xreplace({B: at}) == brute
    for piece, after in zip(found.pieces, found.pieces[1:], strict=False):
        assert piece.lower < piece.upper == after.lower


def test_a_windowed_model_over_its_context():
    f = cg.compile("mistral-7b", "h100").tpot
    found = f.regimes("T", B=4)
    assert 4096 in found.breakpoints
    for context in (1, 100, 4095, 4096, 9000):
        value = found.at(context).expr.xreplace({T: Integer(context)})
        assert float(value) == pytest.approx(f.evaluate(B=4, T=context), rel=1e-12)
