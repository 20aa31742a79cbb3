"""What leaves for a terminal: the last place where texts from outside are made harmless."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TextIO

from costgraph.quoting import printed


class Screen:
    """A text stream that escapes what would steer a terminal (:func:`.quoting.printed`).

    Attributes:
        inner: the stream itself, for whoever writes escape codes on purpose and has
            made the texts between them visible.
    """

    def __init__(self, inner: TextIO) -> None:
        self.inner = inner

    def write(self, text: str) -> int:
        self.inner.write(printed(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def screened(main: Callable[..., int]) -> Callable[..., int]:
    """A command whose output and messages go through a :class:`Screen`."""

    @functools.wraps(main)
    def run(*arguments: Any, **options: Any) -> int:
        kept = sys.stdout, sys.stderr
        guarded: Any = [s if s is None else Screen(s) for s in kept]
        sys.stdout, sys.stderr = guarded
        try:
            return main(*arguments, **options)
        finally:
            sys.stdout, sys.stderr = kept

    return run
