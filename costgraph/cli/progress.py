"""What is seen on standard error of what takes longer than a second: a bar, or seconds."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from costgraph.cli.output import Screen, Wrapped, innermost
from costgraph.progress import listening, tell

#: Seconds before anything is shown, between two looks at the clock, and between two changes of
#: a bar.
AFTER, PAUSE, OFTEN = 1.0, 0.5, 0.1


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function of how much is done and of how much there is, which a bar shows."""
    yield lambda done, total: tell(what, done, total)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows on a terminal how far something is, from a second on until it says anything.

    A bar for each thing that is counted (:mod:`costgraph.progress`); seconds where nothing is.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield
        return
    seen = _Seen(what, innermost(sys.stderr))
    streams = [s for s in (sys.stdout, sys.stderr) if isinstance(s, Screen)]
    before = [s.inner for s in streams]
    for stream, inner in zip(streams, before, strict=True):
        stream.inner = cast(TextIO, _Ending(inner, seen.stop))
    try:
        with listening(seen.told):
            yield
    finally:
        seen.stop()
        for stream, inner in zip(streams, before, strict=True):
            stream.inner = inner


class _Seen:
    """A line that counts seconds; bars in its place as soon as something is counted."""

    def __init__(self, what: str, stream: TextIO) -> None:
        self._what, self._stream = what, stream
        self._ticker = _Ticker(what, stream)
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._start = self._changed = time.monotonic()
        self._ended = False
        self._ticker.start()

    def told(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self._ended or now - self._start < AFTER:
            return
        if done < total and now - self._changed < OFTEN:
            return
        self._changed = now
        if done >= total:
            if what in self._tasks:
                self._bars.remove_task(self._tasks.pop(what))
            return
        if self._bars is None:
            self._ticker.stop()
            self._bars = _bars(self._stream)
            self._bars.add_task(self._what, total=None, count="")
            self._bars.start()
        count = f"{done}/{total}"
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total, count=count)
        self._bars.update(self._tasks[what], completed=done, total=total, count=count)

    def stop(self) -> None:
        """Ends it, and waits until nothing of it is left to see."""
        self._ended = True
        self._ticker.stop()
        if self._bars is not None:
            bars, self._bars = self._bars, None
            bars.stop()


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


def _bars(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    # What is printed ends the bars: they are not to print it themselves.
    return Progress(
        *columns, console=Console(file=stream), transient=True, redirect_stdout=False,
        redirect_stderr=False,
    )  # fmt: skip
