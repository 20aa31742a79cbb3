"""The worked example of docs/families.md runs as written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "families.md"


def blocks() -> list[tuple[int, str]]:
    """(line, code) of every Python block of the page."""
    text = PAGE.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, m.start(1)), m.group(1))
        for m in re.finditer(r"```python\n(.*?)```", text, re.DOTALL)
    ]


def test_the_page_runs_from_top_to_bottom():
    found = blocks()
    assert len(found) >= 8
    scope: dict[str, Any] = {"__name__": "families_page"}
    for line, code in found:
        exec(compile("\n" * line + code, str(PAGE), "exec"), scope)
    # The page's claims are assertions: without them nothing was tested.
    assert sum(code.count("assert ") for _, code in found) >= 8


def test_files_that_the_page_names_exist():
    root = PAGE.parents[1]
    text = PAGE.read_text(encoding="utf-8")
    for name in set(re.findall(r"`((?:models|tests)/[\w./]+)`", text)):
        assert (root / name).exists(), name
