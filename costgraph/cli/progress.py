"""A bar on standard error for what takes longer than a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

#: Seconds before a bar is shown.
AFTER = 1.0


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function of how much is done and of how much there is; drawn on a terminal alone."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    start = time.monotonic()
    shown: list[tuple[Any, Any]] = []

    def told(done: int, total: int) -> None:
        if not shown:
            if time.monotonic() - start < AFTER:
                return
            shown.append(_drawn(what))
        progress, task = shown[0]
        progress.update(task, completed=done, total=total)

    try:
        yield told
    finally:
        if shown:
            shown[0][0].stop()


def _drawn(what: str) -> tuple[Any, Any]:
    from rich.progress import Progress

    from costgraph.showing.export.terminal import console

    progress = Progress(console=console(errors=True), transient=True)
    task = progress.add_task(what, total=None)
    progress.start()
    return progress, task
