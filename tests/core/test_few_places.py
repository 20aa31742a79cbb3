"""Few sequences at a time: exact where there is one, and what several wait for a place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import costgraph as cg
from costgraph.asking.serving import (
    ChunkedPrefill,
    Continuous,
    DecodeOnly,
    Lengths,
    Pool,
    PrefillFirst,
    Queue,
    StepTimes,
    poisson,
    simulate,
)
from costgraph.asking.serving.plan import serve_plan
from costgraph.asking.serving.queueing import ALIKE, LOW
from costgraph.errors import InputError

pytest.importorskip("simpy")
PROMPT, ANSWER = 600, 60
LENGTHS = {
    "alike": (Lengths(PROMPT), Lengths(ANSWER)),
    "answers": (Lengths(PROMPT), Lengths(ANSWER, "lognormal", 0.8)),
    "both": (Lengths(PROMPT, "uniform", 0.8), Lengths(ANSWER, "uniform", 0.9)),
}


@pytest.fixture(scope="module")
def times():
    return StepTimes(cg.compile("llama-3.2-1b", "h100", "fuse"), 4000)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("policy", [PrefillFirst(1), Continuous(1), ChunkedPrefill(1, 256)])
def test_one_place_is_an_m_g_1_queue(times, policy, lengths):
    """Lindley: who comes waits for the work that is there. Pollaczek and Khinchine: its mean."""
    prompt, answer = LENGTHS[lengths]
    queue = Queue(times, policy, prompt, answer)
    assert not queue.brief
    requests = poisson(0.7 * queue.stable_rate, 4000, prompt, answer, 5)
    seen = simulate(requests, Pool(times, policy)).served
    taken = np.array([s.done - s.begun for s in seen])
    work, waits = 0.0, []
    gaps = np.diff([0.0, *(s.request.arrival for s in seen)])
    for gap, own in zip(gaps, taken, strict=True):
        work = max(work - gap, 0.0)
        waits.append(work)
        work += own
    assert [s.begun - s.request.arrival for s in seen] == pytest.approx(waits, abs=1e-9)
    # The form has moments of its own: lengths in equally likely parts, steps at mean contexts.
    mean, square = taken.mean(), (taken**2).mean()
    assert queue.stable_rate == pytest.approx(1 / mean, rel=0.03)
    assert 1 + queue.varies == pytest.approx(square / mean**2, rel=0.03)
    own = np.mean([s.first - s.begun for s in seen])
    for load in (0.1, 0.6, 0.95):
        steady = queue.at(load * queue.stable_rate)
        each = 1 / queue.stable_rate
        known = load / (1 - load) * each * square / mean**2 / 2
        assert steady.place == pytest.approx(known, rel=0.03)
        assert steady.ttft - steady.place == pytest.approx(own, rel=0.03)
        told = np.mean([s.done - s.first for s in seen]) / queue.further
        assert steady.tpot == pytest.approx(told, rel=0.03)
        assert not steady.low
    assert queue.at(0.9 * queue.stable_rate).exact
    with pytest.raises(InputError, match="up to 60%"):
        steady.quantile("ttft", 50)
    assert not Queue(times, replace(policy, limit=2), prompt, answer).at(1).exact


@pytest.mark.parametrize("lengths", LENGTHS)
def test_quantiles_of_one_place_are_simulated_alike(times, lengths):
    prompt, answer = LENGTHS[lengths]
    queue = Queue(times, Continuous(1), prompt, answer)
    steady = queue.at(0.6 * queue.stable_rate)
    seen = simulate(poisson(steady.rate, 12_000, prompt, answer, 1), Pool(times, Continuous(1)))
    for percent in (20, 60, 75, 90):
        found = seen.quantile("ttft", percent)
        assert steady.quantile("ttft", percent) == pytest.approx(found, rel=0.15)


@pytest.mark.parametrize("places", [2, 11, 12])
def test_upper_quantiles_of_few_places_are_refused(times, places):
    """Who waits for a place moves them: with 8 places the ninth decile was 45 % too short."""
    queue = Queue(times, ChunkedPrefill(places, 2048), *LENGTHS["alike"])
    steady = queue.at(0.6 * queue.stable_rate)
    assert steady.quantile("ttft", 50) > 0
    if places < 12:
        with pytest.raises(InputError, match="one place and from 12 on"):
            steady.quantile("ttft", 90)
        return
    policy = ChunkedPrefill(places, 2048)
    seen = simulate(poisson(steady.rate, 9000, *LENGTHS["alike"], 3), Pool(times, policy))
    assert steady.quantile("ttft", 90) == pytest.approx(seen.quantile("ttft", 90), rel=0.25)


def test_one_place_that_only_decodes_waits_for_no_step(times):
    """Who comes finds the place taken or free: no step is in progress beside."""
    queue = Queue(times, DecodeOnly(1), Lengths(PROMPT), Lengths(ANSWER))
    steady = queue.at(0.5 * queue.stable_rate)
    assert steady.ttft == pytest.approx(0.5 / queue.stable_rate)  # M/D/1 at half of the load
    assert steady.tpot == pytest.approx(queue.step(1))
    assert steady.quantile("tpot", 90) == pytest.approx(steady.tpot)


@pytest.mark.parametrize("load", [0.6, 0.9])
@pytest.mark.parametrize("places", [2, 4, 8])
def test_answers_all_alike_leave_places_sooner_than_a_geometric_queue(times, places, load):
    policy = ChunkedPrefill(places, 2048)
    queue = Queue(times, policy, *LENGTHS["alike"])
    steady = queue.at(load * queue.stable_rate)
    means = [
        simulate(poisson(steady.rate, 9000, *LENGTHS["alike"], seed), Pool(times, policy))
        .after(0.1).ttft.mean()
        for seed in (1, 2)
    ]  # fmt: skip
    assert steady.ttft == pytest.approx(np.mean(means), rel=0.2)
    # Those that differ wait longer, as their squares have it.
    other = Queue(times, policy, *LENGTHS["answers"])
    assert other.at(load * other.stable_rate).place > 1.3 * steady.place


def test_a_plan_of_one_place_is_marked_neither_low_nor_high(times):
    options = {"prompt": PROMPT, "generate": ANSWER, "ttft": 1.0, "tpot": 1.0, "devices": 1,
               "pools": False, "front": False}  # fmt: skip
    rate = 0.9 / (times.prompt(PROMPT) + ANSWER * times.decode(1, PROMPT))
    one, several = (
        serve_plan("llama-3.2-1b", "h100", rate=rate * limit, limits=(limit,), **options)
        for limit in (1, 2)
    )
    best = one.best
    assert best.groups[0].steady.load > 0.6
    assert (best.low, best.over) == ((), False)
    assert all(g.over is False for g in one.one_more if g.what == "1 GB of memory a device")
    assert not any(LOW in x for x in one.setting.cautions)
    assert several.best.over


def test_what_replicas_that_share_a_step_stand_is_said_to_be_low():
    """Where requests are all alike, which fill them together; else nothing is said."""
    options = {"rate": 5, "prompt": 500, "ttft": 5.0, "tpot": 1.0, "devices": 2, "limits": (32,),
               "chunks": (2048,), "pools": False, "front": False}  # fmt: skip
    said = []
    for answer in (100, "lognormal:100:1"):
        found = serve_plan("qwen3-30b-a3b", "h100", generate=answer, **options)
        shared = [p for p in found.plans if p.groups[0].way.times.replicas > 1]
        assert shared
        said.append((ALIKE in found.setting.cautions, *(p.in_step for p in shared)))
        assert [p.to_dict()["most_is_lower_estimate"] for p in shared] == [*said[-1][1:]]
    assert all(said[0])
    assert not any(said[1])
