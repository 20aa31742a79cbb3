"""Figures 7, 8, 9 and 11 of arXiv 2402.16363: Llama-2-13b on an A6000 under quantisation."""

from __future__ import annotations

import pytest

import costgraph as cg

FORMATS = {
    "FP16": {},
    "W8": {"weights": "int8"},
    "W4": {"weights": "int4"},
    "W2": {"weights": "int2"},
    "W1": {"weights": "int1"},
    "W4KV4": {"weights": "int4", "kv": "int4"},
    "W4A4": {"weights": "int4", "activations": "int4", "kv": "int4"},
}


@pytest.fixture(scope="module")
def models():
    return {
        name: cg.compile("llama-2-13b", "a6000", accounting="survey", **options)
        for name, options in FORMATS.items()
    }


def step(compiled, phase, batch, tokens):
    key = "S" if phase == "prefill" else "T"
    return compiled.breakdown(phase, B=batch, **{key: tokens}).totals


#: (phase, batch, tokens, weights, KV, activations) in FP16, and the total fractions.
FIG7 = [
    ("decode", 1, 1024, 838_860_800, 311_296, {"W4": 0.2740, "W4KV4": 0.2500, "W4A4": 0.2500}),
    ("decode", 1, 4096, 3_355_443_200, 802_816, {"W4": 0.3376, "W4KV4": 0.2500, "W4A4": 0.2500}),
    (
        "decode",
        16,
        1024,
        13_421_772_800,
        4_980_736,
        {"W4": 0.5095, "W4KV4": 0.2501, "W4A4": 0.2500},
    ),
    (
        "prefill",
        1,
        1024,
        838_860_800,
        318_767_104,
        {"W4": 0.2827, "W4KV4": 0.2590, "W4A4": 0.2500},
    ),
    (
        "prefill",
        1,
        4096,
        3_355_443_200,
        3_288_334_336,
        {"W4": 0.4056, "W4KV4": 0.3270, "W4A4": 0.2500},
    ),
    (
        "prefill",
        16,
        1024,
        13_421_772_800,
        5_100_273_664,
        {"W4": 0.5665, "W4KV4": 0.3371, "W4A4": 0.2500},
    ),
]


@pytest.mark.parametrize(("phase", "batch", "tokens", "kv", "activations", "fractions"), FIG7)
def test_figure_7_relative_memory(models, phase, batch, tokens, kv, activations, fractions):
    base = step(models["FP16"], phase, batch, tokens)
    assert base["weight_bytes"] == 25_375_539_200
    assert base["kv_bytes"] == kv
    assert base["activation_bytes"] == activations
    for name, fraction in fractions.items():
        total = step(models[name], phase, batch, tokens)["memory_bytes"]
        assert round(total / base["memory_bytes"], 4) == fraction


FIG8 = {
    "FP16": [34.594, 42.479, 51.491, 69.514, 87.538, 104.434],
    "W8": [17.860, 25.746, 34.757, 52.780, 70.804, 87.701],
    "W4": [9.493, 17.379, 26.390, 44.414, 62.437, 80.756],
    "W2": [5.310, 13.195, 22.207, 41.018, 61.501, 80.716],
    "W1": [3.218, 11.103, 20.509, 40.999, 61.498, 80.716],
}


@pytest.mark.parametrize("name", FIG8)
def test_figure_8_decode_time_over_batch(models, name):
    for batch, expected in zip((1, 8, 16, 32, 48, 63), FIG8[name], strict=True):
        got = models[name].tpot.evaluate(B=batch, T=1024) * 1e3
        assert round(got, 3) == expected


FIG9 = {
    "FP16": [33.763, 34.700, 36.069, 45.521, 92.800, 193.706],
    "W8": [17.029, 17.966, 22.488, 45.308, 92.587, 193.493],
    "W4": [8.662, 11.176, 22.381, 45.201, 92.480, 193.386],
    "W2": [4.479, 11.122, 22.328, 45.148, 92.427, 193.333],
    "W1": [2.781, 11.096, 22.301, 45.121, 92.400, 193.306],
}


@pytest.mark.parametrize("name", FIG9)
def test_figure_9_prefill_time_over_length(models, name):
    for tokens, expected in zip((16, 64, 128, 256, 512, 1023), FIG9[name], strict=True):
        got = models[name].ttft.evaluate(B=1, S=tokens) * 1e3
        assert round(got, 3) == expected


FIG11 = {
    1_024: (26.215, 7.183, 6.554, 6.554),
    4_096: (28.732, 9.700, 7.184, 7.183),
    16_384: (38.800, 19.768, 9.702, 9.700),
    50_000: (66.344, 47.312, 16.592, 16.586),
    100_000: (107.312, 88.280, 26.840, 26.828),
    131_072: (132.771, 113.739, 33.209, 33.193),
}


@pytest.mark.parametrize("tokens", FIG11)
def test_figure_11_decode_memory_over_length(models, tokens):
    got = tuple(
        round(step(models[name], "decode", 1, tokens)["memory_bytes"] / 1e9, 3)
        for name in ("FP16", "W4", "W4KV4", "W4A4")
    )
    assert got == FIG11[tokens]
