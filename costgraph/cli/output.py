"""Standard output: closed, full or unable to show a character; and no text steers it."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from costgraph.quoting import printed

#: How characters of the output are written where a terminal has only ASCII.
_PLAIN = {
    "·": "*", "×": "x", "−": "-", "–": "-", "…": "...", "←": "<-", "→": "->", "≤": "<=",
    "≥": ">=", "∞": "inf", "µ": "u", "‖": "|", "±": "+-", "√": "sqrt", "Σ": "sum", "α": "alpha",
    "γ": "gamma", "β": "beta", "⌈": "ceil(", "⌉": ")", "⌊": "floor(", "⌋": ")", "°": "deg",
    "└": "`-", "├": "|-", "│": "|", "─": "-", "’": "'", "“": '"', "”": '"',
}  # fmt: skip


class OutputError(OSError):
    """Standard output cannot be written to."""


class _Stream:
    """A text stream over another one, ``inner``."""

    def __init__(self, inner: TextIO) -> None:
        self.inner = inner

    def write(self, text: str) -> int:
        return self.inner.write(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Screen(_Stream):
    """The last place where texts from outside are made harmless for a terminal.

    What would steer it is escaped (:func:`.quoting.printed`). Whoever writes escape codes
    on purpose, and has made the texts between them visible, writes to ``inner``.
    """

    def write(self, text: str) -> int:
        self.inner.write(printed(text))
        return len(text)


class _Guarded(_Stream):
    """A stream whose failures are told from those of other files."""

    def write(self, text: str) -> int:
        try:
            return self.inner.write(text)
        except (OSError, ValueError) as error:
            raise _told(error) from error

    def flush(self) -> None:
        try:
            self.inner.flush()
        except (OSError, ValueError) as error:
            raise _told(error) from error


def _told(error: Exception) -> Exception:
    if isinstance(error, UnicodeError):
        return error
    if isinstance(error, OSError):
        return OutputError(error.errno, error.strerror or str(error))
    return OutputError(errno.EBADF, "it is closed")


class _Closed(io.TextIOBase):
    """Stands for a stream that the caller closed (``>&-``)."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        raise OutputError(errno.EBADF, "it is closed")


def _readable(error: UnicodeError) -> tuple[str, int]:
    """Characters that a terminal lacks: in ASCII where that is usual, else their code."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    plain = (_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in found)
    return "".join(plain), error.end


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Standard streams for the time of a command.

    Characters that the terminal's encoding lacks are written in ASCII. What cannot be
    written raises :class:`OutputError`, at the latest when the command ends.
    """
    codecs.register_error("costgraph", _readable)
    before = sys.stdout, sys.stderr
    handlers = [
        (stream, stream.errors) for stream in before if isinstance(stream, io.TextIOWrapper)
    ]
    for stream, _ in handlers:
        stream.reconfigure(errors="costgraph")
    out = cast(TextIO, sys.stdout or _Closed())
    sys.stdout = cast(TextIO, Screen(cast(TextIO, _Guarded(out))))
    if sys.stderr is None:
        sys.stderr = io.StringIO()
    sys.stderr = cast(TextIO, Screen(sys.stderr))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream, errors in handlers:
            with contextlib.suppress(OSError, ValueError):  # they flush first
                stream.reconfigure(errors=errors)


def interrupted(hint: str = "") -> int:
    """Says that the user broke off, and nothing else; the exit code."""
    if "asyncio" in sys.modules:
        import logging

        # What was running in loops of libraries is reported when the interpreter ends.
        logging.getLogger("asyncio").disabled = True
    print(f"costgraph: interrupted{hint}", file=sys.stderr)
    return 130


def abandon() -> None:
    """What is left in the buffer of standard output is thrown away.

    The interpreter would write it when it ends, and fail once more.
    """
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
