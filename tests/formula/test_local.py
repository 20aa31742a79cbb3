"""Local expressions, elasticities, asymptotes and two-symbol maps, against brute force."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Integer, Rational, ceiling, oo

import costgraph as cg
from costgraph.errors import InputError, UnboundSymbolError
from costgraph.formula import Arm, Formula
from costgraph.formula.region_map import region_map
from costgraph.formula.terms import Span, Term
from costgraph.symbols import B, N, S, T, symbol

METRICS = {
    "tpot": {"B": 48, "T": 900},
    "ttft": {"B": 3, "S": 700},
    "latency": {"B": 16, "S": 300, "N": 200},
    "throughput": {"B": 16, "S": 300, "N": 200},
}


@pytest.fixture(scope="module")
def symbolic():
    return cg.compile("llama-2-7b", "a6000", "fuse{attention=none}", symbolic_hardware=True)


def machine_values(compiled, formula):
    wanted = {s.name for s in formula.symbols}
    return {s.name: v for s, v in compiled.bound.bindings().items() if s.name in wanted}


@pytest.mark.parametrize("metric", METRICS)
def test_local_value_and_slopes_are_those_of_the_formula(symbolic, metric):
    f = getattr(symbolic, metric)
    machine = machine_values(symbolic, f)
    point = {**METRICS[metric], **machine}
    near = f.local(**point)
    assert near.value == pytest.approx(float(f.evaluate(**point)), rel=1e-12)
    assert math.fsum(near.shares.values()) == pytest.approx(1)
    for name in ("B", "BW", "F_fp16"):
        step = Rational(1, 10**6)
        up = float(f.evaluate(**{**point, name: Rational(point[name]) * (1 + step)}))
        down = float(f.evaluate(**{**point, name: Rational(point[name]) * (1 - step)}))
        slope = math.log(up / down) / math.log((1 + step) / (1 - step))
        assert near.elasticity(name) == pytest.approx(slope, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_faster_hardware_by_one_per_cent_is_one_per_cent(symbolic, metric):
    """Times are homogeneous of degree −1 in all rates taken together."""
    f = getattr(symbolic, metric)
    machine = machine_values(symbolic, f)
    near = f.local(**METRICS[metric], **machine)
    total = math.fsum(near.elasticity(name) for name in machine)
    assert total == pytest.approx(1 if metric == "throughput" else -1, rel=1e-9)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), min_size=1, max_size=3),
    st.integers(1, 20),
    st.integers(0, 40),
)
def test_a_sum_over_contexts_is_cut_where_its_arms_change(lines, lower, length):
    arms = tuple(Arm(Integer(a) + b * T * B, str(i)) for i, (a, b) in enumerate(lines))
    f = Formula("f", "s", (Term(Integer(1), arms, ("op",), Span(T, S, S + length - 1)),))
    total = sum(max(a + b * t * 2 for a, b in lines) for t in range(lower, lower + length))
    given_ = {"B": 2, "S": lower}
    near = f.local(**{k: v for k, v in given_.items() if symbol(k) in f.symbols})
    assert near.expr.xreplace({B: Integer(2), S: Integer(lower)}) == total


def test_local_wants_every_symbol_and_knows_its_own(symbolic):
    with pytest.raises(UnboundSymbolError, match="BW"):
        symbolic.tpot.local(B=1, T=2)
    f = cg.compile("gpt2", "a6000").tpot
    with pytest.raises(InputError, match="depend"):
        f.local(B=1, T=2).derivative("BW")


def test_derivatives_and_elasticities_per_regime():
    f = cg.compile("llama-2-7b", "a6000").tpot
    found = f.regimes("B", T=1000)
    slopes, bends = found.derivative(), found.elasticity()
    for batch in (1, 100, 215, 220, 400):
        near = f.local(B=batch, T=1000)
        assert slopes.at(batch).expr == near.derivative("B").xreplace({T: Integer(1000)})
        at = bends.at(batch).expr.xreplace({B: Integer(batch)})
        assert float(at) == pytest.approx(near.elasticity("B"), rel=1e-12)
        assert 0 < at <= 1


def test_asymptotes(symbolic):
    machine = machine_values(symbolic, symbolic.tpot)
    grow = symbolic.tpot.asymptote("B", at=machine, T=1024)
    assert grow.order == 1
    rest = symbolic.tpot.asymptote("BW", at=machine, B=64, T=1024)
    assert rest.order == 0
    assert symbol("BW") not in rest.leading.free_symbols
    values = symbolic.bound.bindings()
    far = {**machine, "BW": 10**30}
    limit = float(rest.leading.xreplace(values))
    assert limit == pytest.approx(float(symbolic.tpot.evaluate(B=64, T=1024, **far)), rel=1e-9)
    # Throughput saturates in the batch.
    rate = cg.compile("llama-2-7b", "a6000").throughput.bind(S=512, N=1).asymptote("B")
    assert rate.order == 0


small = st.integers(0, 6)
planes = st.lists(st.tuples(small, small, small, st.integers(0, 3)), min_size=1, max_size=3)


@settings(max_examples=80, deadline=None)
@given(st.lists(planes, min_size=1, max_size=3))
def test_maps_agree_with_the_maximum_everywhere(terms):
    """Arms ``a + b·B + c·T + d·B·T``."""
    made = tuple(
        Term(
            Integer(i + 1),
            tuple(
                Arm(a + b * B + c * T + d * B * T, str(k)) for k, (a, b, c, d) in enumerate(arms)
            ),
            (f"op{i}",),
        )
        for i, arms in enumerate(terms)
    )
    f = Formula("f", "s", made)
    if not {B, T} <= set(f.symbols):
        return
    found = region_map(f, "B", "T")
    for x in (Rational(1), Rational(3, 2), Rational(7, 3), Rational(5), Rational(40)):
        for y in (Rational(1), Rational(4, 3), Rational(2), Rational(11, 2), Rational(60)):
            value = sum(
                (i + 1) * max(a + b * x + c * y + d * x * y for a, b, c, d in arms)
                for i, arms in enumerate(terms)
            )
            region = found.at(x, y)
            assert region.expr.xreplace({B: x, T: y}) == value
            # The cells really contain the point, and no other region's do inside.
            inside = [r for r in found.regions for c in r.cells if strictly(c, x, y)]
            assert len(inside) <= 1
            assert not inside or inside[0].expr.xreplace({B: x, T: y}) == value


def strictly(cell, x, y):
    at = {B: x}
    bottom, top = cell.bottom.xreplace(at), cell.top.xreplace(at)
    return (
        bool(cell.left < x)
        and (cell.right == oo or bool(x < cell.right))
        and (bool(bottom < y) and (top == oo or bool(y < top)))
    )


#: Dense decoders: neither expected experts nor chunked scans, which are no polynomials.
DENSE = ["gpt2", "llama-2-7b", "gemma-2b", "qwen3-8b", "falcon-7b", "mistral-7b", "gemma-2-2b"]


@pytest.mark.parametrize("name", DENSE)
def test_maps_of_shipped_models(name):
    compiled = cg.compile(name, "a6000")
    f = compiled.ttft
    if set(f.symbols) != {B, S}:
        pytest.skip("depends on other sizes than B and S")
    # Experts touched grow as a power, chunks of a scan as a floor: no polynomials.
    bent = {"expert-linear", "ssd-scan", "gated-delta"}
    if any(r.kind in bent for r in compiled.rows[compiled.program.phases[0].name]):
        with pytest.raises(InputError, match="not a polynomial"):
            f.region_map("B", "S")
        return
    found = f.region_map("B", "S")
    assert "regions" in str(found)
    for batch, prompt in ((1, 1), (1, 300), (30, 7), (30, 600), (400, 2)):
        region = found.at(batch, prompt)
        value = region.expr.xreplace({B: Integer(batch), S: Integer(prompt)})
        assert float(value) == pytest.approx(f.evaluate(B=batch, S=prompt), rel=1e-12)


def test_maps_refuse_what_they_cannot_do(symbolic):
    f = cg.compile("gpt2", "a6000")
    arms = [Arm(ceiling(S / 8) * Rational(15, 16) ** S, "a"), Arm(B, "b")]
    powers = Formula("t", "s", (Term(Integer(1), tuple(arms)),))
    for bad, match in (
        (lambda: powers.region_map("B", "S"), "polynomial"),
        (lambda: f.tpot.region_map("B", "B"), "different"),
        (lambda: f.tpot.region_map("B", "S"), "depend"),
        (lambda: f.throughput.region_map("B", "S", N=2), "rate"),
        (lambda: symbolic.tpot.region_map("B", "T"), "no value"),
    ):
        with pytest.raises(InputError, match=match):
            bad()


@pytest.mark.parametrize("last", [40, 90, 400])
def test_sums_whose_largest_arm_is_no_line_are_cut_where_another_takes_over(last):
    """Pages grow in stairs: each context is looked at, and the parts add up to the sum."""
    stairs = Arm(3 * ceiling(T / 16) * B, "memory")
    line = Arm(T / 7 + 2, "compute")
    term = Term(Integer(2), (stairs, line), ("op",), Span(T, S + 1, S + N))
    near = Formula("t", "s", (term,)).local(B=1, S=20, N=last)
    steps = range(21, 21 + last)
    by_hand = sum(2 * max(3 * math.ceil(t / 16), Rational(t, 7) + 2) for t in steps)
    assert sum(p.expr.xreplace(dict(near.point)) for p in near.parts) == by_hand
    assert {p.resource for p in near.parts} == {"memory", "compute"}


def test_too_many_steps_to_look_at_are_refused():
    term = Term(
        Integer(1), (Arm(ceiling(T / 16), "a"), Arm(T / 7, "b")), ("op",), Span(T, S, S + N)
    )
    with pytest.raises(InputError, match="looked at step by step up to 10000; take tpot"):
        Formula("t", "s", (term,)).local(S=1, N=20_000)
