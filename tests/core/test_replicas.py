"""Servers whose replicas share a step: sequences are whole, and the fullest replica decides."""

from __future__ import annotations

from functools import cache

import pytest

import costgraph as cg
from costgraph.asking.serving import (
    ChunkedPrefill,
    Lengths,
    Pool,
    PrefillFirst,
    Queue,
    Request,
    StepTimes,
    poisson,
    simulate,
)
from costgraph.asking.serving.dealt import fullest
from costgraph.asking.serving.loop import first_tokens
from costgraph.errors import InputError

LONGEST = 4096
DRAFTS = ",speculative{draft=llama-3.2-1b,gamma=3,alpha=0.7}"
STEPS = (
    (1, 300, (), ""),
    (8, 500, (), ""),
    (9, 500, (), ""),
    (9, 500, (), DRAFTS),
    (0, 0, ((1000, 1000),), ""),
    (6, 500, ((512, 1024),), ""),
    (6, 500, ((512, 1024),), DRAFTS),
    (4, 500, ((512, 512),) * 5, ""),
)


@cache
def times(model, on="h100", passes=""):
    return StepTimes.of(cg.compile(model, on, passes), LONGEST)


@pytest.mark.parametrize(("decodes", "context", "chunks", "drafts"), STEPS)
def test_a_step_takes_what_the_fullest_replica_takes(decodes, context, chunks, drafts):
    one = times("llama-3.1-8b", passes=f"fuse{drafts}")
    four = times("llama-3.1-8b", "4xh100", f"fuse,parallel{{dp=4}}{drafts}")
    own = one.step(-(-decodes // 4), context, chunks[: -(-len(chunks) // 4)])
    assert four.step(decodes, context, chunks) == pytest.approx(own, rel=1e-12)
    if not chunks:
        row = four.row(decodes)
        assert row[context] - row[context - 1] == pytest.approx(own, rel=1e-9)


@pytest.mark.parametrize("degrees", ["ep=4", "tp=2,dp=2,ep=4"])
def test_rows_of_experts_are_those_of_all_replicas(degrees):
    n, compiled = 4000, cg.compile("mixtral-8x7b", "4xh100", f"fuse,parallel{{{degrees}}}")
    steps = StepTimes.of(compiled, LONGEST)
    d = steps.replicas
    # As many prompts as replicas: nobody is fuller than others.
    every = steps.step(0, 0, ((n, n),) * d)
    assert every == pytest.approx(float(compiled.ttft(B=d, S=n)), rel=1e-9)
    # One prompt: the same but for experts, which have a part of the rows (bound by compute).
    rows = compiled.breakdown("prefill", B=d, S=n).rows
    experts = [r for r in rows if r.name.startswith("expert") and "return" not in r.name]
    assert len(experts) == 2
    less = (1 - 1 / d) * sum(r.seconds * r.count for r in experts)
    assert steps.prompt(n) == pytest.approx(every - less, rel=1e-9)
    # So for steps of decodes: below as many sequences as replicas, only experts tell.
    few, many = steps.decode(1, 500), steps.decode(d, 500)
    assert few < many < 1.5 * d * few
    assert steps.decode(d, 500) == pytest.approx(float(compiled.tpot(B=d, T=500)), rel=1e-9)


@pytest.mark.parametrize(
    ("model", "passes", "fidelity"),
    [
        ("deepseek-v2-lite", "fuse,parallel{ep=4}", "ideal"),  # prompts and decodes differ in graph
        ("qwen3-30b-a3b", "parallel{ep=4}", "ideal"),
        ("qwen3-30b-a3b", "fuse,parallel{tp=2,dp=2,ep=4}", "calibrated"),
        ("mixtral-8x7b", "fuse,parallel{ep=4},overlap{by=kernels}", "ideal"),
    ],
)
def test_replicas_that_are_equally_full_take_what_formulas_say(model, passes, fidelity):
    compiled = cg.compile(model, "4xh100", passes, fidelity=fidelity)
    steps = StepTimes.of(compiled, LONGEST)
    d = steps.replicas
    prompts, decodes = steps.step(0, 0, ((1000, 1000),) * d), steps.decode(d, 500)
    assert prompts == pytest.approx(float(compiled.ttft(B=d, S=1000)), rel=1e-9)
    assert decodes == pytest.approx(float(compiled.tpot(B=d, T=500)), rel=1e-9)
    # One alone: at least its part of what all share, at most what all take.
    assert prompts / d < steps.prompt(1000) < prompts
    assert decodes / d < steps.decode(1, 500) < decodes
    assert steps.decode(d + 1, 500) > decodes


def test_of_chunks_that_differ_the_replica_with_fewest_tokens_takes_the_next():
    one, two = times("llama-3.2-1b"), times("llama-3.2-1b", "2xh100", "parallel{dp=2}")
    # 1000 | 300, 300, 300 in order: the second and all later ones go to the emptier.
    chunks = ((1000, 1000), (300, 300), (300, 300), (300, 300))
    assert two.step(0, 0, chunks) == pytest.approx(one.step(0, 0, chunks[:1]), rel=1e-12)
    assert two.step(0, 0, (*chunks, (300, 300))) > two.step(0, 0, chunks)
    assert [fullest(n, 4) for n in range(6)] == [0, 1, 1, 1, 1, 2]


def test_memory_is_that_of_each_replica():
    one = times("llama-3.1-8b", passes="fuse")
    eight = times("llama-3.1-8b", "8xh100", "fuse,parallel{dp=8}")
    for read in ((0, 0), (2048, 2048)):
        assert eight.room(3000, read=read) == 8 * one.room(3000, read=read)
    assert eight.caches(3000) == one.caches(3000)
    assert eight.position() == one.position()
    # A request that none of the replicas has room for, though all together had.
    small = StepTimes.of(cg.compile("llama-3.1-8b", "8xrtx-4090", "fuse,parallel{dp=8}"), 120_000)
    assert small.room(100_000) == 0
    with pytest.raises(InputError, match="does not fit"):
        Pool(small, PrefillFirst(1)).check(100_000)


def test_one_request_is_served_as_on_one_replica():
    asked = (Request(0.0, 1024, 64),)
    found = [
        simulate(asked, Pool(times("llama-3.1-8b", *where), PrefillFirst(4)))
        for where in (("h100", "fuse"), ("8xh100", "fuse,parallel{dp=8}"))
    ]
    for of in ("ttft", "tpot"):
        one, eight = (getattr(f, of)[0] for f in found)
        assert eight == pytest.approx(one, rel=1e-9)
    said = " ".join(times("llama-3.1-8b", "8xh100", "fuse,parallel{dp=8}").assumed)
    assert "each sequence is whole on one of 8" in said
    assert "replicas" not in " ".join(times("llama-3.1-8b", passes="fuse").assumed)


def test_first_tokens_as_measured_are_left_out():
    asked = (Request(0.0, 500, 64),) * 8
    for passes, there in (("fuse", True), ("fuse,parallel{dp=2}", False)):
        made = cg.compile("llama-3.2-1b", "2xh100" if not there else "h100", passes,
                          fidelity="calibrated@vllm")  # fmt: skip
        assert (first_tokens(made, asked, 4) is not None) is there


def test_a_number_of_replicas_is_needed():
    with pytest.raises(InputError, match="dp=many"):
        times("llama-3.2-1b", "8xh100", "parallel{dp=many}")


@pytest.mark.parametrize("schedule", ["turns", "ahead", "pearl", "stairs"])
def test_rounds_of_a_replica_have_its_sequences(schedule):
    drafts = f"speculative{{draft=llama-3.2-1b,gamma=3,alpha=0.7,schedule={schedule}}}"
    one = cg.compile("llama-3.1-8b", "h100", drafts)
    for passes in (f"parallel{{dp=4}},{drafts}", f"{drafts},parallel{{dp=4}}"):
        four = cg.compile("llama-3.1-8b", "4xh100", passes)
        for asked in ("tpot", "ttft"):
            at = {"S": 500} if asked == "ttft" else {"T": 500}
            found, own = (getattr(c, asked)(B=b, **at) for c, b in ((four, 128), (one, 32)))
            assert float(found) == pytest.approx(float(own), rel=1e-12)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_the_first_prompt_of_a_step_may_cost_far_more_than_others(load):
    """One of eight replicas reads it, and seven more cost next to nothing: no mean tells that."""
    lengths = Lengths(1024), Lengths(128, "uniform", 0.5)
    steps = times("llama-3.2-1b", "8xh100", "fuse,parallel{dp=8}")
    queue = Queue(steps, ChunkedPrefill(512, 8192), *lengths)
    steady = queue.at(load * queue.stable_rate)
    made = poisson(steady.rate, 2500, *lengths, seed=2)
    seen = simulate(made, Pool(steps, queue.policy)).served[900:2000]
    first = sum(s.first - s.request.arrival for s in seen) / len(seen)
    tpot = sum(s.done - s.first for s in seen) / sum(s.request.generate - 1 for s in seen)
    assert steady.ttft == pytest.approx(first, rel=0.14)
    assert steady.tpot == pytest.approx(tpot, rel=0.1)


def test_times_per_token_grow_with_the_load():
    steps = times("llama-3.2-1b", "8xh100", "fuse,parallel{dp=8}")
    queue = Queue(steps, ChunkedPrefill(512, 8192), Lengths(1024), Lengths(128))
    seen = [queue.at(load / 20 * queue.stable_rate).tpot for load in range(1, 20)]
    assert seen == sorted(seen)
