"""The examples of docs/formats.md run and give what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from costgraph.passes import PASSES
from costgraph.passes.precision.catalogue import ROLES
from costgraph.passes.precision.families import FAMILIES
from costgraph.rewriting.pipeline import parse
from tests.pages import run_examples

TEXT = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")


def test_examples_run():
    space = run_examples(TEXT, "docs/formats.md", 3)
    ratio = space["plain"].tpot.evaluate(B=1, T=2048) / space["narrow"].tpot.evaluate(B=1, T=2048)
    assert ratio == pytest.approx(4.6, abs=0.05)
    gain = space["gain"]
    assert [round(gain("upmem-dimm", 1), 1), round(gain("raspberry-pi-4", 1), 1)] == [3.7, 3.4]
    assert [round(gain("h100", 1), 2), round(gain("h100", 64), 2)] == [1.0, 0.24]


def test_options_that_it_names_exist():
    named = re.findall(r"`((?:quantize\{)?[a-z-]+=[^` ]*?)\}?`", TEXT)
    assert len(named) >= 15
    known = PASSES["quantize"].options()
    for text in named:
        for item in text.removeprefix("quantize{").split(","):
            key, _, value = item.partition("=")
            assert key in known, text
            if value and "…" not in value:
                under = "activations=int8," if key == "dynamic" else ""
                parse(f"quantize{{{under}{key}={value}}}", PASSES)
    words = set(re.findall(r"[a-z0-9_-]+", TEXT))
    assert {n.rstrip("0123456789") for n in FAMILIES} <= {w.rstrip("0123456789") for w in words}
    assert {name for table in ROLES.values() for name in table} <= words
