"""Table 1 of arXiv 2402.16363: Llama-2-7b on an A6000, B = 1, 2048 tokens, FP16."""

from __future__ import annotations

import pytest

import costgraph as cg

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FFN = ("gate_proj", "up_proj", "down_proj")
NORMS = ("attn_norm", "mlp_norm")
ADDS = ("attn_add", "mlp_add")

#: (operations, FLOP, bytes, seconds, bound) as the survey's tool computes them.
PREFILL = [
    (ATTENTION, 68_719_476_736, 67_108_864, 4.438139e-4, "compute"),
    (FFN, 184_683_593_728, 152_043_520, 1.192750e-3, "compute"),
    (("qk_matmul",), 34_359_738_368, 301_989_888, 3.932160e-4, "memory"),
    (("sv_matmul",), 34_359_738_368, 301_989_888, 3.932160e-4, "memory"),
    (("softmax",), 671_088_640, 536_870_912, 6.990507e-4, "memory"),
    (NORMS, 58_720_256, 33_554_432, 4.369067e-5, "memory"),
    (ADDS, 8_388_608, 33_554_432, 4.369067e-5, "memory"),
]
DECODE = [
    (ATTENTION, 33_554_432, 33_570_816, 4.371200e-5, "memory"),
    (FFN, 90_177_536, 90_207_744, 1.174580e-4, "memory"),
    (("qk_matmul",), 16_777_216, 16_916_480, 2.202667e-5, "memory"),
    (("sv_matmul",), 16_777_216, 16_916_480, 2.202667e-5, "memory"),
    (("softmax",), 327_680, 262_144, 3.413333e-7, "memory"),
    (NORMS, 28_672, 16_384, 2.133333e-8, "memory"),
    (ADDS, 4_096, 16_384, 2.133333e-8, "memory"),
]
ROWS = [
    (phase, name, *rest)
    for phase, table in (("prefill", PREFILL), ("decode", DECODE))
    for names, *rest in table
    for name in names
]


@pytest.fixture(scope="module")
def survey():
    compiled = cg.compile("llama-2-7b", "a6000", accounting="survey")
    return {
        "prefill": compiled.breakdown("prefill", B=1, S=2048),
        "decode": compiled.breakdown("decode", B=1, T=2048),
    }


@pytest.fixture(scope="module")
def exact():
    compiled = cg.compile("llama-2-7b", "a6000")
    return {
        "prefill": compiled.breakdown("prefill", B=1, S=2048),
        "decode": compiled.breakdown("decode", B=1, T=2048),
    }


@pytest.mark.parametrize(("phase", "name", "flops", "moved", "seconds", "bound"), ROWS)
def test_every_row_under_survey(survey, phase, name, flops, moved, seconds, bound):
    row = survey[phase][name]
    assert (row.flops, row.bytes, row.count, row.bound) == (flops, moved, 32, bound)
    assert row.seconds == pytest.approx(seconds, rel=1e-6)


def test_whole_model_totals_under_survey(survey):
    prefill, decode = survey["prefill"].totals, survey["decode"].totals
    assert (prefill["flops"], prefill["bytes"]) == (28_751_179_022_336, 65_861_130_752)
    assert (decode["flops"], decode["bytes"]) == (14_169_669_632, 14_313_150_976)
    assert prefill["seconds"] == pytest.approx(0.226878591, rel=1e-8)
    assert decode["seconds"] == pytest.approx(0.0186369153, rel=1e-8)
    assert prefill["memory_bytes"] == 14_803_795_968
    assert decode["memory_bytes"] == 14_026_132_480
    assert decode["weight_bytes"] == 12_952_010_752
    assert decode["kv_bytes"] == 1_073_741_824
    head = survey["decode"]["lm_head"]
    assert head.bytes == 262_216_192
    assert head.seconds == pytest.approx(3.414273e-4, rel=1e-6)


#: Rows whose convention nobody disputes: all linears, and attention in decode.
UNDISPUTED = [
    row
    for row in ROWS
    if row[1] in (*ATTENTION, *FFN)
    or (row[0] == "decode" and row[1] in ("qk_matmul", "sv_matmul", "softmax"))
]


@pytest.mark.parametrize(("phase", "name", "flops", "moved", "seconds", "bound"), UNDISPUTED)
def test_undisputed_rows_under_exact(exact, phase, name, flops, moved, seconds, bound):
    row = exact[phase][name]
    assert (row.flops, row.bytes, row.count, row.bound) == (flops, moved, 32, bound)
    assert row.seconds == pytest.approx(seconds, rel=1e-6)


S, D, H, FFN_WIDTH, V = 2048, 4096, 32, 11008, 32000
PAIRS = S * (S + 1) // 2
#: Rows that differ under ``exact``, with the figure derived by hand.
DISPUTED = [
    # Causal: half the score pairs and the diagonal; the score matrix still moves whole.
    ("prefill", "qk_matmul", 2 * H * 128 * PAIRS, 301_989_888),
    ("prefill", "sv_matmul", 2 * H * 128 * PAIRS, 301_989_888),
    ("prefill", "softmax", 5 * H * PAIRS, 536_870_912),
    # RMSNorm: four FLOP per element and three per row, and its weight is read.
    ("prefill", "attn_norm", 4 * S * D + 3 * S, 2 * S * D * 2 + 2 * D),
    ("decode", "attn_norm", 4 * D + 3, 2 * D * 2 + 2 * D),
    # A residual addition reads two operands.
    ("prefill", "attn_add", S * D, 3 * S * D * 2),
    ("decode", "attn_add", D, 3 * D * 2),
    # The activation is as wide as the feed-forward block; the gate is an operation of its own.
    ("prefill", "mlp_act", 4 * S * FFN_WIDTH, 2 * S * FFN_WIDTH * 2),
    ("prefill", "mlp_mul", S * FFN_WIDTH, 3 * S * FFN_WIDTH * 2),
    ("decode", "mlp_act", 4 * FFN_WIDTH, 2 * FFN_WIDTH * 2),
    # A multiply-accumulate is two FLOP in the head as well.
    ("prefill", "lm_head", 2 * D * V, D * V * 2 + D * 2 + V * 2),
    # Left out by the survey altogether.
    ("prefill", "q_rope", 3 * S * D, 2 * S * D * 2 + S * 128 * 2),
    ("decode", "k_append", 0, 2 * D * 2),
    ("decode", "embed", 0, 8 + 2 * D * 2),
    ("prefill", "final_norm", 4 * S * D + 3 * S, 2 * S * D * 2 + 2 * D),
]


@pytest.mark.parametrize(("phase", "name", "flops", "moved"), DISPUTED)
def test_rows_that_differ_under_exact(exact, phase, name, flops, moved):
    row = exact[phase][name]
    assert (row.flops, row.bytes) == (flops, moved)
