"""Early exit: expected depths, what the tail costs, limits."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sympy import Integer, Rational

import costgraph as cg
from costgraph.errors import PipelineError
from costgraph.ir.regions import Repeat
from costgraph.passes import PASSES
from costgraph.passes.decoding import depth
from costgraph.rewriting.pipeline import parse, text_of

MODEL, DEVICE = "llama-2-7b", "a6000"


@pytest.fixture(scope="module")
def plain():
    return cg.compile(MODEL, DEVICE)


def compiled(text: str):
    return cg.compile(MODEL, DEVICE, text)


@pytest.mark.parametrize(
    ("batch", "layers"), [(1, 16.5), (2, 21.83), (4, 26.09), (8, 28.92), (16, 30.58), (32, 31.45)]
)
def test_depth_of_a_batch_under_a_uniform_distribution(batch, layers):
    left = depth.uniform(32)
    assert round(float(depth.expected_batch_depth(left, Integer(batch))), 2) == layers
    assert depth.expected_depth(left) == Rational(33, 2)


@pytest.mark.parametrize(
    "left",
    [
        depth.uniform(12),
        depth.two_exit(12, 4, Rational(3, 5)),
        depth.geometric(12, Rational(1, 5), 2, 3),
        depth.beta(12, 2, 3),
        depth.per_layer(12, [Rational(0), Rational(1, 4), Rational(1, 4)]),
    ],
    ids=["uniform", "two-exit", "geometric", "beta", "layers"],
)
def test_expected_depths_match_a_simulation(left):
    rng = random.Random(3)
    cdf = [float(f) for f in left]

    def one() -> int:
        u = rng.random()
        return next((n for n, f in enumerate(cdf) if u < f), 12)

    rounds = 40_000
    draws = [max(one() for _ in range(3)) for _ in range(rounds)]
    exact = float(depth.expected_batch_depth(left, Integer(3)))
    # Depths lie within 12 layers: six standard errors of the mean.
    assert abs(sum(draws) / rounds - exact) < 6 * 6 / rounds**0.5
    assert left[0] == 0
    assert all(a <= b for a, b in pairwise(left))


def test_a_beta_distribution_with_unit_parameters_is_uniform():
    assert depth.beta(32, 1, 1) == depth.uniform(32)


@pytest.mark.parametrize("text", ["early-exit{p=0}", "early-exit{p=0,distribution=geometric}"])
def test_without_exits_the_model_is_unchanged_symbolically(plain, text):
    same = compiled(text)
    for metric in ("ttft", "tpot", "latency", "memory", "flops", "bytes"):
        assert (getattr(same, metric) - getattr(plain, metric)).terms == ()
        assert (getattr(same, metric).expr - getattr(plain, metric).expr).expand() == 0


def test_if_everyone_leaves_only_the_first_layers_run(plain):
    c = compiled("early-exit{exit=8,p=1}")
    layers = [plain.breakdown("decode", B=4, T=500), c.breakdown("decode", B=4, T=500)]
    outside = sum(r.flops * r.count for r in layers[0] if r.count == 1)
    assert layers[1].totals["flops"] - outside == (layers[0].totals["flops"] - outside) / 4


def test_weights_and_caches_of_all_layers_stay(plain):
    for text in ("early-exit", "early-exit{propagate=project,confidence=softmax}"):
        c = compiled(text)
        assert c.parameters == plain.parameters
        at = {"B": 1, "S": 100, "N": 10}
        assert c.memory.evaluate(**at) == plain.memory.evaluate(**at)
        assert c.ttft.expr == plain.ttft.expr
        counts = [
            n.op.count
            for n in c.program.phase("decode").graph.nodes
            if isinstance(n.op, Repeat) and n.op.shared_instances is None
        ]
        assert sum(counts) == 32


def test_the_tail_is_read_unless_all_have_left(plain):
    c = compiled("early-exit{exit=16,p=3/5}")

    def of(step, name):
        return step[name].bytes_by_role["weight"]

    for batch in (1, 4):
        step = c.breakdown("decode", B=batch, T=9)
        head, tail = of(step, "layers.0.q_proj"), of(step, "layers.1.q_proj")
        assert tail == pytest.approx(head * (1 - 0.6**batch))
        assert step["layers.1.q_proj"].flops == pytest.approx(step["layers.0.q_proj"].flops * 0.4)
    together = compiled("early-exit{exit=16,p=3/5,batch=all}").breakdown("decode", B=4, T=9)
    assert together["layers.1.q_proj"].flops == pytest.approx(
        together["layers.0.q_proj"].flops * (1 - 0.6**4)
    )


def test_a_schedule_reads_the_same_weights_for_any_batch():
    c = compiled("early-exit{distribution=schedule,low=8}")
    read = [
        sum(r.count * r.bytes_by_role["weight"] for r in c.breakdown("decode", B=b, T=9)
            if r.kind == "linear")
        for b in (1, 32)
    ]  # fmt: skip
    assert read[0] == read[1]


def test_layers_run_or_are_skipped_but_not_both():
    text = "early-exit{exit=16,p=1/2,batch=all,propagate=project}"
    step = compiled(text).breakdown("decode", B=4, T=9)
    whole = step["layers.0.k_proj"].flops
    assert step["layers.1.k_proj"].flops + step["propagate.1.k_proj"].flops == whole


@pytest.mark.parametrize(("method", "width"), [("softmax", 32000), ("classifier", 1)])
def test_confidence_costs_its_product(method, width):
    row = compiled(f"early-exit{{confidence={method}}}").breakdown("decode", B=2, T=9)["confidence"]
    assert row.bytes_by_role["weight"] == width * 4096 * 2
    after = 5 * width if method == "softmax" else 3
    assert row.flops == 2 * (2 * 4096 * width + after)


def test_cosine_confidence_reads_two_states():
    row = compiled("early-exit{confidence=cosine}").breakdown("decode", B=2, T=9)["confidence"]
    assert row.flops == 6 * 2 * 4096
    assert row.bytes == 2 * 2 * 4096 * 2 + 2 * 4


@pytest.mark.parametrize(("model", "share"), [("llama-2-7b", 0.166), ("llama-2-70b", 0.0196)])
def test_projecting_caches_costs_its_share_of_a_layer(model, share):
    c = cg.compile(model, "h100", "early-exit{p=1,propagate=project}")
    step = c.breakdown("decode", B=1, T=9)
    plain = cg.compile(model, "h100").breakdown("decode", B=1, T=9)
    layer = sum(
        plain[n].bytes_by_role["weight"]
        for n in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    )
    projected = sum(
        step[f"propagate.1.{name}"].bytes_by_role["weight"] for name in ("k_proj", "v_proj")
    )
    assert projected / layer == pytest.approx(share, abs=5e-4)


@pytest.mark.parametrize("options", ["", "{propagate=project}", "{propagate=recompute}"])
def test_exits_and_fusion_commute(plain, options):
    first, second = compiled(f"early-exit{options},fuse"), compiled(f"fuse,early-exit{options}")
    assert (first.tpot - second.tpot).terms == ()
    if options:
        return
    assert first.tpot.evaluate(B=1, T=99) < compiled("early-exit").tpot.evaluate(B=1, T=99)


def test_exits_cut_across_regions_of_different_layers():
    """DeepSeek: three dense layers, then experts; an exit behind the fifth."""
    made = cg.compile("deepseek-v3", "h200", "early-exit{exit=5,p=1/2,propagate=project}")
    regions = [
        (n.name, int(n.op.count), n.op.presence.is_full, n.op.rounds)
        for n in made.program.phase("decode").graph.nodes
        if isinstance(n.op, Repeat)
    ]
    assert regions == [
        ("dense", 3, True, "layers"),
        ("experts.0", 2, True, "layers"),
        ("experts.1", 56, False, "layers"),
        ("propagate.1.experts", 56, False, "other"),
    ]
    assert made.parameters == cg.compile("deepseek-v3", "h200").parameters


def test_models_without_decode_steps_are_left_alone_with_the_reason():
    made = cg.compile("bert-base", "a100", "early-exit")
    assert made.undone == ("early-exit did nothing: there are no decode steps to leave early",)
    assert made.assumptions == cg.compile("bert-base", "a100").assumptions


def test_what_a_token_cannot_leave_behind_is_no_cache():
    with pytest.raises(PipelineError, match="keep a state"):
        cg.compile("mamba-130m", "a100", "early-exit{propagate=project}")


def test_a_symbolic_share_stays_a_symbol(plain):
    c = compiled("early-exit{p=x,exit=16}")
    number = compiled("early-exit{p=0.3,exit=16}")
    assert c.tpot.evaluate(B=3, T=50, x=0.3) == pytest.approx(
        number.tpot.evaluate(B=3, T=50), rel=1e-12
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("early-exit{exit=32}", "exit"),
        ("early-exit{p=2}", "p must"),
        ("early-exit{distribution=normal}", "distribution"),
        ("early-exit{distribution=layers}", "shares"),
        ("early-exit{distribution=layers,shares=p80|p80}", "beyond one"),
        ("early-exit{distribution=schedule,low=99}", "low"),
        ("early-exit,early-exit", "already"),
    ],
)
def test_options_that_make_no_sense_are_refused(text, words):
    with pytest.raises(PipelineError, match=words):
        compiled(text)


@given(
    st.sampled_from(["two-exit", "geometric", "uniform", "beta", "schedule"]),
    st.integers(0, 10),
    st.sampled_from(["none", "softmax", "classifier", "cosine"]),
)
def test_pipelines_round_trip(distribution, tenths, confidence):
    text = f"early-exit{{distribution={distribution},p={tenths}/10,confidence={confidence}}}"
    passes = parse(text, PASSES)
    assert parse(text_of(passes), PASSES) == passes
