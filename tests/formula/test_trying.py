"""Budgets along a symbol without a closed form: falling, rising, and turning quantities."""

import math

import numpy as np
import pytest

import costgraph as cg
from costgraph.errors import InputError
from costgraph.formula.trying import EACH, LARGEST, tried

LAST = 400_000
N = np.arange(1, LAST + 1, dtype=np.float64)
#: By name: a function of whole numbers with at most two turns.
SHAPES = {
    "rises": lambda n: 3 * np.sqrt(n),
    "falls": lambda n: 1e6 / n + 2,
    "falls, then rises": lambda n: 1e4 / n + n / 50,
    "rises, then falls": lambda n: 300 * n / (n * n + 90_000),
    "rises, falls, rises": lambda n: n**3 / 3 - 1000 * n**2 + 800_000 * n + 7,
    "steps": lambda n: np.ceil(n / 128),
    "stays": lambda n: 0 * n + 5,
    "a notch": lambda n: abs(np.log(n / 100_001)) + 1,
}


@pytest.mark.parametrize("sign", [1, -1], ids=["ceiling", "floor"])
@pytest.mark.parametrize("name", SHAPES)
def test_ranges_are_those_of_trying_every_number(name, sign):
    values = SHAPES[name](N)
    told = (*values[[0, 4, 69, 3000, -1]], values.min(), values.max())
    for budget in {v * k for v in told for k in (1, 1 - 1e-7, 1 + 1e-7, 0.9, 1.2)}:
        excess = sign * (values - budget)
        for last in (EACH, LAST):
            kept = np.concatenate([[False], excess[:last] <= 0, [False]])
            turns = np.flatnonzero(kept[1:] != kept[:-1]) + 1
            found = tried(lambda n, e=excess: float(e[n - 1]), 1, last)
            assert found.complete == (last == EACH)
            assert found.within == tuple((a, b - 1) for a, b in turns.reshape(-1, 2))


def test_without_an_end_the_last_range_has_none():
    assert tried(lambda n: 100 - n, 3, None).within == ((100, None),)
    assert tried(lambda n: n - 100, 3, None).within == ((3, 100),)
    assert tried(lambda n: 1 + 1 / n, 3, None).within == ()
    assert tried(lambda n: 1 / n - 1e-15, 1, None).last == LARGEST


def test_where_values_end_nothing_is_said_about_what_is_beyond():
    def until(n):
        if n > 1000:
            raise InputError("too long")
        return until.slope * (n - 500)

    until.slope = 1
    assert tried(until, 1, None).within == ((1, 500),)
    until.slope = -1
    with pytest.raises(InputError, match="too long"):
        tried(until, 1, None)


#: Quantities that fall in the symbol, and are no polynomials in it.
FALLING = [
    (
        "mixtral-8x7b", "8xh100", "fuse,parallel{ep=8,load=busiest}", "energy_per_token", "B",
        {"S": 512, "N": 128}, {},
    ),
    (
        "llama-2-7b", "h100", "fuse", "energy_per_token", "B", {"S": 512, "N": 128},
        {"fidelity": "calibrated"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "system", "passes", "metric", "over", "at", "options"), FALLING, ids=lambda v: str(v)
)
def test_falling_quantities_keep_a_budget_from_some_value_on(
    model, system, passes, metric, over, at, options
):
    formula = getattr(cg.compile(model, system, passes, **options), metric)
    values = {n: formula.evaluate(**at, **{over: n}) for n in (8, 16, 32, 64, 128)}
    assert list(values.values()) == sorted(values.values(), reverse=True)
    for n in (16, 64):
        budget = math.sqrt(values[n] * values[n // 2])
        found = formula.solve_for(over, budget, **at)
        first = found.intervals[0][0]
        assert n // 2 < first <= n
        assert found.tried
        assert formula.evaluate(**at, **{over: int(first)}) <= budget
        assert formula.evaluate(**at, **{over: int(first) - 1}) > budget
        assert "tried from" in str(found)
        rest = formula.solve_for(over, budget, at_least=True, **at)
        assert rest.intervals[0][1] == first - 1
