"""The examples and the table of docs/compression.md hold."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from sympy import Rational

import costgraph as cg
from costgraph.cli.entry import _build_parser
from costgraph.counting.count import parameters
from costgraph.passes.sparsity.storage import STORAGE, stored
from tests.pages import run_examples

TEXT = (Path(__file__).parents[2] / "docs" / "compression.md").read_text(encoding="utf-8")


def test_examples_run():
    space = run_examples(TEXT, "docs/compression.md", 2)
    assert space["interval"].lower == Rational(1, 2)


def test_commands_parse():
    commands = re.findall(r"^costgraph (.*?[^\\])$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(commands) == 4
    for command in commands:
        words = shlex.split(command.replace("\\\n", " "))
        assert callable(_build_parser().parse_args(words).run)


@pytest.mark.parametrize("layout", STORAGE)
def test_storage_pays_from_where_the_table_says(layout):
    (row,) = re.findall(rf"^\| `{layout}`.*?\| .*? \| (.*?) \|$", TEXT, re.MULTILINE)
    shape = (Rational(10**9), Rational(10**9))  # pointers of rows are nothing beside them
    even = re.search(r"z = (\d)/(\d+)", row)
    z = Rational(int(even[1]), int(even[2])) if even else Rational(1, 2)
    bits = stored(layout, z, STORAGE[layout], shape).stored(Rational(16))
    assert bits == 9 if even is None else abs(bits - 16) < Rational(1, 10**6)


def test_lists_of_the_examples_are_whole():
    made = cg.compile("llama-2-7b", "a100-80g", "shrink{ffn=1*8|1/2*8|1/4*8|1/8*8}")
    assert not [line for line in made.undone if "nothing changes" not in str(line)]
    whole = cg.compile("llama-2-7b", "a100-80g")
    assert parameters(made.program) < parameters(whole.program)
