"""Sliding windows: pairs by brute force, short formulas, sums that equal the loop."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Expr, Integer, Max, Min

import costgraph as cg
from costgraph.compiling.compiled import Compiled
from costgraph.counting.accounting import EXACT
from costgraph.counting.count import rows
from costgraph.counting.footprint import cache_bytes
from costgraph.formula import Arm, Formula, Span, Term
from costgraph.formula.envelope import dominates
from costgraph.formula.kinks import split
from costgraph.formula.least import folded, least, most
from costgraph.hardware import load_hardware
from costgraph.hardware.systems import alone
from costgraph.ir.program import autoregressive
from costgraph.ir.verify import verify
from costgraph.models.blocks import Style
from costgraph.models.decoder import Decoder, Kind, build
from costgraph.ops.flash import FlashAttention
from costgraph.ops.pattern import Dense, Window
from costgraph.passes import PASSES
from costgraph.rewriting.pipeline import parse, run
from costgraph.symbols import B, N, S, T, q, symbol

W = symbol("W")


def whole(x: int) -> Expr:
    return Integer(x)


@given(st.integers(1, 12), st.integers(1, 20), st.data())
def test_useful_pairs_equal_brute_force(window, context, data):
    new = data.draw(st.integers(1, context))
    brute = sum(min(context - new + i, window) for i in range(1, new + 1))
    pattern = Window(whole(window))
    seen = pattern.seen(whole(new), whole(context))
    assert pattern.pairs(whole(new), seen) == brute
    visible = {k for i in range(new) for k in range(max(0, context - new + i + 1 - window),
                                                    context - new + i + 1)}  # fmt: skip
    assert seen == len(visible)
    assert Dense(pattern).pairs(whole(new), seen) == new * seen
    symbolic = Window(W).pairs(q, Window(W).seen(q, T))
    values = {q: whole(new), T: whole(context), W: whole(window)}
    assert symbolic.xreplace(values) == brute
    assert folded(symbolic).xreplace(values) == brute


def test_bound_pairs_are_short():
    pattern = Window(W)
    pairs = pattern.pairs(q, pattern.seen(q, T))
    assert folded(pairs.xreplace({q: Integer(1)})) == Min(T, W)
    assert folded(pattern.seen(q, T).xreplace({q: S, T: S})) == S
    assert least(Min(T, W) - 1, W) == Min(T, W) - 1
    assert least(T + 4, W + 4) == Min(T, W) + 4
    assert least(T + 4, Integer(100)) == Min(T, 96) + 4
    assert least(T, W, W + q - 1) == Min(T, W)
    assert most(W - Min(T, W), Integer(0)) == W - Min(T, W)


clipped = st.sampled_from(
    [T, W, Min(T, W), Min(T + 3, W), Max(T, W), Min(T, W + q - 1), q, Integer(2), B * Min(T, W)]
)


@st.composite
def sums(draw):
    total: Expr = Integer(draw(st.integers(-3, 3)))
    for _ in range(draw(st.integers(1, 3))):
        total += draw(st.integers(-3, 4)) * draw(clipped)
    return total


@settings(max_examples=150)
@given(sums(), sums(), st.tuples(*[st.integers(1, 9)] * 4))
def test_dominance_with_clipped_lengths_is_never_claimed_wrongly(a, b, sizes):
    values = dict(zip((B, q, T, W), map(whole, sizes), strict=True))
    if dominates(a, b):
        assert a.xreplace(values) >= b.xreplace(values)
    small, large = least(a, b), most(a, b)
    assert small.xreplace(values) == min(a.xreplace(values), b.xreplace(values))
    assert large.xreplace(values) == max(a.xreplace(values), b.xreplace(values))


def test_dominance_decides_what_windows_need():
    assert dominates(T, Min(T, W))
    assert dominates(Max(T, W), Min(T, W))
    assert dominates(B * Min(T, W), Min(T, W))
    assert dominates(Min(T, W), Integer(1))
    assert not dominates(Min(T, W), T)
    assert not dominates(Min(T, W), Integer(2))


arms = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=3
)


@settings(max_examples=80)
@given(
    arms, st.integers(1, 40), st.integers(1, 40), st.integers(1, 30), st.integers(1, 30),
    st.sampled_from([0, 1, 5]),
)  # fmt: skip
def test_a_sum_with_kinks_equals_the_loop(lines, window, other, prompt, count, ahead):
    u, v = Min(T + ahead, window), Min(T, other)
    expressions = tuple(a + b * T + c * (u + 2 * v) for a, b, c in lines)
    span = Span(T, S + 1, S + N - 1)
    terms = []
    for pieces, part in split(tuple(Arm(e, "x") for e in expressions), span):
        assert not any(a.expr.atoms(Min, Max) for a in pieces)
        terms.append(Term(Integer(1), pieces, (), part))
    got = Formula("f", "byte", tuple(terms)).evaluate(S=prompt, N=count)

    def at(t: int) -> int:
        return max(int(e.xreplace({T: whole(t)})) for e in expressions)

    assert got == sum(at(t) for t in range(prompt + 1, prompt + count))


def test_neighbouring_kinks_make_no_extra_ranges():
    span = Span(T, S + 1, S + N - 1)
    two = split((Arm(Min(T, 100) + Min(T, 96), "x"),), span)
    assert len(two) == 3
    assert len(split((Arm(T, "x"),), span)) == 1


SMALL = Decoder(
    layers=Integer(5), d=Integer(8), heads=Integer(4), kv_heads=Integer(2), head_dim=Integer(4),
    ffn=Integer(12), vocab=Integer(50), rotary=Integer(4),
)  # fmt: skip


def windowed(window: int, pattern: bool = False) -> Decoder:
    if not pattern:
        return replace(SMALL, window=Integer(window))
    kinds = (Kind("sliding"), Kind("full", (("window", None),)))
    order = ("sliding", "sliding", "full", "sliding", "sliding")
    return replace(SMALL, window=Integer(window), kinds=kinds, pattern=order)


@cache
def compiled(model: Decoder, passes: str = "") -> Compiled:
    device = load_hardware("a6000")
    program = autoregressive("m", build("m", model, Style()))
    chosen = parse(passes, PASSES) if passes else ()
    made, trace = run(program, chosen, alone(device))
    return Compiled(made, device, EXACT, chosen, trace, device)


PIPELINES = (
    "", "fuse", "page-kv{block=4}", "quantize{kv=int8}", "fuse,page-kv{block=4},quantize{kv=fp8}",
    "early-exit{p=0.5}", "speculative{draft=skip,gamma=3,alpha=0.5,layers=2}",
    "fuse,speculative{draft=skip,gamma=3,alpha=0.5,layers=2}",
)  # fmt: skip


@pytest.mark.parametrize("passes", PIPELINES)
@settings(max_examples=12)
@given(
    window=st.sampled_from([1, 13]), batch=st.integers(1, 3), prompt=st.integers(1, 40),
    count=st.integers(1, 40),
)  # fmt: skip
def test_latency_equals_the_loop(passes, window, batch, prompt, count):
    made = compiled(windowed(window), passes)
    before = Formula(
        "before", "s",
        tuple(t for p in made.program.phases if p.span is None for t in made._steps(p.name)),
    ).evaluate(B=batch, S=prompt)  # fmt: skip
    steps = made.tpot
    scale = sum(p.weight * p.tokens for p in made.program.phases if p.span is not None)
    assert scale == 1
    loop = before + sum(steps.evaluate(B=batch, T=prompt + i) for i in range(1, count))
    got = made.latency.evaluate(B=batch, S=prompt, N=count)
    assert got == pytest.approx(loop, rel=1e-9)


@pytest.mark.parametrize("passes", PIPELINES[:5])
def test_a_window_beyond_the_context_changes_nothing(passes):
    wide, none = compiled(windowed(10**6), passes), compiled(SMALL, passes)
    values = {"B": 2, "S": 37, "N": 9}
    for metric in ("flops", "bytes", "memory", "latency"):
        one, other = getattr(wide, metric), getattr(none, metric)
        assert one.evaluate(**values) == pytest.approx(other.evaluate(**values), rel=1e-12)


@pytest.mark.parametrize("passes", PIPELINES[:5])
def test_beyond_the_window_a_step_costs_the_same(passes):
    made = compiled(windowed(8), passes)
    assert made.tpot.evaluate(B=2, T=8) == made.tpot.evaluate(B=2, T=5000)
    memory = [made.memory.evaluate(B=2, S=2, N=n) for n in (2, 100, 10_000)]
    assert memory[0] < memory[1] == memory[2]


def test_caches_hold_the_window_and_patterns_both_kinds():
    graph = build("m", windowed(8))
    verify(graph)
    per_token = 2 * 2 * 4 * 2
    assert cache_bytes(graph) == 5 * per_token * B * Min(T, 8)
    mixed = build("m", windowed(8, True))
    verify(mixed)
    assert cache_bytes(mixed) == (per_token * B * (4 * Min(T, 8) + T)).expand()
    names = [r.name for r in rows(mixed)]
    assert len(set(names)) == len(names)
    counts = {r.name: r.count for r in rows(mixed)}
    assert counts["sliding.q_proj"] == counts["sliding_2.q_proj"] == 2
    assert counts["full.q_proj"] == 1


def test_long_models_are_periods_and_a_rest():
    order = ("sliding", "sliding", "full") * 4 + ("sliding", "sliding")
    model = replace(windowed(8, True), pattern=order, layers=Integer(14))
    graph = build("m", model)
    verify(graph)
    assert [n.name for n in graph.nodes if n.op.kind == "repeat"] == ["layers", "last_sliding"]
    assert cache_bytes(graph) == (32 * B * (10 * Min(T, 8) + 4 * T)).expand()
    described, dims = model.symbolic()
    twin = cache_bytes(build("m", described)).xreplace(dims)
    assert (twin - cache_bytes(graph)).expand() == 0
    uniform = replace(SMALL, layers=Integer(14), window=None)
    assert sum(r.count for r in rows(graph) if r.name.endswith("q_proj")) == uniform.layers


@given(st.integers(1, 30), st.integers(1, 60), st.integers(1, 9), st.data())
def test_tiled_attention_reads_the_blocks_that_a_window_reaches(window, context, block, data):
    new = data.draw(st.integers(1, context))
    seen = min(context, window + new - 1)
    before, keys = seen - new, 0
    for start in range(1, new + 1, block):
        end = min(start + block - 1, new)
        keys += before + end - max(1, before + start - window + 1) + 1
    op = FlashAttention(Window(whole(window)), whole(block))
    assert op._keys_read(whole(new), whole(seen), whole(1)) == keys
    shared = FlashAttention(Window(whole(window)))
    assert shared._keys_read(whole(new), whole(seen), whole(1)) == seen


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_symbolic_draft_length_meets_the_window_between_two_tokens(steps):
    # The mean context of a draft is T + (g − 1)/2: its kink is no whole number.
    options = "draft=skip,alpha=0.5,layers=2"
    symbolic = compiled(windowed(13), f"speculative{{{options},gamma=g}}").latency
    plain = compiled(windowed(13), f"speculative{{{options},gamma={steps}}}").latency
    for prompt, count in ((3, 30), (11, 2), (12, 5), (40, 3)):
        values = {"B": 2, "S": prompt, "N": count}
        got = symbolic.evaluate(**values, g=steps)
        assert got == pytest.approx(plain.evaluate(**values), rel=1e-9)


def test_a_formula_shows_its_window():
    made = cg.compile("mistral-7b", "h100")
    assert "min(T, 4096)" in made.tpot.text()
    assert r"\min\left(T,\; 4096\right)" in made.tpot.latex()
    assert made.tpot.evaluate(B=1, T=4096) == made.tpot.evaluate(B=1, T=30_000)
    assert made.assumptions == ()
    assert made.program.limits == ()
    # Past the window, what bounds an operation no longer depends on the context.
    assert made.tpot.crossover("B", T=4096) == made.tpot.crossover("B", T=9000)


@pytest.mark.parametrize("passes", ["", "fuse"])
def test_latency_has_no_loop_over_tokens(passes):
    formula = compiled(windowed(13), passes).latency
    # A loop over a thousand million steps would never end.
    far, near = (formula.evaluate(B=1, S=13, N=n) for n in (10**9, 10**9 - 10**6))
    assert far / near == pytest.approx(1000 / 999)
