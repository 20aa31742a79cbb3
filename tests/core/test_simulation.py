"""Simulated servers against queueing theory, and closed forms against simulated servers."""

from __future__ import annotations

import json

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
    Serving,
    StaticBatches,
    StepTimes,
    Transfer,
    at_once,
    poisson,
    simulate,
)  # fmt: skip
from costgraph.asking.serving.memory import WHOLE
from costgraph.cli import main
from costgraph.errors import InputError

pytest.importorskip("simpy")


@pytest.fixture(scope="module")
def compiled():
    return cg.compile("llama-3.1-8b", "h100", "fuse", fidelity="calibrated")


@pytest.fixture(scope="module")
def times(compiled):
    return StepTimes(compiled, 4096)


EVERY = [StaticBatches(32), PrefillFirst(32), Continuous(32), ChunkedPrefill(32, 512)]


@pytest.mark.parametrize(
    ("model", "on", "passes"),
    [
        ("llama-3.1-8b", "h100", "fuse"),
        ("llama-3.1-8b", "rtx-4090", "fuse"),  # decodes and a chunk in one kernel
        ("gpt-oss-20b", "h100", "fuse"),
        ("deepseek-v2-lite", "h100", "fuse"),
        ("mamba-130m", "h100", ""),
        ("llama-3.1-70b", "4xh100", "fuse,parallel{tp=4}"),
        ("llama-3.1-70b", "4xh100", "fuse,parallel{tp=4},overlap{by=kernels}"),
        ("llama-3.1-70b", "4xh100", "fuse,parallel{tp=4},overlap{by=halves}"),
        ("llama-3.1-70b", "4xh100", "fuse,parallel{pp=4}"),
    ],
)
def test_tabulated_steps_are_the_formulas(model, on, passes):
    made = cg.compile(model, on, passes, fidelity="ideal" if "overlap" in passes else "calibrated")
    table, joint = StepTimes(made, 2048), made.step(("c", 1, "T"), (1, "C", "P"))
    for values in ({"c": 3, "T": 70, "C": 64, "P": 128}, {"c": 64, "T": 1500, "C": 512, "P": 2048}):
        known = {k: v for k, v in values.items() if k in {s.name for s in joint.symbols}}
        chunks = ((values["C"], values["P"]),)
        assert table.step(values["c"], values["T"], chunks) == pytest.approx(
            joint(**known), rel=1e-9
        )
    assert table.decode(5, 99) == pytest.approx(made.tpot(B=5, T=99), rel=1e-9)
    assert table.prompt(300) == pytest.approx(made.time("prefill")(B=1, S=300), rel=1e-6)
    run = table.row(5)
    assert run[130] - run[99] == pytest.approx(sum(table.decode(5, t) for t in range(100, 131)))


@pytest.mark.parametrize(
    ("model", "on", "fidelity"),
    [("deepseek-v2-lite", "a100", "ideal"), ("llama-3.1-8b", "h100", "calibrated")],
)
def test_one_token_behind_cached_ones_is_read_as_decodes_are(model, on, fidelity):
    """As a step of sequences with one new token each has it: no kernel of prompts."""
    made = cg.compile(model, on, "fuse", fidelity=fidelity)
    table, joint = StepTimes(made, 2048), made.step((8, 1, 1500), (1, 1, 1500))
    assert table.step(8, 1500, ((1, 1500),)) == pytest.approx(joint.evaluate(), rel=1e-9)
    assert table.step(0, 0, ((1, 1500),)) == table.decode(1, 1500)
    # Beside a chunk as a decode beside it, and of a mean context.
    both = table.step(1, 1000, ((1, 1500), (64, 64)))
    assert both == table.step(2, 1250, ((64, 64),))
    hit = simulate([Request(0.0, 1500, 2, 1499)], Pool(table, PrefillFirst(4)))
    assert hit.ttft[0] == pytest.approx(table.decode(1, 1500))


def test_room_is_what_fit_says(compiled, times):
    held = times.room(2048, 1.0)
    needs = [compiled.fit(B=b, T=2048) for b in (held, held + 1)]
    # Activations of a decode step come on top of it.
    assert needs[1].fits is False
    assert needs[0].bytes < 1.01 * needs[0].capacity


