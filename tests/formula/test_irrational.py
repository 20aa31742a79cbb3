"""What bounds next where coefficients are irrational or huge, and how long that takes."""

import time
from dataclasses import replace

import pytest
from sympy import Integer, Rational, log, root, sqrt

import costgraph as cg
from costgraph.asking.explaining import explain
from costgraph.formula.signs import Judge

#: Chances to powers with roots and logarithms, symbols of degree, stages beside each other.
CASES = [
    ("mixtral-8x7b", "8xh100", "fuse,parallel{ep=8,load=busiest}", {"B": 64, "T": 1000}),
    ("mixtral-8x7b", "8xh100", "fuse,parallel{ep=8,load=busiest},overlap", {"B": 64, "T": 1000}),
    ("llama-3-8b", "4xh100", "fuse,parallel{tp=p}", {"p": 2, "B": 1, "T": 10}),
    ("llama-3-70b", "4xh100", "fuse,parallel{pp=4,micro=4}", {"B": 16, "T": 1000}),
]


@pytest.mark.parametrize(("model", "system", "passes", "at"), CASES, ids=lambda v: str(v))
def test_the_next_bounds_are_found_soon_and_right(model, system, passes, at):
    """Just before and just after each the operations are bounded as it says."""
    begun = time.process_time()
    compiled = cg.compile(model, system, passes)
    found = explain(compiled, "tpot", **at)
    assert time.process_time() - begun < 20
    assert found.nexts
    machine = compiled.bound or compiled.machine
    formula = replace(compiled, machine=machine.symbolic()).tpot
    for cross in found.nexts:
        for resource, side in ((cross.before, -1), (cross.after, 1)):
            beyond = 1 + side * (1e-6 if cross.then > cross.now else -1e-6)
            point = {**found.point, **found.rates, cross.symbol: cross.then * beyond}
            bounds = formula.local(**{s.name: point[s.name] for s in formula.symbols}).parts
            assert set(cross.ops) & {op for b in bounds if b.resource == resource for op in b.ops}


@pytest.mark.parametrize(
    ("value", "sign"),
    [
        (sqrt(5 + 2 * sqrt(6)) - sqrt(2) - sqrt(3), 0),
        (3 * sqrt(log(2)) - sqrt(9 * log(2)), 0),
        (sqrt(2) - Rational(141421356237309504880, 10**20), 1),
        (root(2, 3) - Rational(126, 100), -1),
        (Rational(1, 4) ** 3000 - Rational(1, 4) ** 3001, 1),
        (Rational(3, 4) ** 5000 * sqrt(log(2)) - Integer(1) / 10, -1),
    ],
)
def test_signs_of_numbers(value, sign):
    assert Judge().sign(value) == sign
    assert Judge().sign(-value) == -sign
