"""A bar on standard error for what takes longer than a second."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from costgraph.cli.output import Screen, Wrapped, innermost

#: Seconds before a bar is shown, and between two looks at the clock.
AFTER, PAUSE = 1.0, 0.5


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


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Says on a terminal how long something takes, from a second on until it says anything."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield
        return
    ticker = _Ticker(what, innermost(sys.stderr))
    streams = [s for s in (sys.stdout, sys.stderr) if isinstance(s, Screen)]
    before = [s.inner for s in streams]
    for stream, inner in zip(streams, before, strict=True):
        stream.inner = cast(TextIO, _Ending(inner, ticker.stop))
    ticker.start()
    try:
        yield
    finally:
        ticker.stop()
        for stream, inner in zip(streams, before, strict=True):
            stream.inner = inner


class _Ticker(threading.Thread):
    """Writes a line that counts seconds over and over, and takes it away when stopped."""

    def __init__(self, what: str, stream: TextIO) -> None:
        super().__init__(daemon=True)
        self._what, self._stream = what, stream
        self._ended = threading.Event()

    def run(self) -> None:
        start, shown = time.monotonic(), False
        pause = AFTER
        while not self._ended.wait(pause):
            seconds = time.monotonic() - start
            self._stream.write(f"\r{self._what}: {seconds:.0f} s ")
            self._stream.flush()
            shown, pause = True, PAUSE
        if shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def stop(self) -> None:
        """Ends it, and waits until its line is gone."""
        if not self._ended.is_set():
            self._ended.set()
            if self.is_alive():
                self.join()


class _Ending(Wrapped):
    """A stream before whose first text something ends."""

    def __init__(self, inner: TextIO, end: Callable[[], None]) -> None:
        super().__init__(inner)
        self._end = end

    def write(self, text: str) -> int:
        self._end()
        return self.inner.write(text)


def _drawn(what: str) -> tuple[Any, Any]:
    from rich.progress import Progress

    from costgraph.showing.export.terminal import console

    progress = Progress(console=console(errors=True), transient=True)
    task = progress.add_task(what, total=None)
    progress.start()
    return progress, task
