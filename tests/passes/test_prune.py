"""Pruned weights: what is stored, what is multiplied, and where it pays."""

from __future__ import annotations

from fractions import Fraction

import pytest
from sympy import Integer, Rational

import costgraph as cg
from costgraph.errors import InputError
from costgraph.formula.wins import wins
from costgraph.hardware import load_hardware
from costgraph.hardware.machine import Engine
from costgraph.ir.tensor import Role

MODEL = "llama-3.2-1b"


def compiled(passes: str, model: str = MODEL, on: str = "a100-80g"):
    return cg.compile(model, on, passes)


def weights(passes: str, model: str = MODEL, on: str = "a100-80g"):
    return {t.name: t for t, _ in compiled(passes, model, on).program.weights()}


def matrix(passes: str, name: str = "up_proj.weight", **more):
    return weights(passes, **more)[name]


# --- bits ------------------------------------------------------------------------

Z = Rational(7, 10)
BITS = {
    "prune{sparsity=0.7}": (1 - Z) * 32,
    "prune{sparsity=0.7,index-bits=8}": (1 - Z) * 24,
    "prune{sparsity=0.7,storage=bitmap}": (1 - Z) * 16 + 1,
    "prune{storage=2:4}": 9,
    "quantize{weights=int8,group=tensor},prune{storage=2:4}": 5,
    "quantize{weights=e4m3},prune{storage=2:4}": 5,
    "quantize{weights=int4,zero-bits=4},prune{storage=2:4}": 3 + Rational(20, 128),
    "quantize{weights=int4,group=tensor},prune{sparsity=0.7}": (1 - Z) * 20,
    "prune{sparsity=0.7,storage=csr}": (1 - Z) * 48 + 32 * Rational(8192 + 1, 8192 * 2048),
}


@pytest.mark.parametrize("passes", BITS)
def test_bits_per_element_are_exact(passes):
    assert matrix(passes).dtype.bits_per_element == BITS[passes]


def test_two_of_four_takes_what_techniques_print():
    assert matrix("prune{storage=2:4}").dtype.bits_per_element / 16 == Rational("0.5625")
    narrow = matrix("quantize{weights=int8,group=tensor},prune{storage=2:4}")
    assert narrow.dtype.bits_per_element / 8 == Rational("0.625")


@pytest.mark.parametrize(
    ("sparsity", "ideal", "measured"),
    [("0.7", Fraction(5, 3), 1.4), ("0.8", Fraction(5, 2), 1.7), ("0.9", Fraction(5), 2.1)],
)
def test_flash_llm_stays_below_what_bytes_allow(sparsity, ideal, measured):
    """Kernels of arXiv 2309.10285 against cuBLAS; the bound is the ratio of the bytes."""
    dense, sparse = matrix(""), matrix(f"prune{{sparsity={sparsity}}}")
    assert dense.bytes / sparse.bytes == Rational(ideal)
    assert measured <= ideal


@pytest.mark.parametrize("storage", ["csr", "tiled-csl", "bitmap"])
def test_bytes_fall_with_sparsity(storage):
    values = [
        compiled(f"prune{{storage={storage},sparsity={z}}}").bytes.evaluate(B=1, S=64, N=8)
        for z in ("0", "0.2", "0.5", "0.75", "0.9", "1")
    ]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(values)


# --- break-even -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("storage", "even"), [("tiled-csl", Rational(1, 2)), ("bitmap", Rational(1, 16))]
)
def test_break_even_is_a_crossover_of_the_formulas(storage, even):
    """Where a step waits for memory, storing zeros pays up to the sparsity of equal bytes."""
    dense, sparse = compiled(""), compiled(f"prune{{storage={storage},sparsity=z}}")
    found = wins(dense.tpot, sparse.tpot, "z", B=1, T=64)
    assert [(i.lower, i.upper) for i in found] == [(even, 1)]


def test_a_share_that_is_a_symbol_is_at_most_one():
    with pytest.raises(InputError, match="sparsity of prune"):
        compiled("prune{sparsity=z}").tpot.evaluate(B=1, T=64, z=1.5)


# --- who multiplies ----------------------------------------------------------------


def product(passes: str, on: str, model: str = MODEL):
    graph = compiled(passes, model, on).program.phase("decode").graph
    body = next(n.op.body for n in graph.nodes if n.op.kind == "repeat")
    node = body.node("up_proj")
    return node.op.work(body.operands(node), node.outputs)


def test_sparse_units_take_half_the_time_where_the_device_states_them():
    dense, sparse = product("", "a100-80g"), product("prune{storage=2:4}", "a100-80g")
    key = (Engine.TENSOR, "bf16")
    assert sparse == {key: dense[key] / 2}
    narrow = product("quantize{preset=w8a8},prune{storage=2:4}", "a100-80g")
    wide = product("quantize{preset=w8a8}", "a100-80g")
    assert narrow[Engine.TENSOR, "int8"] == wide[Engine.TENSOR, "int8"] / 2


@pytest.mark.parametrize("on", ["v100", "tpu-v5e", "mi250x", "i9-13900k"])
def test_elsewhere_it_is_multiplied_dense_and_said(on):
    made = compiled("prune{storage=2:4}", on=on)
    assert any("states no rate for 2:4 matrices" in str(line) for line in made.undone)
    stated = product("", on)
    work = product("prune{storage=2:4}", on)
    assert work[Engine.TENSOR, "bf16"] == stated[Engine.TENSOR, "bf16"]
    assert work[Engine.VECTOR, "fp32"] == matrix("").numel  # 2 FLOP per stored element, half of all


