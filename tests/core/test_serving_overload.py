"""The largest rate is what a simulated server completes where more come than it stands."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

import costgraph as cg
from costgraph.asking.serving import (
    ChunkedPrefill,
    Continuous,
    Lengths,
    Pool,
    PrefillFirst,
    StaticBatches,
    StepTimes,
    at_once,
    poisson,
    simulate,
)
from costgraph.asking.serving.policies import DecodeOnly, Policy
from costgraph.asking.serving.queueing import Queue
from costgraph.cli import main

pytest.importorskip("simpy")


@cache
def _times() -> StepTimes:
    return StepTimes(cg.compile("llama-3.1-8b", "h100", "fuse"), 4096)


@cache
def _long() -> StepTimes:
    made = cg.compile("llama-3.1-8b", "h100", "fuse", fidelity="calibrated")
    return StepTimes(made, 40_000)


def _completed(queue: Queue) -> float:
    """Requests a second in the middle of a rush of 1.7 times the largest rate."""
    come = poisson(1.7 * queue.stable_rate, 1600, queue.prompt, queue.generate, 3)
    done = np.sort([s.done for s in simulate(come, Pool(queue.times, queue.policy)).served])
    first, last = int(0.4 * len(done)), int(0.8 * len(done))
    return float((last - first) / (done[last] - done[first]))


@pytest.mark.parametrize(
    ("policy", "prompt", "generate", "within"),
    [
        # Several short prompts in a step.
        (ChunkedPrefill(64, 512), 200, 40, 0.03),
        (Continuous(64), 200, 40, 0.03),
        (Continuous(64), 100, 10, 0.03),
        # A budget that is short of prompts: few of the places decode.
        (ChunkedPrefill(64, 512), 2048, 64, 0.03),
        (ChunkedPrefill(512, 8192), 1000, 8, 0.03),
        # Few places, several chunks, and longer answers.
        (ChunkedPrefill(8, 512), 2048, 64, 0.04),
        (ChunkedPrefill(64, 512), 1024, 256, 0.03),
        # One prompt and a piece of the next in a step.
        (ChunkedPrefill(8, 512), 338, 8, 0.04),
        (ChunkedPrefill(64, 512), 300, 40, 0.04),
    ],
)
def test_the_largest_rate_is_what_is_completed_in_a_rush(
    policy: Policy, prompt: int, generate: int, within: float
) -> None:
    lengths = Lengths(prompt, "uniform", 0.3), Lengths(generate, "uniform", 0.5)
    queue = Queue(_times(), policy, *lengths)
    assert queue.stable_rate == pytest.approx(_completed(queue), rel=within)


def _full(queue: Queue) -> float:
    """Requests a second of a server whose places are always taken, as if lengths were mean ones."""
    places = queue.limit
    come = at_once(3000, queue.prompt, queue.generate, 2)
    seen = simulate(come, Pool(queue.times, queue.policy, positions=10**9), closed=places).served
    done = sorted(seen, key=lambda s: s.done)[400 : 3000 - 2 * places]
    rate = (len(done) - 1) / (done[-1].done - done[0].done)
    steps = np.mean([s.request.generate - 1 for s in done]) / (queue.generate.mean - 1)
    tokens = np.mean([s.request.prompt for s in done]) / queue.prompt.mean
    prompts = queue.stable_rate * queue.own(round(queue.decoding))
    return float(rate * (prompts * tokens + (1 - prompts) * steps))


@pytest.mark.parametrize(
    ("policy", "prompt", "generate"),
    [
        # Each place has a prompt in one step of a request: how many do is binomial, others decode.
        (PrefillFirst(16), Lengths(200, "lognormal", 0.8), 40),
        (Continuous(16), Lengths(200, "lognormal", 0.8), 40),
        (Continuous(4), Lengths(400), 3),
        (ChunkedPrefill(16, 2048), Lengths(200, "lognormal", 0.8), 40),
        # Long prompts have further steps: as many as theirs, not as a mean one's.
        (ChunkedPrefill(16, 512), Lengths(1024, "lognormal", 0.8), 256),
        (ChunkedPrefill(16, 2048), Lengths(2048, "lognormal", 0.8), 64),
    ],
)
def test_the_largest_rate_is_that_of_a_server_whose_places_are_always_taken(
    policy: Policy, prompt: Lengths, generate: int
) -> None:
    queue = Queue(_long(), policy, prompt, Lengths(generate, "uniform", 0.5))
    within = 0.01 if isinstance(policy, PrefillFirst | Continuous) else 0.015
    assert queue.stable_rate == pytest.approx(_full(queue), rel=within)


def test_a_closed_loop_of_all_places_says_what_is_stood(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["serve-simulate", "llama-3.1-8b", "--on", "h100", "--passes", "fuse", "-S", "400",
            "-N", "uniform:40:0.5", "--limit", "8", "--requests", "900", "--policy", "continuous",
            ]  # fmt: skip
    assert main([*line, "--closed", "8"]) == 0
    assert "always full, so the most that is stood: " in capsys.readouterr().out
    assert main([*line, "--closed", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    most, error = found["full_requests_per_second"], found["full_standard_error"]
    lengths = Lengths(400), Lengths(40, "uniform", 0.5)
    queue = Queue(_times(), Continuous(8), *lengths)
    assert 0 < error < 0.03
    assert queue.stable_rate == pytest.approx(most, rel=3 * error)
    # The whole run begins together and ends with few: it is less than that.
    assert found["requests_per_second"] < most
    # Of fewer requests than places nothing is said, nor of parts that end in one moment.
    assert main([*line, "--closed", "7", "--json"]) == 0
    assert "full_requests_per_second" not in json.loads(capsys.readouterr().out)
    alike = at_once(200, Lengths(50), Lengths(4))
    seen = simulate(alike, Pool(_times(), StaticBatches(64)), closed=64)
    assert seen.full(64) is None


@pytest.mark.parametrize("load", [0.5, 0.8])
@pytest.mark.parametrize("policy", [ChunkedPrefill(64, 512), Continuous(64)])
def test_times_with_several_prompts_in_a_step(policy: Policy, load: float) -> None:
    queue = Queue(_times(), policy, Lengths(200), Lengths(40, "uniform", 0.5))
    steady = queue.at(load * queue.stable_rate)
    come = poisson(steady.rate, 3000, queue.prompt, queue.generate, 3)
    seen = simulate(come, Pool(queue.times, policy)).after(0.2)
    assert steady.tpot == pytest.approx(float(seen.tpot.mean()), rel=0.05)
    assert 0.7 < steady.ttft / float(seen.ttft.mean()) < 1.02


@pytest.mark.parametrize(("prompt", "generate"), [(43, 1), (341, 2), (400, 6)])
def test_one_place_serves_one_request_after_another(prompt: int, generate: int) -> None:
    queue = Queue(_times(), ChunkedPrefill(1, 512), Lengths(prompt), Lengths(generate))
    steps = (generate - 1) * queue.step(1)
    assert queue.stable_rate == pytest.approx(1 / (queue.through(0) + steps), rel=1e-9)


@pytest.mark.parametrize(
    ("policy", "prompt", "generate"),
    [(ChunkedPrefill(512, 2048), 20, 1000), (ChunkedPrefill(64, 512), 200, 640),
     (Continuous(64), 340, 40)],
)  # fmt: skip
def test_first_tokens_at_light_load_are_a_lone_requests_and_grow(
    policy: Policy, prompt: int, generate: int
) -> None:
    queue = Queue(_times(), policy, Lengths(prompt), Lengths(generate))
    loads = [1e-5 * 1.6**k for k in range(22)]
    seen = [queue.at(load * queue.stable_rate).ttft for load in loads]
    assert seen[0] == pytest.approx(queue.through(0), rel=0.03)
    assert all(b > 0.98 * a for a, b in pairwise(seen))


def test_who_only_decodes_waits_for_the_step_in_progress() -> None:
    steady = Queue(_times(), DecodeOnly(64), Lengths(200), Lengths(2)).at(20)
    step = steady.tpot / (1 + (1 - steady.empty) / 2)
    assert step == pytest.approx(_times().decode(1, 201), rel=0.03)
