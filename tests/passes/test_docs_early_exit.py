"""The examples and tables of docs/early-exit.md are what the tool says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import costgraph as cg
from costgraph.passes.decoding import depth
from costgraph.passes.decoding.early_exit import EarlyExit

PAGE = Path(__file__).parents[2] / "docs" / "early-exit.md"
TEXT = PAGE.read_text(encoding="utf-8")


def rows(name: str) -> list[list[str]]:
    table = re.search(rf"<!-- table: {name} -->\n((?:\|.*\n)+)", TEXT)
    assert table is not None, name
    return [[c.strip() for c in line.strip("|").split("|")] for line in table[1].splitlines()]


def speed_ups(model: str, options: str, context: int, batches: list[int]) -> list[str]:
    plain = cg.compile(model, "h200", "fuse").tpot
    early = cg.compile(model, "h200", f"fuse,early-exit{{{options}}}").tpot
    found = (plain.evaluate(B=b, T=context) / early.evaluate(B=b, T=context) for b in batches)
    return [f"{up:.2f}" for up in found]


@pytest.mark.parametrize("model", ["llama-3.1-8b", "mixtral-8x7b"])
def test_the_tables_of_batches_hold(model):
    head, _, *lines = rows(model)
    batches = [int(cell.removeprefix("B = ")) for cell in head[1:]]
    for options, *cells in lines:
        assert cells == speed_ups(model, options.strip("`"), 1024, batches), options


def test_the_table_of_layers_that_are_not_alike_holds():
    for model, *cells in rows("hybrids")[2:]:
        early = speed_ups(model, "p=1/2", 600, [1, 8, 64])
        assert cells == early + speed_ups(model, "p=1/2,propagate=project", 600, [1, 8, 64]), model


def test_examples_run_and_give_what_they_say():
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 3
    space: dict = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), space)
    for line in re.findall(r"^(?:round|int)\(.*$", "".join(blocks), re.MULTILINE):
        expression, _, said = line.partition("  # ")
        assert eval(expression, space) == float(said)
    for name in ("one", "eight", "many"):
        assert f"# {float(space[name].lower):.3f} < left < 1" in blocks[0]
    assert f"{float(space['one'].lower):.1%}".replace("%", " %") in TEXT


def test_depths_on_the_page_are_those_of_the_formula():
    left = depth.uniform(32)
    said = re.search(r"distribution (16\.5, .*?) for `B`", TEXT)
    assert said is not None
    numbers = [float(n) for n in re.findall(r"\d+\.\d", said[1])]
    assert numbers == [round(float(depth.expected_batch_depth(left, 2**i)), 1) for i in range(6)]


def test_every_choice_is_on_the_page():
    for name, option in EarlyExit.options().items():
        for choice in option.choices:
            assert f"`{choice}`" in TEXT or f"{name}={choice}" in TEXT or choice == "step", choice
        assert re.search(rf"`{name}[=`]|[{{,`]{name}=", TEXT), name
