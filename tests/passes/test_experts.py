"""Passes on models with experts and latent attention."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sympy import Integer, Rational, expand

import costgraph as cg
from costgraph.hardware.machine import Engine
from costgraph.ir.tensor import Role
from costgraph.models import load_model
from costgraph.ops import ExpertLinear
from costgraph.symbols import B, T, q

DATA = Path(__file__).parent.parent / "models" / "counted" / "configs"
NAMES = ["mixtral-8x7b", "deepseek-v3"]


def config(name: str) -> dict:
    found = json.loads((DATA / f"{name}.json").read_text())
    found.pop("quantization_config", None)
    return found


def compiled(name: str, passes: str, on: str = "h200", **changes):
    return cg.compile({**config(name), **changes}, on, passes)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_fusing_keeps_the_work_and_moves_less(name, phase):
    plain, fused = compiled(name, ""), compiled(name, "fuse")
    values = {"B": 4, "S": 512} if phase == "prefill" else {"B": 4, "T": 512}
    before, after = (c.breakdown(phase, **values).totals for c in (plain, fused))
    assert after["flops"] == before["flops"]
    assert after["bytes"] < before["bytes"]


def test_the_experts_gate_is_fused_into_their_grouped_product():
    names = {r.name for r in compiled("mixtral-8x7b", "fuse").rows["decode"]}
    assert {"expert_gate+expert_up+expert_act+expert_mul", "expert_down", "attention"} <= names
    names = {r.name for r in compiled("deepseek-v3", "fuse").rows["decode"]}
    assert "expert_gate+expert_up+expert_act+expert_mul" in names
    assert "shared_down_proj+shared_add+mlp_add" in names


def test_fused_gate_and_up_read_the_token_once():
    row = next(
        r
        for r in compiled("mixtral-8x7b", "fuse").rows["decode"]
        if r.name.startswith("expert_gate+")
    )
    n = B * q
    assert expand(row.cost.bytes_of(Role.ACTIVATION) - n * (4096 * 2 + 2 * 4 + 2 * 14336 * 2)) == 0
    touched = 8 * (1 - Rational(3, 4) ** n)
    assert expand(row.cost.bytes_of(Role.WEIGHT) - touched * 2 * 4096 * 14336 * 2) == 0


def test_absorbed_attention_becomes_one_kernel_that_reads_latents_once():
    row = next(
        r for r in compiled("deepseek-v3", "fuse").rows["decode"] if r.name.endswith("attention")
    )
    assert row.kind == "split-flash-attention"
    here = {B: Integer(2), q: Integer(1), T: Integer(100)}
    assert row.cost.bytes_of(Role.KV).xreplace(here) == 2 * 100 * 576 * 2


@pytest.mark.parametrize("name", NAMES)
def test_int4_experts_store_and_read_their_scales(name):
    plain, narrow = (compiled(name, p) for p in ("", "quantize{weights=int4,group=128}"))

    def read(c, part):
        return sum(
            r.total.bytes_of(Role.WEIGHT) for r in c.rows["decode"] if r.name.startswith(part)
        )

    # Groups of 128 with a 16-bit scale and a 4-bit zero point.
    share = (4 + Rational(16 + 4, 128)) / 16
    assert expand(read(narrow, "expert_") - share * read(plain, "expert_")) == 0
    assert read(narrow, "router") == read(plain, "router")
    # Converted in the kernel that loads them: two FLOP per element of a touched expert.
    row, known = (
        next(r for r in c.rows["decode"] if r.name == "expert_up") for c in (narrow, plain)
    )
    op = known.node.op
    assert isinstance(op, ExpertLinear)
    extra = row.cost.flops_of(Engine.VECTOR) - known.cost.flops_of(Engine.VECTOR)
    assert expand(extra - 2 * op.loaded(known.graph.operands(known.node))) == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("order", ["fuse,quantize{F}", "quantize{F},fuse"])
def test_fp8_experts_compute_in_fp8(name, order):
    passes = order.replace("F", "weights=fp8,activations=fp8")
    found = {
        kind
        for r in compiled(name, passes).rows["decode"]
        for engine, kind in r.cost.flops
        if engine is Engine.TENSOR and "expert_up" in r.name
    }
    assert found == {"fp8"}
    routers = [r for r in compiled(name, passes).rows["decode"] if r.name == "router"]
    assert all(("fp8" not in kind) for r in routers for _, kind in r.cost.flops)


@pytest.mark.parametrize("name", NAMES)
def test_pages_change_memory_and_tables_only(name):
    plain, paged = (compiled(name, p) for p in ("fuse", "fuse,page-kv{block=16}"))
    a, b = (c.breakdown("decode", B=3, T=100) for c in (plain, paged))
    assert a.totals["flops"] == b.totals["flops"]
    layers = {"mixtral-8x7b": 32, "deepseek-v3": 61}[name]
    assert b.totals["bytes"] - a.totals["bytes"] == layers * 3 * 7 * 4  # ⌈100/16⌉ entries
    assert b.totals["kv_bytes"] == a.totals["kv_bytes"] * Rational(112, 100)


@pytest.mark.parametrize("name", NAMES)
def test_verifying_several_tokens_touches_more_experts(name):
    made = compiled(name, "speculative{draft=llama-2-7b,gamma=3,alpha=0.8}", vocab_size=32000)
    given = config(name)
    experts = given.get("num_local_experts") or given["n_routed_experts"]
    share = Rational(given["num_experts_per_tok"], experts)
    row = next(r for r in made.rows["verify"] if r.name == "expert_up")
    phase = made.program.phase("verify")
    w = row.graph.operands(row.node)[1]
    touched = phase.bind(row.cost.bytes_of(Role.WEIGHT)) / (w.bytes / experts)
    assert touched.xreplace({B: Integer(2)}) == experts * (1 - (1 - share) ** 8)


def test_a_draft_with_latent_attention_decodes_in_its_absorbed_form():
    passes = "speculative{draft=deepseek-v2-lite,gamma=3,alpha=0.8}"
    made = compiled("mixtral-8x7b", passes, vocab_size=102400)
    draft, first = (made.program.phase(p).graph for p in ("draft", "draft-prefill"))
    program = load_model("deepseek-v2-lite")
    assert draft == program.phase("decode").graph
    assert first == program.phase("prefill").graph
    assert draft != first


@pytest.mark.parametrize("name", NAMES)
def test_many_passes_together(name):
    passes = "fuse,quantize{preset=w4a16},page-kv,speculative{draft=llama-2-7b,gamma=4,alpha=0.8}"
    made = compiled(name, passes, vocab_size=32000)
    plain = compiled(name, "")
    assert made.tpot.evaluate(B=1, T=2000) < plain.tpot.evaluate(B=1, T=2000)
    assert made.memory.evaluate(B=1, S=1000, N=100) < plain.memory.evaluate(B=1, S=1000, N=100)
    assert made.latency.text()
