"""Every bad input gives one clear line on standard error and exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from costgraph.cli import main
from costgraph.models.catalog import CONFIGS

LLAMA = json.loads((CONFIGS / "llama-2-7b.json").read_text())
DEVICE = """
name = "mine"
title = "My device"
[sources]
me = "measured"
[peaks.tensor]
bf16 = { value = "100 TFLOP/s", source = "me" }
[memory]
bandwidth = { value = "1 TB/s", source = "me" }
"""

PEAKS = '[peaks.tensor]\nbf16 = { value = "100 TFLOP/s", source = "me" }'


def config(**changes: object) -> str:
    values = {**LLAMA, **changes}
    return json.dumps({k: v for k, v in values.items() if v is not ...})


#: (what is wrong, text of the config file, words that the message holds)
CONFIGS_THAT_FAIL = [
    ("not json", "{", ["config.json", "JSON"]),
    ("empty", "", ["JSON"]),
    ("a list", "[1, 2]", ["object"]),
    ("deeply nested", "[" * 100_000, ["JSON"]),
    ("not text", "\x00\xff\xfe", ["JSON"]),
    ("unknown type", config(model_type="lama"), ["lama", "'llama'"]),
    ("no type", config(model_type=..., architectures=...), ["model_type"]),
    (
        "unknown architecture",
        config(model_type=..., architectures=["LlamaForCausal"]),
        ["LlamaForCausalLM"],
    ),
    ("type is a list", config(model_type=["llama"]), ["model_type"]),
    ("missing size", config(hidden_size=...), ["hidden_size"]),
    ("missing layers", config(num_hidden_layers=...), ["num_hidden_layers"]),
    ("negative size", config(hidden_size=-4096), ["hidden_size", "positive"]),
    ("zero layers", config(num_hidden_layers=0), ["num_hidden_layers", "positive"]),
    ("fraction", config(intermediate_size=11008.5), ["intermediate_size", "whole"]),
    ("NaN", config(vocab_size=float("nan")), ["vocab_size"]),
    ("infinity", config(vocab_size=float("inf")), ["vocab_size"]),
    ("huge", config(hidden_size=10**30), ["hidden_size"]),
    ("huge float", config(hidden_size=1e300), ["hidden_size"]),
    ("true as size", config(hidden_size=True), ["hidden_size", "whole"]),
    ("code as size", config(hidden_size="__import__('os')"), ["hidden_size", "whole"]),
    ("heads do not divide", config(num_attention_heads=33), ["33"]),
    ("groups do not divide", config(num_key_value_heads=5), ["num_key_value_heads"]),
    ("unknown activation", config(hidden_act="sliu"), ["sliu", "silu"]),
    ("activation is a number", config(hidden_act=3), ["hidden_act"]),
    ("unknown dtype", config(torch_dtype="float15"), ["torch_dtype", "float15"]),
    ("null size", config(num_attention_heads=None), ["'num_attention_heads' is null"]),
    ("null layers", config(num_hidden_layers=None), ["'num_hidden_layers' is null"]),
    ("endless digits", '{"hidden_size": ' + "1" * 10_000 + "}", ["digits, too many"]),
    ("flag is a text", config(tie_word_embeddings="no"), ["tie_word_embeddings"]),
]

DEVICES_THAT_FAIL = [
    ("not toml", "name = ", ["TOML"]),
    ("no sources", 'name = "x"\ntitle = "y"\n', ["sources"]),
    ("no name", DEVICE.replace('name = "mine"', ""), ["name"]),
    ("unknown key", DEVICE + "\n[memry]\n", ["memry", "memory"]),
    ("no peaks", DEVICE.replace(PEAKS, ""), ["peak"]),
    ("no bandwidth", DEVICE.replace("bandwidth", "capacity").replace("TB/s", "TB"), ["bandwidth"]),
    ("no unit", DEVICE.replace('"1 TB/s"', '"1000"'), ["unit", "GB/s"]),
    ("a bare number", DEVICE.replace('"1 TB/s"', "1000"), ["unit"]),
    ("wrong dimension", DEVICE.replace("1 TB/s", "1 TFLOP/s"), ["bandwidth", "GB/s"]),
    ("bits", DEVICE.replace("1 TB/s", "8 Tb/s"), ["bits"]),
    ("unknown unit", DEVICE.replace("TFLOP/s", "TFLIP/s"), ["TFLIP/s", "FLOP/s"]),
    ("negative", DEVICE.replace("1 TB/s", "-1 TB/s"), ["positive"]),
    ("zero", DEVICE.replace("100 TFLOP/s", "0 TFLOP/s"), ["positive"]),
    ("NaN", DEVICE.replace('"1 TB/s"', '"nan TB/s"'), ["bandwidth"]),
    ("bare NaN", DEVICE.replace('"1 TB/s"', "nan"), ["bandwidth"]),
    ("huge", DEVICE.replace("1 TB/s", "1e40 TB/s"), ["beyond"]),
    ("code", DEVICE.replace("1 TB/s", "__import__('os')"), ["bandwidth"]),
    ("no source", DEVICE.replace(', source = "me"', ""), ["source"]),
    ("wrong source", DEVICE.replace('source = "me"', 'source = "my"'), ["my", "me"]),
    ("unknown type", DEVICE.replace("bf16", "bf61"), ["bf61", "bf16"]),
    ("not a table", DEVICE.replace('{ value = "1 TB/s", source = "me" }', '"1 TB/s"'), ["source"]),
]

#: (what is wrong, arguments, words that the message holds)
ARGUMENTS_THAT_FAIL = [
    ("unknown model", ["formula", "llama-2-77b", "--on", "a6000"], ["llama-2-7"]),
    ("code as model", ["formula", "__import__('os')", "--on", "a6000"], ["__import__"]),
    ("no such file", ["formula", "./nothing.json", "--on", "a6000"], ["no such file"]),
    ("path tricks", ["formula", "../configs/gpt2", "--on", "a6000"], ["unknown model"]),
    ("empty model", ["formula", "", "--on", "a6000"], ["model name"]),
    ("unknown hardware", ["formula", "gpt2", "--on", "a600"], ["a6000"]),
    ("no such device file", ["formula", "gpt2", "--on", "./x.toml"], ["no such file"]),
    ("no hardware", ["formula", "gpt2"], ["--on"]),
    ("unknown metric", ["formula", "gpt2", "--on", "a6000", "--metric", "speed"], ["speed"]),
    ("unknown format", ["formula", "gpt2", "--on", "a6000", "--format", "pdf"], ["pdf"]),
    ("unknown pass", ["formula", "gpt2", "--on", "a6000", "--passes", "fuze"], ["fuze"]),
    ("code as pass", ["formula", "gpt2", "--on", "a6000", "--passes", "eval('1')"], ["pass"]),
    ("open brace", ["formula", "gpt2", "--on", "a6000", "--passes", "x{"], ["x"]),
    ("trailing comma", ["formula", "gpt2", "--on", "a6000", "--passes", ","], ["pass name"]),
    ("long pipeline", ["formula", "gpt2", "--on", "a6000", "--passes", "x" * 20000], ["long"]),
    ("unknown accounting", ["analyze", "gpt2", "--on", "a6000", "--accounting", "exat",
                            "--context", "5"], ["exact"]),
    ("no context", ["analyze", "gpt2", "--on", "a6000"], ["--context"]),
    ("no prompt", ["analyze", "gpt2", "--on", "a6000", "--phase", "prefill"], ["--prompt"]),
    ("zero batch", ["analyze", "gpt2", "--on", "a6000", "--batch", "0", "--context", "5"], ["0"]),
    ("negative", ["analyze", "gpt2", "--on", "a6000", "--batch=-1", "--context", "5"], ["-1"]),
    ("nan", ["analyze", "gpt2", "--on", "a6000", "--batch", "nan", "--context", "5"], ["nan"]),
    ("fraction", ["analyze", "gpt2", "--on", "a6000", "--batch", "1.5", "--context", "5"], ["1.5"]),
    ("huge", ["analyze", "gpt2", "--on", "a6000", "--batch", "9" * 40, "--context", "5"], ["999"]),
    ("code", ["analyze", "gpt2", "--on", "a6000", "--context", "__import__('os')"], ["__import__"]),
    ("unknown device shown", ["hardware", "h1000"], ["h100"]),
    ("unknown model shown", ["models", "qwen3-9b"], ["qwen3-8b"]),
    ("unknown pass shown", ["passes", "nope"], ["nope"]),
    ("unknown command", ["frmula"], ["frmula"]),
    ("wide tree", ["formula", "gpt2", "--on", "a6000", "--passes",
                   "speculative{draft=heads,tree=t999|999}"], ["from 1 to 64, not '999'"]),
    ("deep tree", ["formula", "gpt2", "--on", "a6000", "--passes",
                   "speculative{draft=heads,tree=t" + "1|" * 16 + "1}"], ["17 levels; at most 16"]),
    ("vast budget", ["solve", "gpt2", "--on", "a6000", "--over", "B", "--context", "9", "--budget",
                     "1e9999999999"], ["too large"]),
    ("vast limit", ["search", "gpt2", "--on", "a6000", "--limit", "tpot=1e9999999999s"],
     ["too large"]),
    ("tiny limit", ["search", "gpt2", "--on", "a6000", "--limit", "tpot=1e-9999"], ["too small"]),
    ("vast range", ["sweep", "gpt2", "--on", "a6000", "-B", "1:1e99999", "-T", "9"], ["too large"]),
]  # fmt: skip


def fails(capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert out == ""
    assert err.startswith("costgraph: error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert len(err) < 600
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("text", "words"), [c[1:] for c in CONFIGS_THAT_FAIL], ids=[c[0] for c in CONFIGS_THAT_FAIL]
)
def test_bad_model_files(capsys, tmp_path: Path, text, words):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("latin-1"))
    fails(capsys, ["formula", str(path), "--on", "a6000"], words)


@pytest.mark.parametrize(
    ("text", "words"), [c[1:] for c in DEVICES_THAT_FAIL], ids=[c[0] for c in DEVICES_THAT_FAIL]
)
def test_bad_device_files(capsys, tmp_path: Path, text, words):
    path = tmp_path / "device.toml"
    path.write_text(text)
    fails(capsys, ["formula", "gpt2", "--on", str(path)], words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [c[1:] for c in ARGUMENTS_THAT_FAIL],
    ids=[c[0] for c in ARGUMENTS_THAT_FAIL],
)
def test_bad_arguments(capsys, arguments, words):
    fails(capsys, arguments, words)


def test_a_directory_and_an_oversized_file_are_refused(capsys, tmp_path: Path):
    fails(capsys, ["formula", "gpt2", "--on", f"{tmp_path}/"], ["no such file"])
    big = tmp_path / "big.json"
    big.write_text(" " * (5 * 2**20))
    fails(capsys, ["formula", str(big), "--on", "a6000"], ["larger"])


def test_the_device_used_by_these_cases_is_itself_fine(capsys, tmp_path: Path):
    path = tmp_path / "device.toml"
    path.write_text(DEVICE)
    assert main(["formula", "gpt2", "--on", str(path)]) == 0
    assert "1 TB/s" in capsys.readouterr().out
