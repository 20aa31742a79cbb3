"""The examples of docs/caching.md run, and its table comes out again."""

from __future__ import annotations

import re
from pathlib import Path

import costgraph as cg
from tests.pages import run_examples

TEXT = (Path(__file__).parents[2] / "docs" / "caching.md").read_text(encoding="utf-8")


def test_every_example_runs():
    space = run_examples(TEXT, "docs/caching.md", 5)
    assert f"# {space['pays'].lower}, exactly" in TEXT
    assert [p.name for p in space["compiled"].program.phases][:4] == [
        "prefill", "decode", "turn2-prefill", "turn2-decode",
    ]  # fmt: skip


def test_the_table_comes_out_again():
    found = re.findall(
        r"^\| (.+?) \| ([\d.]+) ms \| ([\d.]+) GB \| ([\d.]+) s \| (\d+) \|$", TEXT, re.MULTILINE
    )
    assert len(found) == 3
    for name, *told in found:
        passes = "fuse" if name == "nothing shared" else f"fuse,{name.strip('`')}"
        c = cg.compile("llama-3.1-8b", "h100", passes)
        at = {"B": 64, "S": 4224, "N": 128}
        assert told == [
            f"{1e3 * c.tpot.evaluate(B=64, T=4352):.2f}",
            f"{c.memory.evaluate(**at) / 1e9:.1f}",
            f"{c.ttft.evaluate(B=64, S=4224):.2f}",
            f"{c.throughput.evaluate(**at):.0f}",
        ]