def test_dense_kernels_unpack_and_others_skip():
    numel, key = matrix("").numel, (Engine.VECTOR, "fp32")
    assert product("prune{sparsity=0.75}", "a100")[key] == numel / 2
    # Converted and unpacked: what is not stored is neither.
    both = product("quantize{weights=int4},prune{sparsity=0.75}", "a100")
    assert both[key] == numel
    skipping = product("prune{sparsity=0.75,storage=csr}", "a100")
    assert skipping == {key: product("", "a100")[Engine.TENSOR, "bf16"] / 4}
    assert product("prune{sparsity=0.75,storage=csr,compute=dense}", "a100")[key] == numel / 2


def test_devices_state_sparse_rates_with_a_source():
    for name in ("a100", "h100", "rtx-4090", "b200", "l4"):
        machine = load_hardware(name)
        assert set(machine.sparsity.values()) == {Integer(2)}
        assert machine.figures["sparsity.bf16"].source
    assert "fp4" in load_hardware("b200").sparsity
    assert "fp4" not in load_hardware("b300").sparsity  # 144 | 108: 4/3, no whole number
    assert not load_hardware("v100").sparsity


# --- orders --------------------------------------------------------------------------

OTHERS = [
    "quantize{preset=w4a16}",
    "quantize{preset=w8a8kv8}",
    "quantize{weights=int8,outliers=0.01}",
    "fuse",
    "page-kv",
    "quantize{preset=w8a8},fuse",
]


@pytest.mark.parametrize("storage", ["csr", "tiled-csl", "bitmap", "2:4"])
@pytest.mark.parametrize("others", OTHERS)
def test_before_and_after_other_passes_is_the_same(storage, others):
    prune = f"prune{{storage={storage}}}"
    a, b = compiled(f"{others},{prune}"), compiled(f"{prune},{others}")
    assert a.program.phases == b.program.phases
    assert any(t.dtype.sparse for t, _ in a.program.weights())


@pytest.mark.parametrize("passes", ["prune{sparsity=0.8}", "prune{storage=2:4}"])
def test_fusion_keeps_weight_bytes(passes):
    plain, fused = compiled(passes), compiled(f"fuse,{passes}")

    def read(made):
        cost = made.program.phase("decode").graph.cost
        return sum(v for (_, role, _), v in cost.bytes.items() if role is Role.WEIGHT)

    assert read(plain) == read(fused)


# --- layers and names -------------------------------------------------------------------


def test_layers_have_shares_of_their_own():
    shares = [Rational(50 + 2 * n, 100) for n in range(16)]
    listed = "|".join(str(s) for s in shares)
    made = compiled(f"prune{{layers={listed}}}")
    sizes = [
        t.dtype.bits_per_element for t, _ in made.program.weights() if t.name == "up_proj.weight"
    ]
    assert sizes == [(1 - s) * 32 for s in shares]
    even = compiled("prune{sparsity=0.65}")  # the mean of the shares
    assert sum(t.bytes * n for t, n in made.program.weights()) == sum(
        t.bytes * n for t, n in even.program.weights()
    )


def test_ends_and_names_stay_dense():
    made = compiled("prune{first=2,last=1,keep=down_proj:3-4|embed|lm_head}")
    found = [(t.name, n, t.dtype.sparse is not None) for t, n in made.program.weights()]
    assert [(n, s) for name, n, s in found if name == "up_proj.weight"] == [
        (2, False), (1, True), (2, True), (10, True), (1, False),
    ]  # fmt: skip
    assert [s for name, _, s in found if name == "down_proj.weight"] == [
        False, True, False, True, False,
    ]  # fmt: skip


def test_experts_are_pruned_and_look_ups_are_not():
    made = weights("prune{keep=none}", "mixtral-8x7b")
    assert made["expert_up.weight"].dtype.sparse
    assert made["embed.weight"].dtype.sparse is None
    latent = compiled("prune", "deepseek-v2-lite")
    assert any("no matrix of a linear product" in str(line) for line in latent.undone)


@pytest.mark.parametrize(
    ("passes", "words"),
    [
        ("prune{storage=2:4,sparsity=0.7}", "its sparsity is 1/2"),
        ("prune{storage=2:4,index-bits=4}", "by 2 bits"),
        ("prune{layers=0.5|0.5}", "2 shares are given for 16 layers"),
        ("prune{layers=0.5*x}", "a value and how often"),
        ("prune{layers=0.5*17}", "17 shares are given for 16 layers"),
        ("prune{layers=0.5|oops!}", "neither a number nor a symbol"),
        ("prune{sparsity=1.2}", "in \\[0, 1\\]"),
        ("prune{storage=csc}", "csr"),
        ("prune{first=9,last=9}", "first and last name 18 of 16 layers"),
        ("prune{keep=up_proj:99}", "past the last one, 15"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(passes, words):
    with pytest.raises(InputError, match=words) as error:
        compiled(passes)
    assert "\n" not in str(error.value)


def test_storing_zeros_that_takes_more_is_said():
    made = compiled("prune{sparsity=0.3}")
    assert any("storing zeros takes less" in str(line) for line in made.undone)
