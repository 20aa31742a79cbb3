"""Factors, cores and adapters: what they store and read, against counts by hand."""

from __future__ import annotations

import random
from fractions import Fraction
from statistics import fmean, stdev

import pytest
from sympy import Integer, Rational

import costgraph as cg
from costgraph.errors import CostgraphError
from costgraph.ir.dtypes import BF16
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.adapters import AdapterLinear
from costgraph.ops.experts import Routing
from costgraph.passes import PASSES
from costgraph.passes.factors.low_rank import LowRank
from costgraph.passes.factors.tensor_train import ranks
from costgraph.rewriting.pipeline import parse
from costgraph.symbols import B

MODEL, DEVICE = "llama-2-7b", "a100-80g"
#: Layers, width, feed-forward width and vocabulary of the model.
L, D, WIDE, V = 32, 4096, 11008, 32000
#: (oc, ic) of the matrices of a layer.
SIZES = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), (D, D)),
    "gate_proj": (WIDE, D), "up_proj": (WIDE, D), "down_proj": (D, WIDE),
}  # fmt: skip


def made(passes: str, model: str = MODEL, **options) -> cg.Compiled:
    return cg.compile(model, DEVICE, passes, **options)


def parameters(compiled: cg.Compiled) -> int:
    return int(sum(t.numel * count for t, count in compiled.program.weights()))


def decode(compiled: cg.Compiled, **sizes: int) -> tuple[float, float]:
    """(FLOP, bytes) of a decode step."""
    table = compiled.breakdown("decode", **{"B": 1, "T": 100, **sizes})
    return table.totals["flops"], table.totals["bytes"]


# --- factors -----------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 16, 100, 2047, 2048, 2049, 4095])
def test_factors_hold_and_multiply_what_two_matrices_do(rank):
    plain, low = made(""), made(f"low-rank{{rank={rank}}}")
    saved = sum(m * n - rank * (m + n) for m, n in SIZES.values())
    assert parameters(plain) - parameters(low) == L * saved
    before, after = decode(plain), decode(low)
    assert before[0] - after[0] == L * 2 * saved
    # Each intermediate is written and read again.
    assert before[1] - after[1] == L * 2 * (saved - 2 * rank * len(SIZES))


def test_a_rank_breaks_even_where_both_factors_are_as_large_as_the_matrix():
    for name, (m, n) in SIZES.items():
        even = Rational(m * n, m + n)
        low = made(f"low-rank{{rank=r,on={name}}}")
        (interval,) = cg.wins(made("").flops, low.flops, "r", B=1, S=1, N=2)
        assert (interval.lower, interval.upper) == (1, even)
        (memory,) = cg.wins(made("").memory, low.memory, "r", B=1, S=1, N=2)
        assert memory.upper == even
        # The intermediate is moved twice: a step in memory time breaks even a little below.
        (time,) = cg.wins(made("").tpot, low.tpot, "r", B=1, T=10)
        assert time.upper == Rational(m * n, m + n + 2)


def test_a_ratio_of_parameters_is_a_rank_as_published():
    (item,) = parse("low-rank{ratio=0.9}", PASSES)
    assert isinstance(item, LowRank)
    assert item.rank_of(Integer(4096), Integer(4096)) == 1843  # ASVD, arXiv 2312.05821
    (item,) = parse("low-rank{fraction=0.01}", PASSES)
    assert item.rank_of(Integer(4096), Integer(11008)) == 40
    (item,) = parse("low-rank{ratio=0.9,align=64}", PASSES)
    assert item.rank_of(Integer(4096), Integer(4096)) == 1856


@pytest.mark.parametrize("ratio", [Fraction(1, 2), Fraction(9, 10)])
def test_a_ratio_keeps_that_share_of_the_parameters(ratio):
    low = made(f"low-rank{{ratio={ratio}}}")
    whole = L * sum(m * n for m, n in SIZES.values())
    kept = whole - (parameters(made("")) - parameters(low))
    lost = L * sum(m + n for m, n in SIZES.values())  # ranks are whole numbers
    assert ratio * whole - lost < kept <= ratio * whole


