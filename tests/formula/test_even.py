"""Where one formula is as large as another is elsewhere, exactly, piece by piece."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Integer, Symbol, oo

import costgraph as cg
from costgraph.errors import InputError
from costgraph.formula import Arm, Formula
from costgraph.formula.terms import make_term
from costgraph.symbols import N

Line = tuple[int, int, int]


def formula(*lines: Line, unit: str = "s") -> Formula:
    """``max(a + b·N + c·N²)`` over the lines."""
    arms = tuple(Arm(a + b * N + c * N**2, f"r{i}") for i, (a, b, c) in enumerate(lines))
    term = make_term(Integer(1), arms, ("op",))
    assert term is not None
    return Formula("f", unit, (term,))


line = st.tuples(st.integers(0, 50), st.integers(1, 9), st.integers(0, 3))


@settings(max_examples=30)
@given(st.lists(line, min_size=1, max_size=2), st.lists(line, min_size=1, max_size=2))
def test_what_is_found_is_where_both_are_equal(first, second):
    a, b = formula(*first), formula(*second)
    found = cg.even(a, b, "N")
    for piece in found:
        upper = piece.lower + 7 if piece.upper == oo else piece.upper
        for at in (piece.lower, (piece.lower + upper) / 2, upper):
            (symbol,) = piece.expr.free_symbols or {N}
            there = piece.expr.xreplace({symbol: at})
            assert float(there) >= 1 - 1e-9
            value = b.expr.xreplace({N: there})
            assert float(value) == pytest.approx(float(a.expr.xreplace({N: at})), rel=1e-9)
    # Pieces follow each other without a gap, to infinity.
    assert found[-1].upper == oo
    for before, after in pairwise(found):
        assert float(before.upper) == pytest.approx(float(after.lower), rel=1e-9)


def test_a_formula_is_even_with_itself_at_the_same_value():
    (piece,) = cg.even(formula((3, 4, 0)), formula((3, 4, 0)), "N")
    assert (piece.lower, piece.upper, piece.expr) == (1, oo, N)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (formula((1, 1, 0)), formula((1, 1, 0), unit="byte"), "cannot be equal"),
        (formula((1, 1, 0)), formula((1, 0, 0)), "does not depend on 'N'"),
        (formula((1, 1, 0)) * Symbol("B", positive=True), formula((1, 1, 0)), "give B"),
    ],
)
def test_what_cannot_be_even_is_refused(a, b, said):
    with pytest.raises(InputError, match=said):
        cg.even(a, b, "N")


@pytest.mark.parametrize("prompts", [(512, 512), (1024, 100), (100, 2000)])
@pytest.mark.parametrize("batch", [1, 64])
def test_lengths_of_a_student_at_equal_latency(prompts, batch):
    teacher = cg.compile("llama-2-13b", "a100-80g").latency.bind(B=batch, S=prompts[0])
    student = cg.compile("llama-2-7b", "a100-80g").latency.bind(B=batch, S=prompts[1])
    pieces = cg.even(teacher, student, "N")
    for n in (1, 50, 256, 2000):
        seconds = teacher.evaluate(N=n)
        solved = student.solve_for("N", budget=seconds).largest
        inside = [p for p in pieces if p.lower <= n <= p.upper]
        if not inside:  # the student's prompt alone takes longer
            assert student.evaluate(N=1) > seconds
            continue
        there = float(inside[0].expr.xreplace({N: Integer(n)}))
        assert solved == int(there)
        assert student.evaluate(N=int(there)) <= seconds < student.evaluate(N=int(there) + 1)
