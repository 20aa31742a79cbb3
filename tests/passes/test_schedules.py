"""Schedules of draft and target: state machines against simulations, times against graphs."""

from __future__ import annotations

import numpy as np
import pytest
from sympy import Integer, Rational, limit, oo, simplify

import costgraph as cg
from costgraph.errors import PipelineError
from costgraph.ir.regions import Parallel
from costgraph.passes.decoding.acceptance import break_even_alpha, chain_tokens
from costgraph.passes.decoding.schedules import SCHEDULES
from costgraph.symbols import symbol

TARGET, DRAFT = "opt-13b", "opt-125m"
#: PEARL's tokens per round, by acceptance and window.
PEARL = {
    ".5": (1.2727, 1.3191, 1.3316), ".7": (1.6139, 1.8102, 1.9126), ".8": (1.8944, 2.2832, 2.5494),
    ".9": (2.3143, 3.1272, 3.8756), ".95": (2.6107, 3.8465, 5.2322),
}  # fmt: skip
WINDOWS = (3, 5, 8)


def compiled(options: str, on: str = "a100", passes: str = "") -> cg.Compiled:
    return cg.compile(TARGET, on, f"{passes}speculative{{draft={DRAFT},{options}}}")


@pytest.fixture(scope="module")
def plain():
    return cg.compile(TARGET, "a100")


def rounds_per_token(made: cg.Compiled) -> object:
    """Passes of the target per token, as the phases say."""
    return sum(p.weight for p in made.program.phases if "verify" in p.name)


def pearl_rounds(alpha: float, gamma: int, chains: int = 2000, rounds: int = 1000) -> float:
    """Tokens per round of the state machine, played token by token, chains side by side.

    A warm-up is left out; both modes' rounds count alike.
    """
    rng = np.random.default_rng(int(1000 * alpha) + gamma)
    post, total, counted = np.zeros(chains, bool), 0, 0
    for turn in range(rounds):
        stands = rng.random((chains, gamma)) < alpha
        run = np.where(stands.all(1), gamma, (~stands).argmax(1))
        # Post: what was drafted is verified, its first token again a draw of the next window:
        # up to γ tokens, the last of them perhaps the target's own. Pre: one token.
        made = np.where(post, np.minimum(run + 1, gamma), 1)
        post = np.where(post, run == gamma, stands[:, 0])
        if turn >= 100:
            total, counted = total + int(made.sum()), counted + chains
    return total / counted


@pytest.mark.parametrize("alpha", PEARL)
def test_pearl_emits_as_the_table_and_the_simulation_say(alpha):
    made = compiled("gamma=g,alpha=acc,schedule=pearl")
    closed = 1 / rounds_per_token(made)
    for gamma, published in zip(WINDOWS, PEARL[alpha], strict=True):
        value = float(closed.subs({symbol("g"): gamma, symbol("acc"): Rational(alpha)}))
        assert round(value, 4) == published
    # About 1.8 million rounds for the middle window: three digits.
    assert pearl_rounds(float(alpha), 5) == pytest.approx(PEARL[alpha][1], abs=6e-3)


def test_the_closed_form_of_pearl_and_its_limits():
    made = compiled("gamma=g,alpha=acc,schedule=pearl")
    a, g = symbol("acc"), symbol("g")
    tokens = 1 / rounds_per_token(made)
    published = (1 - a**g) / ((1 - a) * (1 + a - a**g))
    assert simplify(tokens - published) == 0
    # A cycle that starts with a good pre-verify, windows without end: PEARL's Theorem 2.
    cycle = 1 + limit(chain_tokens(Rational(4, 5), g - 1), g, oo)
    assert cycle == 1 / (1 - Rational(4, 5)) + 1
    # Against draft and verify in turn with c = 1/γ, as all are accepted: 2γ/(γ + 1).
    for window in WINDOWS:
        both = compiled(f"gamma={window},alpha=1,schedule=pearl")
        turns = chain_tokens(Integer(1), Integer(window)) / 2
        assert 1 / rounds_per_token(both) / turns == Rational(2 * window, window + 1)
        ratio = 1 / rounds_per_token(compiled(f"gamma={window},alpha=0.95,schedule=pearl"))
        ratio /= chain_tokens(Rational("0.95"), Integer(window)) / 2
        assert 1.18 < float(ratio) < 1.5


def test_no_token_of_pearl_takes_less_than_the_bound():
    for a in range(1, 20):
        for window in (1, 2, 4, 9):
            alpha = Rational(a, 20)
            tokens = chain_tokens(alpha, Integer(window) - 1) / (1 + alpha - alpha**window)
            assert tokens <= 1 / (1 - alpha)
            assert tokens >= 1


