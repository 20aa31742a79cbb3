"""Whole models against measured serving runs, and what those runs brought to light."""

from __future__ import annotations

import numpy as np
import pytest
from sympy import Integer

import costgraph as cg
from costgraph.timing.fidelity.classify import attention_variants


@pytest.fixture(scope="module")
def bench(from_benchmarks):
    return from_benchmarks("serving")


def scored(bench, gpus, model, precision, device):
    kept, _ = bench.runs(gpus)
    s = bench.Scored(
        r for r in kept if (r.model, r.precision, r.device) == (model, precision, device)
    )
    error = {
        f: np.abs(s.values(f, lambda p: p.tpot()) / s.tpot - 1) for f in ("ideal", "framework")
    }
    return len(s.runs), np.median(error["ideal"]), np.median(error["framework"])


@pytest.mark.parametrize(
    ("gpus", "model", "precision", "device", "runs", "bound"),
    [
        (1, "qwen3-32b", "fp8", "h100", 20, 0.065),
        (1, "llama-3.1-8b", "", "h100", 19, 0.07),
        (8, "llama-3.1-70b", "fp8", "h100", 25, 0.085),
        (8, "minimax-m2.5", "fp8", "h100", 4, 0.1),
    ],
)
def test_time_per_token_of_measured_runs(bench, gpus, model, precision, device, runs, bound):
    """Medians seen: 6, 2, 8 and 8 %, nothing fitted to these runs; the lower bound 25 to 50 %.

    docs/serving.md says why the first (scales in blocks, "Whose fp8 products") and the third
    (caches in 8 bit) rose from 3 %.

    The last two run on 2 to 8 GPUs, by the pass ``parallel``.
    """
    count, ideal, calibrated = scored(bench, gpus, model, precision, device)
    assert count == runs
    assert calibrated < bound
    assert ideal > 3 * calibrated


def test_runs_that_cannot_be_expressed_are_counted(bench):
    kept, left = bench.runs()
    assert len(kept) + sum(left.values()) == len(bench.rows()) == 1705
    assert all(run.N > 1 and run.gpus % run.layout.ep == 0 for run in kept)


@pytest.mark.parametrize(
    ("degrees", "count", "passes", "launched"),
    [
        ((1, 1, 1), "", "", None),
        ((8, 1, 1), "8x", ",parallel{tp=8}", None),
        ((4, 1, 4), "4x", ",parallel{tp=4,ep=4}", None),
        ((1, 8, 8), "8x", ",parallel{dp=8,ep=8}", None),
        ((4, 4, 16), "2x8x", ",parallel{tp=4,dp=4,ep=16}", (1, 4, 4)),
        ((64, 1, 8), "8x8x", ",parallel{tp=64,ep=64}", (8, 1, 8)),
        ((1, 16, 4), "2x8x", ",parallel{dp=16,ep=16}", (1, 4, 4)),
    ],
)
def test_a_layout_is_degrees_of_the_pass_on_a_system(bench, degrees, count, passes, launched):
    layout = bench.Layout(*degrees)
    assert (layout.system, layout.passes) == (count, passes)
    assert layout.launched == (launched and bench.Layout(*launched))


def test_replicas_take_a_prompt_each(bench):
    """Their tokens share the experts: the server has as many prompts done at once."""
    made = bench.server("gpt-oss-20b", "h100", "fuse", bench.Layout(1, 4, 4), "calibrated", "vllm")
    assert made.compiled.program.devices == 4
    one = bench.predict(made, 4, 1000, 100)
    assert one.replicas == 4
    assert one.share == one.prefill / 4 == made.compiled.ttft(B=4, S=1000) / 4
    assert one.tpot() == one.step  # no replica has a second request


def test_wide_attention_over_a_narrow_cache_is_not_timed_as_narrow_attention():
    assert "fp8-fp8" not in attention_variants("bf16", Integer(8))
    narrow, wide = (
        cg.compile("llama-3.1-8b", "h200", f"fuse{kv}", fidelity="calibrated").breakdown(
            "prefill", B=1, S=4096
        )["attention"]
        for kv in (",quantize{kv=fp8}", "")
    )
    assert narrow.seconds == pytest.approx(wide.seconds, rel=0.02)


@pytest.mark.parametrize(
    ("device", "framework", "tokens", "heads", "kv", "measured"),
    [
        ("h100", "trtllm", 10240, 16, 1, 861e-6),
        ("h100", "trtllm", 16384, 16, 4, 2108e-6),
        ("h100", "vllm", 10240, 16, 1, 677e-6),
        ("h100", "vllm", 16384, 16, 4, 1732e-6),
        ("h200", "trtllm", 16384, 24, 1, 3203e-6),
        ("h200", "vllm", 16384, 24, 1, 2522e-6),
    ],
)
def test_attention_over_long_prompts_in_a_graph(device, framework, tokens, heads, kv, measured):
    """As measured (attention_prefill.csv): blocks read K and V again out of the L2 cache."""
    config = {
        "model_type": "llama", "hidden_size": 2048,
        "num_hidden_layers": 1, "num_attention_heads": heads, "num_key_value_heads": kv,
        "head_dim": 128, "intermediate_size": 4096, "vocab_size": 1024, "hidden_act": "silu",
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    }  # fmt: skip
    made = cg.compile(config, device, "fuse", fidelity=f"calibrated@{framework}")
    seconds = made.breakdown("prefill", B=1, S=tokens)["attention"].seconds
    assert seconds == pytest.approx(measured, rel=0.15)


def test_quantising_inside_an_expert_block_has_no_floor_of_its_own():
    pipeline = "quantize{weights=mxfp4,activations=mxfp8}"
    made = [
        cg.compile("gpt-oss-20b", "b200", pipeline, fidelity=f).breakdown("decode", B=4, T=100)
        for f in ("ideal", "calibrated")
    ]
    inside = [r.name for r in made[0].rows if r.name.endswith("expert_mul_quant")]
    assert len(inside) == 2
    for name in inside:
        assert made[1][name].seconds == pytest.approx(made[0][name].seconds)
