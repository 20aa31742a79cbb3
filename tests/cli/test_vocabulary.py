"""One thing has one name in every command, and nothing given is without effect in silence."""

from __future__ import annotations

import json
import re
from dataclasses import fields

import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.cli.entry import _build_parser
from costgraph.errors import InputError
from costgraph.ir.metrics import METRICS, metrics_of
from costgraph.setting import Setting
from costgraph.undone import Undone
from tests.lines import refused


def printed(capsys, *line: str) -> str:
    assert main(list(line)) == 0
    return capsys.readouterr().out


def commands() -> dict:
    (found,) = (a for a in _build_parser()._actions if a.choices)
    return found.choices


def test_every_command_that_compiles_takes_any_symbol():
    compiling = {n: c for n, c in commands().items() if "fidelity" in {a.dest for a in c._actions}}
    assert len(compiling) == 15
    for name, command in compiling.items():
        assert {"set", "accounting", "model", "on", "passes"} <= {
            a.dest for a in command._actions
        }, name


@pytest.mark.parametrize(
    ("line", "missing", "given"),
    [
        (
            ["compare", "dit-xl-2", "--on", "h100", "--passes", "fuse"],
            "--set K=…",
            ["--set", "K=20"],
        ),
        (
            [
                "compare",
                "qwen2.5-vl-7b",
                "--on",
                "a100",
                "--prompt",
                "1500",
                "--generate",
                "128",
                "--passes",
                "fuse",
            ],
            "--images G",
            ["--images", "1196"],
        ),
        (
            ["compare", "flux-1-dev", "--on", "h100", "--prompt", "512", "--passes", "fuse"],
            "--images G",
            ["--images", "1024", "--set", "K=4"],
        ),
        (
            ["search", "dit-xl-2", "--on", "h100", "--metric", "latency"],
            "--set K=…",
            ["--set", "K=20"],
        ),
        (
            ["analyze", "qwen2.5-vl-7b", "--on", "h100", "--phase", "vision"],
            "--images G",
            ["--set", "G=256"],
        ),
        (
            ["sweep", "dit-xl-2", "--on", "h100", "-B", "1,2", "--metric", "latency"],
            "needs values for K",
            ["--set", "K=20"],
        ),
        (
            [
                "compare",
                "llama-3-8b",
                "--on",
                "h100",
                "--passes",
                "speculative{draft=llama-3.2-1b,alpha=acc}",
            ],
            "--set acc=…",
            ["--set", "acc=0.8"],
        ),
    ],
)
def test_a_missing_symbol_names_its_option(capsys, line, missing, given):
    assert missing in refused(capsys, *line)
    assert printed(capsys, *line, *given)


def test_fractions_are_numbers_of_json(capsys, tmp_path):
    passes = ("--passes", "speculative{draft=llama-3.2-1b,alpha=acc}", "--set", "acc=0.8")
    line = ("compare", "llama-3-8b", "--on", "h100", *passes, "--json")
    assert json.loads(printed(capsys, *line))["bindings"]["acc"] == 0.8
    line = ("explain", "llama-3-8b", "--on", "h100", *passes, "--at", "B=1,T=9", "--json")
    assert json.loads(printed(capsys, *line))["point"] == {"B": 1, "T": 9, "acc": 0.8}
    line = ("solve", "llama-3-8b", "--on", "h100", *passes, "--context", "9", "--budget", "0.5",
            "--json")  # fmt: skip
    assert json.loads(printed(capsys, *line))["fixed"] == {"T": "9", "acc": "4/5"}
    out = tmp_path / "r.html"
    printed(capsys, "report", "llama-3-8b", "--on", "h100", *passes, "-o", str(out))
    assert '"name":"acc","kind":"probability"' in out.read_text(encoding="utf-8")
    assert '"value":0.8' in out.read_text(encoding="utf-8")


