"""Operator fusion: what merges, what is refused, and that it never costs more."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sympy import Integer

import costgraph as cg
from costgraph.compiling.compiled import Compiled
from costgraph.counting.accounting import EXACT
from costgraph.counting.count import exact_cost, parameters
from costgraph.hardware import load_hardware
from costgraph.hardware.systems import alone
from costgraph.ir.program import autoregressive
from costgraph.ir.regions import Repeat
from costgraph.ir.verify import verify_program
from costgraph.models.decoder import build
from costgraph.ops.fused import Fused
from costgraph.passes import PASSES
from costgraph.passes.fusion.fuse import Fuse
from costgraph.rewriting.pipeline import parse, text_of
from costgraph.symbols import B, S, T, q
from tests.properties.strategies import decoder, shapes, sizes

ONLY_ATTENTION = "fuse{elementwise=false,epilogue=false,siblings=false}"


def names(compiled, phase="prefill"):
    return {r.name for r in compiled.rows[phase]}


def test_the_usual_kernels_fall_out():
    found = names(cg.compile("llama-2-7b", "a6000", "fuse"))
    assert found >= {
        "q_proj+k_proj+v_proj+q_rope+k_rope+k_append+v_append",
        "attention",
        "o_proj+attn_add",
        "gate_proj+up_proj+mlp_act+mlp_mul",
        "down_proj+mlp_add",
    }
    assert "up_proj+mlp_act" in names(cg.compile("gpt2", "a6000", "fuse"))
    assert "q_norm+q_rope" in names(cg.compile("qwen3-8b", "a6000", "fuse"))


def test_residual_and_norm_merge_and_the_sum_stays():
    compiled = cg.compile("llama-2-7b", "a6000", "fuse{epilogue=false}")
    step = compiled.breakdown("prefill", B=1, S=2048)
    row = step["attn_add+mlp_norm"]
    # Reads two operands and the weight; writes the sum, needed again, and its norm.
    assert row.bytes == 4 * 2048 * 4096 * 2 + 4096 * 2


def test_a_norm_before_a_product_is_recomputed_and_says_so():
    plain = cg.compile("llama-2-7b", "a6000", "fuse")
    merged = cg.compile("llama-2-7b", "a6000", "fuse{prologue=true}")
    (name,) = (n for n in names(merged) if n.startswith("attn_norm+"))
    node = next(r.node for r in merged.rows["prefill"] if r.name == name)
    assert isinstance(node.op, Fused)
    factor = 3 * 4096 // 128
    assert node.op.recompute == (("attn_norm", Integer(factor)),)
    one, two = (c.breakdown("prefill", B=1, S=64) for c in (plain, merged))
    norm = one["attn_norm"].flops
    extra = two.totals["flops"] - one.totals["flops"]
    assert extra == 32 * norm * (factor - 1) + 32 * norm * (11008 // 128 - 1)
    assert two.totals["bytes"] < one.totals["bytes"]


def test_silu_behind_its_product_saves_its_traffic_and_little_time():
    # Gate projection and activation only, so that the figures can be checked by hand.
    plain = cg.compile("llama-2-7b", "a6000").breakdown("prefill", B=1, S=2048)
    apart = plain["gate_proj"].bytes + plain["mlp_act"].bytes
    assert (plain["gate_proj"].bytes, plain["mlp_act"].bytes) == (152_043_520, 90_177_536)
    assert round(plain["gate_proj"].flops / apart) == 762
    merged = cg.compile("llama-2-7b", "a6000", "fuse{siblings=false}")
    row = merged.breakdown("prefill", B=1, S=2048)["gate_proj+mlp_act+mlp_mul"]
    width, rows = 11008, 2048
    assert row.bytes == (rows * 4096 + 4096 * width + 2 * rows * width) * 2
    assert row.bound == "compute"


def test_attention_never_makes_a_score_matrix():
    for model in ("llama-3-8b", "gemma-2-2b", "gpt-j-6b"):
        graph = cg.compile(model, "h100", "fuse").graph
        layers = graph.node("layers").op
        assert isinstance(layers, Repeat)
        for tensor in layers.body.tensors.values():
            assert not {q, T} <= tensor.numel.free_symbols or tensor.role.value == "kv"


def test_grouped_queries_read_each_cached_head_once_in_decode():
    step = cg.compile("llama-3-8b", "h100", "fuse").breakdown("decode", B=3, T=1000)
    row = step["attention"]
    assert row.bytes_by_role["kv"] == 2 * 3 * 1000 * 8 * 128 * 2
    assert row.bytes_by_role["activation"] == 2 * 3 * 32 * 128 * 2


def test_causal_blocks_stop_at_the_diagonal():
    def kv(text, s):
        step = cg.compile("llama-2-7b", "h100", text).breakdown("prefill", B=1, S=s)
        return step["attention"].bytes_by_role["kv"] // (2 * 32 * 128 * 2)

    for s in (1, 100, 128, 129, 1000):
        keys = sum(min(start + 128, s) for start in range(0, s, 128))
        assert kv("fuse{reuse=none}", s) == keys
        assert kv("fuse{reuse=none,causal=full}", s) == s * -(-s // 128)
        assert kv("fuse", s) == s  # blocks that run at once share a cache


@pytest.mark.parametrize("model", ["llama-3-8b", "gpt-oss-20b", "deepseek-v2-lite"])
def test_a_shared_cache_moves_least(model):
    shared, apart = (cg.compile(model, "h100", f"fuse{{reuse={x}}}") for x in ("cache", "none"))
    for s in (1, 300, 5000):
        moved = [
            sum(row.bytes for row in c.breakdown("prefill", B=2, S=s).rows) for c in (shared, apart)
        ]
        assert moved[0] <= moved[1]
    assert shared.tpot(B=2, T=3000) == pytest.approx(apart.tpot(B=2, T=3000), rel=1e-12)


def test_splitting_the_context_adds_its_reduction():
    one, many = (
        cg.compile("llama-2-7b", "h100", f"fuse{{split={n}}}").breakdown("decode", B=2, T=900)
        for n in (1, 8)
    )
    extra = many["attention"].bytes - one["attention"].bytes
    assert extra == 2 * 2 * 32 * 8 * (128 + 2) * 4
    assert many["attention"].flops - one["attention"].flops == 3 * 8 * 2 * 32 * 128


def test_refusals_carry_their_reason():
    tiny = load_hardware("a6000")
    from dataclasses import replace

    tiny = replace(tiny, onchip=Integer(1000), shared=Integer(1000))
    compiled = cg.compile("llama-2-7b", tiny, "fuse")
    reasons = {m.rule: m.reason for m in compiled.trace.misses}
    assert "on-chip buffer of 1000" in reasons["epilogue"]
    assert "shared memory" in reasons["flash"]
    whole = cg.compile("llama-2-7b", "a6000", "fuse").trace
    assert any("whole rows" in m.reason for m in whole.misses)


def test_provenance_names_what_was_merged():
    node = cg.compile("llama-2-7b", "a6000", "fuse").graph.node("layers").op.body.node("attention")
    assert node.origin.made_by == "fuse"
    assert node.origin.nodes == ("qk_matmul", "softmax", "sv_matmul")


@settings(max_examples=15)
@given(shapes(), sizes, sizes, sizes, st.sampled_from(["a6000", "h100", "i9-13900k"]))
def test_fusion_never_adds_work_bytes_or_time(m, batch, queries, cached, device):
    machine = load_hardware(device)
    program = autoregressive("m", build("m", decoder(m)))
    fused = Fuse().run(program, alone(machine)).program
    verify_program(fused)
    values = {B: Integer(batch), q: Integer(queries), T: Integer(cached + queries)}
    before, after = exact_cost(program.graph), exact_cost(fused.graph)
    assert after.total_flops.xreplace(values) == before.total_flops.xreplace(values)
    assert after.total_bytes.xreplace(values) <= before.total_bytes.xreplace(values)
    assert parameters(fused.graph) == parameters(program.graph)
    for metric, given_values in (
        ("tpot", {"B": batch, "T": cached + 1}),
        ("ttft", {"B": batch, "S": queries}),
    ):
        first = getattr(Compiled(program, machine, EXACT), metric).evaluate(**given_values)
        second = getattr(Compiled(fused, machine, EXACT), metric).evaluate(**given_values)
        assert second <= first * (1 + 1e-12)


@settings(max_examples=10)
@given(shapes(), sizes, sizes, st.sampled_from(["a6000", "h100"]))
def test_fusion_of_chains_never_adds_memory(m, batch, queries, device):
    # Siblings are left out: their results, made by one kernel, all live at once, which
    # can exceed the peak of the kernels one after another. A kernel runs where its last part
    # ran: where its first result is smaller than the operand, the operand stays the longer.
    assume(min(m.kv_heads * m.head_dim, m.ffn, m.vocab) >= m.d)
    machine = load_hardware(device)
    program = autoregressive("m", build("m", decoder(m)))
    fused = Fuse(siblings=False).run(program, alone(machine)).program
    values = {"B": batch, "S": queries, "N": 3}
    before = Compiled(program, machine, EXACT).memory.evaluate(**values)
    assert Compiled(fused, machine, EXACT).memory.evaluate(**values) <= before


def test_symbolic_dimensions_fuse_the_same_way():
    plain = cg.compile("llama-3-8b", "h100", "fuse")
    symbolic = cg.compile("llama-3-8b", "h100", "fuse", symbolic_model=True)
    assert names(plain) == names(symbolic)
    values = dict(symbolic.program.dims)
    both = (c.time("prefill").expr for c in (plain, symbolic))
    at = {B: Integer(2), S: Integer(300)}
    first, second = (e.xreplace(values).xreplace(at) for e in both)
    assert first == second


def test_quantisation_after_fusion_reaches_the_weights_inside():
    fused = cg.compile("llama-2-7b", "a6000", "fuse")
    both = cg.compile("llama-2-7b", "a6000", "fuse,quantize{preset=w4a16}")
    first, second = (c.breakdown("decode", B=1, T=100) for c in (fused, both))
    assert first.totals["weight_bytes"] > 3 * second.totals["weight_bytes"]
    other = cg.compile("llama-2-7b", "a6000", "quantize{preset=w4a16},fuse")
    third = other.breakdown("decode", B=1, T=100)
    assert third.totals["weight_bytes"] == second.totals["weight_bytes"]


@given(st.booleans(), st.booleans(), st.sampled_from(["skip", "full"]), st.integers(1, 64))
def test_pipelines_round_trip(siblings, prologue, causal, split):
    text = (
        f"fuse{{siblings={str(siblings).lower()},prologue={str(prologue).lower()},"
        f"causal={causal},split={split}}}"
    )
    passes = parse(text, PASSES)
    assert parse(text_of(passes), PASSES) == passes


#: Figure 16: percent by which fused attention reduces traffic and time; three conventions.
FIGURE_16 = [
    ("decode", 1, 1_000, (1.5685, 1.5685), (0.0256, 0.0256), (0.05, 0.05)),
    ("decode", 1, 10_000, (12.2234, 12.2234), (0.1892, 0.1892), (0.38, 0.38)),
    ("decode", 1, 100_000, (38.1948, 38.1948), (0.5880, 0.5880), (1.18, 1.18)),
    ("decode", 16, 1_000, (16.9852, 16.9852), (0.2778, 0.2778), (0.52, 0.52)),
    ("decode", 64, 1_000, (33.3993, 33.3993), (0.5462, 0.5462), (1.03, 1.03)),
    ("prefill", 1, 1_000, (8.2942, 2.9986), (2.0491, 0.7408), (13.47, 4.87)),
    ("prefill", 1, 10_000, (22.7418, 12.6405), (0.3542, 0.1969), (44.35, 24.65)),
    ("prefill", 1, 100_000, (24.7964, 22.7280), (0.0475, 0.0435), (49.47, 45.34)),
    ("prefill", 16, 1_000, (15.3381, 3.0050), (3.7894, 0.7424), (24.90, 4.88)),
    ("prefill", 64, 1_000, (16.0183, 3.0053), (3.9575, 0.7425), (26.01, 4.88)),
]


@pytest.mark.parametrize(
    ("accounting", "column", "digits"),
    [("survey-2024-04", 3, 4), ("survey", 4, 4), ("survey-textbook", 5, 2)],
)
def test_figure_16_in_each_of_its_conventions(accounting, column, digits):
    plain = cg.compile("llama-2-13b", "a6000", accounting=accounting)
    fused = cg.compile("llama-2-13b", "a6000", ONLY_ATTENTION, accounting=accounting)
    for row in FIGURE_16:
        phase, batch, tokens = row[:3]
        key = {"prefill": "S", "decode": "T"}[phase]
        first, second = (
            c.breakdown(phase, B=batch, **{key: tokens}).totals for c in (plain, fused)
        )
        got = tuple(
            round(100 * (1 - second[what] / first[what]), digits) for what in ("bytes", "seconds")
        )
        assert got == row[column], row[:3]


@pytest.mark.parametrize("model", ["opt-125m", "whisper-tiny", "deepseek-v2-lite", "olmoe-1b-7b"])
def test_results_that_are_stored_narrow_fuse_as_others_do(model):
    """Scales that are known need no whole row: kernels are those of wide results."""
    wide, static, dynamic = (
        cg.compile(model, "h100", f"fuse{more}")
        for more in (
            "",
            ",quantize{weights=fp8,activations=fp8,dynamic=false}",
            ",quantize{weights=fp8,activations=fp8}",
        )
    )
    assert not [m for m in static.trace.misses if "narrow-result" in m.reason]
    kinds = [{r.node.op.kind for r in c.rows["decode"]} for c in (wide, static)]
    assert "softmax" not in kinds[0] | kinds[1]
    size = {"B": 2, "S": 200}
    assert static.ttft.evaluate(**size) <= dynamic.ttft.evaluate(**size)
    assert static.ttft.evaluate(**size) <= wide.ttft.evaluate(**size)