def test_prompts_alone_are_an_m_d_1_queue(times):
    """Every wait by Lindley's recursion, their mean by Pollaczek and Khinchine."""
    alone, load = times.prompt(1024), 0.5
    requests = poisson(load / alone, 40000, Lengths(1024), Lengths(1), 2)
    seen = simulate(requests, Pool(times, PrefillFirst(10**6)))
    waits, free = [], 0.0
    for request in requests:
        start = max(request.arrival, free)
        waits.append(start - request.arrival)
        free = start + alone
    assert seen.ttft - alone == pytest.approx(np.array(waits), abs=1e-9)
    assert np.mean(waits) == pytest.approx(load * alone / (2 * (1 - load)), rel=0.03)
    assert seen.utilisation == pytest.approx(load, rel=0.02)


def test_standard_errors_are_the_spread_over_seeds(times):
    rate = 0.4 / times.prompt(1024)
    runs = [
        simulate(poisson(rate, 1000, Lengths(1024), Lengths(1), seed), Pool(times, PrefillFirst(1)))
        for seed in range(16)
    ]
    means = [run.ttft.mean() for run in runs]
    told = np.mean([run.errors()["ttft"] for run in runs])
    assert 0.6 < np.std(means, ddof=1) / np.mean(means) / told < 1.7
    assert runs[0].after(0.985).errors() == {}


@pytest.mark.parametrize("policy", EVERY, ids=lambda p: p.name)
def test_littles_law_and_order(times, policy):
    made = poisson(4, 600, Lengths.of("uniform:700:0.5"), Lengths.of("lognormal:100:0.7"), 2)
    seen = simulate(made, Pool(times, policy))
    assert seen.in_system == pytest.approx(len(made) * seen.latency.mean() / seen.span, rel=1e-9)
    assert len(seen.served) == len(made)
    assert sorted(s.request.arrival for s in seen.served) == [r.arrival for r in made]
    assert all(s.request.arrival < s.first <= s.done for s in seen.served)
    # Nobody gets a token sooner than alone on the server.
    least = np.array([times.prompt(s.prompt) for s in seen.served])
    if not isinstance(policy, ChunkedPrefill):
        assert (seen.ttft >= least * (1 - 1e-9)).all()
    again = simulate(made, Pool(times, policy))
    assert (again.latency == seen.latency).all()


def test_a_closed_loop_is_the_formula_of_one(compiled, times):
    c, S, N = 8, 512, 48
    made = at_once(20 * c, Lengths(S), Lengths(N))
    seen = simulate(made, Pool(times, PrefillFirst(c)), closed=c)
    values = {"c": c, "S": S, "N": N}
    assert seen.latency.mean() == pytest.approx(Serving(compiled).latency(**values), rel=2e-3)
    assert seen.in_system == pytest.approx(c, rel=0.01)


def test_static_batches_wait_for_the_longest(times):
    """Useful steps: E[N] over E[max of B], for uniform lengths a + (b − a)·B/(B + 1)."""
    B, mean, width = 16, 200, 0.5
    made = at_once(B * 60, Lengths(256), Lengths(mean, "uniform", width), 4)
    seen = simulate(made, Pool(times, StaticBatches(B)))
    longest = mean * (1 - width) + 2 * width * mean * B / (B + 1)
    decodes = seen.steps - 60
    assert decodes / 60 == pytest.approx(longest - 1, rel=0.01)
    other = simulate(made, Pool(times, Continuous(B)))
    assert other.steps < seen.steps * (mean / longest + 0.1)
    assert other.throughput > seen.throughput


