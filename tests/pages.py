"""The tools that make parts of pages, for tests that those parts are current."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


def page_tool(name: str) -> Any:
    """The module ``docs/tools/NAME.py``, which is part of no package."""
    path = Path(__file__).parents[1] / "docs" / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_tool", path)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool
