"""What the page on units says is so."""

from __future__ import annotations

import re
from pathlib import Path

from tests.pages import page_tool

PAGE = Path(__file__).parents[2] / "docs" / "units.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_examples_run_and_give_what_they_say():
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 6
    space: dict = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), space)
    lines = re.findall(r"^round\(.*$", TEXT, re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        expression, _, said = line.partition("  # ")
        assert eval(expression, space) == float(said.split()[0])


def test_generated_parts_are_current():
    tool = page_tool("readme")
    assert PAGE in tool.PAGES
    assert TEXT.count("<!-- output:") == 1
    assert tool.generated(TEXT) == TEXT