@pytest.mark.parametrize("senders", [1, 2])
@pytest.mark.parametrize(("rate", "queued"), [(1e10, False), (1e9, True)])
def test_pools_hand_caches_on(times, senders, rate, queued):
    """One after the other over the link of whoever takes them in, as in a loop by hand."""
    made = poisson(6, 400, Lengths(1024), Lengths(64), 1)
    first, then = Pool(times, PrefillFirst(64), senders), Pool(times, PrefillFirst(64))
    at_once_there = simulate(made, first, decode=then)
    slow = simulate(made, first, decode=then, transfer=Transfer(1e-3, rate, 131072))
    assert slow.ttft.mean() == at_once_there.ttft.mean()
    gain = slow.latency.mean() - at_once_there.latency.mean()
    took, free, waits = 1024 * 131072 / rate, 0.0, []
    for begun in sorted(s.first for s in slow.served):
        free = max(begun, free) + took
        waits.append(free - begun + 1e-3)
    assert gain == pytest.approx(sum(waits) / len(waits), rel=0.1), gain
    assert (sum(waits) / len(waits) > 2 * took) is queued
    together = simulate(made, Pool(times, PrefillFirst(64)))
    assert at_once_there.tpot.mean() < together.tpot.mean()
    assert at_once_there.servers == 1 + senders


def test_replicas_share_what_arrives(times):
    made = poisson(12, 600, Lengths(512), Lengths(64), 1)
    one, two = (simulate(made, Pool(times, Continuous(64), n)) for n in (1, 2))
    assert two.latency.mean() < one.latency.mean()
    assert two.tpot.mean() < one.tpot.mean()


@pytest.mark.slow
@pytest.mark.parametrize("load", [0.3, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("policy", EVERY[1:], ids=lambda p: p.name)
def test_closed_forms_hold_against_the_simulation(times, policy, load):
    """Tolerances as the page states them; the table there has other settings."""
    queue = Queue(times, policy, Lengths(512), Lengths(128))
    rate = load * queue.stable_rate
    steady = queue.at(rate)
    seen = simulate(poisson(rate, 6000, Lengths(512), Lengths(128), 3), Pool(times, policy)).after(
        0.2
    )
    assert steady.tpot == pytest.approx(seen.tpot.mean(), rel=0.08)
    if load <= 0.6:
        assert steady.ttft == pytest.approx(seen.ttft.mean(), rel=0.12)
    assert steady.in_system == pytest.approx(rate * steady.latency)


@pytest.mark.parametrize("policy", EVERY[1:], ids=lambda p: p.name)
def test_beyond_the_stable_rate_queues_grow_without_end(times, policy):
    queue = Queue(times, policy, Lengths(512), Lengths(128))
    with pytest.raises(InputError, match="without end"):
        queue.at(queue.stable_rate * 1.001)

    def late(load, count):
        made = poisson(load * queue.stable_rate, count, Lengths(512), Lengths(128), 3)
        return simulate(made, Pool(times, policy)).after(0.8).ttft.mean()

    # Above it the wait grows with the requests, below it does not.
    assert late(1.15, 6000) > 2.5 * late(1.15, 2000)
    assert late(0.85, 6000) < 1.6 * late(0.85, 2000)


def by_hand(requests, times, limit):
    """A server with prompts first: (first token, last token) of each; one step a turn."""
    now, coming, waiting, running, ends = 0.0, list(requests), [], [], {}
    while coming or waiting or running:
        if not waiting and not running and coming[0].arrival > now:
            now = coming[0].arrival
        while coming and coming[0].arrival <= now:
            waiting.append(coming.pop(0))
        if waiting and len(running) < limit:
            request = waiting.pop(0)
            now += times.prompt(request.prompt)
            ends[request] = [now, now]
            if request.generate > 1:
                running.append([request, 1])
            continue
        contexts = [r.prompt + done for r, done in running]
        now += times.decode(len(running), sum(contexts) / len(contexts))
        for entry in running:
            entry[1] += 1
        for request, done in running:
            if done == request.generate:
                ends[request][1] = now
        running = [e for e in running if e[1] < e[0].generate]
    return ends


@pytest.mark.parametrize(("rate", "limit"), [(3, 8), (9, 4), (9, 64)])
def test_events_are_those_of_a_loop_by_hand(times, rate, limit):
    """Every first and last token, to rounding; decode runs are one event in the simulation."""
    made = poisson(rate, 150, Lengths.of("uniform:600:0.5"), Lengths.of("uniform:60:0.9"), 5)
    seen = simulate(made, Pool(times, PrefillFirst(limit)))
    found = by_hand(made, times, limit)
    for served in seen.served:
        assert [served.first, served.done] == pytest.approx(found[served.request], rel=1e-5)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "gpt-oss-20b", "mamba-130m"])
