"""Serving in the literature, with stated settings: Figure 19 of the survey, SARATHI, ORCA,
FastGen, DistServe.

Figure 19 of arXiv 2402.16363 is drawn without printed numbers: the four tables are the tool's
own arithmetic for its setting (Llama-2-13b, A6000, W8A8 with 8-bit caches), written out here.
"""

from __future__ import annotations

import heapq
import json
import random
import re
from pathlib import Path

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
    Request,
    StaticBatches,
    StepTimes,
    Transfer,
    at_once,
    poisson,
    simulate,
)
from costgraph.asking.serving.planner import Planner
from costgraph.asking.serving.policies import PrefillBatches
from costgraph.asking.serving.ways import Traffic, Way

L, D, H, F, V = 40, 5120, 40, 13824, 32000
BANDWIDTH, PEAK = 768e9, 309.677e12
CONTEXTS, BATCHES = (256, 512, 1024, 2048), (1, 31, 61, 91, 121)
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def by_the_tool(batch, context):
    """Seconds and bytes of a decode step: each operation at its own roof, byte by byte."""

    def op(ops, moved):
        return max(ops / PEAK, moved / BANDWIDTH)

    linears = [(D, D)] * 4 + [(D, F)] * 2 + [(F, D)]
    layer = sum(op(2 * batch * i * o, i * o + batch * (i + o)) for i, o in linears)
    scores = batch * context * H
    layer += 2 * op(2 * batch * context * D, batch * D + scores + batch * context * D)
    layer += op(5 * scores, 2 * scores)
    layer += 2 * op(7 * batch * D, 2 * batch * D) + 2 * op(batch * D, 2 * batch * D)
    layer += op(2 * batch * D, 3 * batch * D)  # the tool counts the activation at width D
    head = op(batch * D * V, D * V + D + V)  # and the output layer of one sequence
    weights = L * sum(i * o for i, o in linears)
    stored = batch * (9 * D + 2 * F) + 2 * scores
    return L * layer + head, weights + 2 * L * batch * context * D, stored


@pytest.fixture(scope="module")
def served():
    formats = dict.fromkeys(("weights", "activations", "kv"), "int8")
    return cg.compile("llama-2-13b", "a6000", accounting="survey", **formats)


@pytest.mark.parametrize("context", CONTEXTS)
def test_figure_19_to_the_printed_digits(served, context):
    """Throughput, step time and memory over the batch; and the page's table of them."""
    table = re.search(rf"\| {context} \|(.*)\|\n", PAGE)[1]
    cells = [c.strip() for c in table.split("|")]
    for batch, cell in zip(BATCHES, cells, strict=True):
        seconds, held, stored = by_the_tool(batch, context)
        assert float(served.tpot(B=batch, T=context)) == pytest.approx(seconds, rel=1e-5)
        memory = served.breakdown("decode", B=batch, T=context).totals["memory_bytes"]
        assert memory == pytest.approx(held + stored, rel=1e-4)
        shown = f"{batch / seconds:.1f} / {1e3 * seconds:.2f} / {memory / 1e9:.2f}"
        assert cell == shown


def test_the_text_of_figure_19(served):
    """Throughput rises with the batch and levels off; long contexts cross 48 GB."""
    for context in CONTEXTS:
        rates = [b / float(served.tpot(B=b, T=context)) for b in BATCHES]
        assert rates == sorted(rates)
        assert rates[-1] / rates[-2] < rates[1] / rates[0]
    held = {c: by_the_tool(121, c)[1] for c in CONTEXTS}
    assert held[512] < 48e9 < held[1024]


@pytest.fixture(scope="module")
def sarathi():
    made = cg.compile("llama-2-13b", "a6000", "fuse")
    return StepTimes(made, 4096)