def test_drawings_and_figures_take_them_too(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "x.dot"
    printed(capsys, "draw", "dit-xl-2", "--on", "h100", "--batch", "4", "-o", str(out))
    assert "denoise step, B=4" in out.read_text(encoding="utf-8")
    line = ("plot", "curve", "dit-xl-2", "--on", "h100", "-o", str(tmp_path / "x.svg"))
    assert "--set K=…" in refused(capsys, *line)
    printed(capsys, *line, "--set", "K=20")
    text = printed(
        capsys, "formula", "dit-xl-2", "--on", "h100", "--metric", "latency", "--set", "K=20"
    )
    assert text.startswith("dit-xl-2 on h100, K=20, no passes")
    assert "latency(B) [s]" in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["compare", "dit-xl-2", "--on", "h100", "--passes", "", "--prompt", "3"], "depends on S"),
        (
            ["analyze", "llama-2-7b", "--on", "a6000", "--context", "9", "--prompt", "9"],
            "does not depend on 'S'",
        ),
        (
            ["analyze", "llama-2-7b", "--on", "a6000", "--context", "9", "--set", "Q=9"],
            "does not depend on 'Q'",
        ),
        (["explain", "gpt2", "--on", "a6000", "--at", "B=1,T=9", "--prompt", "9"], "no symbol 'S'"),
        (["explain", "gpt2", "--on", "a6000", "--at", "B=1,T=9", "--batch", "2"], "given twice"),
        (
            ["solve", "gpt2", "--on", "a6000", "--budget", "1", "--set", "T=9", "--set", "T=8"],
            "twice",
        ),
        (["search", "gpt2", "--on", "a6000", "--set", "K=9"], "depends on K"),
        (
            [
                "plot",
                "curve",
                "gpt2",
                "--on",
                "a6000",
                "--context",
                "9",
                "--images",
                "9",
                "-o",
                "x.svg",
            ],
            "depends on G",
        ),
        (
            ["report", "dit-xl-2", "--on", "h100", "--generate", "9", "-o", "x.html"],
            "no symbol 'N'",
        ),
        (
            ["draw", "dit-xl-2", "--on", "h100", "--context", "9", "-o", "x.dot"],
            "does not depend on 'T'",
        ),
        (["compare", "gpt2", "--on", "a6000,", "--passes", ""], "a name is missing"),
        (["compare", "gpt2", "--on", "a6000", "--passes", "", "--set", "K"], "not NAME=NUMBER"),
        (["plot", "map", "gpt2", "--on", "a6000,h100", "-o", "x.svg"], "takes one --on"),
    ],
)
def test_what_has_no_effect_is_refused(capsys, monkeypatch, tmp_path, line, words):
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, *line)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line",
    [
        ("analyze", "rwkv-4-169m"),
        ("analyze", "mamba-130m", "--phase", "decode"),
        ("draw", "mamba-130m", "-B", "1", "-o", "x.dot"),
        ("plot", "roofline", "mamba-130m", "-o", "x.svg"),
        ("plot", "breakdown", "mamba-130m", "-o", "x.svg"),
        ("report", "mamba-130m", "-o", "x.html"),
    ],
    ids=" ".join,
)
def test_what_attends_to_nothing_takes_no_context(capsys, monkeypatch, tmp_path, line):
    """A step without attention stands at no context: none is asked for, and none is taken."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    words = (*line, "--on", "h100")
    said = refused(capsys, *words, "-T", "9")
    assert re.search("does not depend on 'T'; it depends on B$|no symbol 'T'", said.strip())
    assert list(tmp_path.iterdir()) == []
    text = printed(capsys, *words)
    assert "T=" not in text


def test_compare_shows_every_device(capsys):
    line = (
        "compare",
        "gpt2",
        "--passes",
        "",
        "--passes",
        "fuse",
        "--prompt",
        "100",
        "--generate",
        "9",
    )
    once = json.loads(printed(capsys, *line, "--on", "h100", "--on", "a6000", "--json"))
    assert once == json.loads(printed(capsys, *line, "--on", "h100,a6000", "--json"))
    rows = once["pipelines"]
    assert [(r["hardware"], r["passes"]) for r in rows] == [
        (h, p) for h in ("h100", "a6000") for p in ("none", "fuse")
    ]
    for device in ("h100", "a6000"):
        alone = json.loads(printed(capsys, *line, "--on", device, "--json"))["pipelines"]
        mine = [r for r in rows if r["hardware"] == device]
        for a, b in zip(alone, mine, strict=True):
            assert {**a, "speedup": 0} == {**b, "speedup": 0}
    assert rows[3]["speedup"] == pytest.approx(rows[0]["latency"] / rows[3]["latency"])
    text = printed(capsys, *line, "--on", "h100,a6000")
    assert text.splitlines()[3].split()[:2] == ["device", "pipeline"]
    table = cg.compare("gpt2", ["h100", "a6000"], ["", "fuse"], S=100, N=9)
    assert [c.hardware for c in table.columns] == ["h100", "h100", "a6000", "a6000"]


def test_models_without_tokens_are_compared_and_searched(capsys):
    line = ("compare", "bert-base", "--on", "h100", "--passes", "fuse", "--prompt", "99", "--json")
    (row,) = json.loads(printed(capsys, *line))["pipelines"]
    assert row["ttft"] is row["tpot"] is row["throughput"] is None
    assert row["latency"] == cg.compile("bert-base", "h100", "fuse").latency(B=1, S=99)
    for command in ("search", "formula"):
        said = refused(capsys, command, "dit-xl-2", "--on", "h100")
        assert said.endswith(
            "ask for latency, the time of a whole request (denoise): --metric latency\n"
        )
    text = printed(capsys, "compare", "t5-small", "--on", "h100", "-S", "16", "-N", "9", "-B", "64")
    assert "e+" not in text  # a million tokens a second
    said = refused(capsys, "search", "bert-base", "--on", "h100", "-S", "9", "--metric", "latency",
                   "--limit", "tpot=1s")  # fmt: skip
    assert "no tpot" in said
    assert "--metric" not in said


def test_compile_fixes_symbols_for_good():
    fixed, free = cg.compile("dit-xl-2", "h100", K=20), cg.compile("dit-xl-2", "h100")
    for metric in fixed.metrics:
        a, b = getattr(fixed, metric), getattr(free, metric)
        at = {s.name: 3 for s in a.symbols}
        steps = {s.name: 20 for s in b.symbols if s.name == "K"}
        assert a(**at) == pytest.approx(b(**at, **steps), rel=1e-12)
    assert "K=20" in fixed.setting.text()
    assert fixed.latency(B=1, K=20) == fixed.latency(B=1)
    with pytest.raises(InputError, match="K is 20 here, not 30"):
        fixed.latency(B=1, K=30)
    images = cg.compile("qwen2.5-vl-7b", "h100", G=256)
    free = cg.compile("qwen2.5-vl-7b", "h100").ttft
    assert images.ttft(B=1, S=300) == pytest.approx(free(B=1, S=300, G=256), rel=1e-12)
    spec = "speculative{draft=llama-3.2-1b,alpha=acc}"
    assert cg.compile("llama-3-8b", "h100", spec, acc=0.8).tpot(B=1, T=99) == pytest.approx(
        cg.compile("llama-3-8b", "h100", spec).tpot(B=1, T=99, acc=0.8), rel=1e-12
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"K": 0}, "positive"),
        ({"B": 3}, "size of each request"),
        ({"Q": 3}, "no option or symbol"),
        ({"weigths": "int8"}, "did you mean 'weights'"),
        ({"K": "x"}, "not a number"),
    ],
)
def test_compile_refuses_what_it_does_not_know(options, words):
    with pytest.raises(InputError, match=words):
        cg.compile("dit-xl-2", "h100", **options)
    with pytest.raises(InputError, match="is read already"):
        cg.compile(cg.load_model("gpt2"), "h100", weights="int8")


def test_options_of_reading_stand_in_the_setting():
    made = cg.compile("mixtral-8x7b", "h100", routing="zipf:1", weights="int8")
    assert made.setting.text().endswith("routing zipf:1, weights int8, fidelity ideal")
    assert made.tpot.setting.to_dict()["reading"] == {"routing": "zipf:1", "weights": "int8"}
    assert cg.compile("gpt2", "h100", mask="skip").setting.reading == ()


def test_a_setting_shows_all_that_it_holds():
    # What symbols stand for, which are whole numbers and which may be zero, is said by legends,
    # solutions and refusals.
    apart = ("symbols", "whole", "zero")
    values = {f.name: f"<{f.name}>" for f in fields(Setting) if f.name not in apart}
    values |= {n: ((f"<{n}>", "<value>"),) for n in ("reading", "fixed")}
    values |= {n: (f"<{n}>",) for n in ("assumptions", "notes", "warnings", "cautions")}
    values["not_done"] = (Undone("<not_done>", False, "rule", "place", "reason"),)
    made = Setting(**values)
    lines = "\n".join([*made.lines(), *made.foot()])
    for name in values:
        assert lines.count(f"<{name}>") == 1
        assert f"<{name}>" in str(made.to_dict()[name])
    assert "<hardware>" not in made.text(without=("hardware",))
    both = made.beside(Setting("<model>", "<other>"))
    assert both.hardware == "<hardware> | <other>"


def test_metrics_follow_from_what_a_program_does():
    assert set(metrics_of(cg.load_model("gpt2"))) == set(METRICS) - {"interval"}
    staged = cg.compile("gpt2", "2xh100", "parallel{pp=2}").program
    assert set(metrics_of(staged)) == set(METRICS)
    for model in ("dit-xl-2", "bert-base", "vit-base-16", "sdxl-unet"):
        assert not {m for m in metrics_of(cg.load_model(model)) if METRICS[m].of_tokens}
