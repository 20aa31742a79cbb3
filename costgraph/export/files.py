"""Writing result files whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from costgraph.errors import InputError, clip


def write_whole(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write ``data`` to a temporary file beside ``path``, then rename it.

    Raises:
        InputError: the place cannot be written to; nothing is left behind.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(f"{clip(str(path))} is a directory; name a file")
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=".costgraph-", dir=target.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except (OSError, ValueError) as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"cannot write {clip(str(path))}: {reason}") from None
    return target


def _umask() -> int:
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
