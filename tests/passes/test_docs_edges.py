"""What the pages on edges and hosts say is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pages import page_tool

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("name", "blocks", "lines"), [("edges", 2, 1), ("hosts", 3, 1)])
def test_examples_run_and_give_what_they_say(name, blocks, lines):
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    found = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(found) == blocks
    space: dict = {}
    for block in found:
        exec(compile(block, name, "exec"), space)
    said = re.findall(r"^round\(.*$", text, re.MULTILINE)
    assert len(said) == lines
    for line in said:
        expression, _, value = line.partition("  # ")
        assert eval(expression, space) == float(value.split()[0])


def test_generated_parts_are_current():
    tool, page = page_tool("readme"), DOCS / "edges.md"
    assert page in tool.PAGES
    text = page.read_text(encoding="utf-8")
    assert tool.generated(text) == text
