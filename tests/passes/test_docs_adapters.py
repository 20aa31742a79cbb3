"""The examples, tables and printed outputs of docs/adapters.md hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import costgraph as cg
from costgraph.passes import PASSES
from costgraph.rewriting.pipeline import parse
from tests.pages import page_tool, run_examples

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "adapters.md").read_text(encoding="utf-8")


def test_examples_run():
    space = run_examples(TEXT, "docs/adapters.md", 5)
    assert space["most"] > 100


def test_printed_outputs_are_current():
    tool = page_tool("readme")
    assert DOCS / "adapters.md" in tool.PAGES
    assert tool.generated(TEXT) == TEXT


TABLED = [
    text.replace("\\|", "|")
    for row in re.findall(r"^\|.*\|$", TEXT, re.MULTILINE)
    for text in re.findall(r"`((?:quantize|lora|low-rank)\{.*?\})`", row)
]


@pytest.mark.parametrize("text", TABLED)
def test_tabled_pipelines_do_what_they_say(text):
    assert parse(text, PASSES)
    compiled = cg.compile("llama-2-7b", "a100-80g", text)
    silent = [line for line in compiled.undone if "keep list" not in line]
    assert all("costs nothing" in line for line in silent)


def test_there_are_tabled_pipelines():
    assert len(TABLED) >= 8
