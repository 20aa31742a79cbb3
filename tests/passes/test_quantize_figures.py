"""Figures 7, 8, 9 and 11 of arXiv 2402.16363 through the pass, without scales as there."""

from __future__ import annotations

import pytest
import sympy
from sympy import Rational

from costgraph.compiling.compiled import Compiled
from costgraph.counting.accounting import SURVEY
from costgraph.counting.count import rows
from costgraph.hardware.machine import Engine
from costgraph.hardware.systems import alone
from costgraph.ir.tensor import Role
from costgraph.models import load_model
from costgraph.passes.precision.quantize import Quantize
from costgraph.rewriting.pipeline import run
from costgraph.symbols import B, q


@pytest.fixture(scope="module")
def large():
    return load_model("llama-2-13b")


def quantized(program, machine, **options):
    return run(program, (Quantize(**options),), alone(machine))[0]


PLAIN = {"group": "tensor", "keep": "none"}
BATCHES = (1, 8, 16, 32, 48, 63)
LENGTHS = (16, 64, 128, 256, 512, 1023)


@pytest.mark.parametrize(
    ("weights", "milliseconds"),
    [
        ("int8", (17.860, 25.746, 34.757, 52.780, 70.804, 87.701)),
        ("int4", (9.493, 17.379, 26.390, 44.414, 62.437, 80.756)),
        ("int2", (5.310, 13.195, 22.207, 41.018, 61.501, 80.716)),
        ("int1", (3.218, 11.103, 20.509, 40.999, 61.498, 80.716)),
    ],
)
def test_figure_8(a6000, large, weights, milliseconds):
    made = Compiled(quantized(large, a6000, weights=weights, **PLAIN), a6000, SURVEY)
    for batch, wanted in zip(BATCHES, milliseconds, strict=True):
        seconds = made.breakdown("decode", B=batch, T=1024).totals["seconds"]
        assert round(seconds * 1000, 3) == wanted


@pytest.mark.parametrize(
    ("weights", "milliseconds"),
    [
        ("int8", (17.029, 17.966, 22.488, 45.308, 92.587, 193.493)),
        ("int4", (8.662, 11.176, 22.381, 45.201, 92.480, 193.386)),
        ("int2", (4.479, 11.122, 22.328, 45.148, 92.427, 193.333)),
        ("int1", (2.781, 11.096, 22.301, 45.121, 92.400, 193.306)),
    ],
)
def test_figure_9(a6000, large, weights, milliseconds):
    made = Compiled(quantized(large, a6000, weights=weights, **PLAIN), a6000, SURVEY)
    for length, wanted in zip(LENGTHS, milliseconds, strict=True):
        seconds = made.breakdown("prefill", B=1, S=length).totals["seconds"]
        assert round(seconds * 1000, 3) == wanted


@pytest.mark.parametrize(
    ("kv", "gigabytes"),
    [
        ("none", {1024: 7.183, 16384: 19.768, 50000: 47.312, 131072: 113.739}),
        ("int4", {1024: 6.554, 16384: 9.702, 50000: 16.592, 131072: 33.209}),
    ],
)
def test_figure_11_and_7(a6000, large, kv, gigabytes):
    program = quantized(large, a6000, weights="int4", kv=kv, kv_group="tensor", **PLAIN)
    made = Compiled(program, a6000, SURVEY)
    for context, wanted in gigabytes.items():
        totals = made.breakdown("decode", B=1, T=context).totals
        assert totals["weight_bytes"] == 6_343_884_800
        assert totals["kv_bytes"] == 819_200 * context // (1 if kv == "none" else 4)
        assert round(totals["memory_bytes"] / 1e9, 3) == wanted


@pytest.mark.parametrize(
    ("weights", "bits", "batch"),
    [("int8", 8, "100.8"), ("int4", 4, "50.4"), ("int2", 2, "25.2"), ("int1", 1, "12.6")],
)
def test_weight_bits_stop_mattering_at_a_batch(a6000, large, weights, bits, batch):
    """A product's work equals its weights' traffic at w·F/(2·BW) sequences."""
    program = quantized(large, a6000, weights=weights, **PLAIN)
    row = next(r for r in rows(program.graph, SURVEY, True) if r.name == "up_proj")
    peak = a6000.peaks[Engine.TENSOR, "fp16"]
    (crossover,) = sympy.solve(
        row.cost.total_flops.subs(q, 1) / peak
        - row.cost.bytes_of(Role.WEIGHT) / a6000.memory.bandwidth,
        B,
    )
    assert crossover == Rational(bits, 8) * peak / (2 * a6000.memory.bandwidth)
    assert round(float(crossover), 1) == float(batch)
