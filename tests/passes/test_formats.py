"""Every number format: its bits against a count of what lies in memory, and where it is refused."""

from __future__ import annotations

from fractions import Fraction

import pytest
from sympy import Integer, Rational

import costgraph as cg
from costgraph.counting.footprint import footprint
from costgraph.errors import InputError, PipelineError
from costgraph.hardware import load_hardware
from costgraph.hardware.systems import alone
from costgraph.ir.verify import verify_program
from costgraph.models import load_model
from costgraph.passes import PASSES
from costgraph.passes.precision.catalogue import ROLES, entries, named
from costgraph.passes.precision.families import FAMILIES
from costgraph.passes.precision.quantize import Quantize
from costgraph.rewriting.pipeline import parse, run
from costgraph.symbols import symbol

ROW = 4096
#: What lies in memory for a row of 4096 weights: payload, scales, and what comes besides, in bits.
LAYOUTS: dict[str, Fraction | int] = {
    "int8": ROW * 8 + 16,
    "int4": ROW * 4 + 32 * (16 + 4),
    "int3": ROW * 3 + 32 * (16 + 3),
    "nf4": ROW * 4 + 64 * 32,
    "nf4-dq": ROW * 4 + 64 * 8 + Fraction(64, 256) * 32,
    "q4_0": 128 * (2 + 16) * 8,
    "q4_1": 128 * (2 + 2 + 16) * 8,
    "q5_0": 128 * (2 + 4 + 16) * 8,
    "q8_0": 128 * (2 + 32) * 8,
    "mxfp8": 128 * (32 + 1) * 8,
    "mxint8": 128 * (32 + 1) * 8,
    "mxfp6": 128 * (24 + 1) * 8,
    "mxfp4": 128 * (16 + 1) * 8,
    "nvfp4": 256 * (8 + 1) * 8,
    "mx9": 256 * (8 + 8 * 1 + 16 * 8),
    "mx6": 256 * (8 + 8 * 1 + 16 * 5),
    "mx4": 256 * (8 + 8 * 1 + 16 * 3),
    "e4m3": ROW * 8,
    "e5m2": ROW * 8,
    "cfloat8": ROW * 8,
    "fp8-block": ROW * 8 + Fraction(ROW, 128) * Fraction(32, 128),  # a scale serves 128 rows
    "fp6": ROW * 2 + ROW * 4 + 16,  # two segments: the first two bits of all, then four
    "ternary": Fraction(ROW, 5) * 8 + 16,
    "ternary2": ROW * 2 + 16,
    "pbllm": ROW * Fraction(9, 10) * 1 + ROW * Fraction(1, 10) * 8 + ROW * 1 + 16,
    "billm": (
        ROW * Fraction(92, 100) + ROW * Fraction(8, 100) * 2  # 1.08 in the paper's count
        + ROW + Fraction(ROW, 128) + 32 * 4 * 16
    ),
    "posit8": ROW * 8,
    "posit16": ROW * 16,
    "flint4": ROW * 4 + 16,
    "dybit4": ROW * 4,
    "dybit8": ROW * 8,
    "adaptivfloat8": ROW * 8,
    "olive4": ROW * 4 + 16,
    "olive8": ROW * 8 + 16,
    "olaccel4": ROW * Fraction(97, 100) * 4 + ROW * Fraction(3, 100) * (16 + 16) + 16,
    "gobo3": ROW * Fraction(999, 1000) * 3 + ROW * Fraction(1, 1000) * (32 + 16),
    "squeezellm3": ROW * 3 + ROW * Fraction(45, 10000) * 32 + 8 * 16,
    "squeezellm4": ROW * 4 + ROW * Fraction(45, 10000) * 32 + 16 * 16,
    "bcq2": 2 * (ROW + 32 * 16),
    "bcq3": 3 * (ROW + 32 * 16),
    "bcq4": 4 * (ROW + 32 * 16),
    "e8p2": ROW // 8 * 16,
}  # fmt: skip
#: For caches: a head of 128, a token of 4096 elements.
CACHES: dict[tuple[str, str], Fraction | int] = {
    ("kivi2", "kv"): Fraction(128 * 2 + 4 * (16 + 16), 128),
    ("kivi4", "kv"): Fraction(128 * 4 + 4 * (16 + 16), 128),
    ("kvquant3", "keys"): 3 + Fraction(1, 100) * 32,
    ("kvquant3", "values"): 3 + Fraction(1, 100) * 32 + Fraction(16 + 16, 4096),
    ("int8", "kv"): Fraction(128 * 8 + 16, 128),
}
#: As the literature gives them, in its own count.
PRINTED = [
    ({"weights": "int2", "bits": Rational("1.58"), "group": "tensor"}, "1.58"),
    ({"weights": "int3", "group": "tensor", "outliers": Rational(1, 100)}, "3.32"),
    ({"weights": "bcq3", "group": 64}, "3.75"),  # q·(1 + 16/g)
    ({"weights": "bcq4", "bits": 2}, "2.25"),
    ({"weights": "pbllm", "outliers": Rational(1, 5)}, "3.40390625"),  # 0.8 + 8/5 + 1 + scale
    ({"weights": "fp4", "group": "tensor"}, "4"),
]


