"""docs/techniques.md is what its generator writes, and its commands give the numbers it shows.

The page is made of kept numbers in no time. An eleventh of them is computed here, chosen by name;
all of them by ``python docs/tools/techniques.py --check``, which continuous integration runs.
"""

from __future__ import annotations

import json
import shlex
import zlib
from itertools import pairwise

import pytest

from costgraph.cli.entry import _build_parser
from costgraph.passes import PASSES
from costgraph.rewriting.pipeline import parse
from tests.pages import page_tool

TOOL = page_tool("techniques")
INDEX, ENTRIES = TOOL.read(TOOL.DATA.read_text(encoding="utf-8"))
NUMBERS = json.loads(TOOL.NUMBERS.read_text(encoding="utf-8"))
MODELLED = [e for e in ENTRIES if e.modelled]
SAMPLE = [e for e in MODELLED if zlib.crc32(e.names[0].encode()) % 11 == 0]


def named(name):
    return next(e for e in ENTRIES if name in e.names)


def test_the_page_is_what_the_generator_writes():
    assert TOOL.PAGE.read_text(encoding="utf-8") == TOOL.page(INDEX, ENTRIES, NUMBERS)
    assert set(NUMBERS) == {e.names[0] for e in MODELLED}


def test_every_name_has_a_row_and_says_whether_it_is_modelled():
    text = TOOL.PAGE.read_text(encoding="utf-8")
    assert sum(map(len, INDEX.values())) >= 188
    for name in (n for names in INDEX.values() for n in names):
        (row,) = [line for line in text.splitlines() if line.startswith(f"| [{name}](#")]
        assert (TOOL.NOT_MODELLED in row) is not named(name).modelled
    for entry in ENTRIES:
        assert text.count(f'<h3 id="{entry.anchor}">') == 1
        assert entry.modelled or entry.why.startswith(("Not modelled", "No shipped device"))


@pytest.mark.parametrize("entry", SAMPLE, ids=lambda e: e.anchor)
def test_commands_give_the_numbers_that_are_shown(entry):
    assert TOOL.computed(entry) == NUMBERS[entry.names[0]]


def test_every_command_has_options_and_passes_that_there_are():
    parser = _build_parser()
    commands = [shlex.split(e.command) for e in MODELLED if e.command]
    assert len(commands) > 80
    for program, *arguments in commands:
        assert program == "costgraph"
        parser.parse_args([*arguments, "--json"])
        for option, value in pairwise(arguments):
            if option == "--passes":
                parse(value, PASSES)


def test_what_disagrees_is_refused():
    text = TOOL.DATA.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="differ: AWQ"):
        TOOL.read(text.replace('names = ["AWQ"]', 'names = ["AQW"]'))
    with pytest.raises(ValueError, match="GPTQ: a published figure has a source"):
        TOOL.read(text.replace('source = "arXiv 2210.17323, abstract"\n', "", 1))


def test_numbers_are_found_by_their_path():
    data = {"rows": [{"t": 6.0}, {"t": 4.0}]}
    assert TOOL.at(data, "rows.0.t") == 6
    assert TOOL.at(data, "rows.0.t / rows.1.t") == 1.5
    with pytest.raises(KeyError):
        TOOL.at(data, "rows.0.x")
