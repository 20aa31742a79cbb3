"""gpt-oss, Llama 4 and MiMo: windows, sinks and experts in alternation."""

from __future__ import annotations

import pytest
from sympy import Integer, expand

import costgraph as cg
from costgraph.counting.count import rows
from costgraph.errors import ModelError, VerifyError
from costgraph.ir.dtypes import BF16
from costgraph.ir.tensor import Role, Tensor
from costgraph.models import load_model
from costgraph.models.catalog import CONFIGS
from costgraph.models.hf import read_json
from costgraph.ops import RMSNorm, Softmax
from costgraph.ops.flash import FlashAttention
from costgraph.ops.pattern import Dense
from costgraph.symbols import B, T, q

I = Integer  # noqa: E741


def total(work) -> object:
    return sum(work.values())


def config(name: str) -> dict:
    return read_json(CONFIGS / f"{name}.json")


def test_sinks_are_one_more_logit_per_row():
    scores = Tensor("s", (B, I(8), q, T), BF16)
    sinks = Tensor("k", (I(8),), BF16, Role.WEIGHT)
    op = Softmax(Dense())
    (spec,) = op.infer([scores, sinks])
    assert spec.shape == scores.shape
    more = total(op.work([scores, sinks], (scores,))) - total(op.work([scores], (scores,)))
    assert expand(more - 5 * B * 8 * q) == 0
    with pytest.raises(VerifyError, match="sinks and heads"):
        op.infer([scores, Tensor("k", (I(4),), BF16, Role.WEIGHT)])


def test_tiles_read_sinks_once():
    query = Tensor("q", (B, q, I(8), I(64)), BF16)
    keys, values = (Tensor(n, (B, T, I(2), I(64)), BF16, Role.KV) for n in "kv")
    sinks = Tensor("sinks", (I(8),), BF16, Role.WEIGHT)
    op = FlashAttention()
    (spec,) = op.infer([query, keys, values, sinks])
    out = spec.named("o")
    with_, without = (
        op.cost(x, (out,)) for x in ([query, keys, values, sinks], [query, keys, values])
    )
    assert expand(with_.total_bytes - without.total_bytes) == 16
    assert expand(with_.total_flops - without.total_flops - 5 * B * 8 * q) == 0


def test_a_norm_without_weight_costs_one_multiplication_less():
    x = Tensor("x", (B, q, I(4), I(64)), BF16)
    weight = Tensor("w", (I(64),), BF16, Role.WEIGHT)
    plain = total(RMSNorm(weight=False).work([x], (x,)))
    assert expand(total(RMSNorm().work([x, weight], (x,))) - plain - x.numel) == 0
    with pytest.raises(VerifyError):
        RMSNorm(weight=False).infer([x, weight])


@pytest.mark.parametrize("name", ["gpt-oss-20b", "llama-4-scout", "mimo-v2-flash"])
def test_attention_of_all_layers_becomes_tiles_of_the_same_work(name):
    plain, fused = cg.compile(name, "h200"), cg.compile(name, "h200", "fuse")
    kinds = {r.kind for r in fused.rows["decode"]}
    assert "flash-attention" in kinds
    assert not kinds & {"softmax", "qk-matmul", "sv-matmul"}
    for phase, values in (("prefill", {"B": 2, "S": 300}), ("decode", {"B": 2, "T": 300})):
        before, after = (c.breakdown(phase, **values).totals for c in (plain, fused))
        assert after["flops"] == before["flops"]
        assert after["bytes"] < before["bytes"]


def test_gpt_oss_slides_in_every_other_layer():
    program = load_model("gpt-oss-20b")
    found = [
        (r.count, r.cost.bytes_of(Role.KV).xreplace({B: I(1), q: I(1), T: I(1000)}))
        for r in rows(program.graph)
        if r.kind == "qk-matmul"
    ]
    assert sorted(found) == [(12, 128 * 8 * 64 * 2), (12, 1000 * 8 * 64 * 2)]


def test_llama_4_rotates_three_layers_in_four_and_mixes_dense_ones_in():
    found = list(rows(load_model("llama-4-maverick").graph))
    counts = {
        kind: sum(r.count for r in found if r.kind == kind and (kind != "scale" or "q_" in r.name))
        for kind in ("route", "rope", "scale", "softmax")
    }
    assert counts == {"route": 24, "rope": 72, "scale": 12, "softmax": 48}
    seen = [str(r.node.op.pattern) for r in found if r.kind == "qk-matmul"]
    assert set(seen) == {"chunks of 8192", "causal"}


def test_mimo_has_other_heads_where_it_slides():
    program = load_model("mimo-v2-flash")
    regions = [n for n in program.graph.nodes if n.op.kind == "repeat"]
    assert len(regions) == 4  # the dense one, the pattern, and what is left of it
    here = {B: I(1), q: I(1), T: I(1000)}
    found = {
        (r.cost.bytes_of(Role.KV).xreplace(here), len(r.graph.operands(r.node)))
        for r in rows(program.graph)
        if r.kind == "sv-matmul"
    }
    assert found == {(1000 * 4 * 128 * 2, 2), (129 * 8 * 128 * 2, 2)}
    sinks = [r for r in rows(program.graph) if r.kind == "softmax" and len(r.node.inputs) == 2]
    assert sum(r.count for r in sinks) == 39


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mimo-v2-flash", {"hybrid_layer_pattern": [0, 1]}, "must be a list of 48 numbers"),
        ("mimo-v2-flash", {"moe_layer_freq": None}, "'moe_layer_freq' must be a list of 48"),
        ("mimo-v2-flash", {"n_shared_experts": 1}, "shared experts are unknown"),
        ("minimax-m2.5", {"shared_intermediate_size": 8}, "shared experts are unknown"),
        ("minimax-m2.5", {"attn_type_list": [0] * 62}, "only 1, attention over all positions"),
        ("minimax-m2.5", {"qk_norm_type": "per_head"}, "only 'per_layer' is supported"),
        ("minimax-m2.5", {"scoring_func": "softmax"}, "only 'sigmoid' is supported"),
        ("minimax-m2.5", {"use_routing_bias": False}, "only True is supported"),
        ("llama-4-scout", {"text_config": None}, "'text_config' is null"),
        ("gpt-oss-20b", {"layer_types": ["full_attention"]}, "must be a list of 24"),
        ("qwen3-30b-a3b", {"mlp_only_layers": "none"}, "must be a list of numbers"),
    ],
)
def test_bad_configurations_are_refused(name, changes, message):
    with pytest.raises(ModelError, match=message):
        load_model({**config(name), **changes})