@pytest.fixture(scope="module")
def small():
    return load_model("llama-3.2-1b")


@pytest.fixture(scope="module")
def machine():
    return alone(load_hardware("h100"))


def body(program):
    return next(n.op.body for n in program.graph.nodes if n.op.kind == "repeat")


def quantized(program, machine, **options):
    return run(program, (Quantize(**options),), machine)[0]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_row_of_weights_holds_what_lies_in_memory(name):
    (stored,) = (e.stored for e in named(name) if "weights" in e.roles)
    assert stored.bits_per_element * ROW == Rational(LAYOUTS[name])


@pytest.mark.parametrize(("name", "role"), CACHES)
def test_a_cache_holds_what_lies_in_memory(name, role):
    (stored,) = (e.stored for e in named(name) if role in e.roles)
    assert stored.bits_per_element == Rational(CACHES[name, role])


def test_every_format_of_the_families_is_counted_here():
    counted = {*LAYOUTS, *(name for name, _ in CACHES), "adaptivfloat4", "kvquant2", "kvquant4"}
    assert FAMILIES.keys() <= counted


@pytest.mark.parametrize(("options", "bits"), PRINTED)
def test_options_give_the_printed_bits(machine, options, bits):
    made = body(quantized(load_model("llama-2-7b"), machine, **options))
    assert made.tensors["q_proj.weight"].dtype.bits_per_element == Rational(bits)


@pytest.mark.parametrize("entry", entries(), ids=lambda e: f"{e.name}-{e.roles[0]}")
def test_parts_add_up_and_none_is_negative(entry):
    parts = entry.stored.parts
    assert sum(parts.values()) == entry.stored.bits_per_element
    assert all(bits > 0 for bits in parts.values())
    assert entry.to_dict()["exact"] == str(entry.stored.bits_per_element)


@pytest.mark.parametrize(
    ("role", "name"), [(role, name) for role, table in ROLES.items() for name in table]
)
def test_every_format_runs_in_its_roles(small, machine, role, name):
    made = quantized(small, machine, **{role: name})
    verify_program(made)
    need, wide = footprint(made.graph), footprint(small.graph)
    at = {"B": 2, "q": 1, "T": 4000}
    symbols = {s: at[s.name] for s in (need.kv.free_symbols | wide.kv.free_symbols)}
    assert need.weights <= wide.weights
    assert need.kv.subs(symbols) <= wide.kv.subs(symbols)
    if role == "weights":
        stored = body(made).tensors["gate_proj.weight"].dtype
        gained = wide.weights - need.weights
        assert (gained > 0) == (stored.bits_per_element < 16)


