"""docs/serving.md: its examples run, and its table of loads is what the tool makes."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

from costgraph.cli import main

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "serving.md").read_text(encoding="utf-8")
#: Rows of the table whose simulation is run again.
AGAIN = "0.6"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("serving_tool", DOCS / "tools" / "serving.py")
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    yield made
    del sys.modules[spec.name]


def test_python_examples_run():
    pytest.importorskip("simpy")
    space: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert len(blocks) >= 5
    for block in blocks:
        exec(compile(block, "docs/serving.md", "exec"), space)


@pytest.mark.parametrize("line", re.findall(r"```sh\n(costgraph serve.*?)\n```", TEXT, re.S))
def test_commands_run(capsys, line):
    if "simulate" in line:
        pytest.importorskip("simpy")
    assert main(shlex.split(line)[1:]) == 0
    assert "tpot" in capsys.readouterr().out


def rows():
    table = re.search(r"<!-- table: loads -->\n((?:\|.*\n)+)", TEXT)
    return [[c.strip() for c in x.strip("|").split("|")] for x in table[1].splitlines()[2:]]


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_table_of_loads_is_what_the_tool_makes(tool, place):
    """Closed forms of every row; the simulation where its load is :data:`AGAIN`."""
    setting = tool.SETTINGS[place]
    known = [row for row in rows() if row[0] == setting.name]
    made = [(p, load) for p in setting.policies() for load in tool.LOADS]
    assert [(row[1], row[3]) for row in known] == [(p.name, str(load)) for p, load in made]
    for (policy, load), row in zip(made, known, strict=True):
        queue = setting.queue(policy)
        steady = queue.at(load * queue.stable_rate)
        assert row[2] == f"{queue.stable_rate:.2f}"
        assert row[4].split(" / ")[0] == f"{1e3 * steady.tpot:.1f}"
        assert row[6].split(" / ")[0] == f"{1e3 * steady.ttft:.0f}"
        if row[3] == AGAIN:
            pytest.importorskip("simpy")
            again = [x.strip() for x in setting.row(policy, load).strip("|").split("|")]
            assert again == row


def test_tolerances_that_the_page_states():
    for *_, load, _, tpot, _, ttft in rows():
        assert abs(int(tpot.removesuffix(" %"))) <= 12
        assert abs(int(ttft.removesuffix(" %"))) <= (9 if float(load) <= 0.6 else 60)
