"""Output that is closed, full or in ASCII, interruptions, and files that cannot be written."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import TypeAlias

import pytest
from sympy import Rational, oo

from costgraph.cli import main
from costgraph.cli.entry import _build_parser
from costgraph.cli.output import guarded
from costgraph.errors import InputError
from costgraph.files.writing import whole_file, write_whole
from costgraph.showing.export.code import LANGUAGES
from costgraph.showing.export.plain_json import json_text
from costgraph.symbols import symbol

Done: TypeAlias = subprocess.CompletedProcess[str]
COMMANDS = next(a for a in _build_parser()._actions if a.dest == "command" or a.choices).choices


def shell(
    line: str, encoding: str = "utf-8", **environment: str
) -> subprocess.CompletedProcess[str]:
    """A command line of the shell; ``cg`` is costgraph."""
    text = f'cg() {{ "{sys.executable}" -m costgraph "$@"; }}; {line}'
    return subprocess.run(
        ["bash", "-c", text], capture_output=True, encoding=encoding, timeout=120,
        env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture(autouse=True)
def heeded():
    """Processes are interrupted as from a terminal: a job in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def one_line(found: Done, words: str) -> None:
    assert found.returncode == 2
    assert found.stderr.startswith("costgraph: error: ")
    assert found.stderr.count("\n") == 1
    assert words in found.stderr


