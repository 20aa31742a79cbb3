"""Writing result files whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from costgraph.errors import InputError, clip


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its name when the block is through.

    Until then, and whenever the block fails or is interrupted, what stood at ``path``
    stays as it is and nothing else is left behind.

    Raises:
        InputError: the place cannot be written to, or is no regular file.
    """
    temporary = ""
    try:
        if b"\0" in os.fsencode(path):
            raise InputError(f"{clip(str(path))} is not the name of a file")
        # Through a link: to the file that it names.
        target = Path(os.path.realpath(path))
        with contextlib.suppress(FileNotFoundError):
            mode = target.stat().st_mode
            if stat.S_ISDIR(mode):
                raise InputError(f"{clip(str(path))} is a directory; name a file")
            if not stat.S_ISREG(mode):
                raise InputError(f"{clip(str(path))} is no regular file; name another")
        handle, temporary = tempfile.mkstemp(prefix=".costgraph-", dir=target.parent)
        os.close(handle)
        yield Path(temporary)
        flushed(temporary)
        os.chmod(temporary, 0o666 & ~umask())
        os.replace(temporary, target)
        temporary = ""
    except UnicodeEncodeError:
        raise InputError(f"{clip(str(path))} is not the name of a file") from None
    except OSError as error:
        raise InputError(f"cannot write {clip(str(path))}: {error.strerror or error}") from None
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def write_whole(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write ``data`` to a temporary file beside ``path``, then rename it.

    Raises:
        InputError: the place cannot be written to; nothing is left behind.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def flushed(path: str | os.PathLike[str]) -> None:
    """What was written is on the disk, so that a crash leaves the old file or the new one."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def umask() -> int:
    """What the process leaves out of the rights of new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def suffix_of(path: str | os.PathLike[str], known: tuple[str, ...], what: str) -> str:
    """The suffix of ``path`` if it is one of ``known``.

    Raises:
        InputError: it is another, or none.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in known:
        raise InputError(
            f"{what} {clip(str(path))}: the suffix names the format, one of {', '.join(known)}"
        )
    return suffix
