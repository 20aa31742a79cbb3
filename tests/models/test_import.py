"""Importing configurations: names, paths, families, formats, limits."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from sympy import Min

import costgraph as cg
from costgraph.counting.count import parameters, rows
from costgraph.counting.footprint import cache_bytes
from costgraph.errors import InputError, ModelError, UnboundSymbolError
from costgraph.models import find, load_model, model_names
from costgraph.models.catalog import CONFIGS
from costgraph.symbols import B, T


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("meta-llama/Llama-2-7b-hf", "llama-2-7b"),
        ("meta-llama/Llama-2-7b", "llama-2-7b"),
        ("META-LLAMA/llama-2-7b-HF", "llama-2-7b"),
        ("Llama-2-7b-chat-hf", "llama-2-7b"),
        ("openai-community/gpt2", "gpt2"),
        ("EleutherAI/gpt-j-6b", "gpt-j-6b"),
        ("Qwen/Qwen3-8B", "qwen3-8b"),
        ("LLAMA_3_8B", "llama-3-8b"),
    ],
)
def test_hub_names_find_their_shipped_twin(name, short):
    assert find(name) == short


def test_names_paths_directories_and_objects_mean_the_same(tmp_path: Path):
    text = (CONFIGS / "gpt2.json").read_text()
    (tmp_path / "config.json").write_text(text)
    graphs = [
        load_model(spec).graph.nodes
        for spec in ("gpt2", str(tmp_path), tmp_path, tmp_path / "config.json", json.loads(text))
    ]
    assert all(nodes == graphs[0] for nodes in graphs)
    program = load_model("gpt2")
    assert load_model(program) is program


#: KV bytes per token: 2 · layers · KV heads · head size · 2 byte.
KV = {
    "llama-2-7b": 524_288,
    "llama-2-13b": 819_200,
    "llama-2-70b": 327_680,
    "opt-13b": 819_200,
    "llama-3-8b": 131_072,
    "qwen3-8b": 147_456,
    "gemma-2b": 18_432,  # multi-query, head size apart from hidden size over heads
}


@pytest.mark.parametrize("name", KV)
def test_kv_bytes_per_token(name):
    assert cache_bytes(load_model(name).graph) == KV[name] * B * T


def test_head_size_may_differ_from_hidden_over_heads():
    names = {r.name: r for r in rows(load_model("qwen3-0.6b").graph)}
    assert names["q_proj"].node.outputs[0].shape[2:] == (16, 128)


def test_formats_are_set_on_import():
    base, narrow = load_model("llama-2-7b"), load_model("llama-2-7b", weights="int4", kv="int8")
    assert cache_bytes(narrow.graph) * 2 == cache_bytes(base.graph)
    assert parameters(narrow.graph) == parameters(base.graph)
    with pytest.raises(InputError, match="int4"):
        load_model("llama-2-7b", weights="itn4")


def test_dense_masks_and_all_logits_are_options():
    lazy = cg.compile("gpt2", "a6000").breakdown("prefill", B=1, S=64)
    eager = cg.compile("gpt2", "a6000", mask="compute", logits="all").breakdown(
        "prefill", B=1, S=64
    )
    assert eager["qk_matmul"].flops == 2 * 12 * 64 * 64 * 64
    assert lazy["qk_matmul"].flops == 2 * 12 * 64 * 64 * 65 // 2
    assert eager["lm_head"].flops == 64 * lazy["lm_head"].flops


def test_a_window_caps_cache_and_step():
    compiled = cg.compile("mistral-7b", "h100")
    assert compiled.tpot.evaluate(B=1, T=4095) < compiled.tpot.evaluate(B=1, T=4096)
    assert compiled.tpot.evaluate(B=1, T=4096) == compiled.tpot.evaluate(B=1, T=9000)
    assert cache_bytes(compiled.graph) == 131_072 * B * Min(T, 4096)
    assert compiled.breakdown("decode", B=1, T=9000).totals["kv_bytes"] == 131_072 * 4096


def test_the_survey_counts_what_a_windowed_step_sees():
    from costgraph.models.catalog import config_of

    config = dict(config_of("mistral-7b"))
    full = {**config, "sliding_window": None}
    narrow, wide = (cg.compile(c, "a6000", accounting="survey") for c in (config, full))
    assert narrow.tpot.evaluate(B=2, T=4000) == wide.tpot.evaluate(B=2, T=4000)
    assert narrow.tpot.evaluate(B=2, T=9000) == wide.tpot.evaluate(B=2, T=4096)
    assert narrow.ttft.evaluate(B=1, S=9000) == wide.ttft.evaluate(B=1, S=9000)


def test_missing_and_wrong_values_explain_themselves():
    formula = cg.compile("gpt2", "a6000").tpot
    with pytest.raises(UnboundSymbolError, match="T"):
        formula.evaluate(B=1)
    with pytest.raises(InputError, match="positive"):
        formula.evaluate(B=-1, T=5)
    with pytest.raises(InputError, match="positive"):
        formula.evaluate(B=float("nan"), T=5)
    with pytest.raises(InputError, match="Q"):
        formula.evaluate(B=1, T=5, Q=1)
    with pytest.raises(InputError, match="whole"):
        cg.compile("gpt2", "a6000").latency.evaluate(B=1, S=1.5, N=2)


def test_unknown_architectures_name_the_nearest():
    with pytest.raises(ModelError, match="qwen3"):
        load_model({"model_type": "qwen33"})


DECODERS = [n for n in model_names() if load_model(n).phases[0].name == "prefill"]


@pytest.mark.parametrize("name", DECODERS)
def test_every_shipped_model_gives_every_metric(name):
    compiled = cg.compile(name, "h100")
    values = {"B": 2, "S": 100, "N": 10}
    latency = compiled.latency.evaluate(**values)
    assert 0 < compiled.tpot.evaluate(B=2, T=100) < latency
    assert 0 < compiled.ttft.evaluate(B=2, S=100) < latency
    assert compiled.throughput.evaluate(**values) * latency == pytest.approx(20)
    # Published checkpoints in a narrow format hold less than 16 bit an element.
    narrow = any("as the checkpoint" in n for n in compiled.program.notes)
    least = int(compiled.parameters) * (Fraction(1, 2) if narrow else 2)
    assert compiled.memory.evaluate(**values) > least
    # Expected numbers of experts, whose weights are read and converted, are fractions.
    for total in (compiled.flops, compiled.bytes):
        whole = isinstance(total.evaluate(**values), int)
        assert whole or any(a.startswith("experts:") for a in compiled.assumptions)
    step = compiled.breakdown("decode", B=2, T=100)
    assert step.totals["seconds"] == pytest.approx(compiled.tpot.evaluate(B=2, T=100), rel=1e-12)


def test_symbolic_dimensions_give_the_same_numbers():
    symbolic = cg.compile("llama-3-8b", "a6000", symbolic_model=True)
    plain = cg.compile("llama-3-8b", "a6000").tpot.evaluate(B=4, T=777)
    dims = {s.name: int(v) for s, v in symbolic.program.dims}
    used = {s.name: dims[s.name] for s in symbolic.tpot.symbols if s.name in dims}
    assert symbolic.tpot.evaluate(B=4, T=777, **used) == pytest.approx(plain, rel=1e-12)
    assert symbolic.breakdown("decode", B=4, T=777).totals["seconds"] == pytest.approx(plain)


def test_a_shipped_configuration_is_read_once_for_each_way_to_read_it():
    first, again = load_model("opt-125m"), load_model("facebook/opt-125m")
    assert first.phases is again.phases
    assert load_model("opt-125m", symbolic=True).dims
    assert not first.dims
    listed = load_model("mixtral-8x7b", routing=[2, 1, 1, 1, 1, 1, 1, 1])
    assert listed.phases != load_model("mixtral-8x7b").phases
    with pytest.raises(InputError, match="quantization"):
        load_model("opt-125m", quantization=True)
