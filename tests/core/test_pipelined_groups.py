"""Groups of one pipeline in simulated servers and in their closed forms."""

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
    Request,
    StepTimes,
    at_once,
    poisson,
    simulate,
)
from costgraph.cli import main

pytest.importorskip("simpy")


def test_groups_of_a_pipeline_share_a_memory():
    made = cg.compile("llama-3.1-70b", "4xh100", "fuse,parallel{pp=4}")
    whole, four = StepTimes(made, 1024), StepTimes(made, 1024, lanes=4, stretch=1.25)
    assert four.room(1000) == whole.room(1000) // 4
    assert four.step(4, 500, ((64, 512),)) == pytest.approx(1.25 * whole.step(4, 500, ((64, 512),)))
    pool = Pool(four, ChunkedPrefill(8, 512))
    assert pool.lanes == 4
    seen = simulate(at_once(64, Lengths(256), Lengths(32)), pool, closed=16)
    assert seen.servers == 4
    assert 0.5 < seen.utilisation < 1
    # What stages take is told apart by nothing else: equal ones, of steps without a stretch.
    assert (four.passed, whole.passed) == ((0.25,) * 4, ())


@pytest.mark.parametrize("polls", [1, 3])
def test_groups_of_a_pipeline_queue_at_each_stage_behind_prompts_of_others(polls):
    """Against a row of stages by hand: steps pass it in the order in which they come."""
    times = StepTimes.of(cg.compile("llama-3.1-70b", "4xh100", "fuse,parallel{pp=4}"), 2100)
    made = [Request(0.0, 50 + 190 * i, 3 + 7 * (i % 5)) for i in range(11)]
    seen = simulate(made, Pool(times, PrefillFirst(1), polls=polls), spans=True)
    # Of each group the steps to come, and whose last token each makes.
    steps = [
        [(times.prompt(r.prompt) if i == 0 else times.decode(1, r.prompt + i),
          r if i == r.generate - 1 else None) for r in made[lane::4] for i in range(r.generate)]
        for lane in range(4)
    ]  # fmt: skip
    whole, free, ready, done = 0.0, [0.0] * len(times.passed), [0.0] * 4, {}
    while any(steps):
        lane = min((i for i in range(4) if steps[i]), key=lambda i: ready[i])
        seconds, last = steps[lane].pop(0)
        for stage, share in enumerate(times.passed):
            work = share * seconds / times.stretch
            ready[lane] = free[stage] = max(ready[lane], free[stage]) + work
            whole += work
        done[last] = ready[lane]
    ends = {s.request: s.done for s in seen.served}
    assert [ends[r] for r in made] == pytest.approx([done[r] for r in made], rel=1e-9)
    assert seen.busy == pytest.approx(whole, rel=1e-9)  # waits for stages are no work


def test_the_slowest_stage_sets_the_pace_of_a_pipeline():
    """Against a decode step of as many groups as stages, which the pass itself prices."""
    one, four = (
        cg.compile("llama-3.1-70b", "4xh100", f"fuse,parallel{{pp=4{more}}}")
        for more in ("", ",micro=4")
    )
    times = StepTimes.of(one, 1200)
    assert times.lanes == 4
    assert times.decode(32, 1000) == pytest.approx(four.interval(B=128, T=1000), rel=2e-3)
    plain = StepTimes.of(cg.compile("llama-3.1-8b", "h100", "fuse"), 1200)
    assert (plain.lanes, plain.stretch) == (1, 1)


@pytest.mark.parametrize(
    ("policy", "off"),
    [(PrefillFirst(16), 0.06), (ChunkedPrefill(16, 512), 0.06), (Continuous(16), 0.1)],
    ids=lambda x: getattr(x, "name", ""),
)
def test_closed_forms_have_groups_of_a_pipeline_follow_one_another(policy, off):
    """Prompts hold up all groups: what each has of its own alone was half as much again."""
    made = cg.compile("llama-3.1-70b", "4xh100", "fuse,parallel{pp=4}")
    times, answers = StepTimes.of(made, 2200, 1024), Lengths(64, "lognormal", 0.8)
    queue = Queue(times, policy, Lengths(1024), answers)
    pool = Pool(times, policy, positions=10**9)
    most = simulate(poisson(1e4, 800, Lengths(1024), answers, 1), pool)
    ends = np.sort([s.done for s in most.served])
    served = (len(ends) * 0.6) / (ends[int(0.8 * len(ends))] - ends[int(0.2 * len(ends))])
    assert times.lanes * queue.stable_rate == pytest.approx(served, rel=off)
    rate = times.lanes * queue.stable_rate / 2
    seen = simulate(poisson(rate, 800, Lengths(1024), answers, 2), pool).after(0.2)
    tokens = sum(s.request.generate - 1 for s in seen.served)
    tpot = sum(s.done - s.first for s in seen.served) / tokens
    assert queue.at(rate / times.lanes).tpot == pytest.approx(tpot, rel=off)


def test_groups_of_one_pipeline_are_no_servers_of_their_own(capsys):
    line = [
        "serve-simulate", "llama-3.2-1b", "--on", "2xh100", "--passes", "parallel{pp=2}",
        "--rate", "50", "--prompt", "90", "--generate", "3", "--requests", "9", "--limit", "4",
    ]  # fmt: skip
    for more, what in (([], "1 server"), (["--replicas", "2"], "2 servers")):
        assert main([*line, *more]) == 0
        groups = 2 * int(what[0])
        assert f", {what} (groups of pipelines: {groups}) busy " in capsys.readouterr().out
