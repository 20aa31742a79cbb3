"""Answers that are short beside their prompts: where closed forms are exact, and where said not."""

from __future__ import annotations

import json
from statistics import NormalDist

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
from costgraph.asking.serving.plan import serve_plan
from costgraph.asking.serving.queueing import BRIEF
from costgraph.showing.export.serving import plan_text

PROMPT = 1024


@pytest.fixture(scope="module")
def times():
    return StepTimes(cg.compile("llama-3.2-1b", "h100", "fuse"), PROMPT + 512)


def _even(spread, width, count=20_000):
    """Prompts at so many even shares of all."""
    shares = (np.arange(count) + 0.5) / count
    if spread == "lognormal":
        sigma = np.sqrt(np.log1p(width**2))
        normal = np.array([NormalDist().inv_cdf(x) for x in shares])
        return np.rint(PROMPT * np.exp(sigma * normal - sigma**2 / 2))
    return np.rint(PROMPT * (1 + width * (2 * shares - 1)))


@pytest.mark.parametrize("load", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("spread", [("fixed", 0.0), ("uniform", 0.4), ("lognormal", 0.3)])
def test_prompts_alone_are_an_m_g_1_queue(times, load, spread):
    """Pollaczek and Khinchine: nobody who has one token is left behind to be waited for."""
    queue = Queue(times, PrefillFirst(8), Lengths(PROMPT, *spread), Lengths(1))
    # Lengths at even shares: a sample is off by a third of a per cent, and waits by ten times that.
    tokens, often = np.unique(_even(*spread), return_counts=True)
    each = np.array([times.prompt(int(n)) for n in tokens])
    own, second = (float(np.average(each**k, weights=often)) for k in (1, 2))
    rate = load / own
    assert queue.stable_rate == pytest.approx(1 / own, rel=0.002)
    steady = queue.at(rate)
    alone = own + rate * second / (2 * (1 - rate * own))
    assert steady.ttft == pytest.approx(alone, rel=0.005)
    assert steady.decoding == pytest.approx(0)
    assert not steady.brief


def test_prompts_alone_are_simulated_alike(times):
    pytest.importorskip("simpy")
    queue = Queue(times, PrefillFirst(8), Lengths(PROMPT), Lengths(1))
    rate = 0.6 * queue.stable_rate
    requests = poisson(rate, 6000, Lengths(PROMPT), Lengths(1), seed=2)
    seen = simulate(requests, Pool(times, queue.policy))
    assert seen.ttft.mean() == pytest.approx(queue.at(rate).ttft, rel=0.04)


@pytest.mark.parametrize("policy", [PrefillFirst(16), Continuous(16), ChunkedPrefill(16, 512)])
def test_forms_that_are_not_said_to_be_rough_are_not(times, policy):
    """With enough steps the forms are within what the page states; without, they say it."""
    pytest.importorskip("simpy")
    assert Queue(times, policy, Lengths(PROMPT), Lengths(4)).at(50).brief
    long = Queue(times, policy, Lengths(128), Lengths(256))
    rate = 0.6 * long.stable_rate
    steady = long.at(rate)
    assert not steady.brief
    assert not steady.to_dict()["brief"]
    seen = simulate(poisson(rate, 1500, Lengths(128), Lengths(256), seed=3), Pool(times, policy))
    kept = seen.after(0.2)
    assert steady.tpot == pytest.approx(kept.tpot.mean(), rel=0.07)


@pytest.mark.parametrize(("generate", "brief"), [(8, True), (512, False)])
def test_plans_say_that_answers_are_short(generate, brief):
    found = serve_plan(
        "llama-3.2-1b", "h100", rate=20, prompt=PROMPT, generate=generate, ttft=1, tpot=0.05,
        devices=1, chunks=(512,), limits=(16,),
    )  # fmt: skip
    assert (BRIEF in plan_text(found)) is brief
    assert (BRIEF in json.dumps(found.to_dict(), ensure_ascii=False)) is brief
    assert found.to_dict()["plans"][0]["brief_answers"] is brief


def test_plans_say_which_lengths_they_are_for():
    spread = Lengths(PROMPT, "lognormal", 0.5)
    found = serve_plan(
        "llama-3.2-1b", "h100", rate=2, prompt=spread, generate=128, ttft=1, tpot=0.05,
        devices=1, chunks=(512,), limits=(16,), front=False,
    )  # fmt: skip
    assert f"prompt {spread}, generate 128" in plan_text(found)
    assert found.to_dict()["traffic"]["prompt_lengths"] == str(spread)
