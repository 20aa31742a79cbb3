"""Standard output: closed, full or unable to show a character; and no text steers it."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TextIO, cast

from costgraph.errors import CostgraphError
from costgraph.quoting import printed

#: Characters of a line of an error; what was typed may be longer.
LONGEST = 1000
#: How characters of the output are written where a terminal has only ASCII.
_PLAIN = {
    "·": "*", "×": "x", "−": "-", "–": "-", "…": "...", "←": "<-", "→": "->", "≤": "<=",
    "≥": ">=", "∞": "inf", "µ": "u", "‖": "|", "±": "+-", "√": "sqrt", "Σ": "sum", "α": "alpha",
    "γ": "gamma", "β": "beta", "⌈": "ceil(", "⌉": ")", "⌊": "floor(", "⌋": ")", "°": "deg",
    "└": "`-", "├": "|-", "│": "|", "─": "-", "’": "'", "“": '"', "”": '"',
}  # fmt: skip


class OutputError(OSError):
    """Standard output cannot be written to."""


class Wrapped:
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


def innermost(stream: TextIO) -> TextIO:
    """The stream below all that are wrapped around it."""
    while isinstance(stream, Wrapped):
        stream = stream.inner
    return stream


class Screen(Wrapped):
    """The last place where texts from outside are made harmless for a terminal.

    What would steer it is escaped (:func:`.quoting.printed`). Whoever writes escape codes
    on purpose, and has made the texts between them visible, writes to ``inner``.
    """

    #: Characters of a line; None where lines are as long as they are.
    columns: int | None = None

    def write(self, text: str) -> int:
        shown = printed(text)
        if self.columns is not None and len(shown) > self.columns:
            shown = _broken(shown, self.columns)
        self.inner.write(shown)
        return len(text)


def _broken(text: str, columns: int) -> str:
    """Long lines in several, words and numbers left whole, under where they begin."""
    from costgraph.showing.export.fitting import wrapped

    lines = []
    for line in text.split("\n"):
        if len(line) <= columns:
            lines.append(line)
            continue
        body = line.lstrip(" ")
        start = len(line) - len(body)
        hang = " " * min(start + 4, columns // 2)
        first, *rest = wrapped(body, columns - max(start, len(hang))).split("\n")
        lines += [" " * start + first, *(hang + part for part in rest)]
    return "\n".join(lines)


class _Guarded(Wrapped):
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


#: Takes down what is written: to which stream (0: output, 1: errors), and the text; None is a
#: flush.
Tape = Callable[[int, str | None], None]


class _Taped(Wrapped):
    """A stream whose texts are taken down as they are written."""

    def __init__(self, inner: TextIO, tape: Tape, index: int) -> None:
        super().__init__(inner)
        self._tape, self._index = tape, index

    def write(self, text: str) -> int:
        written = self.inner.write(text)
        self._tape(self._index, text)
        return written

    def flush(self) -> None:
        self.inner.flush()
        self._tape(self._index, None)


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
def guarded(tape: Tape | None = None) -> Iterator[None]:
    """Standard streams for the time of a command.

    Characters that the terminal's encoding lacks are written in ASCII. What cannot be
    written raises :class:`OutputError`, at the latest when the command ends. ``tape`` takes
    down what is written, steered by nothing any more.
    """
    codecs.register_error("costgraph", _readable)
    before = sys.stdout, sys.stderr
    handlers = [
        (stream, stream.errors) for stream in before if isinstance(stream, io.TextIOWrapper)
    ]
    for stream, _ in handlers:
        stream.reconfigure(errors="costgraph")
    out = cast(TextIO, _Guarded(cast(TextIO, sys.stdout or _Closed())))
    err = sys.stderr or io.StringIO()
    if tape is not None:
        out, err = (cast(TextIO, _Taped(s, tape, i)) for i, s in enumerate((out, err)))
    sys.stdout, sys.stderr = cast(TextIO, Screen(out)), cast(TextIO, Screen(err))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream, errors in handlers:
            with contextlib.suppress(OSError, ValueError):  # they flush first
                stream.reconfigure(errors=errors)


def ended(run: Callable[[], int], tape: Tape | None = None) -> int:
    """The exit code of ``run``, a command with standard streams of its own (:func:`guarded`).

    Raises:
        SystemExit: with code 2 after a line of what was wrong; with 0 where nobody reads on.
    """
    with guarded(tape):
        try:
            try:
                return run()
            finally:
                sys.stdout.flush()
        except CostgraphError as error:
            fail(str(error))
        except OutputError as error:
            abandon()
            if error.errno == errno.EPIPE:  # the reader has gone (``| head``): no error of ours
                raise SystemExit(0) from None
            fail(f"standard output: {error.strerror}")
        except MemoryError:
            fail("not enough memory for this")
        except KeyboardInterrupt:
            return interrupted()


def fail(message: str) -> NoReturn:
    """Ends the program with one line on standard error.

    Raises:
        SystemExit: with code 2.
    """
    text = " ".join(message.split())
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
    print(f"costgraph: error: {text}", file=sys.stderr)
    raise SystemExit(2)


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
