"""First tokens in closed form, of prompts that are alike or not: means and quantiles."""

from __future__ import annotations

import numpy as np
import pytest

import costgraph as cg
from costgraph.asking.serving import (
    ChunkedPrefill,
    Continuous,
    Lengths,
    Pool,
    PrefillFirst,
    Queue,
    StepTimes,
    poisson,
    simulate,
)

ANSWERS = Lengths(64)
#: Below which shares of simulated ones the ninth decile was, before prompts and steps were told
#: apart: 0.5 of log-normal prompts, 0.62 of equal ones in steps that hold several.
POLICIES = PrefillFirst(48), Continuous(48), ChunkedPrefill(48, 256), ChunkedPrefill(48, 2048)


@pytest.fixture(scope="module")
def times():
    pytest.importorskip("simpy")
    return StepTimes(cg.compile("llama-3.1-8b", "h100", "fuse", fidelity="calibrated"), 16_000)


@pytest.mark.parametrize("lengths", ["512", "uniform:512:0.8", "lognormal:512:0.8"])
@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: f"{p.name} {getattr(p, 'budget', '')}")
def test_first_tokens_are_those_of_the_simulation(times, policy, lengths):
    queue = Queue(times, policy, Lengths.of(lengths), ANSWERS)
    steady = queue.at(0.5 * queue.stable_rate)
    requests = poisson(steady.rate, 2500, queue.prompt, ANSWERS, 3)
    seen = simulate(requests, Pool(times, policy)).after(0.2)
    assert steady.ttft == pytest.approx(seen.ttft.mean(), rel=0.12)
    for percent, off in ((50, 0.1), (90, 0.2)):
        form, true = steady.quantile("ttft", percent), seen.quantile("ttft", percent)
        assert form == pytest.approx(true, rel=off), percent


def test_quantiles_grow_and_their_mean_is_that_of_the_forms(times):
    for policy in POLICIES:
        steady = Queue(times, policy, Lengths(512), ANSWERS).at(5)
        found = [steady.quantile("ttft", p) for p in (1, 10, 50, 75, 90)]
        assert [0, *found] == sorted([0, *found])
        assert steady.waits.drawn().mean() == pytest.approx(steady.ttft, rel=0.05)


@pytest.mark.parametrize("text", ["512", "uniform:512:0.8", "lognormal:512:1", "lognormal:512:3"])
def test_parts_of_lengths_have_their_mean(text):
    lengths = Lengths.of(text)
    found = lengths.parts(24)
    assert found.mean() == pytest.approx(lengths.mean)
    assert all(np.diff(found) >= 0)
    drawn = np.sort(lengths.draw(240_000, np.random.default_rng(5))).reshape(24, -1).mean(1)
    assert found[:-1] == pytest.approx(drawn[:-1], rel=0.02)