@pytest.mark.parametrize(
    ("role", "name"),
    [(role, name) for role in ROLES for name, f in FAMILIES.items() if role not in f.roles],
)
def test_where_a_format_makes_no_sense_it_is_refused_with_the_reason(role, name):
    with pytest.raises(PipelineError, match=f"{name} is a format of ") as error:
        parse(f"quantize{{{role}={name}}}", PASSES)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=f"{name} is a format of "):
        Quantize(**{role: name})


BITS = range(1, 17)


@pytest.mark.parametrize("name", ["int4", "nf4", "bcq3", "gobo3", "squeezellm3", "pbllm", "posit8"])
def test_bytes_grow_with_bits(small, machine, name):
    found = [footprint(quantized(small, machine, weights=name, bits=b).graph).weights for b in BITS]
    assert found == sorted(found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("name", ["int3", "olaccel4", "gobo3", "pbllm"])
def test_bytes_grow_with_outliers(small, machine, name):
    r = symbol("r")
    made = footprint(quantized(small, machine, weights=name, outliers=r).graph).weights
    found = [made.subs(r, Rational(i, 10)) for i in range(11)]
    assert found == sorted(found)
    assert len(set(found)) == 11


def test_products_run_in_what_the_machine_has(small):
    from costgraph.hardware.machine import Engine

    for name, on, kind in [
        ("olaccel4", "a100", "int4"),
        ("olaccel4", "h100", "int8"),
        ("posit8", "h100", "fp16"),
        ("mxfp4", "h100", "fp8"),
        ("mxfp4", "b200", "fp4"),
        ("mxint8", "a100", "int8"),
    ]:
        device = load_hardware(on)
        made = body(quantized(small, alone(device), weights=name, activations=name))
        node = made.node("up_proj")
        work = node.op.work(made.operands(node), node.outputs)
        types = {device.resolve(e, t)[1] for e, t in work if e is Engine.TENSOR}
        (entry,) = (e for e in named(name) if "weights" in e.roles)
        assert kind in types
        assert entry.runs(device) == kind


def test_a_product_with_outliers_of_both_operands_runs_wide_where_either_is():
    made = body(quantized(load_model("llama-2-7b"), alone(load_hardware("a100")),
                          weights="olaccel4", activations="olaccel4"))  # fmt: skip
    op = made.node("up_proj").op
    assert op.outliers == 1 - Rational(97, 100) ** 2


def test_weights_are_converted_once_per_tile_of_rows(machine):
    from costgraph.hardware.machine import Engine
    from costgraph.symbols import B, q

    program = load_model("llama-2-7b")

    def converted(**options):
        made = body(quantized(program, machine, weights="int4", **options))
        node = made.node("up_proj")
        return node.op.work(made.operands(node), node.outputs)[Engine.VECTOR, "fp32"]

    tiled = converted(tile=128)
    for rows in (1, 127, 128, 129, 1000):
        assert tiled.subs({B: rows, q: 1}) == 2 * 4096 * 11008 * -(-rows // 128)
    assert converted() == 2 * 4096 * 11008
    assert converted(decode=5) == 5 * 4096 * 11008


def test_tiles_of_experts_are_between_once_and_once_per_row(machine):
    from costgraph.hardware.machine import Engine
    from costgraph.symbols import B, q

    program = load_model("mixtral-8x7b")

    def converted(rows, **options):
        made = body(quantized(program, machine, weights="int4", **options))
        node = made.node("expert_up")
        work = node.op.work(made.operands(node), node.outputs)[Engine.VECTOR, "fp32"]
        return work.subs({B: rows, q: 1})

    for rows in (1, 64, 5000):
        once, tiled = converted(rows), converted(rows, tile=64)
        assert once <= tiled <= once * -(-rows // 64)
    assert converted(5000, tile=64) > converted(5000)


def test_the_command_prints_what_python_says(capsys):
    import json

    from costgraph.cli import main

    assert main(["formats", "--json", "--on", "a100,h100"]) == 0
    printed = json.loads(capsys.readouterr().out)
    devices = (load_hardware("a100"), load_hardware("h100"))
    assert printed == [e.to_dict(devices) for e in entries()]
    assert main(["formats"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(entries()) + 3
    for name in FAMILIES:
        assert main(["formats", name]) == 0
        assert FAMILIES[name].source in capsys.readouterr().out


def test_types_are_native_or_widened(capsys):
    import json

    from costgraph.cli import main

    assert main(["formats", "--types", "--on", "a100,h100,b200", "--json"]) == 0
    found = {m["name"]: m["runs"] for m in json.loads(capsys.readouterr().out)}
    assert [found[m]["int4"] for m in ("a100", "h100", "b200")] == ["int4", "int8", "int8"]
    assert [found[m]["fp4"] for m in ("a100", "h100", "b200")] == ["fp16", "fp8", "fp4"]
    assert main(["formats", "--types"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 70
    for wrong in (["nope"], ["--on", "8xh100"], ["int4", "--types"]):
        with pytest.raises(SystemExit) as error:
            main(["formats", *wrong])
        assert error.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_fp8_of_the_transformer_engine_is_two_operations_in_the_kernel_before(machine):
    """Scale and round where a value is made: 2·T·d, no kernel of their own (techniques: TE)."""
    from costgraph.symbols import B, q

    program = load_model("llama-2-7b")
    made = body(quantized(program, machine, preset="fp8", dynamic=False))
    plain = body(program)
    node, before = made.node("mlp_norm"), plain.node("mlp_norm")
    more = node.op.cost(made.operands(node), node.outputs).total_flops
    less = before.op.cost(plain.operands(before), before.outputs).total_flops
    assert more - less == 2 * B * q * 4096
    assert Integer(8) == made.tensors[node.outputs[0].name].dtype.bits_per_element


def test_a_symbolic_share_of_outliers_is_bounded_by_one():
    compiled = cg.compile("gpt2", "a100", "quantize{weights=pbllm,outliers=r}")
    assert compiled.tpot.evaluate(B=1, T=9, r=0.25) > 0
    with pytest.raises(InputError, match="exceeds 1"):
        compiled.tpot.evaluate(B=1, T=9, r=2)


@pytest.mark.parametrize(
    ("options", "idle"),
    [
        ({"weights": "e4m3", "scale_bits": 32}, "scale-bits"),
        ({"kv": "int4", "group": 32}, "group"),
        ({"weights": "int4", "kv_recent": 5}, "kv-recent"),
        ({"weights": "int4", "mu": 4}, "mu"),
        ({"kv": "int4", "rotate": "both"}, "rotate"),
        ({"kv": "int4", "outliers": Rational(1, 9)}, "outliers"),
        ({"activations": "int8", "decode": 3}, "decode"),
        ({"weights": "int4", "kernel": "tables", "tile": 64}, "tile"),
    ],
)
def test_an_option_without_effect_is_said(small, machine, options, idle):
    _, trace = run(small, (Quantize(**options),), machine)
    assert [m.node for m in trace.misses if m.node in Quantize.options()] == [idle]


@pytest.mark.parametrize(
    "options",
    [
        {"weights": "int4", "scale_bits": 32, "bits": 3, "group": 64, "zero_bits": 2},
        {"weights": "e4m3", "scale_bits": 32, "group": 128, "outliers": Rational(1, 100)},
        {"kv": "int4", "kv_recent": 5, "rotate": "online"},
        {"weights": "bcq3", "kernel": "tables", "mu": 4, "rotate": "both"},
        {"preset": "mxfp4", "scale_bits": 16, "decode": 3},
    ],
)
def test_options_with_effect_are_not(small, machine, options):
    _, trace = run(small, (Quantize(**options),), machine)
    assert not [m for m in trace.misses if m.node in Quantize.options()]
