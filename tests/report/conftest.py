"""What tests of pages in a browser share.

They need the extra ``report-test`` and a Chromium on the path (or named by ``CHROMIUM``), and
are skipped otherwise.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

import costgraph as cg
from costgraph.errors import CostgraphError
from costgraph.showing.report import contents
from costgraph.showing.report.formulas import Printed
from costgraph.showing.report.graphs import Graphs
from tests.report.exploring import LAID_OUT, MODEL, TOKEN, Server, Tab

#: Metrics that are compared.
METRICS = (
    "ttft", "tpot", "latency", "throughput", "memory", "flops", "bytes",
    "energy", "energy_per_token", "cost_per_token",
)  # fmt: skip
#: Pages for numbers alone.
plain = pytest.mark.usefixtures("unprinted", "undrawn", "unloaded")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def expected(compiled: cg.Compiled, metric: str, values: dict[str, float]) -> float | None:
    try:
        formula = getattr(compiled, metric)
    except CostgraphError:
        return None
    wanted = {s.name for s in formula.symbols}
    if not wanted <= set(values):
        return None
    return float(formula.evaluate(**{k: v for k, v in values.items() if k in wanted}))


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-9)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One Chromium for all."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium here")
    with playwright.sync_playwright() as p:
        made = p.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield made
        made.close()


@dataclass
class Opened:
    """A page of the browser with what went wrong in it."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def set(self, name: str, value: object, kind: str = "value") -> None:
        self.page.fill(f"#{kind}-{name}", str(value))
        self.settle()

    def settle(self) -> None:
        """What takes longer is drawn, too."""
        self.page.wait_for_selector("html[data-drawn]")

    def card(self, metric: str) -> float:
        return float(self.page.get_attribute(f"#cards [data-metric={metric}]", "data-value"))

    def table(self, pipeline: int, metric: str) -> float:
        row = f"#pipelines tbody tr:nth-child({pipeline + 1}) [data-metric={metric}]"
        return float(self.page.get_attribute(row, "data-value"))

    def clean(self) -> None:
        assert self.errors == []
        assert [u for u in self.requests if not u.startswith("file://")] == []
        assert len(self.requests) == 1


Page = TypeVar("Page", Opened, Tab)


def watched(found: Page) -> Page:
    """The page, which from now on notes what goes wrong in it and what it asks for."""
    found.page.on("pageerror", lambda e: found.errors.append(str(e)))
    found.page.on(
        "console",
        lambda m: found.errors.append(m.text) if m.type in ("error", "warning") else None,
    )
    found.page.on("dialog", lambda d: (found.errors.append("dialog"), d.dismiss()))
    found.page.on("request", lambda r: found.requests.append(r.url))
    return found


@pytest.fixture
def opening(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    contexts = []

    def opened(html: str, width: int = 1400, seen: bool = True, **options: Any) -> Opened:
        target = tmp_path / "report.html"
        target.write_text(html, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 1000}, **options)
        contexts.append(context)
        found = watched(Opened(context.new_page()))
        found.page.goto(target.as_uri())
        found.page.wait_for_selector("html[data-drawn]")
        if seen:
            found.page.evaluate(LAID_OUT)
        return found

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def unprinted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without printed formulas, which take most of the time to make."""
    monkeypatch.setattr(Printed, "of", lambda *_: {})


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without pictures of graphs."""
    monkeypatch.setattr(contents, "Graphs", lambda text, drawn: Graphs(text, drawn=False))


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without servers under load."""
    monkeypatch.setattr(contents, "load_of", lambda *_: {"queue": None, "why": "left out"})


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of the explorer for a file of tests; it needs the extra ``explore``."""
    import socket
    import threading

    import uvicorn

    from costgraph.showing.explorer.catalog import Start
    from costgraph.showing.explorer.server import application

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # so that nobody is refused before the thread runs
    config = uvicorn.Config(application(TOKEN, Start(MODEL)), log_level="critical", lifespan="off")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    yield Server(listener.getsockname()[1])
    running.should_exit = True
    thread.join(10)
    listener.close()
    assert not thread.is_alive()


@pytest.fixture
def tabs(browser: Any) -> Iterator[Callable[..., Tab]]:
    """Tabs of one context of the browser."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})

    def made() -> Tab:
        return watched(Tab(context.new_page()))

    yield made
    context.close()
