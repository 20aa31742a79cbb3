"""Segments with whole ones in front as a memory."""

from __future__ import annotations

import pytest
from sympy import Integer, Min

import costgraph as cg
from costgraph.counting.count import rows
from costgraph.counting.footprint import cache_bytes
from costgraph.errors import CostgraphError
from costgraph.symbols import B, T, q

MODEL, LAYERS, HEADS, DH, KV = "llama-3.2-1b", 16, 32, 64, 512


def scores(passes: str, phase: str, new: int, context: int) -> int:
    graph = cg.compile(MODEL, "h100", passes).program.phase(phase).graph
    found = sum(
        (r.count * r.cost.total_flops for r in rows(graph) if r.kind == "qk-matmul"), Integer(0)
    )
    at = {B: Integer(1), q: Integer(new), T: Integer(context)}
    return int(found.xreplace(at)) // (2 * LAYERS * HEADS * DH)


def seen(position: int, segment: int, memory: int) -> int:
    """Positions that one sees, counted from one."""
    first = max((position - 1) // segment - memory, 0) * segment
    return position - first


@pytest.mark.parametrize(("segment", "memory"), [(7, 0), (7, 1), (16, 3), (500, 1)])
def test_pairs_of_prompts_and_steps_are_those_of_positions(segment, memory):
    passes = f"recur{{segment={segment},memory={memory}}}"
    prompt = sum(seen(p, segment, memory) for p in range(1, 101))
    assert scores(passes, "prefill", 100, 100) == prompt
    for context in (1, 7, 8, 49, 100):
        assert scores(passes, "decode", 1, context) == seen(context, segment, memory)


def test_the_memory_and_a_segment_stay():
    graph = cg.compile(MODEL, "h100", "recur{segment=20,memory=2}").program.phase("decode").graph
    expected = LAYERS * 2 * 2 * KV * B * Min(T, 60)
    assert (cache_bytes(graph) - expected).expand() == 0


def test_a_context_of_one_segment_costs_what_it_costs_without():
    one, plain = (cg.compile(MODEL, "h100", p) for p in ("recur{segment=4096}", ""))
    assert one.tpot.evaluate(B=2, T=4096) == pytest.approx(
        plain.tpot.evaluate(B=2, T=4096), rel=1e-14
    )
    assert one.tpot.evaluate(B=2, T=9000) < plain.tpot.evaluate(B=2, T=9000)


def test_reading_on_is_cheaper_than_reading_again():
    """A step with a memory against reading everything that it sees anew, in FLOP."""
    kept = cg.compile(MODEL, "h100", "recur{segment=1900,memory=1}")
    step = kept.program.phase("decode").graph.cost.total_flops
    again = cg.compile(MODEL, "h100").program.phase("prefill").graph.cost.total_flops
    ratio = again.xreplace({B: Integer(1), q: Integer(3800), T: Integer(3800)}) / step.xreplace(
        {B: Integer(1), q: Integer(1), T: Integer(3800)}
    )
    # 1,874 times are measured at this length (arXiv 1901.02860); every token is one of 3,800.
    assert 1874 < ratio < 3800


@pytest.mark.parametrize("wrong", ["segment=0", "memory=-1", "segment=x y"])
def test_no_sizes_are_refused(wrong):
    with pytest.raises(CostgraphError):
        cg.compile(MODEL, "h100", f"recur{{{wrong}}}")


def test_sizes_may_be_names():
    tpot = cg.compile(MODEL, "h100", "recur{segment=s,memory=m}").tpot
    known = cg.compile(MODEL, "h100", "recur{segment=100,memory=2}").tpot
    assert tpot.evaluate(B=1, T=3000, s=100, m=2) == pytest.approx(
        known.evaluate(B=1, T=3000), rel=1e-14
    )