def test_standard_output_that_cannot_be_written_to():
    one_line(shell("cg passes > /dev/full"), "standard output: No space left on device")
    one_line(shell("cg passes >&-"), "standard output: it is closed")
    found = shell("cg passes nope 2>&-")
    assert (found.returncode, found.stdout, found.stderr) == (2, "", "")


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("line", ["", "--version", "--help", *(f"{c} --help" for c in COMMANDS)])
def test_help_that_cannot_be_written_is_told_as_well(line, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said == "costgraph: error: standard output: No space left on device\n"


@pytest.mark.parametrize(
    ("main_is", "code", "said"),
    [
        ("lambda: 0", 0, ""),
        ("lambda: sys.exit(2)", 2, ""),
        ("lambda: interrupt() or 0", 130, "costgraph: interrupted\n"),
        # Interpreters remember an interruption in code that was given as text.
        ("lambda: exec('interrupt()')", 130, "costgraph: interrupted\n"),
    ],
)
def test_a_process_ends_in_one_way_whenever_it_is_interrupted(main_is, code, said):
    """The end is interrupted as well: a handler that runs at exit does it."""
    script = (
        "import atexit, os, signal, sys\n"
        "from costgraph import cli\n"
        "interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
        f"cli.main = {main_is}\n"
        "atexit.register(interrupt)\n"
        "cli.program()\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert (found.returncode, found.stderr, found.stdout) == (code, said, "")


def test_a_reader_that_leaves_is_no_error():
    found = shell("cg formula gpt2 --on h100 --format json | head -c 9; exit ${PIPESTATUS[0]}")
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == '{\n  "mode'


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_terminals_without_unicode(encoding):
    found = shell("cg formula gpt2 --on h100", encoding, PYTHONIOENCODING=encoding)
    assert (found.returncode, found.stderr) == (0, "")
    assert "max( " in found.stdout
    if encoding == "ascii":
        assert found.stdout.isascii()
        assert "<- " in found.stdout
        assert "12 * max(" in found.stdout


def test_names_with_undecodable_bytes():
    found = shell("cg models $'x\\xff.json'")
    one_line(found, "x\\udcff.json")


def test_the_handler_of_characters_is_only_lent(capsys):
    before = sys.stdout
    with guarded():
        assert sys.stdout is not before
        print("\udcff")
    assert sys.stdout is before
    assert capsys.readouterr().out == "\\udcff\n"


#: Arguments with which a command starts to work, and what it calls then.
WORK = {
    "formula": "gpt2 --on h100", "analyze": "gpt2 --on h100 --context 5",
    "compare": "gpt2 --on h100 --passes fuse", "explain": "gpt2 --on h100 --at B=1,T=5",
    "regimes": "gpt2 --on h100 --at T=5", "solve": "gpt2 --on h100 --at T=5 --budget 1",
    "wins": "gpt2 --on h100,a100 --at T=5",
    "reliability": "gpt2 --on h100 --channel exponential:1GB/s",
    "sweep": "gpt2 --on h100 -T 5", "search": "gpt2 --on h100", "draw": "gpt2 -o x.svg",
    "plot": "curve gpt2 --on h100 -o x.svg", "report": "gpt2 --on h100 -o x.html",
    "models": "gpt2", "hardware": "h100", "passes": "fuse", "formats": "int4",
    "serve-plan": "gpt2 --on h100 --rate 1 --prompt 9 --generate 9 --ttft 1s --tpot 1s",
    "serve-simulate": "gpt2 --on h100 --rate 1 --prompt 9 --generate 9",
    "explore": "gpt2 --no-browser", "serve": "gpt2 --no-browser", "site": "-o x",
    "calibrate": "--from x.csv --device h100", "validate": "--on h100",
    "completion": "bash", "import": "x.onnx",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_ends_in_one_line_when_interrupted(capsys, monkeypatch, name):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    places = (
        "costgraph.compiling.compilation.compile",
        "costgraph.models.load_model",
        "costgraph.models.account.account",
        "costgraph.hardware.load_hardware",
        "costgraph.asking.comparison.compare",
        "costgraph.asking.searching.search",
        "costgraph.showing.report.report",
        "costgraph.showing.explorer.server.serve",
        "costgraph.showing.explorer.site.site",
        "costgraph.asking.sweeping.grid.preview",
        "costgraph.showing.export.models.show_model",
        "costgraph.showing.export.machines.show_hardware",
        "costgraph.showing.export.listing.show_pass",
        "costgraph.showing.export.formats.show_format",
        "costgraph.cli.completion.script",
    )
    for place in places:  # before any of them is changed under another
        import_module(place.rpartition(".")[0])
    for place in places:
        monkeypatch.setattr(place, interrupted)
    assert main([name, *WORK[name].split()]) == 130
    out, err = capsys.readouterr()
    assert (out, err) == ("", "costgraph: interrupted\n")


def test_an_interrupted_process_says_so(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "costgraph", "sweep", "gpt2", "--on", "h100", "-B", "1:100000",
         "-T", "1:900", "--chunk", "100", "-o", str(tmp_path / "o.csv")],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    partial = tmp_path / "o.csv.partial" / "finished"
    try:
        deadline = time.monotonic() + 60
        while not (partial.is_file() and partial.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert out == ""
    assert err == "costgraph: interrupted; the same command continues the sweep\n"


# --- one value for an option ---------------------------------------------------


def single_options():
    for name, command in COMMANDS.items():
        for action in command._actions:
            usual = action.option_strings and action.nargs != 0 and action.dest != "help"
            if usual and type(action).__name__ == "_Once":
                yield name, action.option_strings[-1], action


@pytest.mark.parametrize(
    ("name", "option", "action"),
    list(single_options()),
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_an_option_of_one_value_takes_one(capsys, name, option, action):
    value = str(next(iter(action.choices))) if action.choices else "1"
    with pytest.raises(SystemExit) as caught:
        main([name, option, value, option, value])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert "is given twice, and takes one value" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("language", ["json", *LANGUAGES])
def test_a_detail_is_for_formats_that_show_it(capsys, language):
    with pytest.raises(SystemExit):
        main(["formula", "gpt2", "--on", "h100", "--format", language, "--detail", "summary"])
    out, err = capsys.readouterr()
    assert out == ""
    assert f"not {language}" in err


# --- JSON ------------------------------------------------------------------------


def test_one_encoder_takes_every_number():
    found = {
        "a": Fraction(1, 3), "b": Rational(6, 2), "c": float("nan"), "d": oo, "e": (1, Fraction(4)),
        "f": symbol("B") / 2, "g": None, "h": True, "i": "é",
    }  # fmt: skip
    made = json.loads(json_text(found), parse_constant=pytest.fail)
    assert made == {
        "a": 1 / 3, "b": 3, "c": None, "d": None, "e": [1, 4], "f": "B/2", "g": None, "h": True,
        "i": "é",
    }  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "explain gpt2 --on h100 --at B=4/3,T=100.5 --json",
        "regimes mixtral-8x7b --on h100 --at T=4/3 --json",
        "solve gpt2 --on h100 --at T=1e3 --budget 1/7 --json",
    ],
)
def test_fractions_are_printed_as_json(capsys, line):
    assert main(line.split()) == 0
    json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


# --- files -----------------------------------------------------------------------


def full(path: Path, *_: object, **__: object) -> None:
    Path(path).open("wb").close()
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("line", "name", "place"),
    [
        ("draw gpt2 -o out.dot", "out.dot", "pathlib.Path.write_bytes"),
        ("plot curve gpt2 --on h100 --context 9 -o out.svg", "out.svg", "pathlib.Path.write_bytes"),
        ("report gpt2 --on h100 -o out.html", "out.html", "pathlib.Path.write_bytes"),
        ("calibrate --from t.csv --device h100 -o out.toml", "out.toml",
         "pathlib.Path.write_bytes"),
        ("calibrate --from t.csv --device h100 --plot out.png", "out.png",
         "matplotlib.figure.Figure.savefig"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("fault", ["full", "interrupted"])
def test_a_failed_write_leaves_what_was_there(capsys, tmp_path, monkeypatch, line, name, place,
                                              fault):  # fmt: skip
    if "matplotlib" in place or line.startswith("plot"):
        pytest.importorskip("matplotlib")
    if line.startswith("calibrate"):
        pytest.importorskip("scipy")
        rows = ["rows,cols,op,dtype,hw,seconds"]
        rows += [f"{r},{c},add,bf16,h100,{r * c * 2e-12 + 1e-6}" for r in (64, 512, 4096, 9999)
                 for c in (128, 1024, 4096)]  # fmt: skip
        (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(b"precious")
    before = sorted(os.listdir(tmp_path))

    def interrupted(self: object, path: object, *_: object, **__: object) -> None:
        raise KeyboardInterrupt

    if fault == "interrupted":
        monkeypatch.setattr(place, interrupted)
        assert main(line.split()) == 130
    else:
        wanted = full if place.startswith("pathlib") else lambda self, path, **_: full(path)
        monkeypatch.setattr(place, wanted)
        with pytest.raises(SystemExit) as caught:
            main(line.split())
        assert caught.value.code == 2
        assert "No space left on device" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == before


def test_files_are_written_through_links_and_to_regular_files_only(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    os.mkfifo(tmp_path / "pipe")
    for bad, words in (
        (tmp_path / "pipe", "no regular file"), ("/dev/null", "no regular file"),
        (tmp_path, "is a directory"), (tmp_path / "no" / "x", "No such file"),
        (tmp_path / ("a" * 256), "too long"), (f"{tmp_path}/a\0b", "not the name of a file"),
        (f"{tmp_path}/a\ud800b", "not the name of a file"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            write_whole(bad, b"x")
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe", "real"]
    write_whole(f"{tmp_path}/a\udcffb", b"x")  # bytes that are no text are a name
    assert os.fsencode(tmp_path) + b"/a\xffb" in [
        os.fsencode(p) for p in Path(tmp_path).iterdir()
    ]  # fmt: skip


def test_a_defect_while_writing_is_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "x"):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []
