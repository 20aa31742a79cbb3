"""Simulated servers beside published runs: rows of the page's tables, run again."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
#: A row of each table that few runs make: mixtures of experts on H100.
CHUNKED = ("minimax-m2.5", "fp8", "h100")
APART = "h100"
#: Sentences with figures of the page's row of servers on one node.
SAID = {
    "README.md": "median error {framework} % over {runs} published serving runs "
    "with nothing fitted to them, ideal {ideal} %",
    "docs/tutorials/70b-on-8-gpus.md": "Against {runs} published runs of whole servers on one node "
    "the median error of a token's time is {framework} % with nothing fitted to them, "
    "that of `ideal` {ideal} %",
}


def printed(section, name):
    """The cells of a row, behind its name."""
    part = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    row = re.search(rf"^\|[^|]*\| {re.escape(name)} \|(.*)\|$", part, re.M)
    return [x.strip().replace("−", "-") for x in row[1].split("|")]


@pytest.fixture(scope="module")
def bench(from_benchmarks):
    for name in ("serving", "serving_model"):
        from_benchmarks(name)
    chunked = from_benchmarks("serving_chunked")
    return chunked, from_benchmarks("serving_apart")


def test_a_row_of_servers_with_chunks_is_what_the_benchmark_makes(bench):
    chunked, _ = bench
    own = [r for r in chunked.runs(8)[0]
           if r.is_usual and (r.model, r.precision, r.device) == CHUNKED]  # fmt: skip
    scored = chunked.Scored(own)
    batches = [p.batch for p in scored.made["framework"]]
    found = [chunked.simulated(r, b) for r, b in zip(scored.runs, batches, strict=True)]
    first, token, whole = np.array(found).T
    measured = np.array([(r.ttft, r.tpot, r.whole) for r in scored.runs]).T
    runs, formula, tpot, _, ttft, latency = printed(
        "Measured servers, with chunks", " ".join(CHUNKED)
    )
    assert runs == str(len(found))
    formulas = scored.values("framework", lambda p: p.tpot())
    assert formula == chunked.pair(formulas, measured[1])
    assert tpot == chunked.pair(token, measured[1])
    assert ttft == chunked.pair(first, measured[0])
    assert latency == chunked.pair(whole, measured[2])


def test_a_row_of_prompts_and_decodes_apart_is_what_the_benchmark_makes(bench):
    _, apart = bench
    read = [apart.read(row) for row in apart.rows() if row["mode"] != "agg"]
    own = [x for x in read if not isinstance(x, str) and x[0].device == APART]
    first, token, whole = np.array([apart.simulated(*x) for x in own]).T
    measured = np.array([(r.ttft, r.tpot, r.whole) for r, *_ in own]).T
    runs, tpot, ttft, latency = printed("Measured servers, prompts and decodes apart", APART)
    assert runs == str(len(own))
    assert tpot == apart.pair(token, measured[1])
    assert ttft == apart.pair(first, measured[0])
    assert latency == apart.pair(whole, measured[2])


@pytest.mark.parametrize("path", SAID)
def test_other_pages_say_what_the_row_of_one_node_says(path):
    runs, *pairs = printed("Measured servers", "one node, attention split")
    ideal, framework = (x.split("/")[1].split()[0] for x in pairs[:2])
    said = SAID[path].format(runs=runs, ideal=ideal, framework=framework)
    assert said in " ".join((ROOT / path).read_text(encoding="utf-8").split())
