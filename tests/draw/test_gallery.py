"""The gallery page lists what its tool makes."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path

from costgraph.cli.draw import KINDS, SURVEY
from costgraph.cli.entry import _build_parser

DOCS = Path(__file__).parents[2] / "docs"


def tool():
    spec = importlib.util.spec_from_file_location("gallery_tool", DOCS / "tools" / "gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_is_current_and_its_pictures_are_there():
    gallery = tool()
    assert (DOCS / "gallery.md").read_text(encoding="utf-8") == gallery.page()
    files = [file for pictures in gallery.GALLERY.values() for file, _, _ in pictures]
    assert sorted(files) == sorted(p.name for p in (DOCS / "gallery").iterdir())
    assert sum(p.stat().st_size for p in (DOCS / "gallery").iterdir()) < 3_000_000


def test_every_command_parses_and_every_kind_is_shown():
    gallery = tool()
    commands = [shlex.split(c) for ps in gallery.GALLERY.values() for _, c, _ in ps]
    parser = _build_parser()
    for command in commands:
        assert parser.parse_args([*command, "-o", "x.svg"]).output == "x.svg"
    assert {c[1] for c in commands if c[0] == "plot"} == {*KINDS, *SURVEY}
