"""Along an acceptance or a share: orders are exact, values real, messages short."""

from __future__ import annotations

import pytest
from sympy import Integer, Poly, Rational, oo, symbols

import costgraph as cg
from costgraph.errors import InputError
from costgraph.formula.polynomials import kept_sign, roots_above_zero

A = symbols("a", positive=True)
MODELS = {"llama-2-7b": "h100", "mixtral-8x7b": "h100"}
ROUNDS = (
    "draft=heads,tree=t4|2|1,alpha=acc",
    "draft=copy,tree=t2|2,alpha=acc",
    "draft=skip,drafts=4,gamma=3,alpha=acc",
    "draft=lookahead,window=w5|n4|g5,alpha=acc",
    "draft=skip,gamma=4,stop=acc",
    "draft=skip,gamma=3,alpha=0.9,fallback=acc",
    "draft=skip,gamma=4,hit=acc",
    "draft=skip,gamma=4,alpha=acc,batch=sync",
    "draft=skip,gamma=8,alpha=0.6,gain=acc",
)


def pair(model: str, options: str, fidelity: str = "ideal") -> tuple[cg.Formula, cg.Formula]:
    passes = ("fuse", f"fuse,speculative{{{options}}}")
    a, b = (cg.compile(model, MODELS[model], p, fidelity=fidelity).tpot for p in passes)
    return a, b


@pytest.mark.parametrize("options", ROUNDS)
@pytest.mark.parametrize("model", MODELS)
def test_drafting_wins_exactly_where_numbers_say(model, options):
    a, b = pair(model, options)
    for batch in (1, 64):
        at = {"B": batch, "T": 1024}
        found = cg.wins(a, b, "acc", **at)
        ends = [float(x) for part in found for x in (part.lower, part.upper)]
        last = 0.4 if "gain" in options else 1.0
        assert all(0 <= x <= last for x in ends)
        plain = a.evaluate(**at)
        for k in range(1, 60):
            x = last * k / 60
            if all(abs(x - e) > 1e-6 for e in ends):
                inside = any(part.lower < x < part.upper for part in found)
                assert inside == (b.evaluate(**at, acc=x) < plain), (batch, x)


@pytest.mark.parametrize("options", [ROUNDS[0], ROUNDS[4]])
def test_calibrated_times_have_break_evens_along_acceptances_too(options):
    a, b = pair("llama-2-7b", options, "calibrated")
    (won,) = cg.wins(a, b, "acc", B=4, T=1024)
    even = float(won.lower)
    ups = [a.evaluate(B=4, T=1024) / b.evaluate(B=4, T=1024, acc=even + x) for x in (-1e-6, 1e-6)]
    assert (ups[0] - 1) * (ups[1] - 1) < 0


@pytest.mark.parametrize("options", [ROUNDS[0], ROUNDS[4]])
def test_regimes_crossovers_and_budgets_take_acceptances(options):
    _, b = pair("llama-2-7b", options)
    at = {"B": 8, "T": 1024}
    assert b.regimes("acc", **at).pieces[-1].upper == 1
    assert all(0 < c.value <= 1 for c in b.crossover("acc", **at))
    budget = b.evaluate(**at, acc=0.5)
    found = b.solve_for("acc", budget=budget, **at)
    assert found.largest is None
    assert "whole acc" not in str(found)
    assert min(abs(float(x) - 0.5) for i in found.intervals for x in i) < 1e-9


def test_whole_and_real_symbols_are_told_apart():
    text = "fuse,speculative{draft=skip,gamma=g,alpha=acc}"
    formula = cg.compile("llama-2-7b", "h100", text).tpot
    assert formula.setting is not None
    assert formula.setting.whole == ("g",)
    budget = formula.evaluate(B=1, T=1024, acc=0.9, g=5)
    assert formula.solve_for("g", budget=budget, B=1, T=1024, acc=0.9).question.whole
    real = formula.solve_for("acc", budget=budget, B=1, T=1024, g=5)
    assert not real.question.whole
    assert abs(float(real.intervals[0][0]) - 0.9) < 1e-9


def test_a_real_symbol_without_closed_form_is_tried_as_a_real_one():
    from costgraph.formula.trying import tried_real

    found = tried_real(lambda x: (x - 0.25) * (0.75 - x), 0.0, 1.0)
    (first, second) = found.within
    assert first == (0.0, pytest.approx(0.25))
    assert second == (pytest.approx(0.75), 1.0)
    (open_,) = tried_real(lambda x: 3 - x, 0.0, None).within
    assert open_ == (pytest.approx(3), None)


def test_what_varies_is_given_no_value():
    a, b = pair("llama-2-7b", ROUNDS[0])
    for ask in (
        lambda: b.regimes("B", B=8, T=1024, acc=0.5),
        lambda: b.crossover("B", B=8, T=1024, acc=0.5),
        lambda: cg.wins(a, b, "acc", B=8, T=1024, acc=0.5),
    ):
        with pytest.raises(InputError, match="is given, and what varies is"):
            ask()


@pytest.mark.parametrize("options", ["draft=lookahead,alpha=acc", "draft=skip,drafts=8,alpha=acc"])
def test_what_is_not_decided_is_said_in_a_line(options):
    a, b = pair("llama-2-7b", options)
    for ask in (
        lambda: cg.wins(a, b, "acc", T=1024),
        lambda: b.regimes("acc"),
        lambda: b.solve_for("acc", budget=0.01, T=1024),
    ):
        with pytest.raises(InputError) as raised:
            ask()
        assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("poly", "low", "high", "sign"),
    [
        (A**4 - 4 * A**3 + 3 * A**2 + 2 * A + 1, 0, 1, 1),
        (A - 1, 0, 1, -1),
        (A * (A - 1), 0, 1, -1),
        ((2 * A - 1) ** 2, 0, 1, 0),
        (2 * A - 1, 0, 1, 0),
        (A + 1, 0, oo, 1),
        (A**2 - 2, 0, 2 ** Rational(1, 2), 0),  # as near an end as 40 digits tell
        (A**2 - 2, 0, Rational(7, 5), -1),
    ],
)
def test_signs_of_polynomials_on_intervals(poly, low, high, sign):
    assert kept_sign(Poly(poly, A), Integer(low) + 0, high + Integer(0)) == sign


def test_roots_of_large_polynomials_are_those_of_their_factors():
    sparse = Poly(A**192 - 3 * A**64 + 1, A)
    small = [float(r) for r in roots_above_zero(Poly(A**3 - 3 * A + 1, A))]
    assert [float(r) ** 64 for r in roots_above_zero(sparse)] == pytest.approx(small)
    long = Poly(sum(A**i for i in range(80)) - 3, A)
    (root,) = roots_above_zero(long)
    assert abs(float(long.eval(root))) < 1e-9
