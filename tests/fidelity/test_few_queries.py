"""Attention of a few queries over a cache: as a decode step with packed queries."""

from __future__ import annotations

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.symbols import S, T
from costgraph.timing.fidelity.classify import few_queries

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


@pytest.mark.parametrize(
    ("model", "device", "sizes"),
    [
        ("llama-3-8b", "b200", {}),
        ("llama-2-13b", "rtx-4090", {}),
        ("gemma-2-9b", "h100", {}),  # windows
        ("deepseek-v2-lite", "h200", {}),  # latent attention
        ("t5-base", "h200", {"S": 512}),  # attends an encoder's states as well
    ],
)
def test_a_longer_context_and_more_queries_never_take_less_time(
    model: str, device: str, sizes: dict[str, int]
) -> None:
    contexts = (1, 2, 4, 8, 32, 128, 500, 4096, 4100)
    before: dict[tuple[int, int], float] = {}
    for queries in (2, 8):
        passes = f"fuse,speculative{{draft=heads,gamma={queries - 1}}}"
        made = cg.compile(model, device, passes, fidelity="calibrated")
        for batch in (3, 64):
            times = {}
            for context in contexts:
                table = made.breakdown("verify", B=batch, T=context, **sizes)
                times[batch, context] = sum(
                    row.count * row.seconds for row in table.rows if "attention" in row.kind
                )
            assert min(times.values()) > 0
            assert list(times.values()) == sorted(times.values())
            assert all(t >= before.get(at, 0) for at, t in times.items())
            before |= times


@pytest.mark.parametrize(("model", "device"), PAIRS)
def test_many_queries_over_nothing_cached_are_no_faster_than_half_a_prefill(
    model: str, device: str
) -> None:
    """Kernels differ, so times do; the work does not."""
    made = cg.compile(model, device, "fuse", fidelity="calibrated")
    prefill = made.breakdown("prefill", B=1, S=1024)["attention"].seconds
    assert 0.5 < attention(model, device, 1024, 1, 1024) / prefill < 1


def test_what_is_a_prefill_is_not_few_queries() -> None:
    four, many = Integer(4), Integer(500)
    assert not few_queries(S, S, causal=True)
    assert all(few_queries(four, T + three, causal=True) for three in range(4))
    # Over another sequence queries may outnumber positions.
    assert few_queries(four, S, causal=False)
    assert few_queries(four, many, causal=False)
    assert not few_queries(Integer(600), many, causal=False)
    assert not few_queries(S, many, causal=False)


def test_a_generation_is_the_sum_of_its_steps() -> None:
    passes = "speculative{draft=heads,gamma=3,alpha=0.8},fuse"
    made = cg.compile("llama-3-8b", "h100", passes, fidelity="calibrated")
    steps = made.ttft(B=3, S=300) + sum(made.tpot(B=3, T=300 + i) for i in range(1, 900))
    assert made.latency(B=3, S=300, N=900) == pytest.approx(steps, rel=1e-9)
    assert any("FlashAttention 2" in text for text in made.assumptions)
    plain = cg.compile("llama-3-8b", "h100", "fuse", fidelity="calibrated")
    assert not any("FlashAttention 2" in text for text in plain.assumptions)