def gains(times, B, context, C=256):
    """SARATHI's two ratios: decodes beside a chunk against alone, and whole requests."""
    alone, chunk = times.decode(B - 1, context), times.step(0, 0, ((C, context),))
    joint = times.step(B - 1, context, ((C, context),))
    answers = context * (B - 1) / C  # balanced: P:D = C/(B − 1)
    apart = B * times.prompt(context) + answers * times.decode(B, context + answers / 2)
    return alone / (joint - chunk), apart / (B * context / C * joint)


def test_sarathi_on_an_a6000(sarathi):
    """LLaMA-13B, chunks of 256: decodes up to 10 times cheaper, whole requests 1.33 times.

    With the roofline's kernels: 10 times at 6 sequences of 512 or 4 of 1024; whole requests
    gain more than was measured, which is what an upper bound does.
    """
    assert gains(sarathi, 6, 512)[0] == pytest.approx(10, rel=0.05)
    assert gains(sarathi, 4, 1024)[0] == pytest.approx(10, rel=0.05)
    for B, context in ((4, 1024), (6, 1024), (8, 1024), (18, 1024)):
        assert 1.33 < gains(sarathi, B, context)[1] < 1.6


PROMPT, ANSWER = Lengths(272, "uniform", 240 / 272), Lengths(64.5, "uniform", 63.5 / 64.5)
NODES = """
name = "two-nodes"
title = "Two nodes of eight A100 of 40 GB, 200 Gb/s each"
device = "a100"
inner = "nvlink"
[sources]
azure = "the paper: Azure ND96asr A100 v4"
nccl = "NCCL's own model of time, a step of a ring over a network"
[layout]
devices = { value = 8, source = "azure" }
nodes = { value = 2, source = "azure" }
[network]
bandwidth = { value = "25 GB/s", source = "azure" }
latency = { value = "2.7 us", source = "nccl" }
"""


@pytest.fixture(scope="module")
def orca(tmp_path_factory):
    """GPT-3 175B on two nodes of eight A100 of 40 GB: tensors split within, two stages."""
    path = tmp_path_factory.mktemp("nodes") / "nodes.toml"
    path.write_text(NODES, encoding="utf-8")
    return StepTimes.of(cg.compile("opt-175b", str(path), "fuse,parallel{tp=8,pp=2}"), 700)


def test_orca_by_its_schedule_alone(orca):
    """Whole batches against continuous ones, both with one engine and always busy.

    Prompts of 32 to 512 and answers of 1 to 128 tokens, evenly: places of a static batch are
    busy for E[len]/E[max].
    """
    made = at_once(640, PROMPT, ANSWER, 1)
    static, whole = (
        simulate(made, Pool(orca, p), closed=64 * orca.lanes)
        for p in (StaticBatches(32), Continuous(32))
    )
    most = 1 / (1 - ANSWER.waste(32))
    assert most == pytest.approx(124.2 / 64.5, rel=0.01)
    assert 1.2 < whole.throughput / static.throughput < most < 36.9


#: ORCA, FasterTransformer: requests per second at a median of 190 ms for each token of an
#: answer, twice what one takes alone there.
MEASURED, LATENCY, ALONE = (6.81, 0.185), 0.190, 0.095


def test_orca_at_one_latency(orca):
    """36.9 times the requests at twice the time of a request alone: two engines.

    Published figures are bounded: this engine takes 30 ms for a token, theirs 95. By the
    schedule alone it is 6 to 11 times batches of 8, and 14 to 20 times one request at a time, the
    best two settings of FasterTransformer.
    """

    def latency(policy, rate):
        seen = simulate(poisson(rate, 500, PROMPT, ANSWER, 1), Pool(orca, policy))
        return np.median(seen.latency / [s.request.generate for s in seen.served])

    alone = (orca.prompt(272) + 63.5 * orca.decode(1, 300)) / 64.5
    assert alone == pytest.approx(0.0295, rel=0.02)
    assert alone < ALONE
    assert latency(Continuous(32), MEASURED[0]) < LATENCY
    assert latency(StaticBatches(8), MEASURED[1]) < LATENCY
    assert pytest.approx(36.8, abs=0.1) == MEASURED[0] / MEASURED[1]
    # The rates at twice the time alone lie between these.
    for policy, keeps, breaks in (
        (Continuous(32), 14, 16), (StaticBatches(8), 1.5, 2.5), (StaticBatches(1), 0.8, 1),
    ):  # fmt: skip
        assert latency(policy, keeps) < 2 * alone < latency(policy, breaks)


