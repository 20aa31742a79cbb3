"""Speculative decoding: expected tokens, draft length, rewriting, limits."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Integer, Rational

import costgraph as cg
from costgraph.errors import InputError, PipelineError
from costgraph.passes import PASSES
from costgraph.passes.decoding.acceptance import (
    break_even_alpha,
    chain_tokens,
    independent_tokens,
    optimal_gamma,
    position_tokens,
    speedup,
    synchronous_tokens,
    tree_tokens,
)
from costgraph.passes.decoding.draft_length import LONGEST
from costgraph.rewriting.pipeline import parse, text_of
from costgraph.symbols import symbol

TARGET, DRAFT = "opt-13b", "opt-125m"


def exact(text: str) -> Rational:
    return Rational(text)


#: (acceptance, draft cost) to the best whole draft length and its speed-up.
OPTIMA = [
    (".5", ".05", 3, 1.630), (".6", ".05", 4, 1.921), (".7", ".05", 6, 2.353),
    (".8", ".05", 8, 3.092), (".9", ".05", 13, 4.674), (".8", ".01", 14, 4.232),
    (".8", ".1", 6, 2.470), (".8", ".2", 4, 1.868), (".9", ".2", 7, 2.373),
    (".5", ".2", 1, 1.250), (".9", ".01", 24, None),
]  # fmt: skip


@pytest.mark.parametrize(("alpha", "c", "gamma", "factor"), OPTIMA)
def test_the_best_draft_length_matches_the_check_numbers(alpha, c, gamma, factor):
    a, cost = exact(alpha), exact(c)
    assert optimal_gamma(a, cost) == gamma
    if factor is not None:
        assert round(float(speedup(a, Integer(gamma), cost)), 3) == factor


@settings(max_examples=40)
@given(st.integers(1, 19), st.integers(1, 19))
def test_the_best_draft_length_matches_brute_force(a, c):
    alpha, cost = Rational(a, 20), Rational(c, 20)
    brute = max(range(200), key=lambda g: (speedup(alpha, Integer(g), cost), -g))
    assert optimal_gamma(alpha, cost) == brute


def test_drafting_pays_only_above_the_draft_cost():
    assert optimal_gamma(exact(".2"), exact(".2")) == 0
    assert optimal_gamma(exact(".21"), exact(".2")) == 1


def test_expected_tokens_match_the_check_numbers():
    def rounded(value):
        return round(float(value), 4)

    six, eight, four = exact(".6"), exact(".8"), Integer(4)
    assert [rounded(independent_tokens(six, four, Integer(k))) for k in (1, 2, 4, 8)] == [
        2.3056, 3.0581, 3.8549, 4.4990,
    ]  # fmt: skip
    assert [rounded(independent_tokens(eight, four, Integer(k))) for k in (1, 2, 4, 8)] == [
        3.3616, 4.2437, 4.8034, 4.9817,
    ]  # fmt: skip
    assert rounded(chain_tokens(eight, four)) == 3.3616
    assert rounded(synchronous_tokens(eight, four, Integer(8))) == 1.2014


def test_the_forms_of_expected_tokens_agree_with_each_other():
    a, g = exact(".7"), Integer(5)
    assert position_tokens([a] * 5) == chain_tokens(a, g)
    assert tree_tokens(a, [1] * 5) == chain_tokens(a, g)
    assert synchronous_tokens(a, g, Integer(1)) == chain_tokens(a, g)
    assert independent_tokens(a, g, Integer(1)) == chain_tokens(a, g)
    alpha, gamma = symbol("alpha"), symbol("gamma")
    closed = chain_tokens(alpha, gamma).xreplace({alpha: a, gamma: g})
    assert closed == chain_tokens(a, g)


def simulate(alpha: float, gamma: int, rounds: int, drafts: int = 1) -> float:
    rng = random.Random(7)
    total = 0
    for _ in range(rounds):
        best = 0
        for _ in range(drafts):
            run = 0
            while run < gamma and rng.random() < alpha:
                run += 1
            best = max(best, run)
        total += best + 1
    return total / rounds


@pytest.mark.parametrize(("alpha", "gamma", "drafts"), [(0.8, 4, 1), (0.6, 4, 4), (0.9, 7, 1)])
def test_expected_tokens_match_a_simulation(alpha, gamma, drafts):
    formula = independent_tokens(Rational(str(alpha)), Integer(gamma), Integer(drafts))
    rounds = 200_000
    # The spread of one round is below gamma / 2: six standard errors.
    bound = 6 * (gamma / 2) / rounds**0.5
    assert abs(simulate(alpha, gamma, rounds, drafts) - float(formula)) < bound


def test_break_even_acceptance_balances_the_round():
    assert break_even_alpha(1, Rational(6, 5)) == Rational(1, 5)
    root = break_even_alpha(4, Rational(5, 2))
    assert root is not None
    assert abs(float(chain_tokens(root, Integer(4))) - 2.5) < 1e-12
    assert break_even_alpha(2, Integer(4)) is None
    assert break_even_alpha(3, Rational(1, 2)) == 0


@pytest.fixture(scope="module")
def plain():
    return cg.compile(TARGET, "a100")


def test_no_draft_is_the_unmodified_model_symbolically(plain):
    same = cg.compile(TARGET, "a100", f"speculative{{draft={DRAFT},gamma=0}}")
    for metric in ("ttft", "tpot", "latency", "memory", "flops", "bytes"):
        assert (getattr(same, metric) - getattr(plain, metric)).terms == ()
        assert getattr(same, metric).expr == getattr(plain, metric).expr


@pytest.mark.parametrize(("alpha", "tokens"), [("0", 1), ("1", 5)])
def test_at_the_ends_a_round_emits_one_token_or_all(plain, alpha, tokens):
    c = cg.compile(TARGET, "a100", f"speculative{{draft={DRAFT},gamma=4,alpha={alpha}}}")
    draft, verify = (c.time(p).evaluate(B=2, T=500) for p in ("draft", "verify"))
    assert c.tpot.evaluate(B=2, T=500) == pytest.approx((4 * draft + verify) / tokens)


def test_a_round_is_its_phases(plain):
    c = cg.compile(TARGET, "a100", f"speculative{{draft={DRAFT},gamma=3,alpha=4/5}}")
    small = cg.compile(DRAFT, "a100")
    # Draft steps at the mean context of the round; verification of four positions.
    assert c.time("draft").evaluate(B=1, T=99) == pytest.approx(
        small.tpot.evaluate(B=1, T=100), rel=1e-14
    )
    step = c.breakdown("verify", B=1, T=99)
    assert step.bindings == {"B": 1, "q": 4, "T": 102}
    assert step["lm_head"].flops == 4 * plain.breakdown("decode", B=1, T=99)["lm_head"].flops
    expected = float(chain_tokens(Rational(4, 5), Integer(3)))
    whole = 3 * c.time("draft").evaluate(B=1, T=99) + c.time("verify").evaluate(B=1, T=99)
    assert c.tpot.evaluate(B=1, T=99) == pytest.approx(whole / expected)


def test_both_models_and_both_caches_are_resident(plain):
    c = cg.compile(TARGET, "a100", f"speculative{{draft={DRAFT},gamma=3}}")
    small = cg.compile(DRAFT, "a100")
    extra = c.memory.evaluate(B=1, S=500, N=100) - plain.memory.evaluate(B=1, S=500, N=100)
    # Three more positions in both caches, and the draft with its own.
    kv = 2 * 2 * 12 * 768
    weights = 2 * int(small.parameters)
    assert extra >= weights + kv * (500 + 100 - 1)
    shared = cg.compile(TARGET, "a100", "speculative{gamma=3}")
    assert shared.memory.evaluate(B=1, S=500, N=100) - plain.memory.evaluate(
        B=1, S=500, N=100
    ) < 0.01 * float(plain.memory.evaluate(B=1, S=500, N=100))


def test_a_draft_of_the_targets_layers_shares_them(plain):
    c = cg.compile(TARGET, "a100", "speculative{layers=10,gamma=2}")
    steps = c.breakdown("draft", B=1, T=50)
    assert steps["q_proj"].count == 10
    assert c.ttft.expr == plain.ttft.expr


def test_heads_draft_in_one_go():
    c = cg.compile("llama-2-7b", "a100", "speculative{draft=heads,gamma=5}")
    heads = c.program.phase("draft").graph
    from costgraph.counting.count import parameters

    assert parameters(heads) == 5 * (4096 * 4096 + 4096 + 4096 * 32000)  # 739M, 11 percent
    assert c.program.phase("draft").weight * 1 == c.program.phase("verify").weight


def test_trees_verify_all_their_nodes():
    c = cg.compile("llama-2-7b", "a100", "speculative{draft=heads,tree=t4|2|1}")
    assert c.program.phase("verify").query == 1 + 4 + 8 + 8


def test_the_best_draft_length_on_a_machine_beats_its_neighbours():
    text = f"speculative{{draft={DRAFT},gamma=optimal,alpha=0.8}}"
    best = cg.compile(TARGET, "a100", text)
    chosen = best.passes[0]
    gamma = int(chosen.gamma)
    assert gamma > 0
    # OPT has 2048 positions: the context leaves room for the longest draft.
    (note,) = (s for s in best.assumptions if s.startswith("gamma = "))
    context = 2048 - LONGEST
    assert f"T={context};" in note

    def seconds(g):
        other = cg.compile(TARGET, "a100", f"speculative{{draft={DRAFT},gamma={g},alpha=0.8}}")
        return other.tpot.evaluate(B=1, T=context)

    even = float(note.rsplit(" ", 1)[1])
    at_even = text.replace("optimal", str(gamma)).replace("0.8", f"{even:.3f}")
    assert cg.compile(TARGET, "a100", at_even).tpot.evaluate(B=1, T=context) == pytest.approx(
        seconds(0), rel=5e-3
    )
    times = [seconds(g) for g in range(20)]
    assert times.index(min(times)) == gamma
    # Near the end of the positions only shorter drafts are considered.
    late = cg.compile(TARGET, "a100", text.replace("}", ",at-context=2045}"))
    assert int(late.passes[0].gamma) == min(gamma, 3)
    with pytest.raises(InputError, match="no positions beyond"):
        cg.compile(TARGET, "a100", text.replace("}", ",at-context=2049}"))
    # At large batch verification is no longer free, and drafting stops paying.
    crowded = cg.compile(TARGET, "a100", text.replace("}", ",at-batch=4096}"))
    assert int(crowded.passes[0].gamma) < gamma


def test_symbolic_acceptance_and_length_stay_symbols():
    c = cg.compile(TARGET, "a100", f"speculative{{draft={DRAFT},gamma=g,alpha=a}}")
    assert {"a", "g"} <= {s.name for s in c.tpot.symbols}
    bound = cg.compile(TARGET, "a100", f"speculative{{draft={DRAFT},gamma=4,alpha=0.6}}")
    assert c.tpot.evaluate(B=3, T=70, g=4, a=0.6) == pytest.approx(
        bound.tpot.evaluate(B=3, T=70), rel=1e-12
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("speculative{alpha=1.5}", "alpha"),
        ("speculative{gamma=-1}", "gamma"),
        ("speculative{gamma=best}{", "pass"),
        ("speculative{draft=nonesuch-7b}", "draft"),
        ("speculative{tree=t0}", "tree"),
        ("speculative{tree=t2,drafts=3}", "exclude"),
        ("speculative{alphas=p120}", "percent"),
        ("speculative{layers=99}", "layers"),
        ("speculative,speculative", "several tokens"),
        ("speculative{gamma=optimal,alpha=a}", "alpha"),
        ("speculative{gamma=g,drafts=2}", "gamma"),
        ("speculative{batch=always}", "batch"),
    ],
)
def test_options_that_make_no_sense_are_refused(text, words):
    with pytest.raises(PipelineError, match=words):
        cg.compile(TARGET, "a100", text)


@given(
    st.sampled_from(["opt-125m", "skip", "heads"]),
    st.integers(0, 9),
    st.integers(0, 10),
    st.sampled_from(["ragged", "sync"]),
)
def test_pipelines_round_trip(draft, gamma, tenths, batch):
    text = f"speculative{{draft={draft},gamma={gamma},alpha={tenths}/10,batch={batch}}}"
    passes = parse(text, PASSES)
    assert parse(text_of(passes), PASSES) == passes
