"""Regimes, budgets, break-even points and limits of calibrated formulas (norms and floors)."""

from __future__ import annotations

import math
import re
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Expr, Integer, Rational, exp, log, oo

import costgraph as cg
from costgraph.errors import InputError
from costgraph.formula import Arm, Formula
from costgraph.formula.evaluate import compile_expr
from costgraph.formula.intervals import enclosure
from costgraph.formula.isolate import sign_at, sign_changes
from costgraph.formula.terms import Term, make_term
from costgraph.symbols import B, S, T

RESOURCES = ("memory", "tensor:bf16")


def made(
    lines: list[tuple[tuple[int, int], tuple[int, int], int]], p: Rational, name: str = "f"
) -> Formula:
    """Terms ``(i + 1)·‖a + b·B, c + d·B‖_p`` with a floor each, as calibration makes them."""
    terms = []
    for i, (one, two, floor) in enumerate(lines):
        arms = [Arm(Integer(a) + b * B, r) for (a, b), r in zip((one, two), RESOURCES, strict=True)]
        op, count, below = (f"op{i}",), Integer(i + 1), Integer(floor)
        terms += [
            make_term(count, arms, op, norm=p, floor=below),
            make_term(count, (Arm(below, "latency"),), op),
        ]
    return Formula(name, "s", tuple(t for t in terms if t is not None))


small = st.integers(0, 9)
line = st.tuples(st.tuples(small, small), st.tuples(small, small), st.integers(0, 40))
exponents = st.sampled_from((Rational(3, 5), Rational(1), Rational(9, 5), Rational(83477, 10000)))


@settings(max_examples=80, deadline=None)
@given(st.lists(line, min_size=1, max_size=3), exponents)
def test_regimes_name_the_largest_of_arms_and_floor(lines: list[Any], p: Rational) -> None:
    f = made(lines, p)
    if B not in f.symbols:
        return
    found = f.regimes("B")
    assert found.pieces[0].lower == 1
    assert found.pieces[-1].upper == oo
    for piece, after in pairwise(found.pieces):
        assert piece.upper == after.lower
        assert (piece.bound, piece.expr) != (after.bound, after.expr)
    for n in range(8, 90, 7):
        at = Rational(n, 7) + Rational(1, 1000)
        here = found.at(at)
        wanted = sum(
            (i + 1)
            * (floor + ((a + b * at) ** float(p) + (c + d * at) ** float(p)) ** float(1 / p))
            for i, ((a, b), (c, d), floor) in enumerate(lines)
        )
        assert math.isclose(float(here.expr.xreplace({B: at})), float(wanted), rel_tol=1e-12)
        assert math.isclose(f.evaluate(B=float(at)), float(wanted), rel_tol=1e-12)
        for i, ((a, b), (c, d), floor) in enumerate(lines):
            sizes = {"memory": a + b * at, "tensor:bf16": c + d * at, "latency": floor}
            best = max(sizes.values())
            largest = {r for r, size in sizes.items() if size == best}
            owners = [r for r, ops in here.bound.items() if f"op{i}" in ops]
            # Once, however its floor is counted.
            assert best == 0 or (len(owners) == 1 and owners[0] in largest)


@cache
def calibrated(
    model: str, device: str, pipeline: str = "fuse", fidelity: str = "calibrated"
) -> Any:
    return cg.compile(model, device, pipeline, fidelity=fidelity)


SHIPPED = [("llama-3-70b", "h100"), ("mixtral-8x7b", "a100-80g"), ("deepseek-v3", "mi300x")]


@pytest.mark.parametrize("over", ["B", "T"])
@pytest.mark.parametrize(("model", "device"), SHIPPED)
def test_regimes_are_the_formula_and_have_no_jumps(model: str, device: str, over: str) -> None:
    f = calibrated(model, device).tpot
    fixed = {"B": {"T": 2048}, "T": {"B": 8}}[over]
    found = f.regimes(over, **fixed)
    assert len(found) > 1
    slopes, elasticities = found.derivative(), found.elasticity()
    piecewise = compile_expr(found.piecewise(), (found.symbol,))
    for at in (1, 2, 7, 100, 1000, 30000):
        value = compile_expr(found.at(at).expr, (found.symbol,))(at)
        exact = f.evaluate(**{over: at}, **fixed)
        assert math.isclose(value, exact, rel_tol=1e-12)
        assert math.isclose(piecewise(at), exact, rel_tol=1e-12)
        if at == 1:  # nothing is below a size of one
            continue
        up, down = (f.evaluate(**{over: at * (1 + h)}, **fixed) for h in (1e-4, -1e-4))
        slope = compile_expr(slopes.at(at).expr, (found.symbol,))(at)
        assert math.isclose(slope, (up - down) / (2e-4 * at), rel_tol=1e-4)
        relative = compile_expr(elasticities.at(at).expr, (found.symbol,))(at)
        assert math.isclose(relative, slope * at / exact, rel_tol=1e-9)
    kinks = [t.arms for t in f.bind(**fixed).terms if t.norm is None and len(t.arms) > 1]
    for one, two in (*pairwise(found.pieces), *pairwise(slopes.pieces)):
        edge = {found.symbol: one.upper}
        left, right = (float(p.expr.xreplace(edge)) for p in (one, two))
        if math.isclose(left, right, rel_tol=1e-11):
            continue
        # Where a row's time and memory's are equal a maximum turns up.
        assert one in slopes.pieces
        assert left < right
        assert any(len({a.expr.xreplace(edge) for a in arms}) == 1 for arms in kinks)


