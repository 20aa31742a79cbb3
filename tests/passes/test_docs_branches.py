"""What the page on branches and iterations says is so."""

from __future__ import annotations

from pathlib import Path

from tests.pages import check_rounded, page_tool, run_examples

PAGE = Path(__file__).parents[2] / "docs" / "branches-and-iterations.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_examples_run_and_give_what_they_say():
    check_rounded(TEXT, run_examples(TEXT, PAGE.name, 3), 2)


def test_generated_parts_are_current():
    tool = page_tool("readme")
    assert PAGE in tool.PAGES
    assert TEXT.count("<!-- output:") == 2
    assert tool.generated(TEXT) == TEXT
