"""Traced graphs that are shipped with the tests: read, recognised, folded, counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sympy import Integer, expand

import costgraph as cg
from costgraph.counting.count import exact_cost, parameters
from costgraph.errors import CostgraphError, ModelError
from costgraph.hardware.machine import Engine
from costgraph.hardware.systems import alone
from costgraph.ir.program import Program
from costgraph.ir.regions import Repeat
from costgraph.ir.verify import verify, verify_program
from costgraph.models import import_config
from costgraph.models.torch_export import from_torch, read_traced
from costgraph.models.traced.codec import from_json, to_json
from costgraph.ops import AttentionScores, RMSNorm
from costgraph.ops.rotary import RotaryPair
from costgraph.passes import PASSES
from costgraph.rewriting.unrolled import unrolled
from costgraph.symbols import B, S, T, q

DATA = Path(__file__).parent / "data"
LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96, "hidden_act": "silu",
    "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
}  # fmt: skip


def load(name: str, **options) -> Program:
    if name.endswith(".onnx"):
        pytest.importorskip("onnx")
        from costgraph.models.onnx_graph import from_onnx

        return from_onnx(DATA / name, **options)
    return from_torch(read_traced(DATA / f"{name}.traced.json"), **options)


def products(graph):
    return expand(exact_cost(graph).flops_of(Engine.TENSOR))


def kinds(graph):
    return [n.op.kind for n in graph.nodes]


def family(mask: str) -> Program:
    return import_config(LLAMA, "tiny", mask=mask, logits="all")


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-llama-core", "tiny-llama.onnx"])
@pytest.mark.parametrize("recognise", [False, True])
def test_a_decoder_counts_as_its_family_does(name, recognise):
    """Products agree with the builder of the family, masked pairs computed."""
    program = load(name, mask="compute", recognise=recognise)
    verify_program(program)
    built = family("compute").graph
    expected = expand(products(built).xreplace({q: S, T: S}))
    assert products(program.graph) == expected == 768 * B * S**2 + 270336 * B * S
    # ONNX keeps the eight rotary frequencies among its weights.
    extra = 8 if name.endswith("onnx") else 0
    assert parameters(program.graph) == parameters(built) + extra


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-llama-core", "tiny-llama.onnx"])
def test_useful_pairs_of_a_causal_mask_count_as_in_the_family(name):
    program = load(name)
    expected = expand(products(family("skip").graph).xreplace({q: S, T: S}))
    assert products(program.graph) == expected


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-llama-core", "tiny-llama.onnx"])
def test_layers_fold_into_one_region_of_known_operations(name):
    program = load(name)
    (region,) = (n for n in program.graph.nodes if isinstance(n.op, Repeat))
    assert region.name == "layers"
    assert region.op.count == 3
    body = region.op.body
    assert sorted(kinds(body)) == sorted(
        ["rms-norm"] * 2 + ["linear"] * 7 + ["rope"] * 2 + ["qk-matmul", "softmax", "sv-matmul"]
        + ["add"] * 2 + ["activation", "multiply"]
    )  # fmt: skip
    (scores,) = (n for n in body.nodes if isinstance(n.op, AttentionScores))
    keys = body.operands(scores)[1]
    assert keys.shape == (B, S, Integer(2), Integer(16))  # cached heads, not query heads
    assert sum(isinstance(n.op, RMSNorm) for n in program.graph.nodes) == 1
    assert sum(isinstance(n.op, RotaryPair) for n in body.nodes) == 2
    assert len(program.graph.nodes) < 20


@pytest.mark.parametrize(
    "name", ["tiny-llama", "tiny-llama.onnx", "tiny-encoder", "tiny-conv", "tiny-conv.onnx"]
)
def test_folding_changes_no_cost_and_can_be_undone(name):
    from costgraph.hardware import load_hardware

    program = load(name, recognise=False)
    machine = load_hardware("h100")
    folded = PASSES["fold"]().run(program, alone(machine)).program
    verify_program(folded)
    assert any(isinstance(n.op, Repeat) for n in folded.graph.nodes)
    assert parameters(folded.graph) == parameters(program.graph)
    before, after = exact_cost(program.graph), exact_cost(folded.graph)
    assert {k: expand(v) for k, v in before.flops.items()} == {
        k: expand(v) for k, v in after.flops.items()
    }
    assert expand(before.total_bytes - after.total_bytes) == 0
    written_out = unrolled(folded.graph)
    verify(written_out)
    assert len(written_out.nodes) == len(program.graph.nodes)


def test_recognition_never_adds_traffic_nor_work():
    point = {B: 2, S: 64}
    for name in ("tiny-llama", "tiny-encoder", "tiny-conv"):
        raw, found = (load(name, recognise=r, mask="compute").graph for r in (False, True))
        a, b = exact_cost(raw), exact_cost(found)
        assert b.total_bytes.xreplace(point) <= a.total_bytes.xreplace(point)
        # A norm counts 4 FLOP per element as its parts do, to the constants per row.
        assert b.total_flops.xreplace(point) <= a.total_flops.xreplace(point)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-llama.onnx", "tiny-encoder", "tiny-conv"])
def test_passes_and_pictures_work_on_imported_graphs(name, tmp_path):
    program = load(name)
    plain = cg.compile(program, "h100")
    fused = cg.compile(program, "h100", "fuse")
    narrow = cg.compile(program, "h100", "fuse,quantize{preset=w4a16}")
    values = {"B": 4, "S": 128} if S in plain.latency.expr.free_symbols else {"B": 4}
    times = [c.latency.evaluate(**values) for c in (plain, fused)]
    assert times[1] < times[0]
    assert narrow.memory.evaluate(**values) < fused.memory.evaluate(**values)
    if "llama" in name:
        assert any("attention" in r.name for r in fused.rows["forward"])
    step = plain.breakdown("forward", B=4, S=128)
    assert step.totals["parameters"] == parameters(program.graph)
    assert "digraph" in plain.draw().dot


def test_flat_graphs_with_several_attentions_fuse():
    program = load("tiny-llama", recognise=False)
    from costgraph.hardware import load_hardware

    machine = load_hardware("h100")
    found = PASSES["recognise"]().run(program, alone(machine)).program
    fused = PASSES["fuse"]().run(found, alone(machine)).program
    verify_program(fused)
    names = [n.name for n in fused.graph.nodes if n.op.kind == "flash-attention"]
    assert names == [f"layers.{i}.self_attn.attention" for i in range(3)]


def test_tpot_says_that_a_traced_graph_generates_nothing():
    with pytest.raises(CostgraphError, match="ask for latency"):
        _ = cg.compile(load("tiny-conv"), "h100").tpot


def test_json_of_a_trace_round_trips():
    for path in sorted(DATA.glob("*.traced.json")):
        value = json.loads(path.read_text())
        assert to_json(from_json(value)) == value


def test_unknown_operators_are_listed_with_counts():
    value = json.loads((DATA / "tiny-llama.traced.json").read_text())
    for call in value["calls"]:
        call["target"] = {"rsqrt": "foo", "silu": "lib.bar.default"}.get(
            call["target"], call["target"]
        )
    with pytest.raises(ModelError, match=r"without a cost rule: foo ×7, lib.bar.default ×3"):
        from_torch(from_json(value))


def test_a_shape_that_does_not_follow_is_refused():
    value = json.loads((DATA / "tiny-llama.traced.json").read_text())
    (linear,) = (c for c in value["calls"] if c["name"] == "linear_3")
    linear["results"][0][1][2] = 63
    with pytest.raises(ModelError, match=r"linear_3.*states the shape"):
        from_torch(from_json(value))


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(format="other"),
        lambda v: v.update(version=9),
        lambda v: v.update(calls=3),
        lambda v: v["calls"][3].pop("target"),
        lambda v: v["calls"][3].update(args=[{"what": 1}]),
        lambda v: v["calls"][3].update(args=[{"ref": "nothing"}]),
        lambda v: v["calls"][3].update(args=[]),
        lambda v: v["sources"][0].update(dtype="string"),
        lambda v: v["sources"][0].update(shape=[{"pow": [10, 100]}]),
        lambda v: v.update(outputs=["nothing"]),
    ],
)
def test_broken_traces_are_errors_in_one_line(change):
    value = json.loads((DATA / "tiny-llama.traced.json").read_text())
    change(value)
    with pytest.raises(CostgraphError) as error:
        from_torch(from_json(value))
    assert "\n" not in str(error.value)
