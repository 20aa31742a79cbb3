"""The explorer with keys alone: no click, no focus that a script sets, from the top of the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest

import costgraph as cg
from tests.report.exploring import MODEL, Server, Tab, agree, expected

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
pytestmark = pytest.mark.slow


def focused(page: Any) -> str:
    found: str = page.evaluate("document.activeElement.id")
    return found


def reach(page: Any, name: str, key: str = "Tab", most: int = 60) -> None:
    """Goes on until an element has the focus; nothing on the way loses it to the page's top."""
    for _ in range(most):
        page.keyboard.press(key)
        if focused(page) == name:
            return
    raise AssertionError(f"{name} is not reached; the focus is at {focused(page)!r}")


def test_options_are_changed_and_formulas_copied_with_keys_alone(
    server: Server, tabs: Callable[..., Tab]
) -> None:
    passes = "fuse,quantize{weights=int4}"
    tab = tabs()
    page, keys = tab.page, tab.page.keyboard
    state = urlencode([("model", MODEL), ("on", "h100"), ("passes", ""), ("passes", passes)])
    tab.go(f"{server.address}#{state}")
    reach(page, "change-1")
    keys.press("Enter")
    # Who changes a pipeline begins at its options.
    page.wait_for_function("() => document.activeElement.id.startsWith('option-0-')")
    reach(page, "option-1-weights")
    assert page.input_value("#option-1-weights") == "int4"
    keys.type("int8")
    reach(page, "option-1-group")
    keys.type("64x")
    keys.press("Enter")  # what cannot be read is not used
    page.wait_for_function("() => document.getElementById('palette-error').textContent")
    assert page.is_disabled("#palette-use")
    keys.press("Backspace")
    keys.press("Enter")
    page.wait_for_selector("#palette:not([open])", state="attached")
    tab.ready()
    changed = "fuse,quantize{weights=int8,group=64}"
    values = {"B": 1, "S": 1024, "N": 256, "T": 2048}
    assert changed in page.inner_text("#pipeline-list")
    agree(tab.cards(), expected(MODEL, "h100", changed, values))
    assert focused(page) == "change-1"  # where it was opened
    # Copies of a formula, one after the other: the focus stays at the button.
    reach(page, "copy")
    for what, wanted in (("formula as L", "latex"), ("formula as a P", "python")):
        keys.type(what)
        assert page.input_value("#copy") == wanted
        reach(page, "copy-do", most=1)
        keys.press("Enter")
        page.wait_for_function("() => document.getElementById('copied').textContent === 'copied'")
        assert focused(page) == "copy-do"
        formula = cg.compile(MODEL, "h100", changed, symbolic_hardware=True).tpot
        text = page.evaluate("document.getElementById('copied').dataset.text")
        assert text == (formula.latex() if wanted == "latex" else formula.code("python"))
        reach(page, "copy", "Shift+Tab", most=1)
    # Another metric of the formula that is copied.
    reach(page, "formula-metric", most=80)
    keys.press("Home")
    assert page.input_value("#formula-metric") == "ttft"
    assert focused(page) == "formula-metric"
    # Escape leaves the passes as they were.
    reach(page, "pipeline-add", "Shift+Tab", most=80)
    keys.press("Enter")
    page.wait_for_function("() => document.activeElement.id === 'palette-search'")
    keys.type("page-kv")
    keys.press("Enter")
    keys.press("Escape")
    page.wait_for_selector("#palette:not([open])", state="attached")
    assert focused(page) == "pipeline-add"
    assert "page-kv" not in page.inner_text("#pipeline-list")
    tab.clean(f"http://127.0.0.1:{server.port}/")


def test_a_pass_joins_the_pipeline_that_is_there_however_late_it_is_read(
    server: Server, tabs: Callable[..., Tab]
) -> None:
    tab = tabs()
    page, keys = tab.page, tab.page.keyboard
    state = urlencode([("model", MODEL), ("on", "h100"), ("passes", "fuse")])
    tab.go(f"{server.address}#{state}")
    held: list[Any] = []
    page.route("**/pipeline?*", lambda route: held.append(route), times=1)
    page.focus("#change-0")
    keys.press("Enter")
    page.wait_for_function("() => document.activeElement.id === 'palette-search'")
    keys.type("page-kv")
    keys.press("Enter")
    assert page.input_value("#palette-text") == "fuse"  # nothing is added to what is not read
    held[0].continue_()
    page.wait_for_function("() => document.getElementById('palette-text').value === 'fuse,page-kv'")
    assert page.locator("#palette-chosen h4").all_inner_texts() == ["fuse", "page-kv"]
    # Escape behind Enter leaves the palette, and what is still being read adds nothing.
    keys.press("Escape")
    page.wait_for_selector("#palette:not([open])", state="attached")
    page.route("**/pipeline?*", lambda route: held.append(route), times=1)
    page.focus("#change-0")
    keys.press("Enter")
    page.wait_for_function("() => document.activeElement.id === 'palette-search'")
    keys.type("page-kv")
    keys.press("Enter")
    keys.press("Escape")
    page.wait_for_selector("#palette:not([open])", state="attached")
    held[1].continue_()
    tab.ready()
    assert "page-kv" not in page.inner_text("#pipeline-list")
