"""Reading files from outside: the one place that opens one.

Only regular files are read, and only up to a stated size: a pipe, a device or a
directory under the name of a file is refused before anything waits for it, and
what is compressed is unpacked no further than the limit. Nothing that is read is
ever run: JSON, TOML and text are data, and no other format is understood here.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

from costgraph.errors import CostgraphError, InputError, clip
from costgraph.quoting import visible

Name = str | os.PathLike[str]
#: Parts (commas, openings) of a JSON text; more would fill the memory when parsed.
MOST_PARTS = 8_000_000
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
#: Folders outside which no file is read, in the context at hand; None for no such bound.
_WITHIN: ContextVar[tuple[Path, ...] | None] = ContextVar("within", default=None)


#: Told of every path that is looked at and what is there (:func:`state_of`).
Watcher = Callable[[str, str], None]
_WATCHER: ContextVar[Watcher | None] = ContextVar("watcher", default=None)
#: The largest file whose contents tell its state, in bytes.
LARGEST_KNOWN = 2**26
#: The state of a file that is larger.
UNKNOWN = "unknown"


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """``watcher`` is told of everything outside that the block depends on."""
    before = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(before)


def kind_of(path: Name) -> str:
    """What is at a path: ``file``, ``folder``, ``other`` or, as far as can be seen, ``nothing``."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        found = "nothing"
    else:
        found = "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"
    watcher = _WATCHER.get()
    if watcher is not None:
        watcher(os.fsdecode(path), found)
    return found


def is_file(path: Name) -> bool:
    """Whether a regular file is at a path."""
    return kind_of(path) == "file"


def is_folder(path: Name) -> bool:
    """Whether a folder is at a path."""
    return kind_of(path) == "folder"


def exists(path: Name) -> bool:
    """Whether anything is at a path."""
    return kind_of(path) != "nothing"


def state_of(path: Name) -> str:
    """A digest of a file's contents, else its kind; what :func:`watched` is told."""
    found = kind_of(path)
    if found != "file":
        return found
    try:
        with os.fdopen(os.open(path, _FLAGS), "rb") as file:
            return _digest(file)
    except OSError:
        return UNKNOWN


def _digest(file: io.BufferedReader) -> str:
    """The state of an open file, which is then at its beginning."""
    if os.fstat(file.fileno()).st_size > LARGEST_KNOWN:
        return UNKNOWN
    found = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    return found


@contextmanager
def confined(*folders: Path) -> Iterator[None]:
    """Only files below ``folders`` (resolved) are read: for names from a network."""
    before = _WITHIN.set(folders)
    try:
        yield
    finally:
        _WITHIN.reset(before)


def _refuse_beyond(path: Name, shown: str, error: type[CostgraphError]) -> None:
    folders = _WITHIN.get()
    if folders is None:
        return
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(folder) for folder in folders):
        raise error(f"{shown}: a name is expected here; files are not read")


def label_of(path: Name) -> str:
    """How messages call a file."""
    return clip(os.fsdecode(path), 200)


def size_text(size: int) -> str:
    """A limit in words: ``4 MiB``."""
    for scale, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= scale:
            return f"{size / scale:.4g} {unit}"
    return f"{size} byte"


@contextmanager
def opened(
    path: Name, most: int, what: str = "", error: type[CostgraphError] = InputError
) -> Iterator[IO[bytes]]:
    """A regular file of at most ``most`` bytes, open for reading.

    Args:
        path: the file.
        most: its largest size in bytes.
        what: what it ought to be, for the message about its size.
        error: what is raised.

    Raises:
        CostgraphError: of the class ``error``, in one line: there is no such file, it is
            no regular one, too large, or cannot be read.
    """
    shown = label_of(path)
    _refuse_beyond(path, shown, error)
    kind_of(path)  # tells who watches, also where there is no such file
    try:
        _regular(os.stat(path).st_mode, shown, error)  # before opening: devices may act on it
        handle = os.open(path, _FLAGS)
    except FileNotFoundError:
        raise error(f"no such file: {shown}") from None
    except NotADirectoryError:
        raise error(f"no such file: {shown}") from None
    except (OSError, ValueError) as problem:
        raise error(f"{shown}: not readable: {reason_of(problem)}") from None
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        _regular(found.st_mode, shown, error)
        if found.st_size > most:
            kind = f": not {what}" if what else ""
            raise error(f"{shown}: larger than {size_text(most)}{kind}")
        try:
            watcher = _WATCHER.get()
            if watcher is not None:
                watcher(os.fsdecode(path), _digest(file))
            yield file
        except OSError as problem:
            raise error(f"{shown}: not readable: {reason_of(problem)}") from None


