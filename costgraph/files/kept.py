"""Texts kept in a folder between runs: checked when read, bounded, the longest unused dropped.

A kept text is a help, never a need: what cannot be read or is not as it was written is
no text, and what cannot be written is left.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat

#: Bytes of one text, and of all together.
MOST_OF_ONE = 2**20
MOST_OF_ALL = 2**24
_SUFFIX = ".answer"
#: Names of files that are of this module, half-written ones too.
_OURS = re.compile(rf"[0-9a-f]{{64}}{re.escape(_SUFFIX)}(\.[0-9a-f]+)?")
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"))


def read(folder: str, key: str) -> bytes | None:
    """The text that was written under ``key``; None where there is none, or another's."""
    try:
        path = _path(folder, key)
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _FLAGS), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or not _mine(found):
                return None
            data = file.read(MOST_OF_ONE + 1024)
        digest, _, text = data.partition(b"\n")
        if digest != _digest(key, text):
            return None
        os.utime(path)
    except OSError:
        return None
    return text


def write(folder: str, key: str, text: bytes) -> None:
    """Keeps a text under ``key``, a digest in hexadecimal: whole or not at all."""
    if len(text) > MOST_OF_ONE:
        return
    path = _path(folder, key)
    half = f"{path}.{os.urandom(8).hex()}"
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        handle = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
        try:
            with open(handle, "wb") as file:
                file.write(_digest(key, text) + b"\n" + text)
            os.replace(half, path)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(half)
        _drop(folder)
    except OSError:
        return


def _path(folder: str, key: str) -> str:
    return os.path.join(folder, key + _SUFFIX)


def _digest(key: str, text: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\n" + text).hexdigest().encode()


def _mine(found: os.stat_result) -> bool:
    """Whether nobody else can have written it."""
    if not hasattr(os, "geteuid"):
        return True
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _drop(folder: str) -> None:
    """Leaves what was used last, up to the bound."""
    there: list[tuple[int, int, str]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _OURS.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):  # dropped by another process
                    found = entry.stat(follow_symlinks=False)
                    there.append((found.st_mtime_ns, found.st_size, entry.path))
    room = MOST_OF_ALL
    for _, size, path in sorted(there, reverse=True):
        room -= size
        if room < 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
