"""What tests of pages in a browser share.

They need the extra ``report-test`` and a Chromium on the path (or named by ``CHROMIUM``), and
are skipped otherwise.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


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
