"""Segments that hand memory tokens on, against a walk over tokens and masks written out."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from sympy import Integer

import costgraph as cg
from costgraph.counting.count import rows
from costgraph.counting.footprint import cache_bytes
from costgraph.errors import CostgraphError, InputError, PipelineError
from costgraph.symbols import B, S, T

MODEL, LAYERS, HEADS, DH, KV = "llama-3.2-1b", 16, 32, 64, 512


@cache
def made(passes: str):
    return cg.compile(MODEL, "h100", passes)


def pairs(compiled, phase: str, context: int = 0, prompt: int = 0) -> int:
    """Pairs of one sequence in one step of a phase, per head and layer."""
    chosen = compiled.program.phase(phase)
    found = sum(
        (r.count * r.cost.total_flops for r in rows(chosen.graph) if r.kind == "qk-matmul"),
        Integer(0),
    )
    at = {B: Integer(1), T: Integer(context), S: Integer(prompt)}
    return int(chosen.bind(found).xreplace(at)) // (2 * LAYERS * HEADS * DH)


def by_segment(tokens: int, segment: int, memory: int) -> int:
    """Pairs of a text: a mask over all that passes, memory tokens in their places."""
    kinds = []
    for start in range(0, tokens, segment):
        inside = min(segment, tokens - start)
        kinds += [start // segment] * (memory + inside + memory)
    own = np.array(kinds)
    order = np.arange(len(own))
    mask = (own[:, None] == own[None, :]) & (order[None, :] <= order[:, None])
    return int(mask.sum())


@pytest.mark.parametrize(("segment", "memory", "count"), [(16, 3, 4), (5, 1, 1), (8, 10, 3)])
def test_a_prompt_is_its_segments(segment, memory, count):
    compiled = made(f"memory-tokens{{segment={segment},tokens={memory}}}")
    prompt = segment * count
    phases = [compiled.program.phase(n) for n in ("segments", "prefill")]
    times = [p.steps.xreplace({S: Integer(prompt)}) for p in phases]
    assert times == [count - 1, 1]
    each = pairs(compiled, "segments", prompt=prompt)
    assert each == pairs(compiled, "prefill", prompt=prompt)
    assert count * each == by_segment(prompt, segment, memory)


@pytest.mark.parametrize(("segment", "memory"), [(7, 2), (1, 1), (16, 5)])
def test_an_answer_of_whole_segments_has_the_pairs_of_their_mask(segment, memory):
    compiled = made(f"memory-tokens{{segment={segment},tokens={memory}}}")
    start, count = 3 * segment, 2 * segment
    tokens = sum(pairs(compiled, "decode", t) for t in range(start + 1, start + count + 1))
    ends = count // segment
    for name in ("write", "read"):
        assert compiled.program.phase(name).weight * count == ends
        tokens += ends * pairs(compiled, name)
    assert tokens == by_segment(count, segment, memory)


def test_what_stays_does_not_grow_with_the_text():
    graph = made("memory-tokens{segment=20,tokens=3}").program.phase("decode").graph
    kept = cache_bytes(graph).xreplace({B: Integer(2)})
    row = 2 * LAYERS * 2 * 2 * KV
    for context in (5, 20, 1000, 10**6):
        assert kept.xreplace({T: Integer(context)}) == row * (3 + min(context, 20))


def test_a_text_costs_a_line_in_its_length():
    ttft = made("fuse,memory-tokens").ttft
    one, two, three = (ttft.evaluate(B=1, S=512 * n) for n in (10, 20, 30))
    assert three - two == pytest.approx(two - one, rel=1e-12)
    plain = made("fuse").ttft
    assert ttft.evaluate(B=1, S=102_400) < plain.evaluate(B=1, S=102_400)
    # Each segment reads all weights: short prompts pay for that.
    assert ttft.evaluate(B=1, S=1024) > plain.evaluate(B=1, S=1024)


def test_a_generation_is_the_sum_of_its_steps():
    compiled = made("fuse,memory-tokens{segment=12,tokens=4}")
    steps = sum(compiled.tpot.evaluate(B=3, T=t) for t in range(37, 36 + 40))
    total = compiled.latency.evaluate(B=3, S=36, N=40) - compiled.ttft.evaluate(B=3, S=36)
    assert total == pytest.approx(steps, rel=1e-12)


def test_positions_begin_anew_with_each_segment():
    """A model of 1,024 positions reads and writes on."""
    compiled = cg.compile("gpt2", "h100", "fuse,memory-tokens")
    assert compiled.tpot.evaluate(B=1, T=10**6) > 0
    assert compiled.ttft.evaluate(B=1, S=512 * 1000) > 0
    too_long = cg.compile("gpt2", "h100", "memory-tokens{segment=1010}")
    with pytest.raises(InputError, match="no positions beyond"):
        too_long.tpot.evaluate(B=1, T=2000)


def test_sizes_may_be_names():
    named, known = made("memory-tokens{segment=s,tokens=m}"), made("memory-tokens")
    at = {"B": 2, "S": 5120, "N": 40}
    assert named.latency.evaluate(**at, s=512, m=10) == pytest.approx(known.latency.evaluate(**at))


def test_a_prompt_is_no_shorter_than_a_segment():
    with pytest.raises(InputError, match="a prompt is whole segments"):
        made("memory-tokens").ttft.evaluate(B=1, S=511)


def test_what_does_not_fit_is_said_or_refused():
    for model in ("mistral-7b", "gpt-oss-20b"):
        compiled = cg.compile(model, "h100", "memory-tokens")
        assert any("do not see all before them" in m.reason for m in compiled.trace.misses)
        assert [p.name for p in compiled.program.phases] == ["prefill", "decode"]
    with pytest.raises(PipelineError, match="must read a prompt and then decode"):
        cg.compile("bert-base", "h100", "memory-tokens")
    with pytest.raises(CostgraphError, match="not a request of one server"):
        made("memory-tokens").step((1, 1, 100))


def test_what_speculates_says_which_steps_it_does_not_count():
    with pytest.raises(PipelineError, match=r"between those that emit tokens \(write, read\)"):
        cg.compile("gpt2", "h100", "memory-tokens,speculative{draft=gpt2}")
