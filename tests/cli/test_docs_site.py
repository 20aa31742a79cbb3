"""Pages of the site: examples run, notebooks run, the reference has everything, links lead on.

That the site itself is built without a broken link is checked by ``make docs``.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

import costgraph
from costgraph.cli import main
from costgraph.cli.entry import _build_parser
from costgraph.hardware import device_names
from costgraph.models import entries
from costgraph.passes import PASSES
from tests.pages import page_tool, run_examples

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "start.md", DOCS / "timelines.md", *sorted((DOCS / "tutorials").glob("*.md"))]
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
#: Seconds long; that its options are there is checked.
LONG = ("serve-plan", "plot")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_examples_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    run_examples(text, page.name, text.count("```python\n"))
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    commands = [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]
    assert commands
    parser = _build_parser()
    for command in commands:
        parser.parse_args(command)
        if command[0] not in LONG:
            assert main(command) == 0, command


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_run(path, capsys):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    space: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "results are made when the site is built"
            exec(compile("".join(cell["source"]), path.name, "exec"), space)
    assert len(space) > 3


def test_the_reference_has_everything():
    tool = page_tool("reference")
    pages = tool.pages()

    def headings(page):
        return set(re.findall(r"^## (.+)$", pages[f"reference/{page}.md"], re.MULTILINE))

    assert headings("commands") == set(tool.commands()) >= {"formula", "explore", "completion"}
    assert headings("passes") == set(PASSES)
    devices = pages["reference/devices.md"]
    told = re.findall(r'^<details markdown="1" id="(.+?)"', devices, re.MULTILINE)
    assert set(told) > set(device_names())
    assert sorted(re.findall(r"^\| \[`(.+?)`\]\(#\1\)", devices, re.MULTILINE)) == sorted(told)
    models = re.findall(r"^\| `(.+?)`", pages["reference/models.md"], re.MULTILINE)
    assert models == sorted(entries())
    rows = re.findall(r"^\| `.+?` \|.*?\|.*?\|(.+)", pages["reference/models.md"], re.MULTILINE)
    assert len(rows) == len(models)
    assert not any(re.search(r"\d{4}", row) for row in rows)  # thousands stand apart
    exported = re.findall(r'heading: "(.+)"', pages["reference/python.md"])
    assert not re.search(r"\| , ", pages["reference/passes.md"])  # no empty word among choices
    assert set(exported) == set(costgraph.__all__) - {"__version__"}
    for name in exported:
        assert getattr(costgraph, name).__doc__
    for option in ("--passes P", "--symbolic-hardware"):
        assert f"`{option}`" in pages["reference/commands.md"]
    assert "| `peaks.tensor.bf16` | 989.4 TFLOP/s |" in devices
    typed = tool.on_page_content(
        r"<td><code>t4\|2</code> a \| b</td><p><code>\|</code></p>", *[None] * 3
    )
    assert typed == r"<td><code>t4|2</code> a \| b</td><p><code>\|</code></p>"
    option = tool.on_page_content("<code><b>a</b> --on x-- -T</code> --on", *[None] * 3)
    assert option == '<code><b>a</b> <span class="whole">--on</span> x-- -T</code> --on'
    listed = set(re.findall(r"^## \[.+\]\((.+)\)$", pages["reference/index.md"], re.MULTILINE))
    assert {f"reference/{page}" for page in listed} == set(pages) - {"reference/index.md"}


def test_a_copied_command_has_no_prompt():
    console = highlight("$ costgraph models\n", get_lexer_by_name("console"), HtmlFormatter())
    assert "$ " in console
    shown = page_tool("reference").on_page_content(console, *[None] * 3)
    text = re.sub(r"<[^>]*>", "", shown)  # what the button copies
    assert text.strip() == "costgraph models"
    style = (DOCS / "assets" / "site.css").read_text(encoding="utf-8")
    assert re.search(r'\.gp:empty::before \{\s*content: "\$ "', style)


def test_links_between_pages_lead_on():
    for page in DOCS.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            known = (page.parent / target).exists()
            assert known, f"{page.name}: {target}"


def test_the_tree_of_pages_names_each_of_them():
    tree = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (*DOCS.rglob("*.md"), *NOTEBOOKS):
        assert tree.count(f": {page.relative_to(DOCS).as_posix()}\n") == 1, page
