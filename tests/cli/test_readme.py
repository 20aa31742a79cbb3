"""The figures in the README are what the program prints."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def test_generated_parts_are_current():
    path = Path(__file__).parents[2] / "docs" / "tools" / "readme.py"
    spec = importlib.util.spec_from_file_location("readme_tool", path)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    text = tool.README.read_text(encoding="utf-8")
    assert text.count("<!-- output:") >= 2
    assert tool.generated(text) == text
