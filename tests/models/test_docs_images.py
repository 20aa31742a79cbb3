"""The examples of docs/images.md run, and its table is that of the processors."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.pages import run_examples

HERE = Path(__file__).parent
TEXT = (HERE.parents[1] / "docs" / "images.md").read_text(encoding="utf-8")
TABLE = json.loads((HERE / "data" / "image_tokens.json").read_text())


def test_every_example_runs():
    space = run_examples(TEXT, "docs/images.md", 5)
    assert f"told  # {space['told']}" in TEXT
    vit, merged = (space[n].latency.evaluate(B=256) for n in ("vit", "merged"))
    assert f"# {vit / merged:.2f} times" in TEXT


def test_the_table_is_that_of_the_processors():
    found = re.findall(r"^\| (\d+) x (\d+) \| ([\d |]+) \|$", TEXT, re.MULTILINE)
    assert len(found) == 6
    rows = {tuple(r[:2]): r[2:] for r in TABLE["images"]}
    for width, height, told in found:
        assert [int(n) for n in told.split(" | ")] == rows[int(height), int(width)]