def test_matrices_and_layers_are_chosen_and_another_pass_gives_others_another_rank():
    text = "low-rank{rank=64,on=down_proj:24-31|up_proj:30},low-rank{rank=128,on=q_proj}"
    saved = sum(
        count * (m * n - rank * (m + n))
        for name, count, rank in (("down_proj", 8, 64), ("up_proj", 1, 64), ("q_proj", L, 128))
        for m, n in (SIZES[name],)
    )
    low = made(text)
    assert parameters(made("")) - parameters(low) == saved
    assert not low.undone
    again = made("low-rank{rank=64,on=q_proj},low-rank{rank=8}")
    assert any("q_proj_in, q_proj: its matrix is a factor" in line for line in again.undone)


@pytest.mark.parametrize(
    ("model", "passes", "said"),
    [
        ("gpt2", "low-rank{rank=9,on=lm_head}", "embed.weight is needed whole by 'embed'"),
        ("deepseek-v2-lite", "low-rank{ratio=1/2}", "needed whole by 'q_absorb'"),
        (MODEL, "low-rank{rank=4096}", "a rank of 4096 is no less than that of 4096 × 4096"),
        (MODEL, "low-rank{rank=3000}", "3000 columns store more than the matrix"),
        (MODEL, "low-rank", "state a rank, ratio or fraction"),
        (MODEL, "low-rank{rank=9,on=q_porj}", "did you mean 'q_proj'"),
        (MODEL, "lora{on=q_porj|v_proj}", "did you mean 'q_proj'"),
        ("llama-3.2-1b", "tensor-train", "embed.weight is needed whole by lm_head"),
        (MODEL, "tensor-train{shape=8|8|8}", "8|8|8 multiplies to 512, the width is 4096"),
        ("mixtral-8x7b", "lora{on=all,adapters=2}", "no kernel groups by both"),
        (MODEL, "lora{merge=weights}", "merged into the weights of q_proj.weight, v_proj.weight"),
        (MODEL, "quantize{weights=int4},lora{merge=zero-points}", "merged into the groups' zero"),
    ],
)
def test_what_is_not_done_is_said(model, passes, said):
    compiled = made(passes, model)
    assert any(said in line for line in compiled.undone), compiled.undone


