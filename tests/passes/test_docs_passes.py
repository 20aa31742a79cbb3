"""The examples and the table of stages in docs/passes.md hold."""

from __future__ import annotations

import re
from pathlib import Path

from costgraph.passes import PASSES
from costgraph.passes.decoding.speculative import Speculative
from costgraph.rewriting.grammar import LONGEST, LONGEST_VALUE
from costgraph.rewriting.pipeline import Stage, parse, text_of
from tests.pages import run_examples

TEXT = (Path(__file__).parents[2] / "docs" / "passes.md").read_text(encoding="utf-8")


def test_examples_run():
    space = run_examples(TEXT, "docs/passes.md", 2)
    assert [s.made_by.name for s in space["a"].trace.steps] == ["quantize", "early-exit", "fuse"]
    assert [s.made_by.name for s in space["c"].trace.steps] == [
        "quantize", "page-kv", "early-exit", "fuse",
    ]  # fmt: skip


def test_the_written_pipeline_and_its_limits_are_as_stated():
    line = next(x.strip() for x in TEXT.splitlines() if x.startswith("    fuse,"))
    assert text_of(parse(line, PASSES)) == line.replace(",gamma=4", "")
    assert f"{LONGEST_VALUE:,} characters, a pipeline {LONGEST:,}" in TEXT


def test_every_pass_stands_at_its_stage():
    rows = re.findall(r"^\| (\w+) \| ((?:`[a-z-]+`(?:, )?)+) \|", TEXT, re.MULTILINE)
    assert [Stage[stage.upper()] for stage, _ in rows] == list(Stage)
    told = {name: Stage[s.upper()] for s, names in rows for name in re.findall("[a-z-]+", names)}
    assert told == {name: cls.stage for name, cls in PASSES.items()}


def test_rounds_count_as_tabulated():
    for options, forwarded, verified in re.findall(
        r"^\| `(.*?)` \| .*?(\d+) \| (\d+) \|", TEXT.replace("\\|", "|"), re.MULTILINE
    ):
        (made,) = parse(f"speculative{{{options}}}", PASSES)
        assert isinstance(made, Speculative)
        total = sum(s.count * s.width for s in made.round().steps)
        assert total == (4 if options == "gamma=4" else int(forwarded))
        assert made.round().verified == int(verified)
