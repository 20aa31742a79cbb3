"""Maps over two symbols of models with experts: their boundaries are enclosed, not solved."""

from __future__ import annotations

import math
import random

import pytest
from sympy import Float

import costgraph as cg
from costgraph.formula.bounds import bound_shares


@pytest.mark.parametrize(
    ("name", "passes", "metric", "over", "fidelity"),
    [
        ("deepseek-v3", "", "ttft", "S", "ideal"),
        ("mixtral-8x7b", "fuse", "ttft", "S", "ideal"),
        ("mixtral-8x7b", "fuse", "ttft", "S", "calibrated"),
        ("mixtral-8x7b", "fuse", "tpot", "T", "calibrated"),
        ("qwen3-30b-a3b", "fuse", "ttft", "S", "ideal"),
        ("granite-3.1-3b-a800m", "fuse,quantize{weights=int4}", "ttft", "S", "ideal"),
    ],
)
def test_the_form_and_the_bound_of_every_region_hold(
    name: str, passes: str, metric: str, over: str, fidelity: str
) -> None:
    rng = random.Random(7)
    formula = getattr(cg.compile(name, "h200", passes, fidelity=fidelity), metric)
    found = formula.region_map("B", over)
    assert len(found) > 3
    for _ in range(30):
        batch, tokens = (int(math.exp(rng.uniform(0, top))) for top in (8, 10))
        region = found.at(batch, tokens)
        at = {found.x: Float(batch, 30), found.y: Float(tokens, 30)}
        value = formula.evaluate(B=batch, **{over: tokens})
        assert float(region.expr.xreplace(at).evalf(20)) == pytest.approx(value, rel=1e-9)
        if fidelity == "ideal":
            largest = bound_shares(formula, {"B": batch, over: tokens})
            assert set(largest) <= set(region.bound)


def test_a_boundary_of_experts_is_where_their_arms_are_equal() -> None:
    formula = cg.compile("mixtral-8x7b", "h100", "fuse").ttft
    term = next(t for t in formula.terms if any("expert_down" in op for op in t.ops))
    single = cg.Formula("one", "s", (term,))
    edges = {
        float((cell.top * single.region_map("B", "S").x).expand())
        for region in single.region_map("B", "S").regions
        for cell in region.cells
        if cell.top.is_finite
    }
    (tokens,) = edges  # one hyperbola: B·S is constant on it
    one = {a.resource: a.expr for a in term.arms}
    at = {s: (tokens if s.name == "S" else 1) for s in formula.symbols}
    values = [float(e.xreplace({s: Float(v, 40) for s, v in at.items()})) for e in one.values()]
    assert max(values) == pytest.approx(sorted(values)[-2], rel=1e-12)
