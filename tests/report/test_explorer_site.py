"""The explorer as files: a site needs no server."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from costgraph.cli import main
from tests.report.exploring import Tab, agree, expected

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
pytestmark = pytest.mark.slow


def test_a_site_holds_loads_and_plans(tmp_path: Path, tabs: Callable[..., Tab]) -> None:
    folder = tmp_path / "site"
    arguments = ["site", "-o", str(folder), "--models", "gpt2", "--on", "h100,2xh100"]
    arguments += ["--passes", "fuse", "--jobs", "1", "--plans"]
    assert main(arguments) == 0
    tab = tabs()
    tab.go((folder / "index.html").as_uri())
    tab.choose(model=["gpt2"], on=["h100", "2xh100"], machine=["1"], plans=["1"])
    tab.page.wait_for_selector("#loadtable [data-load=ttft]")
    tab.page.wait_for_selector("#plans [data-plan]")
    assert tab.page.locator("#plans tbody tr").count() == 4  # tp, dp, and stages in two ways
    tab.page.check("#on-0")
    tab.page.wait_for_function("() => document.getElementById('plans-part').hidden")
    tab.clean("file://")


def test_a_site_needs_no_server(tmp_path: Path, tabs: Callable[..., Tab], capsys: Any) -> None:
    folder = tmp_path / "a site"
    arguments = [
        "site",
        "-o",
        str(folder),
        "--models",
        "mixtral-8x7b,dit-xl-2",
        "--on",
        "a6000,8xh100",
    ]
    both = "fuse,parallel{tp=4,dp=2}"
    arguments += ["--passes", "", "--passes", both, "--jobs", "1"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "a6000 has 1 device" in said.err
    assert re.search(r"wrote .*: \d+ files", said.out)
    tab = tabs()
    tab.go((folder / "index.html").as_uri())
    values = {"B": 3, "S": 100, "N": 20, "T": 300}
    tab.choose(
        model=["mixtral-8x7b"], on=["8xh100", "a6000"], passes=["", both],
        pipeline=["1"], **{f"set_{k}": [v] for k, v in values.items()},
    )  # fmt: skip
    agree(tab.cards(), expected("mixtral-8x7b", "8xh100", both, values))
    assert "a6000 has 1 device" in tab.page.inner_text("#machines")
    assert "8xh100" in tab.page.inner_text("#notes")
    tab.page.wait_for_selector("#formula math")
    tab.page.wait_for_selector("#graph svg")
    tab.choose(model=["mixtral-8x7b"], on=["a6000"], passes=[""])
    assert "8xh100" not in tab.page.inner_text("#notes")  # which it said beside the other
    tab.clean("file://")
    with pytest.raises(SystemExit):
        main(arguments)
    assert "not an empty folder" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["a site"]
