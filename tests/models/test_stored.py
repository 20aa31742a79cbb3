"""What files say of their checkpoints: narrow, 32 bit or nothing. Never counted in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.errors import InputError, ModelError
from costgraph.models import model_names
from costgraph.models.catalog import config_of

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "vocab_size": 1000, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip

#: Descriptions of narrow weights as they stand in published configurations.
NARROW: dict[str, dict[str, Any]] = {
    "gptq": {"quantization_config": {"bits": 4, "group_size": 128, "quant_method": "gptq"}},
    "awq": {"quantization_config": {"bits": 4, "group_size": 128, "quant_method": "awq"}},
    "fp8": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
    "mxfp4": {"quantization_config": {"quant_method": "mxfp4"}},
    "bitsandbytes": {"quantization_config": {"load_in_4bit": True, "quant_method": "bitsandbytes"}},
    "compressed-tensors": {
        "quantization_config": {"quant_method": "compressed-tensors", "config_groups": {}}
    },
    "pack-quantized": {"compression_config": {"format": "pack-quantized"}},
    "modelopt": {"quantization_config": {"quant_algo": "NVFP4", "quant_method": "modelopt"}},
    "4 bit": {"quantization": {"group_size": 64, "bits": 4}},  # MLX
    "float8_e4m3fn": {"torch_dtype": "float8_e4m3fn"},
    "float8_e5m2": {"torch_dtype": None, "dtype": "float8_e5m2"},
}


#: Descriptions that say too little to know how weights are stored, or nothing of this model.
OPEN = ("mxfp4", "compressed-tensors", "pack-quantized", "float8_e4m3fn", "float8_e5m2")


@pytest.mark.parametrize("method", NARROW)
def test_narrow_checkpoints_are_read_or_refused_and_said(method: str) -> None:
    config = {**LLAMA, **NARROW[method]}
    plain = cg.compile(LLAMA, "h100")
    point = {"B": 1, "S": 10, "N": 2}
    if method in OPEN:
        with pytest.raises(ModelError, match="quantization='ignore'") as error:
            cg.compile(config, "h100")
        assert "\n" not in str(error.value)
    else:
        read = cg.compile(config, "h100")
        said = any("as the checkpoint" in note for note in read.program.notes)
        assert said
        assert read.memory(**point) < plain.memory(**point)
    ignored = cg.compile(config, "h100", quantization="ignore")
    assert ignored.memory(**point) == plain.memory(**point)
    (said_so,) = [s for s in ignored.assumptions if "16-bit model" in s]
    assert method in said_so
    # Formats that are asked for are counted, whatever the file says.
    asked = cg.compile(config, "h100", weights="int8")
    assert asked.memory(**point) < plain.memory(**point)


@pytest.mark.parametrize("section", ["text_config", "llm_config"])
def test_sections_of_multimodal_models_count(section: str) -> None:
    config = dict(config_of("qwen3-vl-8b"))
    held = {"quantization_config": {"quant_method": "awq", "bits": 4}}
    config[section] = {**config.get(section, {}), **held}
    notes = " ".join(cg.compile(config, "h100").program.notes)
    assert "(awq) stores it: int4-g128" in notes


@pytest.mark.parametrize(
    "off",
    [
        {"quantization_config": None},
        {"quantization_config": {}},
        {"quantization_config": {"load_in_4bit": False, "load_in_8bit": False}},
        {"quantization": False},
    ],
)
def test_descriptions_that_say_nothing_are_no_matter(off: dict[str, Any]) -> None:
    assert cg.compile({**LLAMA, **off}, "h100").assumptions == ()


@pytest.mark.parametrize(
    ("stored", "words"),
    [("float32", "says fp32"), (None, "names no data type"), ("auto", "names no data type")],
)
def test_halved_checkpoints_are_said(stored: str | None, words: str) -> None:
    config = {**LLAMA, "torch_dtype": stored}
    made, plain = cg.compile(config, "h100"), cg.compile(LLAMA, "h100")
    assert made.memory(B=1, S=10, N=2) == plain.memory(B=1, S=10, N=2)
    (said,) = made.assumptions
    assert said == f"weights and activations are counted in 16 bit; the file {words}"
    weights = cg.compile(config, "h100", weights="fp32")
    both = cg.compile(config, "h100", weights="fp32", activations="fp32")
    assert [s.split(" ")[0] for s in weights.assumptions] == ["activations"]
    assert both.assumptions == ()
    for whole in (weights, both):
        totals = whole.breakdown("decode", B=1, T=10).totals
        assert totals["weight_bytes"] == 4 * totals["parameters"]


@pytest.mark.parametrize("name", model_names())
def test_shipped_models_work_and_say_what_is_counted(name: str) -> None:
    config = config_of(name)
    made = cg.compile(name, "h100").program
    said = any("as the checkpoint" in note for note in made.notes)
    assert said == bool(config.get("quantization_config"))


def test_the_command_line_takes_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LLAMA, "torch_dtype": "float32"}))
    command = ["analyze", str(path), "--on", "h100", "--context", "10"]
    main(command)
    shown = capsys.readouterr().out
    assert "the file says fp32" in shown
    main([*command, "--weights", "fp32", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["totals"]["weight_bytes"] == 4 * found["totals"]["parameters"]
    path.write_text(json.dumps({**LLAMA, **NARROW["gptq"]}))
    refused = tmp_path / "odd.json"
    odd = {"quantization_config": {"quant_method": "gptq", "bits": 4, "planes": 3}}
    refused.write_text(json.dumps({**LLAMA, **odd}))
    for command in (
        ["analyze", "--on", "h100", "--context", "10"],
        ["formula", "--on", "h100"],
        ["compare", "--on", "h100", "--passes", ""],
        ["search", "--on", "h100"],
        ["sweep", "--on", "h100", "-T", "9"],
        ["explain", "--on", "h100", "--at", "B=1,T=10"],
        ["regimes", "--on", "h100", "--at", "T=10"],
        ["solve", "--on", "h100", "--at", "T=10", "--budget", "1ms"],
    ):
        whole = [command[0], str(path), *command[1:]]
        main(whole)
        shown = capsys.readouterr()
        assert "as the checkpoint (gptq) stores it: int4-g128" in shown.out + shown.err
        main([*whole, "--quantization", "ignore"])
        assert "the 16-bit model is counted: 'quantization_config' (gptq)" in (
            capsys.readouterr().out
        )
        with pytest.raises(SystemExit):
            main([command[0], str(refused), *command[1:]])
        told = capsys.readouterr().err
        assert "'planes' = 3" in told
        assert "--quantization ignore" in told
    with pytest.raises(InputError, match="'read' or 'ignore'"):
        cg.compile(LLAMA, "h100", quantization="skip")
