"""What the pages on edges and hosts say is so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pages import check_rounded, page_tool, run_examples

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("name", "blocks", "lines"), [("edges", 4, 2), ("hosts", 4, 2)])
def test_examples_run_and_give_what_they_say(name, blocks, lines):
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    check_rounded(text, run_examples(text, name, blocks), lines)


def test_generated_parts_are_current():
    tool, page = page_tool("readme"), DOCS / "edges.md"
    assert page in tool.PAGES
    text = page.read_text(encoding="utf-8")
    assert tool.generated(text) == text
