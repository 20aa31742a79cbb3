"""Published results: every row is cited, says what it is about, and is shown with its pass."""

from __future__ import annotations

import json
import re

import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.models.catalog import entries
from costgraph.passes import PASSES
from costgraph.passes.quality import READ, Quality, of, published
from costgraph.rewriting.pipeline import parse, text_of

ROWS = published()
SOURCE = re.compile(r"(arXiv \d{4}\.\d{5}|github [\w.-]+/[\w.-]+)\Z")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.passes}-{row.model}-{row.method}")
def test_a_row_names_a_pipeline_a_model_and_where_it_stands(row: Quality):
    passes = parse(row.passes, PASSES)
    assert text_of(passes) == row.passes
    assert row.model in entries()
    assert SOURCE.match(row.source)
    assert all((row.where, row.metric, row.method))
    assert row.read in READ
    assert row.read == ("note" if "note" in row.where or "compares" in row.where else "table")
    assert min(float(row.before), float(row.after)) > 0
    kind = row.metric.partition(",")[0]
    assert kind in ("perplexity", "accuracy in %")
    if kind == "accuracy in %":
        assert max(float(row.before), float(row.after)) <= 100


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.passes}-{row.model}-{row.method}")
def test_the_setting_of_a_row_makes_the_model_smaller(row: Quality):
    plain, made = (cg.compile(row.model, "h200", text) for text in ("", row.passes))
    sizes = {"B": 1, "S": 2000, "N": 2}
    assert made.memory.evaluate(**sizes) < plain.memory.evaluate(**sizes)


def test_no_result_is_listed_twice():
    keys = [(q.passes, q.model, q.metric, q.method) for q in ROWS]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", sorted(PASSES))
def test_a_pass_shows_the_rows_that_it_is_part_of(name, capsys):
    rows = of(name)
    assert main(["passes", name]) == 0
    text = capsys.readouterr().out
    assert ("published quality" in text) == bool(rows)
    for row in rows:
        assert row.after in text
        assert row.cited in text
    assert main(["passes", name, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["quality"]
    assert [Quality(**item) for item in shown] == list(rows)


def test_the_passes_that_lose_something_have_rows():
    assert {len(of(n)) > 0 for n in ("quantize", "low-rank")} == {True}
    assert of("fuse") == ()