def _regular(mode: int, shown: str, error: type[CostgraphError]) -> None:
    if stat.S_ISREG(mode):
        return
    kind = next((text for test, text in _KINDS if test(mode)), "something else")
    if kind == "a directory":
        raise error(f"no such file: {shown} is a directory")
    raise error(f"{shown}: {kind}, not a regular file")


def reason_of(problem: Exception) -> str:
    """The first line of what went wrong, short."""
    text = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
    if "set_int_max_str_digits" in text:  # Python's advice, of no use here
        return f"a whole number has more than {sys.get_int_max_str_digits()} digits, too many"
    return visible(str(text).splitlines()[0])[:200]


def read_bytes(
    path: Name, most: int, what: str = "", error: type[CostgraphError] = InputError
) -> bytes:
    """The contents of a regular file; arguments and errors as for :func:`opened`."""
    with opened(path, most, what, error) as file:
        data = file.read(most + 1)  # a file may grow while it is read
        if len(data) > most:
            raise error(f"{label_of(path)}: larger than {size_text(most)}")
        return data


def read_text(
    path: Name, most: int, what: str = "", error: type[CostgraphError] = InputError
) -> str:
    """The text of a UTF-8 file, which may be compressed if its name ends in ``.gz``.

    The limit holds for the file and for what it unpacks to. Errors as for :func:`opened`.
    """
    data = read_bytes(path, most, what, error)
    if os.fsdecode(path).endswith(".gz"):
        data = _unpacked(data, most, label_of(path), error)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        kind = f": not {what}" if what else ""
        raise error(
            f"{label_of(path)}: not readable: not UTF-8 text (byte {data[problem.start]:#04x} "
            f"at {problem.start}){kind}"
        ) from None


def _unpacked(data: bytes, most: int, shown: str, error: type[CostgraphError]) -> bytes:
    import gzip
    import zlib

    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            made = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as problem:
        raise error(f"{shown}: not readable as gzip: {reason_of(problem)}") from None
    if len(made) > most:
        raise error(f"{shown}: unpacks to more than {size_text(most)}")
    return made


def read_json(
    path: Name, most: int, what: str = "", error: type[CostgraphError] = InputError
) -> Any:
    """The value in a JSON file; errors as for :func:`opened`, and where it is no JSON."""
    return json_value(read_text(path, most, what, error), label_of(path), error)


def json_value(text: str | bytes, shown: str, error: type[CostgraphError] = InputError) -> Any:
    """The value of a JSON text from the file that messages call ``shown``."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MOST_PARTS:
        raise error(f"{shown}: JSON of more than {MOST_PARTS} parts")
    try:
        return json.loads(text)
    except RecursionError:
        raise error(f"{shown}: not readable as JSON: nested too deeply") from None
    except ValueError as problem:
        raise error(f"{shown}: not readable as JSON: {reason_of(problem)}") from None


def read_toml(
    path: Name, most: int, what: str = "", error: type[CostgraphError] = InputError
) -> dict[str, Any]:
    """The table in a TOML file; errors as for :func:`opened`, and where it is no TOML."""
    import tomllib  # known answers read none

    text = read_text(path, most, what, error)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise error(f"{label_of(path)}: not readable: nested too deeply") from None
    except ValueError as problem:
        raise error(f"{label_of(path)}: not valid TOML: {reason_of(problem)}") from None


def package_text(path: Path) -> str:
    """The text of a file that is part of the package itself."""
    return read_text(path, 2**24, "part of costgraph")
