"""Quantisation: what is narrowed, what it costs, and where it stops."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st
from sympy import Expr, Integer, Rational, expand

import costgraph as cg
from costgraph.compiling.compiled import Compiled
from costgraph.counting.accounting import EXACT, SURVEY
from costgraph.counting.count import exact_cost, parameters, rows
from costgraph.counting.footprint import footprint
from costgraph.errors import InputError, PipelineError
from costgraph.hardware.machine import Engine, Machine, Memory
from costgraph.hardware.systems import alone
from costgraph.ir.cost import MEMORY, Direction
from costgraph.ir.dtypes import dtype
from costgraph.ir.graph import Builder, Graph, Node
from costgraph.ir.op import Op
from costgraph.ir.program import autoregressive
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Role, Tensor
from costgraph.ir.verify import verify_program
from costgraph.models import load_model
from costgraph.ops import Linear, NarrowResult, QuantizeTo, QuantLinear
from costgraph.passes import PASSES
from costgraph.passes.precision.formats import PRESETS
from costgraph.passes.precision.quantize import Quantize
from costgraph.rewriting.pipeline import parse, run, text_of
from costgraph.symbols import B, T, q, symbol

TERA = 10**12
FP32 = {(Engine.VECTOR, "fp32"): Rational(387, 10) * TERA}
A6000 = Machine(
    "a6000",
    "A6000",
    {
        (Engine.TENSOR, "fp16"): Rational(1548385, 10) * 10**9,
        (Engine.TENSOR, "int8"): Rational(3097, 10) * TERA,
        **FP32,
    },
    Memory(Integer(768) * 10**9, Integer(48) * 10**9),
)
#: fp8 and int8, but no int4 and no fp4.
H100 = Machine(
    "h100-like",
    "H100",
    {
        (Engine.TENSOR, "bf16"): Integer(989) * TERA,
        (Engine.TENSOR, "fp8"): Integer(1979) * TERA,
        (Engine.TENSOR, "int8"): Integer(1979) * TERA,
        **FP32,
    },
    Memory(Integer(3350) * 10**9, Integer(80) * 10**9),
)
TURING = replace(
    A6000, name="with-int4", peaks={**A6000.peaks, (Engine.TENSOR, "int4"): Integer(619) * TERA}
)
G2 = 2  # FLOP per converted element


@pytest.fixture(scope="module")
def small():
    return load_model("llama-3.2-1b", mask="compute")


@pytest.fixture(scope="module")
def large():
    return load_model("llama-2-13b", mask="compute")


def quantized(program, machine=A6000, **options):
    return run(program, (Quantize(**options),), alone(machine))[0]


def regions(program):
    return [n for n in program.graph.nodes if isinstance(n.op, Repeat)]


def body(program):
    return regions(program)[0].op.body


def weight(program, name="q_proj.weight"):
    return body(program).tensors[name].dtype


def weight_bytes(program):
    return footprint(program.graph).weights


# --- presets, options ------------------------------------------------------------


@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "none"])
@pytest.mark.parametrize("machine", [A6000, H100], ids=lambda m: m.name)
def test_every_preset_verifies_and_saves_memory(small, preset, machine):
    program = quantized(small, machine, preset=preset)
    verify_program(program)
    formats = PRESETS[preset]
    assert (weight_bytes(program) < weight_bytes(small)) == (formats.weights != "none")
    assert ("quantize" in {r.kind for r in rows(program.graph)}) == (formats.activations != "none")
    cached = body(program).tensors["k_cache"].dtype.bits
    assert (cached < 16) == (formats.kv != "none")
    assert parameters(program.graph) == parameters(small.graph)
    assert Compiled(program, machine, SURVEY).breakdown("decode", B=1, T=64).totals["seconds"] > 0


def test_a_format_overrides_its_preset(small):
    program = quantized(small, preset="w4kv4", weights="int3")
    assert weight(program).bits == 3
    assert body(program).tensors["v_cache"].dtype.bits == 4


@pytest.mark.parametrize(
    "text",
    [
        "quantize",
        "quantize{preset=w4a16}",
        "quantize{weights=int4,group=64,zero-bits=16}",
        "quantize{weights=int4,bits=b,group=g}",
        "quantize{weights=int8,group=row,scale-bits=32}",
        "quantize{preset=w8a8,outliers=1/1000,dynamic=false}",
        "quantize{preset=w4kv4,keep=lm_head|down_proj:0-3,first=1,last=2}",
        "quantize{weights=nf4,keep=none}",
        "quantize{kv=int4,kv-group=64,kv-zero-bits=0}",
    ],
)
def test_pipeline_text_round_trips(text):
    passes = parse(text, PASSES)
    assert text_of(passes) == text
    assert parse(text_of(passes), PASSES) == passes


@pytest.mark.parametrize(
    "text",
    [
        "quantize{weights=int7}",
        "quantize{preset=w4}",
        "quantize{group=0}",
        "quantize{outliers=2}",
        "quantize{first=1/2}",
        "quantize{keep=a|}",
        "quantize{keep=down_proj:3-1}",
    ],
)
def test_bad_options_are_refused_in_one_line(text):
    with pytest.raises(PipelineError) as error:
        parse(text, PASSES)
    assert "\n" not in str(error.value)


def test_without_a_format_nothing_happens_and_the_trace_says_so(small):
    program, trace = run(small, (Quantize(),), alone(A6000))
    assert program.graph == small.graph
    assert "no format" in trace.misses[0].reason


def test_quantising_twice_keeps_the_first_and_says_so(small):
    passes = (Quantize(weights="int8"), Quantize(weights="int4"))
    program, trace = run(small, passes, alone(A6000))
    assert weight(program).bits == 8
    assert any("already" in m.reason for m in trace.misses)


# --- what is quantised ------------------------------------------------------------


def test_by_default_embedding_and_head_stay_wide(large):
    program = quantized(large, weights="int4")
    assert program.graph.tensors["lm_head.weight"].dtype.bits == 16
    assert program.graph.tensors["embed.weight"].dtype.bits == 16
    program = quantized(large, weights="int4", keep="embed")
    assert program.graph.tensors["lm_head.weight"].dtype.bits == 4


def test_a_tied_table_stays_when_its_other_use_is_kept(small):
    program = quantized(small, weights="int4", keep="lm_head")
    assert program.graph.tensors["embed.weight"].dtype.bits == 16


def test_norms_and_biases_stay_wide():
    program = quantized(load_model("gpt2"), weights="int8", keep="none")
    narrow = {t.name for t in body(program).sources if t.dtype.bits == 8}
    assert narrow
    assert not any("norm" in n or "bias" in n for n in narrow)


def test_kept_names_stay_wide_in_weights_and_activations(small):
    program = quantized(small, preset="w8a8", keep="down_proj")
    graph = body(program)
    assert graph.tensors["down_proj.weight"].dtype.bits == 16
    assert graph.operands(graph.node("down_proj"))[0].dtype.bits == 16
    assert graph.operands(graph.node("up_proj"))[0].dtype.bits == 8


def test_numbered_layers_of_a_kept_name(small):
    program = quantized(small, weights="int4", keep="down_proj:2-4|up_proj:4")
    found = [
        (
            int(n.op.count),
            int(n.op.body.tensors["down_proj.weight"].dtype.bits),
            int(n.op.body.tensors["up_proj.weight"].dtype.bits),
            int(n.op.body.tensors["q_proj.weight"].dtype.bits),
        )
        for n in regions(program)
    ]
    assert found == [(2, 4, 4, 4), (2, 16, 4, 4), (1, 16, 16, 4), (11, 4, 4, 4)]


@pytest.mark.parametrize(
    ("first", "last", "counts"),
    [(2, 1, [2, 13, 1]), (0, 3, [13, 3]), (16, 0, [16]), (8, 8, [8, 8])],
)
def test_first_and_last_layers_stay_wide(small, first, last, counts):
    program = quantized(small, preset="w8a8", first=first, last=last)
    verify_program(program)
    parts = regions(program)
    assert [int(n.op.count) for n in parts] == counts
    assert parameters(program.graph) == parameters(small.graph)
    wide = sum(
        int(n.op.count) for n in parts if n.op.body.tensors["q_proj.weight"].dtype.bits == 16
    )
    assert wide == first + last
    assert program.graph.outputs == small.graph.outputs


def test_the_survey_counts_the_stores_of_one_layer_however_regions_are_cut(small):
    def stores(program):
        totals = Compiled(program, A6000, SURVEY).breakdown("decode", B=2, T=64).totals
        return totals["activation_bytes"]

    assert stores(quantized(small, weights="int4", first=2, last=1)) == stores(small)


def test_symbolic_layer_counts_sum_to_the_symbol():
    program = load_model("llama-3.2-1b", symbolic=True)
    made = quantized(program, weights="int4", first=symbol("f"), last=2)
    counts = [n.op.count for n in regions(made)]
    assert counts == [symbol("f"), symbol("L") - symbol("f") - 2, Integer(2)]
    assert expand(parameters(made.graph) - parameters(program.graph)) == 0


def test_layers_that_do_not_exist_are_refused(small):
    with pytest.raises(InputError):
        quantized(small, weights="int4", first=10, last=10)
    with pytest.raises(InputError):
        quantized(small, weights="int4", keep="down_proj:16")
    with pytest.raises(InputError):
        quantized(load_model("gpt2", symbolic=True), weights="int4", keep="down_proj:1")


# --- what it costs -----------------------------------------------------------------


def cost_of(program, name):
    graph = body(program)
    node = graph.node(name)
    return node.op.cost(graph.operands(node), node.outputs)


def test_w4a16_computes_in_16_bit_and_converts_each_weight_once(large):
    program = quantized(large, weights="int4")
    cost = cost_of(program, "up_proj")
    assert cost.flops == {
        (Engine.TENSOR, "fp16"): 2 * B * q * 5120 * 13824,
        (Engine.VECTOR, "fp32"): Integer(G2 * 5120 * 13824),
    }
    assert type(body(program).node("up_proj").op) is Linear


def test_w8a8_computes_in_int8_and_rescales_its_results(large):
    program = quantized(large, preset="w8a8")
    cost = cost_of(program, "up_proj")
    assert cost.flops == {
        (Engine.TENSOR, "int8"): 2 * B * q * 5120 * 13824,
        (Engine.VECTOR, "fp32"): 2 * B * q * 13824,
    }
    read = cost.bytes_of(Role.ACTIVATION, Direction.READ)
    assert expand(read - (B * q * 5120 + B * q * 2)) == 0
    assert expand(cost.bytes_of(Role.ACTIVATION, Direction.WRITE) - 2 * B * q * 13824) == 0


def test_quantising_activations_reads_wide_and_writes_narrow_with_scales(large):
    program = quantized(large, preset="w8a8")
    graph = body(program)
    made = [n for n in graph.nodes if isinstance(n.op, QuantizeTo)]
    # One for q, k and v together, one each for o, gate and up together, and down.
    assert len(made) == 4
    cost = made[0].op.cost(graph.operands(made[0]), made[0].outputs)
    assert cost.flops == {(Engine.VECTOR, "fp32"): 3 * B * q * 5120}
    assert expand(cost.total_bytes - (B * q * 5120 * (2 + 1) + B * q * Rational(16, 8))) == 0


def attended(passes: str) -> dict[tuple[str, str], tuple[Expr, Expr]]:
    """FLOP of the products of attention, and the bytes that they read, by phase and name."""
    found = {}
    for phase in cg.compile("llama-3.2-1b", "h100", passes).program.phases:
        for row in rows(phase.graph):
            if row.node.name.endswith(("qk_matmul", "sv_matmul")):
                tensor = sum(n for (e, _), n in row.cost.flops.items() if e is Engine.TENSOR)
                read = row.cost.bytes_of(direction=Direction.READ)
                made = tensor * row.count, read * row.count
                found[phase.name, row.node.name] = tuple(expand(phase.bind(x)) for x in made)
    return found


@pytest.mark.parametrize(
    "passes",
    [
        "page-kv", "share-prefix{tokens=512}", "prefix-cache{tokens=512,chance=1/2}",
        "samples{count=4}", "speculative{draft=heads,gamma=3}",
    ],
)  # fmt: skip
def test_what_changes_attention_changes_it_where_its_result_is_narrow_as_well(passes):
    given = "quantize{weights=int8,activations=int8"
    dynamic, static = (attended(f"{given}{more}}},{passes}") for more in ("", ",dynamic=false"))
    assert static == dynamic
    plain = attended(f"{given}}}")
    assert any(static[key] != plain.get(key) for key in static if "sv" in key[1])


def test_static_activations_are_narrowed_where_they_are_made(large):
    program = quantized(large, preset="w8a8", dynamic=False)
    verify_program(program)
    graph = body(program)
    assert not [n for n in graph.nodes if isinstance(n.op, QuantizeTo)]
    assert [n.name for n in graph.nodes if isinstance(n.op, NarrowResult)] == [
        "attn_norm",
        "sv_matmul",
        "mlp_norm",
        "mlp_mul",
    ]
    wide, narrow = cost_of(large, "mlp_mul"), cost_of(program, "mlp_mul")
    key = (MEMORY, Role.ACTIVATION, Direction.WRITE)
    assert narrow.bytes[key] == wide.bytes[key] / 2
    assert expand(narrow.total_flops - wide.total_flops - 2 * B * q * 13824) == 0
    assert Compiled(program, A6000, SURVEY).breakdown("prefill", B=1, S=64).totals["seconds"] > 0


def test_int4_products_widen_where_the_machine_lacks_them(large):
    with_int4 = cost_of(quantized(large, TURING, preset="w4a4"), "up_proj")
    without = cost_of(quantized(large, H100, preset="w4a4"), "up_proj")
    assert set(with_int4.flops) == {(Engine.TENSOR, "int4"), (Engine.VECTOR, "fp32")}
    assert set(without.flops) == {(Engine.TENSOR, "int8"), (Engine.VECTOR, "fp32")}
    converted = G2 * (5120 * 13824 + B * q * 5120)
    assert expand(without.flops_of(Engine.VECTOR) - converted) == 0
    assert without.bytes == with_int4.bytes


def test_group_scales_inside_an_integer_sum_cost_work(large):
    row = cost_of(quantized(large, TURING, preset="w4a4", group="row"), "up_proj")
    grouped = cost_of(quantized(large, TURING, preset="w4a4", group=128), "up_proj")
    extra = grouped.flops_of(Engine.VECTOR) - row.flops_of(Engine.VECTOR)
    assert expand(extra - 2 * B * q * 13824 * (5120 // 128)) == 0


def test_w4a8_meets_in_int8(large):
    cost = cost_of(quantized(large, preset="w4a8"), "up_proj")
    assert (Engine.TENSOR, "int8") in cost.flops
    assert cost.flops_of(Engine.VECTOR) == G2 * 5120 * 13824 + 2 * B * q * 13824


def test_fp8_runs_natively_or_in_16_bit(large):
    native = cost_of(quantized(large, H100, preset="fp8"), "up_proj")
    widened = cost_of(quantized(large, A6000, preset="fp8"), "up_proj")
    assert (Engine.TENSOR, "fp8") in native.flops
    assert (Engine.TENSOR, "fp16") in widened.flops
    assert native.flops_of(Engine.VECTOR) == 2 * B * q * 13824


@pytest.mark.parametrize(("preset", "kind"), [("w8a8", "int8"), ("w4a16", "fp16")])
def test_the_roofline_takes_the_peak_of_the_executing_type(large, preset, kind):
    program = quantized(large, preset=preset)
    row = Compiled(program, A6000, EXACT).breakdown("prefill", B=8, S=2048)["up_proj"]
    assert row.bound == "compute"
    peak = A6000.peaks[Engine.TENSOR, kind]
    assert row.seconds == pytest.approx(float(2 * 8 * 2048 * 5120 * 13824 / peak))


def test_caches_are_narrowed_on_append_and_converted_where_they_are_read(large):
    wide, narrow = large, quantized(large, kv="int4")
    append = cost_of(narrow, "k_append")
    assert append.flops == {(Engine.VECTOR, "fp32"): 3 * B * q * 5120}
    extra = cost_of(narrow, "qk_matmul").flops_of(Engine.VECTOR)
    assert expand(extra - G2 * B * T * 5120) == 0
    assert cost_of(narrow, "up_proj") == cost_of(wide, "up_proj")


def test_outlying_activations_take_a_16_bit_product_of_their_own(large):
    f = Rational(1, 1000)
    program = quantized(large, preset="w8a8", outliers=f)
    cost = cost_of(program, "up_proj")
    dense = 2 * B * q * 5120 * 13824
    assert expand(cost.flops[Engine.TENSOR, "int8"] - dense * (1 - f)) == 0
    assert expand(cost.flops[Engine.TENSOR, "fp16"] - dense * f) == 0
    scales = Rational(16, 5120)
    assert weight(program).bits_per_element == 8 * (1 - f) + 16 * f + scales


def test_sparse_outlier_weights_add_bits_and_vector_work(large):
    f = symbol("f")
    program = quantized(large, weights="int3", outliers=f)
    plain = quantized(large, weights="int3")
    assert expand(weight(program).bits_per_element - weight(plain).bits_per_element - 32 * f) == 0
    extra = cost_of(program, "up_proj").total_flops - cost_of(plain, "up_proj").total_flops
    assert expand(extra - 2 * f * B * q * 5120 * 13824) == 0


# --- limits and orders ---------------------------------------------------------------


def same_cost(a, b, change):
    left, right = exact_cost(a.graph), exact_cost(b.graph)
    assert set(left.bytes) == set(right.bytes)
    for key, value in left.bytes.items():
        assert expand(change(value) - right.bytes[key]) == 0
    assert expand(change(left.total_flops) - right.total_flops) == 0


@pytest.mark.parametrize("preset", ["w4a16", "w4a4", "w8a8kv8"])
def test_an_endless_group_is_one_scale_per_tensor(small, preset):
    g = symbol("g")
    grouped = quantized(small, TURING, preset=preset, group=g)
    plain = quantized(small, TURING, preset=preset, group=sympy.oo)
    assert Quantize(group=sympy.oo) == Quantize(group="tensor")
    same_cost(grouped, plain, lambda e: expand(e).xreplace({1 / g: Integer(0)}))


def test_no_outliers_is_the_plain_scheme(small):
    f = symbol("f")
    for preset in ("w8a8", "w4a16"):
        mixed = quantized(small, preset=preset, outliers=f)
        plain = quantized(small, preset=preset)
        left, right = exact_cost(mixed.graph), exact_cost(plain.graph)
        assert expand(left.total_bytes.subs(f, 0) - right.total_bytes) == 0
        assert expand(left.total_flops.subs(f, 0) - right.total_flops) == 0


def test_all_layers_first_is_the_unquantised_model(small):
    same_cost(quantized(small, preset="w4kv4", first=16), small, lambda e: e)


def test_symbolic_bits_bind_to_each_format(small):
    b = symbol("b")
    symbolic = weight_bytes(quantized(small, weights="int4", bits=b, group="tensor"))
    for bits, name in ((8, "int8"), (4, "int4"), (2, "int2")):
        number = weight_bytes(quantized(small, weights=name, group="tensor"))
        assert expand(symbolic.subs(b, bits) - number) == 0


@given(
    st.sampled_from(["llama-3.2-1b", "gpt2", "qwen2.5-0.5b"]),
    st.lists(st.integers(1, 15), min_size=2, max_size=2, unique=True),
    st.sampled_from([16, 32, 64, 100, 128, "row", "tensor"]),
)
def test_weight_bytes_grow_with_bits(model, bits, group):
    few, many = sorted(bits)
    program = load_model(model)
    options = {"weights": "int4", "group": group, "keep": "none"}
    less = weight_bytes(quantized(program, bits=few, **options))
    more = weight_bytes(quantized(program, bits=many, **options))
    assert less < more


@pytest.mark.parametrize("model", ["gpt2", "opt-1.3b", "gemma-2-2b", "qwen3-0.6b", "gpt-j-6b"])
@pytest.mark.parametrize("symbolic", [False, True])
def test_other_families_and_symbolic_models(model, symbolic):
    program = load_model(model, symbolic=symbolic)
    for options in ({"preset": "w4a4kv4"}, {"preset": "w8a8", "dynamic": False}):
        verify_program(quantized(program, H100, **options))


# --- after fusion --------------------------------------------------------------------


@dataclass(frozen=True)
class Group(Op):
    """A stand-in for any operation that holds others in a body."""

    kind: ClassVar[str] = "group"
    body: Graph

    def infer(self, inputs):
        return tuple(replace_spec(self.body.tensors[name]) for name in self.body.outputs)

    def work(self, inputs, outputs):
        return exact_cost(self.body).flops


def replace_spec(tensor):
    from costgraph.ops import Spec

    return Spec(tensor.shape, tensor.dtype, tensor.role)


@pytest.mark.parametrize("preset", ["w4a16", "w8a8"])
def test_weights_inside_a_group_are_quantised(preset):
    fp16 = dtype("fp16")
    x = Tensor("x", (B, q, Integer(256)), fp16)
    w = Tensor("up.weight", (Integer(512), Integer(256)), fp16, Role.WEIGHT)
    inner = Builder("fused")
    made = inner.add("up", Linear(), inner.source(x), inner.source(w))
    group = Group(inner.build(made))
    outer = Builder("model")
    graph = outer.build(outer.add("fused_up", group, outer.source(x), outer.source(w)))
    program = quantized(autoregressive("toy", graph), preset=preset)
    verify_program(program)
    node: Node = program.graph.node("fused_up")
    inside = node.op.body
    bits = inside.tensors["up.weight"].dtype.bits
    assert bits == program.graph.tensors["up.weight"].dtype.bits < 16
    read = node.op.cost(program.graph.operands(node), node.outputs).bytes_of(Role.WEIGHT)
    assert read == 256 * 512 * inside.tensors["up.weight"].dtype.bytes_per_element
    assert isinstance(inside.node("up").op, QuantLinear) == (preset == "w8a8")
