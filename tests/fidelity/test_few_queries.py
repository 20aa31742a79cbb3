"""Attention of a few queries over a long cache: between a decode step and a prefill."""

from __future__ import annotations

import itertools

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.symbols import S, T
from costgraph.timing.fidelity.classify import prefill_share

PAIRS = (("llama-3.1-70b", "b200"), ("llama-3-8b", "h100"), ("llama-2-13b", "rtx-4090"))


def attention(model: str, device: str, queries: int, batch: int, context: int) -> float:
    """Seconds of the attention of one step with ``queries`` new tokens at ``context``."""
    passes, phase = "fuse", "decode"
    if queries > 1:
        passes = f"speculative{{draft=heads,gamma={queries - 1}}},fuse"
        phase = "verify"
    made = cg.compile(model, device, passes, fidelity="calibrated")
    # The context of a verification counts its first token.
    first = context - queries + 1
    return made.breakdown(phase, B=batch, T=first)["attention"].seconds


def test_a_verification_over_a_long_cache_costs_about_a_decode_step() -> None:
    plain = cg.compile("llama-3.1-70b", "b200", "fuse", fidelity="calibrated")
    heads = "speculative{draft=heads,gamma=3,alpha=0.8},fuse"
    ideal = cg.compile("llama-3.1-70b", "b200", heads).tpot(B=32, T=32768)
    made = cg.compile("llama-3.1-70b", "b200", heads, fidelity="calibrated").tpot(B=32, T=32768)
    assert ideal < made < 1.35 * ideal
    assert made < plain.tpot(B=32, T=32768) / 2  # speculation pays


@pytest.mark.parametrize(("model", "device"), PAIRS)
@pytest.mark.parametrize(("batch", "context"), [(1, 4096), (64, 4096), (32, 32768)])
def test_time_grows_with_the_queries_and_does_not_jump(
    model: str, device: str, batch: int, context: int
) -> None:
    counts = (1, 2, 3, 4, 6, 8, 16, 32)
    times = [attention(model, device, q, batch, context) for q in counts]
    assert times == sorted(times)
    assert times[counts.index(8)] < 1.6 * times[0]
    for before, after, few, more in zip(times, times[1:], counts, counts[1:], strict=False):
        assert after / before < more / few  # never faster than the work


@pytest.mark.parametrize(("model", "device"), PAIRS)
@pytest.mark.parametrize("tokens", [2, 5, 17])
def test_where_every_position_is_new_it_is_a_prefill(model: str, device: str, tokens: int) -> None:
    made = cg.compile(model, device, "fuse", fidelity="calibrated")
    prefill = made.breakdown("prefill", B=4, S=tokens)["attention"].seconds
    assert attention(model, device, tokens, 4, tokens) == pytest.approx(prefill, rel=1e-12)


def test_the_share_of_a_prefill_is_continuous() -> None:
    assert prefill_share(Integer(1), T, True) == 0
    assert prefill_share(S, S, True) == 1
    shares = [prefill_share(Integer(q), Integer(500), True) for q in range(1, 501)]
    assert shares[0] == 0
    assert shares[-1] == 1
    assert all(0 < b - a < 0.01 for a, b in itertools.pairwise(shares))
    # Over another sequence queries may outnumber positions.
    assert prefill_share(Integer(600), Integer(500), False) == 1
    assert prefill_share(S, Integer(500), False) == 1


def test_a_generation_is_the_sum_of_its_steps() -> None:
    passes = "speculative{draft=heads,gamma=3,alpha=0.8},fuse"
    made = cg.compile("llama-3-8b", "h100", passes, fidelity="calibrated")
    steps = made.ttft(B=3, S=300) + sum(made.tpot(B=3, T=300 + i) for i in range(1, 900))
    assert made.latency(B=3, S=300, N=900) == pytest.approx(steps, rel=1e-9)
    assert any("FlashAttention 2" in text for text in made.assumptions)
    plain = cg.compile("llama-3-8b", "h100", "fuse", fidelity="calibrated")
    assert not any("FlashAttention 2" in text for text in plain.assumptions)