def altered(tmp_path, name, **sizes):
    """A shipped model's configuration with other sizes."""
    config = json.loads((ROOT / "models" / "configs" / f"{name}.json").read_text(encoding="utf-8"))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config | sizes), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("fidelity", "decodes", "whole"), [("ideal", 4.29, 1.41), ("calibrated", 4.17, 1.15)]
)
def test_sarathi_on_an_a100(tmp_path, fidelity, decodes, whole):
    """LLaMA-33B: 4.25 times in decodes and 1.25 in whole requests.

    Chunks of 256 of 1024 tokens, 10 sequences: with the roofline's kernels an upper bound.
    """
    sizes = {
        "hidden_size": 6656, "intermediate_size": 17920, "num_hidden_layers": 60,
        "num_attention_heads": 52, "num_key_value_heads": 52,
    }  # fmt: skip
    made = cg.compile(
        altered(tmp_path, "llama-2-13b", **sizes), "a100-80g", "fuse", fidelity=fidelity
    )
    found = gains(StepTimes(made, 4096), 10, 1024)
    assert found == pytest.approx((decodes, whole), abs=0.006)
    if fidelity == "ideal":
        assert found[0] > 4.25
        assert found[1] > 1.25


STAGES = 8


def pipeline(times, requests, places, chunk):
    """Idle seconds of a pipeline's stages for each request, and requests a second.

    As many groups as stages are in flight, each with so many places; a group's next step begins
    when its last one left the last stage. Steps hold all decodes of the group and the prompts
    that wait, whole or up to ``chunk`` tokens. Counted until no request waits any more.
    """
    waiting = list(reversed(requests))
    groups = [[] for _ in range(STAGES)]
    order = [(0.0, g) for g in range(STAGES)]
    free, began, busy, done = [0.0] * STAGES, [None] * STAGES, [0.0] * STAGES, 0
    while waiting:
        at, number = heapq.heappop(order)
        group = groups[number]
        while len(group) < places and waiting:
            prompt, answer = waiting.pop()
            group.append({"left": prompt, "at": prompt, "more": answer})
        decoding = [r for r in group if not r["left"]]
        budget = chunk - len(decoding) if chunk else sum(r["left"] for r in group)
        parts = []
        for r in (r for r in group if r["left"]):
            taken = min(r["left"], budget)
            if taken:
                budget, r["left"] = budget - taken, r["left"] - taken
                parts.append((taken, r["at"] - r["left"]))
                r["more"] -= not r["left"]
        context = sum(r["at"] + 1 for r in decoding) / max(len(decoding), 1)
        seconds = times.step(len(decoding), context, parts) / STAGES
        for r in decoding:
            r["at"], r["more"] = r["at"] + 1, r["more"] - 1
        for stage in range(STAGES):
            at = max(at, free[stage])
            began[stage] = at if began[stage] is None else began[stage]
            at += seconds
            free[stage], busy[stage] = at, busy[stage] + seconds
        groups[number] = [r for r in group if r["more"]]
        done += len(group) - len(groups[number])
        heapq.heappush(order, (at, number))
    idle = sum(f - b - s for f, b, s in zip(free, began, busy, strict=True))
    return idle / done, done / max(free)


