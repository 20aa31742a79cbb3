"""Whatever a command prints or writes says what it is about, and that it does not fit."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.cli.entry import _build_parser
from costgraph.showing.draw import SUFFIXES
from costgraph.showing.export.code import LANGUAGES

#: Weights alone exceed the device's memory.
MODEL, DEVICE = "llama-2-13b", "rtx-4090"
#: Passes, accounting and fidelity, none of them as usual in both.
SETTINGS = {
    "calibrated": ("fuse", "exact", "calibrated"),
    "survey": ("quantize{activations=int8}", "survey", "ideal"),
}
STEP = ("--batch", "2", "--context", "900")
#: (command, further arguments, how the format is asked for, formats).
TEXTS = [
    ("formula", (), "--format", ("text", "latex", "tex", "html", "json", *LANGUAGES)),
    ("formula", ("--detail", "ops"), "--format", ("text", "latex", "tex", "html")),
    ("formula", ("--detail", "summary", "--metric", "ttft"), "--format", ("text", "latex")),
    ("analyze", STEP, "--json", (None, "")),
    ("compare", (), "--json", (None, "")),
    ("explain", ("--at", "B=2,T=900"), "--json", (None, "")),
    ("regimes", ("--at", "T=900"), "--json", (None, "")),
    ("regimes", ("--metric", "ttft", "--over", "B,S"), "--json", (None, "")),
    ("solve", ("--at", "T=900", "--budget", "80 ms"), "--json", (None, "")),
    ("solve", ("--at", "T=900", "--budget", "80 ms"), "--format", ("latex", "csv")),
    ("explain", ("--at", "B=2,T=900"), "--format", ("latex",)),
    ("regimes", ("--at", "T=900"), "--format", ("latex",)),
    ("wins", ("--passes", "", "--at", "T=900"), "--format", ("text", "json", "latex")),
    ("search", ("--limit", "memory=none", "-B", "1:4"), "--json", (None, "")),
    ("sweep", ("-B", "1,2", "-S", "9", "-N", "9", "--metric", "latency,memory"), "-o",
     (None, "o.csv", "o.parquet", "o.nc", "o.zarr")),
]  # fmt: skip
FILES = [
    ("draw", STEP, [s for s in SUFFIXES if s not in (".png", ".pdf")]),
    ("draw", (*STEP, "--level", "model"), [".dot"]),
    ("draw", (*STEP, "--level", "layer"), [".mmd"]),
    ("report", STEP, [".html"]),
]
_LOAD = ("--rate", "0.5", "--prompt", "100", "--generate", "9")
#: Commands about servers, which refuse what does not fit; and what makes them use one device.
SERVING = {
    "serve-plan": (*_LOAD, "--ttft", "9 s", "--tpot", "1 s", "--devices", "2", "--no-pools"),
    "serve-simulate": (*_LOAD, "--requests", "20"),
}
ALONE = {name: tuple("1" if x == "2" else x for x in more) for name, more in SERVING.items()}
#: Each kind of figure with values.
FIGURES = {
    "roofline": STEP,
    "curve": ("--context", "900"),
    "map": (),
    "breakdown": ("--context", "900"),
    "waterfall": ("--prompt", "100", "--generate", "9"),
    "ablation": ("--prompt", "100", "--generate", "9"),
    "pareto": ("--context", "900"),
}


def arguments(command: str, case: str, *more: str) -> list[str]:
    passes, accounting, fidelity = SETTINGS[case]
    return [
        command, MODEL, "--on", DEVICE, "--passes", passes, "--accounting", accounting,
        "--fidelity", fidelity, *more,
    ]  # fmt: skip


def told(text: str, case: str, fits: str = "does not fit") -> None:
    """The text names the model, the device, the passes and what is not as usual."""
    passes, accounting, fidelity = SETTINGS[case]
    # Escapes of HTML, LaTeX, JSON and DOT, and line breaks, do not hide a word.
    plain = re.sub(r"\s+", " ", unescape(text).replace("\\", ""))
    wanted = [MODEL, DEVICE, *re.findall(r"[\w-]+", passes), fidelity]
    wanted += [accounting] if accounting != "exact" else []
    for word in wanted:
        assert word in plain, word
    assert fits in plain


def test_the_weights_alone_are_too_large():
    (warning,) = cg.compile(MODEL, DEVICE).setting.warnings
    assert "does not fit: it needs at least 26.03 GB" in warning


def test_every_command_that_compiles_is_tried():
    parser = _build_parser()
    (commands,) = (a for a in parser._actions if a.dest == "==SUPPRESS==" or a.choices)
    compiling = {
        name
        for name, command in commands.choices.items()
        if {"model", "fidelity"} <= {a.dest for a in command._actions}
    }
    assert compiling == {t[0] for t in (*TEXTS, *FILES)} | {"plot", "reliability", *SERVING}


@pytest.mark.parametrize("form", ["text", "json"])
def test_reliability_says_what_it_is_about_and_that_it_does_not_fit(capsys, form):
    """Two devices exchange sums over a link whose rate is random; caches of all are too large."""
    line = arguments("reliability", "calibrated", "--metric", "tpot", "--at", "B=999,T=900")
    line[3] = f"2x{DEVICE}"
    line[5] += ",parallel{tp=2}"
    line += ["--link", "pcie", "--channel", "exponential:25 GB/s"]
    assert main([*line, *(["--json"] if form == "json" else [])]) == 0
    told(capsys.readouterr().out, "calibrated")


@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize("command", sorted(SERVING))
def test_servers_say_what_they_are_about_and_that_nothing_fits(capsys, command, case):
    """One device refuses the model; a replica of two holds it."""
    pytest.importorskip("simpy")
    with pytest.raises(SystemExit):
        main(arguments(command, case, *ALONE[command]))
    assert re.search("exceed 90% of memory|does not fit", capsys.readouterr().err)
    if case == "survey":  # counts no exchanges between devices
        return
    line = arguments(command, case, *SERVING[command])
    if command == "serve-simulate":
        line[3] = f"2x{DEVICE}"
        line[5] += ",parallel{tp=2}"
    assert main(line) == 0
    told(capsys.readouterr().out, case, MODEL)
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    _, accounting, fidelity = SETTINGS[case]
    assert (found["model"], found["accounting"], found["fidelity"]) == (
        MODEL, accounting, fidelity,
    )  # fmt: skip
    assert DEVICE in found["hardware"]
    assert found["passes"] == line[5]


@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize(("command", "more", "option", "formats"), TEXTS)
def test_texts_say_what_they_are_about(capsys, tmp_path, command, more, option, formats, case):
    if command == "regimes" and case == "calibrated" and "B,S" in more:
        more = ("--over", "B,T")
    # What formats have in common is tried once; the unusual accounting in the first ones.
    for form in formats if case == "calibrated" else formats[:2]:
        asked = [] if form is None else [option, form] if form else [option]
        if option == "-o" and form is not None:
            pytest.importorskip("xarray")
            asked = ["-o", str(tmp_path / form)]
        assert main(arguments(command, case, *more, *asked)) == 0
        text = capsys.readouterr().out
        if option == "-o" and form is not None:
            text = stored(tmp_path / form)
        fits = {"compare": "(too large)", "sweep": "no", "search": MODEL}.get(
            command, "does not fit"
        )
        if form in ("", "json"):
            found = json.loads(text)
            passes, accounting, fidelity = SETTINGS[case]
            assert (found["model"], found["accounting"], found["fidelity"]) == (
                MODEL, accounting, fidelity,
            )  # fmt: skip
            assert DEVICE in found["hardware"]
            assert {"reading", "fixed", "notes", "warnings"} <= set(found)
            parts = found.get("pipelines") or found.get("candidates")
            assert passes in ([p["passes"] for p in parts] if parts else [found["passes"]])
            if command == "compare":
                assert [p["fits"] for p in parts] == [False]
            elif command != "search":
                assert found["warnings"]
            if command != "search":
                full = [x for x in found["cautions"] if "does not fit" in x]
                assert full
                assert {*found["warnings"]} <= {*full}
                assert (found.get("fit") or {"warning": ""})["warning"] in ("", *full)
        elif option == "-o":
            told(text, case, "False" if form else "no")
        else:
            told(text, case, fits)


def stored(path: Path) -> str:
    """A stored sweep as the text of its table."""
    if path.suffix == ".csv":
        return path.read_text(encoding="utf-8")
    if path.suffix == ".parquet":
        import pandas

        return pandas.read_parquet(path).to_csv()
    from costgraph.asking.sweeping import open_sweep
    from costgraph.asking.sweeping.export import frames

    with open_sweep(path) as data:
        return next(frames(data)).to_csv()


@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize(("command", "more", "suffixes"), FILES)
def test_files_say_what_they_are_about(capsys, tmp_path, command, more, suffixes, case):
    for suffix in suffixes if case == "calibrated" else suffixes[:1]:
        path = tmp_path / f"x{suffix}"
        assert main(arguments(command, case, *more, "-o", str(path))) == 0
        told(path.read_text(encoding="utf-8"), case)


@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize("kind", FIGURES)
def test_figures_say_what_they_are_about(monkeypatch, tmp_path, kind, case):
    matplotlib = pytest.importorskip("matplotlib")
    from costgraph.showing import plot

    made = []
    monkeypatch.setattr(plot, "save", lambda figure, path: made.append(figure) or path)
    line = arguments("plot", case, *FIGURES[kind], "-o", str(tmp_path / "x.svg"))
    assert main([line[0], kind, *line[1:]]) == 0
    texts = [t.get_text() for t in made[0].findobj(matplotlib.text.Text)]
    fits = "no batch fits" if kind == "pareto" else "does not fit"
    told(" ".join(texts).replace("…", ""), case, fits)


def test_python_says_it_too():
    compiled = cg.compile(MODEL, DEVICE, "fuse", fidelity="calibrated")
    shown = {
        "formula": (compiled.tpot, "does not fit"),
        "named": (compiled.readable("tpot"), "does not fit"),
        "breakdown": (compiled.breakdown("decode", B=1, T=9), "does not fit"),
        "explain": (compiled.explain("tpot", B=1, T=9), "does not fit"),
        "regimes": (compiled.tpot.regimes("B", T=9), "does not fit"),
        "solution": (compiled.tpot.solve_for("B", 0.1, T=9), "does not fit"),
        "difference": (compiled.tpot - cg.compile(MODEL, "h100").tpot, "does not fit"),
        "compare": (cg.compare(MODEL, DEVICE, ["fuse"], fidelity="calibrated"), "too large"),
    }
    for found, fits in shown.values():
        told(str(found), "calibrated", fits)
        told(found._repr_html_(), "calibrated", fits)
    assert "h100" in str(shown["difference"][0])
    assert "rtx-4090 | h100" in str(shown["difference"][0])


def test_what_fits_carries_no_warning(capsys):
    for command, more in {
        "formula": [],
        "analyze": ["--context", "9"],
        "explain": ["--at", "B=1,T=9"],
        "compare": ["--passes", "fuse", "--prompt", "100", "--generate", "9"],
    }.items():
        assert main([command, "gpt2", "--on", "a6000", *more]) == 0
        text = capsys.readouterr().out
        assert "fit:" not in text
        assert "too large" not in text


def test_a_workload_that_is_too_large_says_so_though_its_weights_fit(capsys):
    assert main(["analyze", "gpt2", "--on", "a6000", "--batch", "9000", "--context", "1000"]) == 0
    assert "does not fit: it needs" in capsys.readouterr().out
    compiled = cg.compile("gpt2", "a6000")
    assert compiled.fit(B=9000, T=1000).fits is False
    assert compiled.fit(B=1, T=1000).fits is True
    assert compiled.fit().fits is None  # the least that it needs fits; more may not
    need = compiled.fit(B=3, S=100, N=20)
    assert need.bytes == compiled.memory.evaluate(B=3, S=100, N=20)
