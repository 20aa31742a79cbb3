"""The commands print what they promise."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.progress import listening


def printed(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_analyze_json_has_the_documented_shape(capsys):
    text = printed(
        capsys, "analyze", "llama-2-7b", "--on", "a6000", "--phase", "prefill",
        "--batch", "2", "--prompt", "128", "--json",
    )  # fmt: skip
    found = json.loads(text)
    assert set(found) == {
        "model", "hardware", "passes", "accounting", "fidelity", "reading", "fixed",
        "assumptions", "notes", "not_done", "warnings", "cautions",
        "phase", "bindings", "ops", "totals", "fit", "about",
    }  # fmt: skip
    assert found["bindings"] == {"B": 2, "q": 128, "T": 128}
    for op in found["ops"]:
        assert set(op) == {
            "name", "kind", "count", "flops", "bytes", "bytes_by_role", "intensity", "seconds",
            "bound", "links", "unit", "fit",
        }  # fmt: skip
        assert {"weight", "activation", "kv"} <= set(op["bytes_by_role"])
        assert sum(op["bytes_by_role"].values()) == op["bytes"]
    totals = found["totals"]
    assert totals["flops"] == sum(o["count"] * o["flops"] for o in found["ops"])
    assert totals["bytes"] == sum(o["count"] * o["bytes"] for o in found["ops"])
    assert totals["seconds"] == pytest.approx(sum(o["count"] * o["seconds"] for o in found["ops"]))
    parts = ("weight_bytes", "kv_bytes", "activation_bytes")
    assert totals["memory_bytes"] == sum(totals[p] for p in parts)
    assert totals["parameters"] == 6738415616


def test_every_real_operation_has_a_row(capsys):
    text = printed(capsys, "analyze", "llama-2-7b", "--on", "a6000", "--context", "9", "--json")
    names = {o["name"] for o in json.loads(text)["ops"]}
    assert names >= {
        "embed", "attn_norm", "q_proj", "k_proj", "v_proj", "q_rope", "k_rope", "k_append",
        "v_append", "qk_matmul", "softmax", "sv_matmul", "o_proj", "attn_add", "mlp_norm",
        "gate_proj", "up_proj", "mlp_act", "mlp_mul", "down_proj", "mlp_add", "final_norm",
        "lm_head", "sample",
    }  # fmt: skip


@pytest.mark.parametrize("metric", ["ttft", "tpot", "latency", "throughput", "memory", "flops"])
@pytest.mark.parametrize("form", ["text", "latex", "json"])
def test_every_metric_prints_in_every_format(capsys, metric, form):
    text = printed(
        capsys, "formula", "qwen3-8b", "--on", "h100", "--metric", metric, "--format", form
    )
    assert metric in text
    if form == "json":
        found = json.loads(text)
        assert found["unit"]
        assert found["terms"]


def test_symbolic_hardware_and_model_stay_in_the_formula(capsys):
    text = printed(
        capsys, "formula", "llama-2-7b", "--on", "a6000", "--symbolic-hardware",
        "--symbolic-model",
    )  # fmt: skip
    for name in ("F_fp16", "BW", "d", "L", "Hk"):
        assert name in text


def test_the_survey_accounting_is_one_flag(capsys):
    text = printed(
        capsys, "analyze", "llama-2-7b", "--on", "a6000", "--phase", "decode", "--batch", "1",
        "--context", "2048", "--accounting", "survey", "--json",
    )  # fmt: skip
    assert json.loads(text)["totals"]["bytes"] == 14_313_150_976


@pytest.mark.parametrize("command", ["hardware", "passes"])
def test_lists_print_as_tables_and_json(capsys, command):
    assert isinstance(json.loads(printed(capsys, command, "--json")), list)
    printed(capsys, command)


def test_one_model_and_one_device_in_detail(capsys):
    assert "6,738,415,616" in printed(capsys, "models", "meta-llama/Llama-2-7b-hf")
    assert json.loads(printed(capsys, "models", "gpt2", "--json"))["parameters"] == 124_439_808
    assert "datasheet" in printed(capsys, "hardware", "nvidia_A6000")
    assert json.loads(printed(capsys, "hardware", "a6000", "--json"))["bandwidth"] == 768e9


def test_the_list_of_models_says_what_they_keep(capsys):
    listed = {m["name"]: m for m in json.loads(printed(capsys, "models", "--json"))}
    grows = {n: (m["kv_bytes_per_token"], m["kv_bytes_per_token_past"]) for n, m in listed.items()}
    assert grows["llama-3-8b"] == (131_072, {})
    assert grows["mistral-7b"] == (131_072, {"4096": 0})
    assert grows["gemma-3-27b-text"] == (507_904, {"1024": 81_920})
    assert listed["gemma-3-27b-text"]["kv_bytes"] == "81920*T + 425984*min(T, 1024)"
    assert listed["opt-13b"]["context"] == 2048
    # Recurrences and relative positions have no longest context; Whisper states two.
    boundless = {"bloom", "falcon_mamba", "mamba", "mamba2", "recurrent_gemma", "t5", "whisper"}
    # Images have none; some configurations of diffusion models name a class, not a type.
    boundless |= {"vit", "swin", "convnext", "resnet", "vgg", "dit", "tarflow"}
    boundless |= {"UNet2DConditionModel", "FluxTransformer2DModel", "SD3Transformer2DModel"}
    boundless |= {"QwenImageTransformer2DModel", "WanTransformer3DModel", "longt5"}
    boundless |= {"funnel", "transfo-xl", "xlnet"}
    assert {m["family"] for m in listed.values() if not m["context"]} == boundless
    assert grows["mamba-2.8b"] == (0, {})
    assert listed["t5-small"]["kv_bytes"] == "12288*S + 12288*T"
    told: list[tuple[str, int, int]] = []
    with listening(lambda *said: told.append(said)):
        text = printed(capsys, "models")
    assert told == [("models counted", done, len(listed)) for done in range(len(listed) + 1)]
    assert "families: " in text
    assert "gemma3_text" in text


def test_a_model_shows_its_layers_and_constants(capsys):
    text = printed(capsys, "models", "gemma-3-27b-text")
    assert "sliding × 5, window 1024" in text
    assert "last_sliding × 2" in text
    assert "W = 1024 (sliding window, tokens)" in text
    assert "507,904; 81,920 past 1,024 byte per token" in text
    assert "L·(2·d + 3·I·d + 2·H·d·dh + 2·Hk·d·dh) + d + 2·V·d = 8,030,261,248" in printed(
        capsys, "models", "llama-3-8b"
    )
    found = json.loads(printed(capsys, "models", "llama-3-8b", "--json"))
    assert "d = 4096 (hidden size)" in found["constants"]
    assert found["layers"][0].startswith("layers × 32")


def test_keys_without_a_part_are_told_beside_the_output(capsys, tmp_path):
    from costgraph.models.catalog import config_of

    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config_of("gpt2"), "wibble": 3}))
    main(["analyze", str(path), "--on", "a6000", "--context", "10", "--json"])
    seen = capsys.readouterr()
    json.loads(seen.out)
    assert seen.err.count("\n") == 1
    assert "'wibble'" in seen.err
    main(["models", "gpt2"])
    assert capsys.readouterr().err == ""


def test_help_needs_no_symbolic_mathematics():
    script = (
        "import sys, costgraph.cli as c\n"
        "try: c.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'sympy' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "examples:" in done.stdout


def test_a_first_formula_needs_neither_networkx_nor_numpy():
    script = (
        "import sys, costgraph as cg\n"
        "str(cg.compile('llama-2-7b', 'a6000').tpot)\n"
        "assert not {'networkx', 'numpy', 'graphviz', 'rich'} & set(sys.modules)\n"
        "assert 'costgraph.models.families.dense' not in sys.modules"  # read one after another
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_objects_show_themselves_in_a_notebook():
    compiled = cg.compile("gpt2", "a6000")
    assert compiled.tpot._repr_latex_().startswith("$")
    assert set(compiled.tpot._repr_mimebundle_()) == {"text/plain", "text/latex"}
    assert "<table>" in compiled.graph._repr_html_()
    assert "<table>" in compiled.breakdown("decode", B=1, T=8)._repr_html_()
    assert "tpot" in compiled._repr_html_()


def test_names_from_files_are_escaped_in_html():
    config = {
        "_name_or_path": "<script>alert(1)</script>",
        **json.loads((cg.load_model.__globals__["CONFIGS"] / "gpt2.json").read_text()),
    }
    compiled = cg.compile(config, "a6000")
    for html in (compiled._repr_html_(), compiled.breakdown("decode", B=1, T=8)._repr_html_()):
        assert "<script>" not in html


@pytest.mark.parametrize(
    ("model", "rest", "phase"),
    [
        ("vgg-16", [], "forward"),
        ("funnel-small", ["--prompt", "40"], "forward"),
        ("dit-xl-2", [], "denoise"),
        ("gpt2", ["--context", "9"], "decode"),
    ],
)
def test_a_step_that_nobody_names_is_decode_or_the_only_one(capsys, model, rest, phase):
    found = json.loads(printed(capsys, "analyze", model, "--on", "a6000", *rest, "--json"))
    assert found["phase"] == phase
