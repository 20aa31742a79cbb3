"""On a narrow terminal nothing that is typed or read as a number is cut."""

from __future__ import annotations

import json
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costgraph.cli import main
from costgraph.showing.export.fitting import cards, fitted, least, wrapped

WIDE = 1000
#: A command, and the cells of its table that must stand whole in a narrow one.
COMMANDS = {
    "analyze": ["analyze", "deepseek-v3", "--on", "h100", "--passes", "fuse", "--context", "99"],
    "hardware": ["hardware"],
    "one device": ["hardware", "h100"],
    "devices": ["hardware", "compare", "h100", "mi300x", "tpu-v6e"],
    "models": ["models"],
    "passes": ["passes"],
    "one pass": ["passes", "quantize"],
    "formats": ["formats", "--on", "a100,h100"],
    "compare": ["compare", "llama-3-8b", "--on", "h100,a6000", "--passes", "", "--passes",
                "fuse,quantize{preset=w4a16}"],
    "search": ["search", "llama-3-8b", "--on", "h100,a6000", "--passes", "", "--passes",
               "fuse,quantize{weights=int4}", "-B", "1:8"],
    "serve-plan": ["serve-plan", "llama-3.2-1b", "--on", "h100", "--rate", "5", "--prompt", "900",
                   "--generate", "90", "--ttft", "1 s", "--tpot", "20 ms", "--devices", "1"],
    "sweep": ["sweep", "llama-3-8b", "--on", "h100", "-B", "1,2", "-S", "100", "-N", "9"],
    "formula": ["formula", "llama-3-8b", "--on", "h100", "--passes", "fuse"],
    "a formula named": ["formula", "llama-3-8b", "--on", "h100", "--detail", "summary"],
    "a value": ["formula", "llama-3-8b", "--on", "h100", "--at", "B=1,T=99"],
    "explain": ["explain", "llama-3-8b", "--on", "h100", "--passes", "fuse", "--at", "B=1,T=99"],
    "regimes": ["regimes", "llama-3-8b", "--on", "h100", "-T", "99"],
    "solve": ["solve", "llama-3-8b", "--on", "h100", "-T", "99", "--budget", "20ms"],
    "wins": ["wins", "llama-3-8b", "--on", "h100,mi300x", "--passes", "fuse", "-T", "99"],
    "one model": ["models", "llama-3-8b"],
    "one format": ["formats", "nvfp4", "--on", "a100,h100"],
    "serve-simulate": ["serve-simulate", "llama-3.2-1b", "--on", "h100", "--rate", "5", "-S", "90",
                       "-N", "9", "--requests", "9"],
}  # fmt: skip


def shown(monkeypatch, capsys, line: list[str], columns: int) -> str:
    """What a command prints on a terminal of a width, without colours."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(line) == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


def words(text: str) -> set[str]:
    """What no line may cut: all between white space, lines of tables and places to break."""
    parts = re.split(r"[\s│┃]+|(?<=[+,|])(?=[A-Za-z])", text)
    return {p.rstrip(":") for p in parts if not re.fullmatch("[─━┏┓┡┩└┘┳╇┴-]*", p)}


@pytest.mark.parametrize("name", COMMANDS)
def test_words_and_numbers_stay_whole(monkeypatch, capsys, name):
    if name == "sweep":
        pytest.importorskip("xarray")
    wide = shown(monkeypatch, capsys, COMMANDS[name], WIDE)
    for columns in (80, 60, 40):
        narrow = shown(monkeypatch, capsys, COMMANDS[name], columns)
        # Only what has no place to break is longer than a line.
        long = [row for row in narrow.splitlines() if len(row.rstrip()) > columns]
        assert [row for row in long if least(row.strip()) < columns - 20] == []
        # Every word of the narrow text is one of the wide one; what is left out is named.
        note = "(no room for: widen the terminal, or --json)"
        names = {f"({w}" for w in words(wide)} | {f"{w}," for w in words(wide)}
        assert words(narrow) - words(wide) - names <= words(note)
        left = re.search(r"\(no room for (.*?): widen", narrow)
        gone = set(left[1].split(", ")) if left else set()
        first = {"models": "name", "hardware": "name", "one pass": "option", "passes": "pass",
                 "formats": "format"}  # fmt: skip
        assert first.get(name, "memory") not in gone


def test_names_that_are_typed_stand_whole_at_80_columns(monkeypatch, capsys):
    for command in ("models", "hardware"):
        assert main([command, "--json"]) == 0
        names = [m["name"] for m in json.loads(capsys.readouterr().out)]
        text = shown(monkeypatch, capsys, [command], 80)
        assert [n for n in names if f"│ {n} " not in text] == []


cells = st.text("ab1,+| ", min_size=1, max_size=24).map(str.strip).filter(bool)


@given(st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=4), st.integers(8, 60))
def test_a_fitted_table_keeps_every_character_and_its_width(rows, room):
    head = ("a", "b b", "c")
    kept, found, dropped = fitted(head, rows, room, 2, ("b b", "c"))
    places = [i for i, name in enumerate(head) if name not in dropped]
    for row, cut in zip(rows, found, strict=True):
        for place, cell in zip(places, cut, strict=True):
            assert cell.replace("\n", "").replace(" ", "") == row[place].replace(" ", "")
            for part in cell.split("\n"):  # broken only where a reader would
                assert part == part.strip()
    widths = [
        max(len(x) for r in (kept, *found) for x in r[i].split("\n")) for i in range(len(kept))
    ]
    needed = sum(
        least(head[i]) if not rows else max(least(head[i]), *(least(r[i]) for r in rows))
        for i in places
    )
    assert sum(widths) + 2 * (len(widths) - 1) <= max(room, needed + 2 * (len(widths) - 1))


def test_numbers_keep_their_units_and_their_commas():
    assert wrapped("memory 80.25 GB > 80 GB at B=102", 10) == "memory\n80.25 GB >\n80 GB at\nB=102"
    assert wrapped("q_proj+k_proj,v_proj", 8) == "q_proj+\nk_proj,\nv_proj"
    assert least("131,072; 0 past 4096") == len("131,072;")


def test_blocks_of_rows_stay_within_their_width():
    text = cards(("name", "source"), [("a b c d e f g h i j", "one two three four five six")], 16)
    assert text == (
        "name: a b c\n    d e f g h i\n    j\n  source: one\n    two three\n    four five\n    six"
    )
