"""Bars of what is counted, seconds of what is not; nothing where nobody looks on."""

from __future__ import annotations

import gzip
import io
import re
import sys
import time
from pathlib import Path

import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.cli import progress as seen
from costgraph.progress import counted, listening, tell

ROOT = Path(__file__).parents[2]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def heard(run) -> dict[str, list[tuple[int, int]]]:
    """What a listener is told, by what it is about."""
    found: dict[str, list[tuple[int, int]]] = {}
    with listening(lambda what, done, total: found.setdefault(what, []).append((done, total))):
        run()
    return found


def test_what_is_counted_is_told_to_whoever_listens():
    assert list(counted([1, 2], "things")) == [1, 2]  # to nobody

    def run() -> None:
        assert list(counted("ab", "letters")) == ["a", "b"]
        tell("words", 1, 3)

    assert heard(run) == {"letters": [(0, 2), (1, 2), (2, 2)], "words": [(1, 3)]}


WORK = {
    "compare": ("compare gpt2 --on h100,a100 --passes fuse -S 64 -N 8", "pipelines compared", 2),
    "search": ("search gpt2 --on h100,a100 -S 64 -N 8 -B 1:4", "candidates searched", 2),
    "report": ("report gpt2 --on h100 -o {0}.html", "variants written", 1),
    "draw": ("draw gpt2 --on h100 -o {0}.dot", "compiled, drawn, laid out", 3),
    "plot": ("plot curve gpt2 --on h100 --passes= --passes fuse -T 16:64 -o {0}.svg",
             "pipelines compiled", 2),
    "import": ("import {1}", "operators read", None),
    "calibrate": ("calibrate --from {2} --device a40", "fits without some rows", None),
}  # fmt: skip


@pytest.mark.parametrize("name", WORK)
def test_long_commands_say_how_far_they_are(name, capsys, tmp_path):
    line, what, total = WORK[name]
    table = tmp_path / "gemm.csv"
    if name == "import":
        pytest.importorskip("onnx")
    if name == "calibrate":
        with gzip.open(ROOT / "benchmarks" / "data" / "timings" / "gemm.csv.gz", "rt") as file:
            head, *rows = file.readlines()
        table.write_text("".join([head, *[r for r in rows if r.startswith("a40,")][::4]]))
    graph = ROOT / "tests" / "importers" / "data" / "tiny-llama.onnx"
    words = line.format(tmp_path / "out", graph, table).split()
    found = heard(lambda: main(words))
    assert what in found, sorted(found)
    done, of = zip(*found[what], strict=True)
    assert set(of) == {total or of[0]}
    assert list(done) == sorted(done)


def test_a_bar_takes_the_place_of_seconds_and_ends_before_anything_is_said(monkeypatch):
    monkeypatch.setattr(seen, "AFTER", 0.0)
    monkeypatch.setattr(seen, "OFTEN", 0.0)
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with seen.waiting("costgraph report"):
        for _ in counted(range(3), "variants written"):
            time.sleep(0.15)
        before = stream.getvalue()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", before)
    assert "variants written" in shown
    assert re.search(r"[12]/3", shown)
    assert "/?" not in shown
    after = stream.getvalue()
    monkeypatch.setattr(seen, "AFTER", 9.0)
    with seen.waiting("costgraph report"):
        pass
    assert stream.getvalue() == after  # nothing left behind, nothing for what takes no time


def test_no_bar_where_nobody_looks(monkeypatch, capsys):
    monkeypatch.setattr(seen, "AFTER", 0.0)
    assert main(["compare", "gpt2", "--on", "h100", "-S", "64", "-N", "8"]) == 0
    assert capsys.readouterr().err == ""


def test_figures_drawings_and_reports_are_attributes():
    assert cg.draw is __import__("costgraph.showing.draw", fromlist=["draw"]).draw
    assert cg.report is __import__("costgraph.showing.report", fromlist=["report"]).report
    assert {"draw", "plot", "report"} <= set(dir(cg))
    pytest.importorskip("matplotlib")
    assert cg.plot.curve.__module__ == "costgraph.showing.plot.curves"
