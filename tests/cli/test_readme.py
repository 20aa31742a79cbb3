"""The figures in the README are what the program prints."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from costgraph.cli import main
from tests.pages import page_tool


def test_generated_parts_are_current():
    tool = page_tool("readme")
    for page in tool.PAGES:
        text = page.read_text(encoding="utf-8")
        opened = text.count("<!-- output:")
        assert opened >= (2 if page.name == "README.md" else 1), page
        assert len(tool.PART.findall(text)) == opened, page  # each has an end of its own
        assert tool.generated(text) == text


def test_python_examples_run():
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 2
    space: dict[str, object] = {}
    for block in blocks:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block, "README.md", "exec"), space)
    f = space["f"]
    assert f.evaluate(B=1, T=2048) == pytest.approx(0.018645, abs=5e-7)
    assert f.solve_for("B", budget=0.05, T=2048).largest == 22


def test_shell_examples_run(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    commands = [
        shlex.split(line, comments=True)[1:]
        for line in joined.splitlines()
        if line.startswith("costgraph ")
    ]
    assert len(commands) >= 10
    monkeypatch.chdir(tmp_path)
    for command in commands:
        if command[0] == "sweep":
            pytest.importorskip("pyarrow")
            pytest.importorskip("xarray")
        if command[0] == "plot":
            pytest.importorskip("matplotlib")
        assert main(command) == 0, command