def test_sarathi_in_a_pipeline(tmp_path):
    """GPT-3's size in 8 stages of 8 A100: bubbles 6.29 times smaller, requests 1.91 times.

    Requests of 1024 to 4096 tokens, ten of a prompt for one of an answer, 27 places a group;
    with the program's own steps of a pipeline, evenly over stages. Chunks make steps alike; how
    much depends on their size, and both ratios lie within what sizes of 256 to 1024 give.
    """
    model = altered(tmp_path, "opt-175b", max_position_embeddings=4096)
    times = StepTimes(cg.compile(model, "8x8xa100-80g", "fuse,parallel{tp=8,pp=8}"), 4096)
    drawn = random.Random(1)
    lengths = [drawn.randint(1024, 4000) for _ in range(1200)]
    requests = [(round(n * 10 / 11), round(n / 11)) for n in lengths]
    idle, rate = pipeline(times, requests, 27, None)
    found = {}
    for chunk in (256, 512, 1024):
        smaller, more = pipeline(times, requests, 27, chunk)
        found[chunk] = idle / smaller, more / rate
    assert found[1024] == pytest.approx((2.0, 1.54), rel=0.01)
    assert found[512] == pytest.approx((5.7, 2.37), rel=0.01)
    assert found[256] == pytest.approx((73, 3.49), rel=0.01)
    assert found[512][0] < 6.29 < found[256][0]
    assert found[1024][1] < 1.91 < found[512][1]


@pytest.fixture(scope="module")
def fastgen():
    """LLaMA-2-70B on four A100 of 80 GB, and 512 requests of its benchmark."""
    made = cg.compile("llama-2-70b", "4xa100-80g", "fuse,parallel{tp=4}", fidelity="calibrated")
    drawn = np.random.default_rng(1)
    prompts, answers = (
        np.clip(np.rint(drawn.normal(mean, 0.3 * mean, 512)), 2, 3900).astype(int)
        for mean in (2600, 60)
    )
    requests = [Request(0.0, int(p), int(a)) for p, a in zip(prompts, answers, strict=True)]
    return StepTimes(made, 4096), requests


def test_fastgen_by_its_schedule_alone(fastgen):
    """Chunks beside decodes against prompts first, at the same mean time per token.

    With one engine's kernels; the paper's 2.3 is of two engines.
    """
    times, _ = fastgen
    traffic = Traffic(1, Lengths(2600), Lengths(60), 2600 / 512, 0.05)
    planner = Planner(traffic, [Way("a100-80g", 4, "native", times, 1.0)])

    def rate(policy):
        return planner.largest(planner.queue(planner.ways[0], policy), traffic)[0]

    gain = rate(ChunkedPrefill(64, 512)) / rate(PrefillFirst(64))
    assert gain == pytest.approx(1.05, abs=0.006)


@pytest.mark.parametrize(
    ("policy", "clients", "rate", "latency", "ours"),
    [
        (ChunkedPrefill(64, 512), 12, 1.36, 9, 1.75),
        (PrefillBatches(64, 4096), 6, 0.67, 9, 1.40),
        (ChunkedPrefill(64, 512), 8, 1.2, 7, 1.58),
        (PrefillBatches(64, 4096), 17, 1.2, 14, 1.81),
    ],
)
def test_fastgen_as_stated(fastgen, policy, clients, rate, latency, ours):
    """Its throughput and latency and vLLM's, by Little's law of so many clients: upper bounds.

    Prompts of 2600 and answers of 60 tokens, normal with 30 %, a closed loop. FastGen is 1.3
    times slower than the model, vLLM of that time 1.5 to 2.1 times: its engine, no schedule.
    """
    assert clients == pytest.approx(rate * latency, abs=0.5)
    times, requests = fastgen
    seen = simulate(requests, Pool(times, policy), closed=clients)
    assert seen.rate == pytest.approx(ours, rel=0.01)
    assert seen.rate > rate
    assert seen.latency.mean() < latency