def test_one_long_request_leaves_room_for_the_others(model):
    """What a request holds is its own caches, however long the longest may get."""
    made = cg.compile(model, "h100", "")
    short, long = (
        StepTimes(made, 1000),
        StepTimes(made, 300_000 if model != "gpt-oss-20b" else 90_000),
    )
    assert short.taken(1000) == long.taken(1000)
    held = short.room(1000)
    assert held * short.taken(1000) <= WHOLE < (held + 2) * short.taken(1000)


def test_servers_that_fall_behind_say_so(times):
    policy, lengths = PrefillFirst(16), (Lengths(512), Lengths(64))
    most = Queue(times, policy, *lengths).stable_rate
    for load, behind in ((0.5, False), (2, True)):
        seen = simulate(poisson(load * most, 800, *lengths, 1), Pool(times, policy))
        assert ("no steady state" in seen.unsteady) is behind
    closed = simulate(at_once(200, *lengths), Pool(times, policy), closed=64)
    assert not closed.unsteady


def test_clocks_that_could_not_tell_steps_apart_are_refused(times):
    with pytest.raises(InputError, match="at most 1e"):
        simulate([Request(0, 9, 9), Request(1e12, 9, 9)], Pool(times, PrefillFirst(4)))


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (["--trace", "t.csv", "--seed", "4"], "--seed: a trace"),
        (["--closed", "5", "--requests", "3"], "5 in flight need as many"),
        (["--closed", "5", "--seed", "3"], "draws nothing"),
        (["--rate", "5", "--prompt", "9.5"], "whole number of tokens"),
        (["--rate", "5", "--policy", "static", "--chunk", "5"], "has none"),
    ],
)
def test_options_without_effect_are_refused(capsys, given, what):
    lengths = ["--prompt", "90"] if "--trace" not in given and "--prompt" not in given else []
    lengths += ["--generate", "9"] if "--trace" not in given else []
    with pytest.raises(SystemExit) as stop:
        main(["serve-simulate", "llama-3.2-1b", "--on", "h100", *lengths, *given])
    assert stop.value.code == 2
    assert what in capsys.readouterr().err


def test_the_command_says_what_was_asked_and_what_falls_behind(capsys):
    line = [
        "serve-simulate", "llama-3.2-1b", "--on", "h100", "--rate", "5000", "--prompt", "90",
        "--generate", "9", "--requests", "300", "--limit", "4", "--seed", "7",
    ]  # fmt: skip
    assert main(line) == 0
    text = capsys.readouterr().out
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["arrivals"] == {"rate": 5000, "prompt": "90", "generate": "9", "seed": 7}
    assert (found["chunk"], found["replicas"]) == (2048, 1)
    assert any("no steady state" in x for x in found["cautions"])
    for said in ("rate 5000", "seed 7", "no steady state", *found["assumptions"]):
        assert said in text


def test_lengths_have_the_mean_they_state():
    draw = np.random.default_rng(1)
    for text, low, high in (
        ("512", 512, 512),
        ("uniform:512:0.5", 256, 768),
        ("lognormal:512:1", 1, 10**6),
    ):
        lengths = Lengths.of(text)
        found = lengths.draw(20000, draw)
        assert found.mean() == pytest.approx(512, rel=0.03)
        assert low <= found.min() <= found.max() <= high
    for wrong in ("x:1", "uniform:10", "lognormal:5:0", "uniform:5:2", "0.5", "uniform:1:2:3"):
        with pytest.raises(InputError):
            Lengths.of(wrong)


def test_what_cannot_be_served_is_said(times):
    with pytest.raises(InputError, match="does not fit"):
        simulate([Request(0, 4000, 90)], Pool(times, PrefillFirst(4), positions=4000))
    with pytest.raises(InputError, match="no requests"):
        simulate([], Pool(times, PrefillFirst(4)))
    with pytest.raises(InputError, match="in order of arrival"):
        simulate([Request(5, 10, 2), Request(0, 10, 2)], Pool(times, PrefillFirst(4)))
    with pytest.raises(InputError, match="no closed form"):
        Queue(times, StaticBatches(4), Lengths(10), Lengths(10))