@pytest.mark.parametrize(
    ("passes", "said"),
    [
        ("low-rank{rank=8,ratio=1/2}", "say the same thing"),
        ("low-rank{rank=8,align=2}", "a rank is what it says"),
        ("low-rank{ratio=2}", "at most 1"),
        ("low-rank{rank=0}", "at least 1"),
        ("low-rank{rank=8,on=q_proj:x}", "on: 'q_proj:x' is not NAME"),
        ("low-rank{rank=8,on=q_proj:99}", "on: layer 99 is past the last one, 31"),
        ("tensor-train{shape=8}", "is not sizes such as"),
        ("lora{merge=weights,adapters=2}", "one adapter can be merged"),
        ("lora{mix=distinct}", "state adapters"),
        ("lora{adapters=3,mix=distinct,zipf=1}", "say how adapters are drawn"),
        ("lora{adapters=3,popularity=1|1}", "lists 2 adapters, there are 3"),
        ("lora{adapters=2,popularity=0|0}", "not all of them 0"),
        ("lora{adapters=2,popularity=x|y}", "popularity"),
        ("lora{adapters=many,zipf=1}", "need a number of adapters"),
        (
            "quantize{weights=int4},lora{merge=weights}",
            "stored as int4-g128, is narrow: .* takes merge=zero-points or merge=none",
        ),
        (
            "quantize{weights=nf4-dq},lora{merge=weights}",
            "nf4-g64-dq, is narrow.* takes merge=none$",
        ),
        ("quantize{weights=nf4-dq},lora{merge=zero-points}", "no zero points.* takes merge=none$"),
        ("quantize{weights=int8},lora{merge=zero-points}", "has no zero points"),
        ("lora{merge=zero-points}", "has no zero points.* takes merge=weights or merge=none$"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(passes, said):
    with pytest.raises(CostgraphError, match=said) as found:
        made(passes)
    assert "\n" not in str(found.value)


def test_a_symbolic_rank_ends_where_a_matrix_has_no_more():
    low = made("low-rank{rank=r,on=down_proj}")
    low.tpot.evaluate(B=1, T=10, r=4096)
    with pytest.raises(CostgraphError, match="exceeds 4096: the rank of the narrowest matrix"):
        low.tpot.evaluate(B=1, T=10, r=4097)


def test_symbolic_dimensions_keep_a_ratio_as_a_polynomial():
    low = made("low-rank{ratio=1/2,on=q_proj}", symbolic_model=True)
    number = made("low-rank{ratio=1/2,on=q_proj}")
    dims = {symbol.name: int(value) for symbol, value in low.program.dims}
    assert low.tpot.evaluate(B=1, T=9, **dims) == pytest.approx(
        number.tpot.evaluate(B=1, T=9), rel=1e-12
    )


# --- cores -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "rank"), [((64, 64), 1), ((64, 64), 100), ((8, 8, 64), 3), ((2,) * 12, 4)]
)
def test_a_row_of_cores_holds_and_multiplies_out_what_its_chain_does(shape, rank):
    text = f"tensor-train{{rank={rank},shape={'|'.join(map(str, shape))}}}"
    train = made(text)
    between = [1]
    left = 1
    for n in shape[:-1]:
        left *= n
        between.append(min(rank, left, D // left))
    between.append(1)
    row = sum(a * n * b for a, n, b in zip(between, shape, between[1:], strict=False))
    assert parameters(made("")) - parameters(train) == V * (D - row)
    chain, work = shape[0], 0
    for i in range(1, len(shape)):
        work += 2 * chain * between[i] * shape[i] * between[i + 1]
        chain *= shape[i]
    before, after = decode(made(""), B=3), decode(train, B=3)
    assert after[0] - before[0] == 3 * work
    assert before[1] - after[1] == 3 * 2 * (D - row)


def test_prime_factors_are_the_usual_shape_and_full_ranks_hold_at_least_the_table():
    assert parameters(made("tensor-train")) == parameters(
        made(f"tensor-train{{shape={'2|' * 11}2}}")
    )
    sizes = tuple(map(Integer, (64, 64)))
    assert ranks(sizes, Integer(10**6)) == (1, 64, 1)
    full = made("tensor-train{rank=64,shape=64|64}")
    assert parameters(full) - parameters(made("")) == V * D


# --- adapters ----------------------------------------------------------------------


def test_an_adapter_is_a_small_share_of_its_matrix():
    rank, (m, n) = 16, SIZES["q_proj"]
    added = parameters(made("lora{on=q_proj}")) - parameters(made(""))
    assert added == L * rank * (m + n)
    assert added / (L * m * n) == pytest.approx(0.0078, abs=1e-4)
    flops, moved = (
        a - b for a, b in zip(decode(made("lora{on=q_proj}")), decode(made("")), strict=True)
    )
    assert flops == L * (2 * rank * (m + n) + m)
    # Operand, intermediate twice, result twice, base and sum.
    assert moved == L * 2 * (rank * (m + n) + n + 2 * rank + 2 * m + 2 * m)


def test_the_usual_matrices_are_queries_and_values_and_all_are_all():
    rank = 16
    usual = parameters(made("lora")) - parameters(made(""))
    assert usual == 2 * L * rank * 2 * D
    every = parameters(made("lora{on=all}")) - parameters(made(""))
    assert every == L * rank * sum(m + n for m, n in SIZES.values())


def test_a_base_of_four_bits_with_wide_adapters_is_as_large_as_published():
    """65 billion parameters in nf4 with double quantisation are 33.5 GB (arXiv 2305.14314)."""
    compiled = made("quantize{weights=nf4-dq,keep=none},lora{rank=64,on=all}", "llama-2-70b")
    tensors = [(t, c) for t, c in compiled.program.weights() if len(t.shape) > 1]
    base = [(t, c) for t, c in tensors if "lora" not in t.name]
    bits = Rational(4) + Rational(8, 64) + Rational(32, 64 * 256)
    assert {t.dtype.bits_per_element for t, _ in base} == {bits}
    assert float(65 * bits / 8) == pytest.approx(33.5, abs=0.05)
    elements = sum(t.numel * c for t, c in base)
    assert sum(t.bytes * c for t, c in base) == elements * bits / 8
    adapters = [t for t, _ in tensors if "lora" in t.name]
    assert len(adapters) == 14
    assert {t.dtype.name for t in adapters} == {"fp16"}


def simulated(shares: list[float], requests: int, runs: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    kinds = range(len(shares))
    return [len(set(rng.choices(kinds, shares, k=requests))) for _ in range(runs)]


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ("adapters=10", [1.0] * 10),
        ("adapters=100", [1.0] * 100),
        ("adapters=20,zipf=3/2", [i**-1.5 for i in range(1, 21)]),
        ("adapters=4,popularity=5|3|1|0", [5.0, 3.0, 1.0, 0.0]),
    ],
)
@pytest.mark.parametrize("requests", [1, 7, 32])
def test_distinct_adapters_of_a_batch_against_drawing_them(options, shares, requests):
    compiled = made(f"lora{{rank=8,on=q_proj,{options}}}")
    one = made("lora{rank=8,on=q_proj}")
    moved = decode(compiled, B=requests)[1] - decode(one, B=requests)[1]
    read = 1 + moved / (L * 2 * 8 * 2 * D)
    found = simulated(shares, requests, 4000, requests)
    spread = stdev(found) / len(found) ** 0.5
    assert read == pytest.approx(fmean(found), abs=5 * spread + 1e-3)
    held = parameters(compiled) - parameters(made(""))
    assert held == len(shares) * L * 8 * 2 * D


def test_requests_may_share_one_adapter_or_have_one_each():
    def read(mix: str, requests: int) -> float:
        compiled = made(f"lora{{rank=8,on=q_proj,adapters=10,mix={mix}}}")
        one = made("lora{rank=8,on=q_proj}")
        moved = decode(compiled, B=requests)[1] - decode(one, B=requests)[1]
        return 1 + moved / (L * 2 * 8 * 2 * D)

    for requests in (1, 4, 10, 25):
        assert read("identical", requests) == 1
        assert read("distinct", requests) == min(10, requests)
        drawn = 10 * (1 - (1 - 1 / 10) ** requests)
        assert read("drawn", requests) == pytest.approx(drawn, rel=1e-6)
        assert 1 <= round(drawn, 9) <= min(10, requests)


def test_a_number_of_adapters_may_be_a_symbol():
    many = made("lora{rank=8,adapters=many}")
    eight = made("lora{rank=8,adapters=8}")
    for name in ("tpot", "memory"):
        sizes = {"B": 5, "T": 100} if name == "tpot" else {"B": 5, "S": 100, "N": 10}
        value = getattr(many, name).evaluate(many=8, **sizes)
        assert value == pytest.approx(getattr(eight, name).evaluate(**sizes), rel=1e-12)


def test_a_stack_is_read_by_what_requests_need_and_converts_narrow_operands():
    x = Tensor("x", (B, Integer(3), Integer(32)), BF16)
    w = Tensor("w", (Integer(4), Integer(8), Integer(32)), BF16, Role.WEIGHT)
    op = AdapterLinear(routing=Routing(zipf=Integer(1)))
    (spec,) = op.infer((x, w))
    assert spec.shape == (B, 3, 8)
    groups, rows, ic, oc = op.gemm((x, w))
    assert (ic, oc) == (32, 8)
    assert (groups * rows).simplify() == 3 * B
    with pytest.raises(CostgraphError, match="popularity of 2"):
        AdapterLinear(routing=Routing(popularity=(Integer(1), Integer(2)))).infer((x, w))


# --- with other passes -------------------------------------------------------------

BESIDE = ("lora{on=all}", "lora{on=all,adapters=6}", "low-rank{ratio=1/2}", "tensor-train")


@pytest.mark.parametrize("passes", BESIDE)
@pytest.mark.parametrize("others", ["quantize{preset=w8a8}", "quantize{preset=w4a16}", "fuse"])
def test_the_written_order_changes_nothing(passes, others):
    a, b = made(f"{passes},{others}"), made(f"{others},{passes}")
    assert a.program.phases == b.program.phases


@pytest.mark.parametrize(("model", "count"), [(MODEL, 14), ("mixtral-8x7b", 14)])
@pytest.mark.parametrize("preset", ["w8a8", "w4a16", "mxfp4"])
@pytest.mark.parametrize("dynamic", ["true", "false"])
def test_adapters_stay_wide_and_take_what_is_wide(model, count, preset, dynamic):
    scaled = "" if preset == "w4a16" else f",dynamic={dynamic}"  # of activations in 16 bit: none
    text = f"lora{{on=all}},quantize{{preset={preset}{scaled}}}"
    compiled = made(text, model)
    wide = {t.dtype for t in made("", model).program.graph.tensors.values() if t.dtype.is_float}
    found = [
        (inner.operands(node)[:2], node.outputs[0])
        for inner in compiled.program.phase("decode").graph.walk()
        for node in inner.nodes
        if node.name.endswith(("_lora_a", "_lora_b"))
    ]
    assert len(found) == count
    for (x, w), out in found:
        assert {w.dtype, out.dtype} <= wide
        assert x.dtype in wide or dynamic == "false"


@pytest.mark.parametrize(
    ("family", "values"),
    [
        ("low-rank{{rank={}}}", (1, 7, 64, 512, 2048, 4000)),
        ("low-rank{{ratio={}}}", ("1/100", "1/10", "1/2", "9/10", "1")),
        ("lora{{on=all,rank={}}}", (1, 8, 64, 512)),
        ("lora{{on=all,rank=8,adapters={}}}", (1, 2, 9, 300)),
        ("tensor-train{{shape=16|16|16,rank={}}}", (1, 2, 4, 16)),
    ],
)
@pytest.mark.parametrize("others", ["", ",fuse", ",fuse,quantize{preset=w4a16}"])
def test_bytes_grow_with_the_rank(family, values, others):
    found = [made(family.format(v) + others) for v in values]
    moved = [decode(c, B=4)[1] for c in found]
    held = [c.memory.evaluate(B=4, S=64, N=8) for c in found]
    assert moved == sorted(moved)
    assert held == sorted(held)


@pytest.mark.parametrize("passes", BESIDE)
def test_fused_kernels_move_less_and_do_the_same_work(passes):
    plain, fused = decode(made(passes), B=8), decode(made(f"{passes},fuse"), B=8)
    assert fused[1] < plain[1]
    assert fused[0] >= plain[0]


@pytest.mark.parametrize(
    ("model", "ways"), [("llama-2-7b", 4), ("llama-3-70b", 16), ("mixtral-8x7b", 8)]
)
@pytest.mark.parametrize(
    "passes", ["lora{on=all}", "lora{on=all,adapters=5}", "low-rank{ratio=1/2,align=64}"]
)
def test_devices_share_bases_and_factors_and_pay_little_for_adapters(model, ways, passes):
    system = f"{ways}xh100" if ways < 16 else "2x8xh100"
    alone = cg.compile(model, "h100", passes)
    shared = cg.compile(model, system, f"{passes},parallel{{tp={ways}}}")
    base = cg.compile(model, system, f"parallel{{tp={ways}}}")
    mine, whole = (parameters(c) for c in (shared, alone))
    assert whole / ways <= mine < 1.3 * whole / ways
    if passes.startswith("lora"):

        def wire(compiled: cg.Compiled) -> float:
            table = compiled.breakdown("decode", B=4, T=512)
            return sum(row.count * sum(row.links.values()) for row in table.rows)

        assert wire(shared) == wire(base) or model == "mixtral-8x7b"
