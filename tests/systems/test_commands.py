"""Every command takes a system, names it, and says what idles and what does not fit."""

from __future__ import annotations

import json

import pytest

import costgraph as cg
from costgraph.cli import main

SYSTEM = "4xh100"
PASSES = "fuse,parallel{tp=4}"
#: Every command that asks for a device, with how it does: arguments around the system.
COMMANDS = {
    "formula": ["llama-3-8b", "--on", SYSTEM],
    "analyze": ["llama-3-8b", "--on", SYSTEM, "--context", "256"],
    "compare": ["llama-3-8b", "--on", SYSTEM],
    "regimes": ["llama-3-8b", "--on", SYSTEM, "--over", "B", "--context", "256"],
    "explain": ["llama-3-8b", "--on", SYSTEM, "--batch", "4", "--context", "256"],
    "solve": ["llama-3-8b", "--on", SYSTEM, "--over", "B", "--budget", "20ms", "--context", "256"],
    "sweep": ["llama-3-8b", "--on", SYSTEM, "-B", "1,2", "-T", "256"],
    "search": ["llama-3-8b", "--on", SYSTEM],
}


def printed(capsys, *arguments: str) -> str:
    try:
        assert main(arguments) == 0
    except SystemExit as stop:
        raise AssertionError(capsys.readouterr().err) from stop
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "idle"])
def test_every_command_takes_a_system(capsys, command, shared):
    passes = PASSES if shared else "fuse"
    out = printed(capsys, command, *COMMANDS[command], "--passes", passes)
    assert SYSTEM in out
    idle = f"one device of {SYSTEM} runs the model, the other 3 idle"
    if shared:
        assert idle not in out
    else:
        assert idle in out


@pytest.mark.parametrize("command", ["analyze", "compare", "search", "explain"])
def test_json_says_what_idles(capsys, command):
    options = [*COMMANDS[command], "--passes", "fuse", "--json"]
    found = json.loads(printed(capsys, command, *options))
    assert found["hardware"] == SYSTEM
    assert any("the other 3 idle" in text for text in found["cautions"])


@pytest.mark.parametrize("suffix", ["svg", "json"])
def test_pictures_and_reports_name_the_system(capsys, tmp_path, suffix):
    picture = tmp_path / f"graph.{suffix}"
    printed(capsys, "draw", "llama-3-8b", "--on", SYSTEM, "--context", "64", "-o", str(picture))
    text = picture.read_text()
    assert SYSTEM in text
    assert "the other 3 idle" in text
    page = tmp_path / "page.html"
    options = ["--on", f"{SYSTEM},2xh100", "--passes", "parallel{tp=auto}", "-o", str(page)]
    printed(capsys, "report", "llama-3-8b", *options)
    assert SYSTEM in page.read_text()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("system", "words"),
    [("8xh10", "did you mean"), ("dgx-h10", "did you mean"), ("0xh100", "at least one device")],
)
def test_wrong_systems_are_one_line(capsys, command, system, words):
    arguments = [system if a == SYSTEM else a for a in COMMANDS[command]]
    with pytest.raises(SystemExit) as stop:
        main([command, *arguments, "--passes", "fuse"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error


def test_a_system_file_and_a_host_are_taken(capsys, tmp_path):
    from pathlib import Path

    shipped = Path(cg.__file__).parents[1] / "hardware" / "systems" / "dgx-h100.toml"
    own = tmp_path / "mine.toml"
    own.write_text(shipped.read_text())
    out = printed(capsys, "formula", "llama-3-70b", "--on", str(own), "--passes", "parallel{tp=8}")
    assert "does not fit" not in out
    out = printed(capsys, "formula", "gpt2", "--on", "rtx-4090+i9-13900k")
    assert "gpt2 on rtx-4090+i9-13900k" in out
    assert "idle" not in out


def test_links_of_a_system_are_shown_with_their_source(capsys):
    out = printed(capsys, "hardware", "2x8xh200")
    assert "nvlink" in out
    assert "source" in out
    assert "through the host" in printed(capsys, "hardware", "2xrtx-4090")
    listed = printed(capsys, "hardware")
    assert "dgx-h100" in listed
    made = cg.compile("llama-3-8b", "2xrtx-4090", "parallel{tp=2}")
    assert any("through the host" in text for text in made.assumptions)


#: What does not fit, and what the warning names.
TOO_LARGE = [
    ("llama-3-70b", "h100", "", "parallel{tp=2} on 2xh100 would do"),
    ("llama-3-70b", "8xh100", "fuse", "parallel{tp=8} would do"),
    ("deepseek-v3", "h200", "", "on 8xh200 would do"),
    ("llama-3-70b", "8xh100", "parallel{dp=8}", "parallel{tp=8} would do"),
]


@pytest.mark.parametrize(("model", "system", "passes", "words"), TOO_LARGE)
def test_what_does_not_fit_says_what_would(model, system, passes, words):
    made = cg.compile(model, system, passes)
    (warning,) = made.setting.warnings
    assert warning.startswith("does not fit: it needs at least ")
    assert words in warning
    # What is named holds it, and no half as many devices do.
    plan, _, place = words.removesuffix(" would do").partition("on ")
    plan = plan.strip() or warning.split("; ")[1].split(" on ")[0]
    there = place or system
    other = cg.compile(model, there, ",".join(filter(None, ("fuse" * (passes == "fuse"), plan))))
    assert not other.setting.warnings
    held = [float(w.rsplit(" with ", 1)[1].split()[0]) for w in (warning.split(" on each")[0],)]
    weights = other.breakdown("decode", B=1, T=1).totals["weight_bytes"] / 1e9
    assert held[0] == pytest.approx(weights, rel=1e-3)


def test_a_workload_that_does_not_fit_says_what_would():
    fit = cg.compile("llama-3-8b", "h100", "fuse").fit(B=900, T=2048)
    assert fit.fits is False
    assert "parallel{tp=4} on 4xh100 would do" in fit.warning
    assert cg.compile("llama-3-8b", "4xh100", "fuse,parallel{tp=4}").fit(B=900, T=2048).fits
    assert not cg.compile("llama-3-8b", "2xh100", "fuse,parallel{tp=2}").fit(B=900, T=2048).fits
