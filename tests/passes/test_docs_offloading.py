"""What the page on offloading says is so."""

from __future__ import annotations

from pathlib import Path

from tests.pages import check_rounded, page_tool, run_examples

PAGE = Path(__file__).parents[2] / "docs" / "offloading.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_examples_run_and_give_what_they_say(capsys):
    space = run_examples(TEXT, PAGE.name, 6)
    assert "max( layer: t1 , pcie: 0.01265·w" in capsys.readouterr().out
    check_rounded(TEXT, space, 2)


def test_generated_parts_are_current():
    tool = page_tool("readme")
    assert PAGE in tool.PAGES
    assert TEXT.count("<!-- output:") == 1
    assert tool.generated(TEXT) == TEXT
