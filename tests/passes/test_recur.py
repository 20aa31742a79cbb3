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


def by_kind(passes: str, phase: str, **sizes: int) -> dict[str, tuple[int, int]]:
    """(operations, FLOP of all) of each kind."""
    graph = cg.compile(MODEL, "h100", passes).program.phase(phase).graph
    names = {"B": B, "q": q, "T": T}
    at = {names[k]: Integer(v) for k, v in sizes.items()}
    found: dict[str, tuple[int, int]] = {}
    for r in rows(graph):
        n, flops = found.get(r.kind, (0, 0))
        made = (r.count * r.cost.total_flops).xreplace(at)
        found[r.kind] = n + int(r.count), flops + int(made)
    return found


def squeezed(position: int, segment: int, memory: int, compressed: int) -> int:
    """Segments in front of a position that it sees as rows."""
    return min(max((position - 1) // segment - memory, 0), compressed)


@pytest.mark.parametrize(("segment", "memory", "compressed", "ratio"), [(8, 0, 2, 4), (6, 1, 1, 3)])
def test_compressed_segments_are_seen_kept_and_made(segment, memory, compressed, ratio):
    passes = f"recur{{segment={segment},memory={memory},compressed={compressed},ratio={ratio}}}"
    each = segment // ratio

    def of_one(p: int) -> int:
        return seen(p, segment, memory) + each * squeezed(p, segment, memory, compressed)

    assert scores(passes, "prefill", 50, 50) == sum(map(of_one, range(1, 51)))
    decode = cg.compile(MODEL, "h100", passes).program.phase("decode").graph
    kept = cache_bytes(decode)
    row = 2 * LAYERS * 2 * 2 * KV
    for context in (1, 8, 9, 17, 25, 49, 100):
        assert scores(passes, "decode", 1, context) == of_one(context)
        held = min(context, segment * (memory + 1))
        held += each * squeezed(context, segment, memory, compressed)
        assert kept.xreplace({B: Integer(2), T: Integer(context)}) == row * held
        # The first position behind what a segment is seen from whole compresses it.
        left = context > segment * (memory + 1) and context % segment == 1
        made = by_kind(passes, "decode", B=2, q=1, T=context)["kv-append"][1]
        assert made == (LAYERS * 2 * 2 * each * 2 * ratio * KV**2 if left else 0)


def test_ways_to_compress():
    sizes = "recur{segment=8,compressed=1,ratio=4,by=%s}"
    mean, most = (
        by_kind(sizes % by, "decode", B=1, q=1, T=17)["kv-append"][1] for by in ("mean", "max")
    )
    rows_ = LAYERS * 2 * 2 * KV  # keys and values, two rows of each segment
    assert (mean, most) == (4 * rows_, 3 * rows_)
    # Kernels of all heads together are weights of the layer.
    weights = [
        sum((count * t.numel for t, count in cg.compile(MODEL, "h100", p).program.weights()), 0)
        for p in ("recur", "recur{compressed=1,ratio=4}")
    ]
    assert weights[1] - weights[0] == LAYERS * 2 * 4 * KV**2


def test_a_generation_with_compression_is_the_sum_of_its_steps():
    made = cg.compile(MODEL, "h100", "fuse,recur{segment=12,compressed=2,ratio=4}")
    steps = sum(made.tpot.evaluate(B=3, T=t) for t in range(31, 30 + 60))
    total = made.latency.evaluate(B=3, S=30, N=60) - made.ttft.evaluate(B=3, S=30)
    assert total == pytest.approx(steps, rel=1e-12)


@pytest.mark.parametrize("wrong", ["segment=10,compressed=1,ratio=4", "ratio=2", "by=max"])
def test_sizes_that_do_not_fit_are_refused(wrong):
    with pytest.raises(CostgraphError):
        cg.compile(MODEL, "h100", f"recur{{{wrong}}}")


def test_distances_add_a_product_and_a_projection_to_each_layer():
    plain, more = (
        by_kind(f"recur{{segment=20{x}}}", "decode", B=2, q=3, T=90)
        for x in ("", ",distances=true")
    )
    pairs = sum(seen(p, 20, 1) for p in (88, 89, 90))
    assert more["relative-matmul"] == (LAYERS, LAYERS * 2 * 2 * HEADS * DH * pairs)
    assert more["score-bias"] == (LAYERS, LAYERS * 2 * HEADS * pairs)
    assert more["qk-matmul"] == plain["qk-matmul"]
    found = 90 - 60  # rows that the three see: their segment, and the one in front
    d = HEADS * DH
    assert more["linear"][1] - plain["linear"][1] == LAYERS * 2 * found * d * d
    assert more["add"][1] - plain["add"][1] == LAYERS * 2 * 2 * 3 * d


@pytest.mark.parametrize("machine", ["h100", "2xh100"])
def test_distances_go_with_fusion_narrow_caches_and_devices(machine):
    passes = "recur{distances=true},fuse,quantize{kv=int8,weights=int4}"
    if machine != "h100":
        passes += ",parallel{tp=2}"
    made = cg.compile(MODEL, machine, passes)
    assert made.tpot.evaluate(B=4, T=3000) > 0
    kinds = {r.kind for r in rows(made.program.phase("decode").graph)}
    assert "relative-matmul" in kinds
    assert "softmax" not in kinds  # the term is a bias of the tiled kernel
