"""Reading ZIP archives from outside, a member at a time."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO

from costgraph.errors import CostgraphError, InputError, clip
from costgraph.files.outside import Name, label_of, opened, reason_of, size_text

#: Members of an archive.
MOST_MEMBERS = 200_000
#: Bytes that are read at once, the list of members among them.
MOST_AT_ONCE = 2**26


class Archive:
    """A ZIP file whose members are read one by one, each up to a limit.

    Attributes:
        shown: how messages call it.
        names: the members.
    """

    def __init__(self, file: IO[bytes], shown: str, what: str, error: type[CostgraphError]) -> None:
        self.shown = shown
        self._error = error
        try:
            self._zip = zipfile.ZipFile(_Sparing(file))
        except _TooMuch:
            raise error(f"{shown}: its list of members is too long") from None
        except _DAMAGED as problem:
            raise error(f"{shown}: not {what}: no ZIP archive: {reason_of(problem)}") from None
        members = self._zip.infolist()
        if len(members) > MOST_MEMBERS:
            raise error(f"{shown}: more than {MOST_MEMBERS} members")
        self.names: Mapping[str, zipfile.ZipInfo] = {m.filename: m for m in members}
        if len(self.names) < len(members):
            raise error(f"{shown}: two members have one name")

    def read(self, name: str, most: int) -> bytes:
        """The contents of a member.

        Raises:
            CostgraphError: it is larger than ``most`` bytes, damaged, encrypted or packed
                in another way than PyTorch does.
        """
        where = f"{self.shown}: {clip(name, 100)}"
        info = self.names[name]
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self._error(f"{where} is compressed in an unknown way")
        try:
            with self._zip.open(info) as file:
                data = file.read(most + 1)
        except _DAMAGED as problem:
            raise self._error(f"{where} is damaged: {reason_of(problem)}") from None
        if len(data) > most:
            raise self._error(f"{where} is larger than {size_text(most)}")
        return data


#: What ``zipfile`` raises on archives that are damaged or made to mislead.
_DAMAGED = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
)


class _TooMuch(Exception):
    """More was asked for at once than any list of members holds."""


class _Sparing:
    """A file that refuses to hand out very much at once.

    ``zipfile`` reads the list of members whole, at the size that the archive states.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if size > MOST_AT_ONCE:
            raise _TooMuch
        data = self._file.read(size if size >= 0 else MOST_AT_ONCE + 1)
        if len(data) > MOST_AT_ONCE:
            raise _TooMuch
        return data

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()


@contextmanager
def archive(
    path: Name, most: int, what: str = "", error: type[CostgraphError] = InputError
) -> Iterator[Archive]:
    """The ZIP archive in a file of at most ``most`` bytes; errors as for :func:`opened`."""
    with opened(path, most, what, error) as file:
        yield Archive(file, label_of(path), what or "an archive", error)
