"""What tests of pages share: their examples, and the tools that make parts of them."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any


def page_tool(name: str) -> Any:
    """The module ``docs/tools/NAME.py``, which is part of no package."""
    path = Path(__file__).parents[1] / "docs" / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_tool", path)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = tool  # where dataclasses look their annotations up
    spec.loader.exec_module(tool)
    return tool


def run_examples(text: str, name: str, count: int) -> dict[str, Any]:
    """Runs the ``count`` Python examples of a page in one space of names, which it returns."""
    space: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == count
    for block in blocks:
        exec(compile(block, name, "exec"), space)
    return space


def check_rounded(text: str, space: dict[str, Any], count: int) -> None:
    """That ``count`` lines ``round(…)  # 1.5`` of a page's examples give what is behind them."""
    lines = re.findall(r"^round\(.*$", text, re.MULTILINE)
    assert len(lines) == count
    for line in lines:
        expression, _, said = line.partition("  # ")
        assert eval(expression, space) == float(said.split()[0])