@pytest.mark.parametrize(
    ("policy", "clients", "effective", "ours"),
    [(ChunkedPrefill(64, 512), 12, 1.42, 1.71), (PrefillBatches(64, 4096), 20, 0.63, 1.81)],
)
def test_fastgen_effective_throughput(fastgen, policy, clients, effective, ours):
    """Requests with a first token in prompt/512 s, and then 4 tokens a second on average.

    Published: 1.42 against 0.63 of vLLM, 2.3 times. The schedule alone gives nothing here.
    """
    times, requests = fastgen
    seen = simulate(requests, Pool(times, policy), closed=clients)
    kept = sum(
        s.first - s.request.arrival <= s.request.prompt / 512
        and s.done - s.first <= 0.25 * (s.request.generate - 1)
        for s in seen.served
    )
    assert seen.rate * kept / len(requests) == pytest.approx(ours, rel=0.01)
    assert ours > effective


@pytest.mark.parametrize(
    ("ttft", "tpot", "gain"), [(0.25, 0.1, 1.01), (0.25, 0.025, 1.34), (0.2, 0.02, 1.49)]
)
def test_distserve_by_separation_alone(separated, ttft, tpot, gain):
    """OPT-13B on A100, 512 to 256 tokens: two pools against prompts first on each device.

    Requests a second and device within limits on the means, pools in the ratio that fits; no
    time for caches on their way. The paper's 7.4 is of two engines, at the ninth decile.
    """
    traffic = Traffic(1, Lengths(512), Lengths(256), ttft, tpot)
    planner = Planner(traffic, [Way("a100-80g", 1, "native", separated, 1.0)])

    def most(policy, limits, answer=traffic.generate):
        asked = Traffic(1, traffic.prompt, answer, *limits)
        queue = Queue(separated, policy, asked.prompt, asked.generate)
        return planner.largest(queue, asked)[0]

    limits = (16, 32, 64, 128)
    together = max(most(PrefillFirst(n), (ttft, tpot)) for n in limits)
    prompts = most(PrefillFirst(128), (ttft, 1e9), Lengths(1))
    decodes = max(most(DecodeOnly(n), (1e9, tpot)) for n in limits)
    assert 1 / (1 / prompts + 1 / decodes) / together == pytest.approx(gain, abs=0.006)


@pytest.fixture(scope="module")
def separated():
    return StepTimes(cg.compile("opt-13b", "a100-80g", "fuse", fidelity="calibrated"), 800)


def test_distserve_as_its_artefact_states(separated):
    """OPT-13B: nine of ten requests within 250 and 100 ms, over rates of 0.25 to 3 a device.

    Three devices (here two that split prompts, one for decodes; 755 to 200 tokens) against one.
    Its best lies in the range that was swept, as ours; vLLM's, 4.6 times lower, is at most 0.65,
    where one engine with these kernels keeps the limits up to more than 3: not the schedule.
    """
    prompt, answer = Lengths(755), Lengths(200)
    both = StepTimes(
        cg.compile("opt-13b", "2xa100-80g", "fuse,parallel{tp=2}", fidelity="calibrated"), 1000
    )
    link = Transfer(3e-6, 300e9, both.position())
    alone = StepTimes(separated.compiled, 1000)

    def kept(seen):
        good = (s.first - s.request.arrival <= 0.25 and s.done - s.first <= 0.1 * 199
                for s in seen.served)  # fmt: skip
        return sum(good) / len(seen.served)

    def pools(rate):
        requests = poisson(3 * rate, 900, prompt, answer, 1)
        decode = Pool(alone, DecodeOnly(128))
        return kept(simulate(requests, Pool(both, PrefillFirst(128)), decode=decode, transfer=link))

    def one(rate):
        policy = PrefillBatches(128, 2048)
        return kept(simulate(poisson(rate, 300, prompt, answer, 1), Pool(alone, policy)))

    assert pools(0.25) > 0.9
    assert pools(2) > 0.9 > pools(3)
    assert one(3 / 4.6) > 0.9
    assert one(3) > 0.9 > one(5)