def test_room_looks_at_farther_levels_of_memory_as_well():
    """A host that is full holds no further sequence, whatever the device has left."""
    made = cg.compile("llama-2-7b", "rtx-4090+i9-13900k", "fuse,offload{weights=host,caches=host}")
    held = StepTimes(made, 4096).room(2048, 1.0)
    needs = [made.fit(B=b, T=2048) for b in (held, held + 1)]
    assert needs[0].fits is not False
    assert "ddr of" in needs[1].warning


@pytest.mark.slow
@pytest.mark.parametrize("servers", [1, 4])
@pytest.mark.parametrize("load", [0.3, 0.6, 0.95])
@pytest.mark.parametrize(
    "policy", [PrefillFirst(32), ChunkedPrefill(32, 512)], ids=lambda p: p.name
)
def test_replicas_and_quantiles_in_closed_form(times, policy, load, servers):
    """Places of all replicas as one queue, and the tolerances of the page."""
    lengths = Lengths(512), Lengths(128)
    queue = Queue(times, policy, *lengths, servers)
    assert queue.stable_rate == pytest.approx(servers * Queue(times, policy, *lengths).stable_rate)
    steady = queue.at(load * queue.stable_rate)
    made = poisson(steady.rate, 6000, *lengths, 3)
    seen = simulate(made, Pool(times, policy, servers)).after(0.2)
    assert steady.tpot == pytest.approx(seen.tpot.mean(), rel=0.08)
    assert steady.quantile("tpot", 90) == pytest.approx(seen.quantile("tpot", 90), rel=0.13)
    # Little's law, in both.
    assert steady.in_system == pytest.approx(steady.rate * steady.latency)
    assert steady.decoding == pytest.approx(steady.rate * 127 * steady.tpot)
    if load > 0.6:
        with pytest.raises(InputError, match="up to 60%"):
            steady.quantile("ttft", 50)
        return
    assert steady.ttft == pytest.approx(seen.ttft.mean(), rel=0.12)
    for percent, off in ((50, 0.08), (90, 0.2)):
        assert steady.quantile("ttft", percent) == pytest.approx(
            seen.quantile("ttft", percent), rel=off
        )
    with pytest.raises(InputError, match="simulate"):
        steady.quantile("ttft", 99)


def test_cached_prefixes_and_drafts_in_closed_form(times):
    lengths = Lengths(1024), Lengths(128)
    for policy in (PrefillFirst(32), Continuous(32), ChunkedPrefill(32, 512)):
        queue = Queue(times, policy, *lengths, cached=0.5)
        assert queue.stable_rate > Queue(times, policy, *lengths).stable_rate
        steady = queue.at(0.5 * queue.stable_rate)
        made = poisson(steady.rate, 3000, *lengths, 3, cached=0.5)
        seen = simulate(made, Pool(times, policy)).after(0.2)
        assert steady.tpot == pytest.approx(seen.tpot.mean(), rel=0.05)
        assert steady.ttft == pytest.approx(seen.ttft.mean(), rel=0.12)
    passes = "fuse,speculative{draft=llama-3.2-1b,gamma=3,alpha=0.7}"
    made = cg.compile("llama-3.1-8b", "h100", passes, fidelity="calibrated")
    drafting = StepTimes(made, 1200)
    queue = Queue(drafting, PrefillFirst(16), *lengths)
    steady = queue.at(0.6 * queue.stable_rate)
    seen = simulate(poisson(steady.rate, 3000, *lengths, 3), Pool(drafting, PrefillFirst(16)))
    assert steady.tpot == pytest.approx(seen.after(0.2).tpot.mean(), rel=0.05)


def test_rows_chosen_of_each_prompt_are_no_servers():
    """Its memory depends on a length that no step tells: refused with the reason, not with S."""
    made = cg.compile("llama-3.2-1b", "h100", "snap-kv{keep=60}")
    with pytest.raises(InputError, match=r"length of its own prompt \(S\), which is not followed"):
        simulate(at_once(2, Lengths(64), Lengths(4)), Pool(StepTimes(made, 100), Continuous(8)))