def test_breakpoints_are_exact_where_arms_are_equal() -> None:
    f = calibrated("llama-3-70b", "h100").tpot
    bound = f.bind(T=2048)
    edges = f.regimes("B", T=2048).breakpoints
    assert all(e.is_Rational for e in edges)
    for edge in edges:
        sizes = [
            sorted(a.expr.xreplace({B: edge}) for a in (*t.arms, Arm(t.floor, "latency")))
            for t in bound.terms
        ]
        assert any(len(s) > 1 and s[-1] == s[-2] for s in sizes)


def test_small_operations_are_bound_by_latency_and_products_by_memory() -> None:
    c = calibrated("llama-3-70b", "h100")
    first, last = c.tpot.regimes("B", T=2048).pieces[:: len(c.tpot.regimes("B", T=2048)) - 1]
    assert "attn_norm" in first.bound["latency"]
    assert "lm_head" in first.bound["memory"]
    assert "lm_head" in last.bound["tensor:bf16"]
    assert "latency" not in last.bound
    everything = [op for ops in first.bound.values() for op in ops]
    assert len(everything) == len(set(everything))
    table = {r.name: r.bound for r in c.breakdown("decode", B=1, T=2048)}
    for resource, ops in first.bound.items():
        assert {table[op] for op in ops} == {"compute" if ":" in resource else resource}


def test_crossovers_say_when_the_floor_stops_to_matter() -> None:
    found = calibrated("llama-3-70b", "h100").tpot.crossover("B", T=2048)
    pairs = {(c.below, c.above) for c in found}
    assert ("latency", "memory") in pairs
    assert ("memory", "tensor:bf16") in pairs
    assert [c.value for c in found] == sorted(c.value for c in found)


@pytest.mark.parametrize(("over", "far", "fixed"), [("B", 10**10, "T"), ("T", 10**14, "B")])
@pytest.mark.parametrize(("model", "device"), SHIPPED)
def test_asymptotes(model: str, device: str, over: str, far: int, fixed: str) -> None:
    f = calibrated(model, device).tpot
    found = f.asymptote(over, **{fixed: 512})
    assert found.order == 1
    assert math.isclose(
        f.evaluate(**{over: far, fixed: 512}) / far, float(found.leading), rel_tol=1e-6
    )


def test_a_lone_leading_arm_is_exact_and_cancelling_ones_are_refused() -> None:
    f = made([((1, 3), (5, 0), 2)], Rational(9, 5))
    assert f.asymptote("B").leading == 3
    other = made([((1, 3), (7, 0), 2)], Rational(9, 5), "g")
    with pytest.raises(InputError, match="cancel"):
        (f - other).asymptote("B")


@pytest.mark.parametrize(("model", "device"), SHIPPED)
def test_budgets_end_where_the_formula_meets_them(model: str, device: str) -> None:
    f = calibrated(model, device).tpot
    budget = f.evaluate(B=100, T=2048)
    found = f.solve_for("B", budget, T=2048)
    ((lower, upper),) = found.intervals
    assert lower == 1
    assert math.isclose(float(upper), 100, rel_tol=1e-12)
    assert found.largest in (99, 100)
    throughput = calibrated(model, device).throughput
    at = {"S": 64, "N": 32}
    floor = throughput.evaluate(B=50, **at) * 0.999
    reached = throughput.solve_for("B", floor, at_least=True, **at)
    assert reached.largest is None
    assert reached.intervals == ((50, oo),)
    assert reached.certified is not None
    assert reached.certified[0][1] < floor <= reached.certified[1][1]