@pytest.mark.parametrize("schedule", ["pearl", "ahead"])
def test_what_runs_at_once_takes_the_longer_of_both(plain, schedule):
    """On devices of their own the two chains of times do not add up."""
    apart = compiled(f"gamma=4,alpha=0.8,schedule={schedule},draft-on=separate", "2xa100-80g")
    alone = cg.compile(TARGET, "a100-80g")
    small = cg.compile(DRAFT, "a100-80g")
    (phase,) = [p for p in apart.program.phases if p.name in ("post-verify", "verify")]
    region = phase.graph.nodes[0].op
    assert isinstance(region, Parallel)
    assert region.labels == ("target", "draft", "send")
    steps = 4 if schedule == "pearl" else 5
    first = 100 + 4
    for batch in (1, 512):
        target = cg.compile(
            TARGET, "a100-80g", f"speculative{{draft=heads,gamma={phase.query - 1}}}"
        )
        verify = target.time("verify").evaluate(B=batch, T=100)
        middle = first + (steps - 1) / 2
        drafting = steps * small.tpot.evaluate(B=batch, T=middle) if middle % 1 == 0 else None
        found = apart.time(phase.name).evaluate(B=batch, T=100)
        assert found >= verify * (1 - 1e-12)
        if drafting is not None:
            assert found == pytest.approx(max(verify, drafting), rel=1e-9)
    assert alone.tpot.evaluate(B=1, T=100) > 0


def test_on_one_device_both_read_its_memory(plain):
    """The shared region is at least the bytes of both over the bandwidth, and less than in turn."""
    shared = compiled("gamma=4,alpha=0.8,schedule=pearl")
    one = compiled("gamma=4,alpha=0.8")
    both = shared.time("post-verify").evaluate(B=1, T=100)
    parts = one.time("verify").evaluate(B=1, T=100) + 4 * one.time("draft").evaluate(B=1, T=100)
    held = 2 * (int(plain.parameters) + 4 * int(cg.compile(DRAFT, "a100").parameters))
    assert both >= 0.99 * held / 1.555e12
    assert both <= parts * (1 + 1e-9)


def test_a_draft_of_its_own_devices_has_its_own_memory_and_costs_money():
    options = "gamma=4,alpha=0.8,schedule=pearl"
    apart = compiled(f"{options},draft-on=separate", "2xa100-80g")
    alone = cg.compile(TARGET, "a100-80g")
    shared = cg.compile(TARGET, "a100-80g", f"speculative{{draft={DRAFT},{options}}}")
    at = {"B": 4, "S": 300, "N": 100}
    assert shared.memory.evaluate(**at) - alone.memory.evaluate(**at) > 2 * 125e6
    assert apart.memory.evaluate(**at) - alone.memory.evaluate(**at) < 20e6
    assert apart.program.devices == 2
    # The target and the draft read the prompt at once.
    assert apart.ttft.evaluate(B=1, S=300) == pytest.approx(alone.ttft.evaluate(B=1, S=300))
    # What is computed is the same wherever it is.
    assert apart.flops.evaluate(**at) == shared.flops.evaluate(**at)
    price, one = (c.cost_per_token.evaluate(**at) for c in (apart, shared))
    times = apart.latency.evaluate(**at) / shared.latency.evaluate(**at)
    assert price / one == pytest.approx(2 * times, rel=1e-9)


def test_a_sharded_target_leaves_devices_to_its_draft():
    text = f"parallel{{tp=2,spare=2}},speculative{{draft={DRAFT},schedule=pearl,draft-on=separate}}"
    made = cg.compile(TARGET, "4xa100-80g", text)
    assert made.program.devices == 4
    assert made.tpot.evaluate(B=1, T=50) > 0
    with pytest.raises(PipelineError, match="2 are spare, and the degrees multiply to 4"):
        cg.compile(TARGET, "4xa100-80g", "parallel{tp=4,spare=2}")
    with pytest.raises(PipelineError, match="spare"):
        cg.compile(TARGET, "4xa100-80g", "parallel{tp=auto,spare=2}")


def test_the_best_window_of_pearl_is_the_ratio_of_the_two_steps():
    """Both sides then end together (PEARL's Theorem 1): the optimum is beside ``t_p/t_q``."""
    text = "speculative{draft=opt-1.3b,gamma=optimal,alpha=0.9,schedule=pearl,draft-on=separate}"
    made = cg.compile(TARGET, "2xa100-80g", text)
    ratio = cg.compile(TARGET, "a100-80g").tpot.evaluate(B=1, T=1900) / cg.compile(
        "opt-1.3b", "a100-80g"
    ).tpot.evaluate(B=1, T=1900)
    assert abs(int(made.passes[0].gamma) - ratio) <= 1


