"""Bits per element of every quantisation scheme, scales and zero points included."""

from __future__ import annotations

import pytest
from sympy import Integer, Rational, expand

from costgraph.counting.footprint import footprint
from costgraph.hardware.systems import alone
from costgraph.models import load_model
from costgraph.passes.precision.formats import ACTIVATIONS, KV, WEIGHTS
from costgraph.passes.precision.quantize import Quantize
from costgraph.rewriting.pipeline import run
from costgraph.symbols import B, T


def dtype_of(program, machine, tensor="q_proj.weight", **options):
    made, _ = run(program, (Quantize(**options),), alone(machine))
    (region,) = (n for n in made.graph.nodes if n.op.kind == "repeat")
    return region.op.body.tensors[tensor].dtype


@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ({"weights": "int8"}, "8.00390625"),
        ({"weights": "int4"}, "4.15625"),
        ({"weights": "int4", "zero_bits": 16}, "4.25"),
        ({"weights": "int4", "group": 64}, "4.3125"),
        ({"weights": "int4", "group": 32}, "4.625"),
        ({"weights": "int4", "zero_bits": 0}, "4.125"),
        ({"weights": "int3"}, "3.1484375"),
        ({"weights": "nf4"}, "4.5"),
        ({"weights": "nf4-dq"}, "4.126953125"),
        (
            {"weights": "nf4", "scale_bits": 8, "outer_group": 256, "outer_bits": 32},
            "4.126953125",
        ),
        ({"weights": "q4_0"}, "4.5"),
        ({"weights": "q4_1"}, "5"),
        ({"weights": "q5_0"}, "5.5"),
        ({"weights": "q8_0"}, "8.5"),
        ({"weights": "mxfp8"}, "8.25"),
        ({"weights": "mxint8"}, "8.25"),
        ({"weights": "mxfp6"}, "6.25"),
        ({"weights": "mxfp4"}, "4.25"),
        ({"weights": "nvfp4"}, "4.5"),
        ({"weights": "mx9"}, "9"),
        ({"weights": "mx6"}, "6"),
        ({"weights": "mx4"}, "4"),
        ({"weights": "e4m3"}, "8"),
        ({"weights": "e5m2"}, "8"),
        ({"weights": "fp6"}, "6.00390625"),
        ({"weights": "fp4", "group": "tensor"}, "4"),
        ({"weights": "int2", "bits": Rational(158, 100), "group": "tensor"}, "1.58"),
        ({"weights": "int3", "outliers": Rational(1, 100), "group": "tensor"}, "3.32"),
    ],
)
def test_bits_per_element_over_rows_of_4096(a6000, options, bits):
    program = load_model("llama-2-7b")
    assert dtype_of(program, a6000, **options).bits_per_element == Rational(bits)


def test_a_group_that_does_not_divide_the_row_has_a_short_last_group():
    made = WEIGHTS["int4"].over(Integer(200))
    assert made.bits_per_element * 200 == 200 * 4 + 2 * (16 + 4)


@pytest.mark.parametrize("table", [WEIGHTS, ACTIVATIONS, KV], ids=["weights", "acts", "kv"])
def test_every_scheme_costs_at_least_its_payload(table):
    for scheme in table.values():
        made = scheme.over(Integer(4096))
        assert made.bits <= made.bits_per_element <= 2 * made.bits + 1


def test_kivi_stores_three_bits(a6000):
    program = load_model("llama-3.2-1b")
    assert dtype_of(program, a6000, "k_cache", kv="kivi2").bits_per_element == 3


def test_weights_and_caches_count_their_scales_exactly(a6000):
    options = Quantize(weights="int4", kv="int8", keep="none")
    program, _ = run(load_model("llama-2-13b"), (options,), alone(a6000))
    projections = 40 * (4 * 5120 * 5120 + 3 * 5120 * 13824) + 2 * 32000 * 5120
    norms = (2 * 40 + 1) * 5120 * 2
    assert footprint(program.graph).weights == projections * Rational("4.15625") / 8 + norms
    need = footprint(program.graph).kv
    assert expand(need - 2 * 40 * 5120 * B * T * (8 + Rational(16, 128)) / 8) == 0


def test_formats_compare_by_what_they_store():
    assert WEIGHTS["int4"].over(Integer(4096)) == WEIGHTS["int4"].over(Integer(8192))
    assert WEIGHTS["int8"].over(Integer(4096)) != WEIGHTS["int8"].over(Integer(8192))