def test_break_even_points_of_calibrated_formulas() -> None:
    whole = calibrated("llama-3-70b", "h100").tpot
    narrow = calibrated("llama-3-70b", "a100-80g", "fuse,quantize{weights=int4}").tpot
    (found,) = cg.wins(whole, narrow, "B", T=2048)
    assert found.lower == 1
    edge = float(found.upper)
    assert math.isclose(whole(B=edge, T=2048), narrow(B=edge, T=2048), rel_tol=1e-12)
    assert whole(B=edge - 1, T=2048) > narrow(B=edge - 1, T=2048)
    assert whole(B=edge + 1, T=2048) < narrow(B=edge + 1, T=2048)


def test_the_plane_of_two_symbols_keeps_the_norm() -> None:
    f = calibrated("llama-3-70b", "h100").tpot
    found = f.region_map("B", "T")
    for b, t in ((1, 10), (4, 2000), (64, 500), (300, 100), (5000, 100000)):
        region = found.at(b, t)
        value = compile_expr(region.expr, (B, T))(b, t)
        assert math.isclose(value, f.evaluate(B=b, T=t), rel_tol=1e-12)
        along = f.regimes("B", T=t).at(b).bound
        assert {k: set(v) for k, v in region.bound.items()} == {k: set(v) for k, v in along.items()}
    edge = f.regimes("B", T=2048).breakpoints[0]
    assert found.at(edge, 2048) in found.regions  # on a boundary


def test_symbolic_hardware_agrees_with_numbers() -> None:
    free = cg.compile("llama-3-8b", "h100", "fuse", fidelity="calibrated", symbolic_hardware=True)
    values = free.bound.bindings()
    at = {s.name: v for s, v in values.items()}
    found = free.tpot.regimes("B", at=at, T=2048)
    numbers = calibrated("llama-3-8b", "h100").tpot.regimes("B", T=2048)
    assert [b.xreplace(values) for b in found.breakpoints] == list(numbers.breakpoints)
    assert [p.bound for p in found] == [p.bound for p in numbers]


def test_text_shows_norms_and_says_a_form_once() -> None:
    found = calibrated("llama-3-8b", "h100").tpot.regimes("B", T=2048)
    text, forms = str(found), {piece.expr for piece in found}
    assert len(re.findall("‖[₁-₉][.₀-₉]*", text)) >= 5
    assert len(forms) == 2  # norms have one; of element-wise kernels the larger arm changes
    assert text.count("as above") == len(found) - len(forms)
    assert "latency: " in text


@settings(max_examples=60, deadline=None)
@given(
    st.floats(1e-6, 1e4), st.floats(0, 1e3), st.floats(0.3, 12), st.integers(-3, 3),
    st.fractions(0, 1, max_denominator=40),
)  # fmt: skip
def test_enclosures_contain_the_values(
    low: float, width: float, p: float, n: int, share: Any
) -> None:
    x, q = B, Rational(p).limit_denominator(1000)
    expr: Expr = (
        ((3 + x) ** q + (x / 7 - Rational(1, 3)) ** 2) ** (1 / q)
        + (x + 1) ** n
        - Rational(3, 4) ** x * log(x + 2)
        + exp(-x / 5)
    )
    over = enclosure(expr, x)
    assert over is not None
    below, above = over(low, low + width)
    at = Rational(low) + Rational(share.numerator, share.denominator) * Rational(width)
    exact = expr.evalf(40, subs={x: at})  # put in, its powers would be factored
    assert Rational(below) <= exact if math.isfinite(below) else True
    assert Rational(above) >= exact if math.isfinite(above) else True


def test_signs_that_doubles_leave_open_take_more_digits() -> None:
    tiny = Rational(1, 10**25)
    expr = (1 + B) ** Rational(9, 5) - (1 + B - tiny) ** Rational(9, 5)
    assert sign_at(expr, B, Rational(3)) == 1
    curve = (B**2 + 1) ** Rational(5, 9) - 100 * B ** Rational(1, 2)
    (root,) = sign_changes(curve, B, Integer(1))
    assert sign_changes(curve, B, Integer(1), root - 1) == []


def test_a_floor_beside_a_maximum_leaves_the_maximum_alone() -> None:
    term = Term(
        Integer(1), (Arm(B, "memory"), Arm(Integer(5), "vector")), ("op",), floor=Integer(3)
    )
    found = Formula("f", "s", (term,)).regimes("B")
    assert found.breakpoints == (5,)
    assert [p.expr for p in found] == [5, B]


def test_sums_over_contexts_say_what_to_ask_instead() -> None:
    with pytest.raises(InputError, match="solve_for"):
        calibrated("llama-3-8b", "h100").latency.regimes("B", S=100, N=10)
    assert S in calibrated("llama-3-8b", "h100").latency.symbols
