"""What the page on offloading says is so."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "offloading.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_examples_run_and_give_what_they_say(capsys):
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 5
    space: dict = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), space)
    assert "max( layer: t1 , pcie: 0.01265·w" in capsys.readouterr().out
    lines = re.findall(r"^round\(.*$", TEXT, re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        expression, _, said = line.partition("  # ")
        assert eval(expression, space) == float(said.split()[0])


def test_generated_parts_are_current():
    path = PAGE.parent / "tools" / "readme.py"
    spec = importlib.util.spec_from_file_location("page_tool", path)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert PAGE in tool.PAGES
    assert TEXT.count("<!-- output:") == 1
    assert tool.generated(TEXT) == TEXT
