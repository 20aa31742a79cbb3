"""The examples of docs/decoding.md run, and cells of its tables come out again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import costgraph as cg
from costgraph.passes.decoding.schedules import SCHEDULES
from costgraph.passes.decoding.speculative import Speculative

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "decoding.md").read_text(encoding="utf-8")
TARGETS = {"7B": "qwen3-8b", "70B": "llama-3.1-70b", "MoE": "qwen3-30b-a3b"}
DRAFTS = {"7B": "qwen3-0.6b", "70B": "llama-3.2-1b", "MoE": "qwen3-0.6b"}
SHARED = {"h200": "", "8xh200": ",parallel{tp=8}"}


def rows(name: str) -> dict[str, dict[str, str]]:
    """A table of the page: cells by row and column."""
    found = re.search(rf"<!-- table: {name} -->\n(.*?)<!-- end -->", TEXT, re.DOTALL)
    assert found is not None, name
    head, _, *lines = ([c.strip() for c in x.strip("| ").split("|")] for x in found[1].split("\n"))
    lines = [line for line in lines if line[0]]
    return {line[0]: dict(zip(head[1:], line[1:], strict=True)) for line in lines}


POLICIES = {(m, s): rows(f"policies {m} {s}") for m in TARGETS for s in SHARED}


def test_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 3
    space: dict = {}
    for block in blocks:
        exec(compile(block, "docs/decoding.md", "exec"), space)
    stops = float(space["batches"].upper)
    assert f"# 1 <= B < {stops:.4g}" in blocks[0]
    # The same number stands in the table of that policy.
    assert POLICIES["70B", "h200"]["chain of 4"]["pays up to B ="] == str(int(stops))
    even = float(space["accepted"].lower)
    assert POLICIES["70B", "h200"]["chain of 4"]["even at 64"] == f"{even:.2f}"


def formulas(model: str, system: str) -> tuple[cg.Formula, cg.Formula]:
    passes = f"fuse,quantize{{preset=fp8}}{SHARED[system]}"
    chain = f"speculative{{draft={DRAFTS[model]},gamma=4,alpha=acc}}"
    return (
        cg.compile(TARGETS[model], system, passes).tpot,
        cg.compile(TARGETS[model], system, f"{passes},{chain}").tpot,
    )


@pytest.mark.parametrize(("model", "system"), [("7B", "h200"), ("MoE", "h200"), ("70B", "8xh200")])
def test_cells_of_the_tables_come_out_again(model, system):
    alone, chain = formulas(model, system)
    cells = POLICIES[model, system]["chain of 4"]
    for batch in (1, 16, 64):
        at = {"B": batch, "T": 1024}
        up = alone.evaluate(**at) / chain.evaluate(**at, acc=0.7)
        assert cells[f"B = {batch}"] == f"{up:.2f}"
        even = cells[f"even at {batch}"]
        ups = [
            alone.evaluate(**at) / chain.evaluate(**at, acc=float(even) + x) for x in (-0.01, 0.01)
        ]
        assert ups[0] < 1 < ups[1]
    last = int(cells["pays up to B ="].split(",")[0])
    ups = [
        alone.evaluate(B=b, T=1024) / chain.evaluate(B=b, T=1024, acc=0.7) for b in (last, last + 1)
    ]
    assert ups[1] <= 1 < ups[0]


def test_a_best_tree_of_the_table_comes_out_again():
    alone, _ = formulas("70B", "h200")
    text = "speculative{draft=heads,tree=optimal,nodes=64,alpha=0.7}"
    tree = cg.compile(TARGETS["70B"], "h200", f"fuse,quantize{{preset=fp8}},{text}").tpot
    up = alone.evaluate(B=1, T=1024) / tree.evaluate(B=1, T=1024)
    assert POLICIES["70B", "h200"]["best tree of heads"]["B = 1"] == f"{up:.2f}"


def test_the_tables_say_what_practice_knows():
    """Dense models lose at large batch; experts lose at batch one and gain at moderate batch."""
    for model, system in (("7B", "h200"), ("7B", "8xh200"), ("70B", "h200"), ("70B", "8xh200")):
        dense = POLICIES[model, system]["chain of 4"]
        ups = [float(dense[f"B = {2**i}"]) for i in range(7)]
        assert ups == sorted(ups, reverse=True)
        assert 0 < int(dense["pays up to B ="].split(",")[0]) < 1000
    for system in SHARED:
        experts = POLICIES["MoE", system]["chain of 4"]
        ups = [float(experts[f"B = {2**i}"]) for i in range(7)]
        assert ups[0] < 1 < max(ups)
        assert ups.index(max(ups)) in (4, 5)  # at 16 or 32
        assert float(experts["pays up to B ="].split(",")[0]) < 1000


def test_every_option_and_schedule_is_on_a_page():
    told_of = TEXT + (DOCS / "drafts.md").read_text(encoding="utf-8")
    for option in Speculative.options():
        told = f"`{option}" in told_of or f"{option}=" in told_of or option in ("layers", "inherit")
        assert told or option == "draft-passes", option
    for schedule in SCHEDULES:
        assert f"| `{schedule}` |" in TEXT
