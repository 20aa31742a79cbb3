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
from costgraph.asking.serving.queueing import second_moment
from costgraph.asking.serving.waits import poisson_at
from costgraph.errors import InputError

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


@pytest.mark.parametrize("variation", [0.8, 1, 1.5])
def test_few_long_prompts_count_in_waits_and_in_the_largest_rate(times, variation):
    """Pollaczek and Khinchine with the moments of drawn prompts, in steps of their own."""
    prompts = Lengths(500, "lognormal", variation)
    tokens, often = np.unique(prompts.draw(300_000, np.random.default_rng(3)), return_counts=True)
    known = np.unique(np.geomspace(1, tokens[-1], 400).astype(int))
    seconds = np.interp(tokens, known, [times.prompt(int(n)) for n in known])
    mean, square = (float(np.average(seconds**k, weights=often)) for k in (1, 2))
    queue = Queue(times, PrefillFirst(64), prompts, Lengths(1))
    assert queue.stable_rate == pytest.approx(1 / mean, rel=0.005)
    rate = 0.6 / mean
    wait = rate * square / (2 * (1 - 0.6))
    # Of parts that are equally likely alone it was 2, 5 and 20 % too short.
    assert queue.at(rate).ttft == pytest.approx(mean + wait, rel=0.02)


@pytest.mark.parametrize("text", ["512", "uniform:512:0.8", "lognormal:512:1", "lognormal:512:2"])
def test_shares_of_lengths_have_their_moments(text):
    lengths = Lengths.of(text)
    found, shares = lengths.weighed(24)
    assert shares.sum() == pytest.approx(1)
    assert shares @ found == pytest.approx(lengths.mean)
    second = shares @ found**2 / lengths.mean**2
    assert second == pytest.approx(second_moment(lengths), rel=0.04)
    assert all(np.diff(found) >= 0)


@pytest.mark.parametrize(
    ("spread", "mean", "width", "refused"),
    [
        ("uniform", 64.5, 63.5 / 64.5, False),
        ("uniform", 512, 1e-17, False),
        ("uniform", 2, 0.25, False),
        ("uniform", 1.4, 0.01, True),
        ("uniform", 1, 1, True),
        ("uniform", 2, 0.9, True),
        ("lognormal", 20, 2, False),
        ("lognormal", 2, 0.5, False),
        ("lognormal", 2, 3, True),
        ("lognormal", 1, 0.5, True),
    ],
)
def test_lengths_whose_mean_rounding_moves_are_refused(spread, mean, width, refused):
    """By more than two hundredths: they would be other requests than were asked for."""
    generator, count = np.random.default_rng(7), 100_000
    sigma = np.sqrt(np.log1p(width**2))
    free = {
        "uniform": lambda: generator.uniform(mean * (1 - width), mean * (1 + width), count),
        "lognormal": lambda: generator.lognormal(np.log(mean) - sigma**2 / 2, sigma, count),
    }[spread]()
    drawn = np.maximum(1, np.rint(free)).mean()
    near = pytest.approx(drawn, rel=0.001 + 4 * width / count**0.5)
    assert bool(abs(drawn / mean - 1) > 0.02) is refused
    if refused:
        with pytest.raises(InputError, match="as whole tokens, at least one") as said:
            Lengths(mean, spread, width)
        assert float(str(said.value).split("mean of ")[1].split(":")[0]) == pytest.approx(
            drawn, rel=0.01
        )
        return
    lengths = Lengths(mean, spread, width)
    assert lengths.drawn == near
    assert lengths.draw(count, generator).mean() == near


def test_fixed_lengths_round_as_well():
    assert Lengths(100.4).drawn == Lengths(100.4).draw(3, np.random.default_rng(0)).mean() == 100
    with pytest.raises(InputError, match="a mean of 2: take a larger mean"):
        Lengths(1.5)


@pytest.mark.parametrize("mean", [0, 0.3, 40, 900])
def test_crowds_of_prompts_are_poisson(mean):
    """Also where ``exp(-mean)`` is no number above 0."""
    even = (np.arange(4096) + 0.5) / 4096
    found = poisson_at(np.full(4096, float(mean)), even)
    assert found.mean() == pytest.approx(mean, rel=1e-3)
    assert found.var() == pytest.approx(mean, rel=0.02)
