"""Slots that segments read and write, against masks written out and sums by hand."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Integer

import costgraph as cg
from costgraph.counting.count import rows
from costgraph.counting.footprint import cache_bytes, footprint, resting
from costgraph.errors import CostgraphError, InputError, PipelineError
from costgraph.ops.pattern import Slots
from costgraph.symbols import B, S, T

MODEL, LAYERS, HEADS, DH, KV, D = "llama-3.2-1b", 16, 32, 64, 512, 2048
W = 2  # bytes


@cache
def made(passes: str):
    return cg.compile(MODEL, "h100", passes)


def pairs(compiled, phase: str, context: int = 0) -> dict[str, int]:
    """Pairs of one sequence in one step of a phase, per head: all layers, and what they are of."""
    chosen = compiled.program.phase(phase)
    at = {B: Integer(1), T: Integer(context), S: Integer(0)}
    found = {}
    for r in rows(chosen.graph):
        if r.kind == "qk-matmul":
            name = r.node.name
            flops = chosen.bind(r.count * r.cost.total_flops).xreplace(at)
            found[name] = found.get(name, 0) + int(flops) // (2 * HEADS * DH)
    return found


def by_mask(tokens: int, segment: int, slots: int) -> dict[str, int]:
    """Pairs of a text whose segments are written behind them: one mask of all rows there are.

    Rows: tokens, and slots of each version; a version is written behind its segment.
    """
    rows_ = [("slot", -1, i) for i in range(slots)]
    for start in range(0, tokens, segment):
        own = start // segment
        rows_ += [("token", own, i) for i in range(min(segment, tokens - start))]
        if start + segment <= tokens:
            rows_ += [("slot", own, i) for i in range(slots)]
    found = {"own": 0, "read": 0, "write": 0}
    for kind, version, place in rows_:
        for other, when, where in rows_:
            if kind == "token" and other == "token":
                found["own"] += when == version and where <= place
            elif kind == "token":
                found["read"] += when == version - 1
            elif version >= 0 and other == "token":
                found["write"] += when == version
            elif version >= 0:
                found["write"] += when == version - 1 and where == place
    return found


@given(st.integers(1, 9), st.integers(0, 9))
def test_a_slot_sees_itself_and_the_rows(count, new):
    mask = np.concatenate([np.eye(count, dtype=bool), np.ones((count, new), bool)], axis=1)
    assert Slots(Integer(count)).pairs(Integer(count), Integer(count + new)) == mask.sum()


SIZES = [(16, 3), (5, 1), (8, 10)]


@pytest.mark.parametrize(("segment", "slots"), SIZES)
def test_a_prompt_is_its_segments_and_what_they_write(segment, slots):
    compiled, count = made(f"memory-slots{{segment={segment},slots={slots}}}"), 3
    times = [compiled.program.phase(n).steps.xreplace({S: Integer(segment * count)})
             for n in ("segments", "slots", "prefill")]  # fmt: skip
    assert times == [count - 1, count, 1]
    wanted = by_mask(segment * count, segment, slots)
    each = pairs(compiled, "segments")
    assert each == pairs(compiled, "prefill")
    assert count * each["qk_matmul"] == LAYERS * wanted["own"]
    assert count * each["slots_qk_matmul"] == LAYERS * wanted["read"]
    assert count * pairs(compiled, "slots")["write_qk_matmul"] == wanted["write"]


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(SIZES), st.integers(1, 3))
def test_an_answer_is_its_tokens_one_by_one(sizes, count):
    segment, slots = sizes
    compiled = made(f"memory-slots{{segment={segment},slots={slots}}}")
    start = 3 * segment
    steps = [pairs(compiled, "decode", t) for t in range(start + 1, start + count * segment + 1)]
    wanted = by_mask(count * segment, segment, slots)
    assert sum(s["qk_matmul"] for s in steps) == LAYERS * wanted["own"]
    assert sum(s["slots_qk_matmul"] for s in steps) == LAYERS * wanted["read"]
    assert compiled.program.phase("write").weight * segment == 1
    assert count * pairs(compiled, "write")["write_qk_matmul"] == wanted["write"]


def test_what_reads_and_writes_costs_by_hand():
    """Products of a layer that reads, and of what writes 7 slots from 20 states."""
    compiled, (n, s, b) = made("memory-slots{segment=20,slots=7}"), (7, 20, 3)
    write = compiled.program.phase("write")
    found = {r.node.name: (r.count * r.cost.total_flops).xreplace({B: Integer(b)})
             for r in rows(write.graph) if r.kind == "linear"}  # fmt: skip
    assert found == {
        "write_q_proj": 2 * b * n * D * HEADS * DH,
        "write_k_proj": 2 * b * (n + s) * D * KV,
        "write_v_proj": 2 * b * (n + s) * D * KV,
        "write_o_proj": 2 * b * n * D * HEADS * DH,
        "cross_k_proj": LAYERS * 2 * b * n * D * KV,
        "cross_v_proj": LAYERS * 2 * b * n * D * KV,
    }
    step = compiled.program.phase("decode")
    flops = {r.node.name: step.bind(r.cost.total_flops).xreplace({B: Integer(b), T: Integer(1000)})
             for r in rows(step.graph)}  # fmt: skip
    assert {k: v for k, v in flops.items() if k.startswith("slots_")} == {
        "slots_norm": flops["attn_norm"],
        "slots_q_proj": 2 * b * D * HEADS * DH,
        "slots_qk_matmul": 2 * b * HEADS * DH * n,
        "slots_softmax": 5 * b * HEADS * n,
        "slots_sv_matmul": 2 * b * HEADS * DH * n,
        "slots_o_proj": 2 * b * HEADS * DH * D,
        "slots_add": b * D,
    }
    kept = compiled.breakdown("decode", B=b, T=1000).totals["kv_bytes"]
    assert kept == b * W * (LAYERS * 2 * KV * (s + n) + D * (s + n))


def test_what_stays_does_not_grow_with_the_text():
    compiled = made("memory-slots{segment=20,slots=7}")
    phase = compiled.program.phase("decode")
    kept = cache_bytes(phase.graph).xreplace({B: Integer(2)})
    for context in (5, 20, 1000, 10**6):
        rows_ = min(context, 20)
        layers = 2 * W * LAYERS * 2 * KV * (rows_ + 7)
        assert kept.xreplace({T: Integer(context)}) == layers + 2 * W * D * rows_
    # The slots themselves rest beside it, and the weights that write them.
    beside = [resting(r) for r in phase.resident]
    assert sum(x.kv for x in beside).xreplace({B: Integer(2)}) == 2 * W * 7 * D
    (writes,) = {x.weights for x in beside if x.weights != 0}
    width = HEADS * DH
    assert writes == W * (2 * D * width + 2 * D * KV + 7 * D + LAYERS * 2 * D * KV)
    reads = (
        footprint(phase.graph).weights - footprint(made("").program.phase("decode").graph).weights
    )
    assert reads == W * LAYERS * (2 * D * width + D)


def test_a_text_costs_a_line_in_its_length():
    ttft = made("fuse,memory-slots").ttft
    one, two, three = (ttft.evaluate(B=1, S=512 * n) for n in (10, 20, 30))
    assert three - two == pytest.approx(two - one, rel=1e-12)
    assert ttft.evaluate(B=1, S=102_400) < made("fuse").ttft.evaluate(B=1, S=102_400)
    total = made("fuse,memory-slots{segment=12,slots=4}")
    steps = sum(total.tpot.evaluate(B=3, T=t) for t in range(37, 36 + 40))
    answer = total.latency.evaluate(B=3, S=36, N=40) - total.ttft.evaluate(B=3, S=36)
    assert answer == pytest.approx(steps, rel=1e-12)


def test_sizes_may_be_names_and_positions_begin_anew():
    named, known = made("memory-slots{segment=s,slots=m}"), made("memory-slots")
    at = {"B": 2, "S": 5120, "N": 40}
    assert named.latency.evaluate(**at, s=512, m=128) == pytest.approx(known.latency.evaluate(**at))
    compiled = cg.compile("gpt2", "h100", "fuse,memory-slots")
    assert compiled.tpot.evaluate(B=1, T=10**6) > 0
    assert compiled.ttft.evaluate(B=1, S=512 * 1000) > 0


def test_what_does_not_fit_is_said_or_refused():
    for model, why in (
        ("mistral-7b", "do not see all before them"),
        ("deepseek-v2-lite", "is not found"),
    ):
        compiled = cg.compile(model, "h100", "memory-slots")
        assert any(why in m.reason for m in compiled.trace.misses)
        assert [p.name for p in compiled.program.phases] == ["prefill", "decode"]
    with pytest.raises(PipelineError, match="must read a prompt and then decode"):
        cg.compile("bert-base", "h100", "memory-slots")
    with pytest.raises(CostgraphError, match="not a request of one server"):
        made("memory-slots").step((1, 1, 100))
    with pytest.raises(InputError, match="a prompt is whole segments"):
        made("memory-slots").ttft.evaluate(B=1, S=511)