def test_a_draft_that_runs_ahead_emits_as_a_simulation_says():
    """A hit needs all drafts and the guess of the target's own token."""
    alpha, gamma, rounds = 0.8, 3, 400_000
    made = compiled(f"gamma={gamma},alpha={alpha},schedule=ahead")
    rng = np.random.default_rng(5)
    stands = rng.random((rounds, gamma + 1)) < alpha
    run = np.where(stands.all(1), gamma + 1, (~stands).argmax(1))
    tokens, again = np.minimum(run, gamma) + 1, run < gamma + 1
    by_name = {p.name: p for p in made.program.phases}
    assert 1 / float(by_name["verify"].weight) == pytest.approx(tokens.mean(), abs=0.02)
    waits = float(by_name["draft"].weight) / gamma / float(by_name["verify"].weight)
    assert waits == pytest.approx(again.mean(), abs=6 * 0.5 / rounds**0.5)
    assert not any(
        p.name == "draft" for p in compiled("gamma=3,alpha=1,schedule=ahead").program.phases
    )


# --- stairs -----------------------------------------------------------------------------------


def test_stairs_verify_a_row_per_prefix(plain):
    made = compiled("gamma=3,alpha=0.6,schedule=stairs")
    verify = made.time("verify").evaluate(B=2, T=100)
    assert verify == pytest.approx(plain.tpot.evaluate(B=8, T=103), rel=1e-12)
    whole = 3 * made.time("draft").evaluate(B=2, T=100) + verify
    expected = float(chain_tokens(Rational(3, 5), Integer(3)))
    assert made.tpot.evaluate(B=2, T=100) == pytest.approx(whole / expected, rel=1e-12)
    # Each row has a cache of its own, the draft one per sequence.
    at = {"B": 2, "S": 200, "N": 50}
    cache = 2 * 2 * 40 * 5120
    extra = made.memory.evaluate(**at) - compiled("gamma=3").memory.evaluate(**at)
    assert extra == pytest.approx(cache * 2 * 3 * 252, rel=0.02)


def test_stairs_without_caches_forward_whole_prefixes(plain):
    made = compiled("gamma=3,alpha=0.6,schedule=stairs-uncached")
    verify = made.time("verify").evaluate(B=2, T=100)
    assert verify == pytest.approx(plain.time("prefill").evaluate(B=8, S=103), rel=1e-12)
    assert verify > made.time("draft").evaluate(B=2, T=100)


@pytest.mark.parametrize(
    ("reduction", "factor"), [(Rational("0.1724"), ".828"), (Rational("0.0958"), ".904")]
)
def test_published_reductions_of_stairs_invert_to_an_acceptance(reduction, factor):
    """T5-large 17.24 % and T5-3B 9.58 % less time: with free rows ``(k·c + 1)/E`` is the rest."""
    left = 1 - reduction
    assert round(float(left), 3) == pytest.approx(float(factor), abs=5e-4)
    for k in (1, 3, 5):
        for c in (Rational(1, 10), Rational(1, 5)):
            alpha = break_even_alpha(k, (k * c + 1) / left)
            tokens = chain_tokens(alpha, Integer(k))
            assert float((k * c + 1) / tokens) == pytest.approx(float(left), rel=1e-12)
            # And to the draft's cost, which is what is left with every token accepted or less.
            back = (left * tokens - 1) / k
            assert float(back) == pytest.approx(float(c), rel=1e-9)


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (f"draft={DRAFT},tree=t2|2,schedule=pearl", "one chain"),
        (f"draft={DRAFT},drafts=2,schedule=stairs", "one chain"),
        (f"draft={DRAFT},stop=0.2,schedule=ahead", "one chain"),
        (f"draft={DRAFT},alphas=p80|p70,schedule=pearl", "one acceptance"),
        ("draft=heads,schedule=pearl", "token by token"),
        ("draft=lookahead,schedule=pearl", "token by token"),
        (f"draft={DRAFT},draft-on=separate", "says nothing about schedule=turns"),
        (f"draft={DRAFT},schedule=pearl,draft-on=separate", "take 2 devices, and a100 is 1"),
        ("draft=skip,schedule=pearl,draft-on=separate", "not a model of its own"),
        (f"draft={DRAFT},schedule=later", "unknown 'later'"),
    ],
)
def test_schedules_that_cannot_be_are_refused(options, words):
    with pytest.raises(PipelineError, match=words):
        cg.compile(TARGET, "a100", f"speculative{{{options}}}")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("fidelity", ["ideal", "calibrated"])
def test_every_schedule_answers_every_question(schedule, fidelity):
    """Times, memory, counts, energy and the text of each; nothing of a draft is lost."""
    text = f"fuse,speculative{{draft={DRAFT},gamma=3,alpha=0.8,schedule={schedule}}}"
    made = cg.compile(TARGET, "a100", text, fidelity=fidelity)
    at = {"B": 2, "S": 100, "N": 40}
    for metric in ("latency", "memory", "flops", "bytes", "energy", "throughput"):
        assert getattr(made, metric).evaluate(**at) > 0
    for phase in made.program.phases:
        assert made.breakdown(phase.name, B=2, T=60, S=60).rows
    small, big = (cg.compile(m, "a100", "fuse") for m in (DRAFT, TARGET))
    assert made.memory.evaluate(**at) > 2 * (int(small.parameters) + int(big.parameters))
