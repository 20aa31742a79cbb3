"""A sweep on disk: written block by block, resumed after an interruption, finished by a rename.

While a sweep runs, ``OUT.partial/`` holds a file that says whose it is and what is being
computed, a Zarr store, and a journal of finished blocks with a checksum each. ``OUT``
itself appears only when everything is there. A directory without that file is somebody
else's and is never touched; a block whose values are not those of its checksum is
computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from costgraph.asking.sweeping.codecs import check_store
from costgraph.asking.sweeping.plan import Plan, Task
from costgraph.errors import InputError, clip
from costgraph.files import outside
from costgraph.files.writing import flushed, umask

#: What the marker of a working directory says; its number rises when the layout changes.
FORMAT = "unfinished costgraph sweep, layout 2"
SUFFIXES = (".zarr", ".nc", ".parquet", ".csv")
#: Bytes of a line of the journal, at most.
_LINE = 64
#: Bytes of a marker, at most.
_MARKER = 2**20


def require(module: str) -> Any:
    """An optional library of the extra ``sweep``.

    Raises:
        InputError: it is not installed; names the command.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise InputError(
            f"sweeps need {module.partition('.')[0]}: pip install 'costgraph[sweep]'"
        ) from None


def check_target(path: str | os.PathLike[str], force: bool) -> Path:
    """The output path, if something may be written there.

    Raises:
        InputError: unknown suffix, no such directory, or it exists already.
    """
    target = Path(path)
    shown = clip(str(path))
    if target.suffix not in SUFFIXES:
        raise InputError(f"{shown}: the suffix must be one of {', '.join(SUFFIXES)}")
    try:
        # Formats and libraries write names as text.
        if "\0" in str(target):
            raise ValueError
        str(target).encode()
        if not target.parent.is_dir():
            raise InputError(f"{shown}: no directory {clip(str(target.parent))}")
        for name in (target, _partial(target)):  # a name may be too long for its suffix
            with contextlib.suppress(FileNotFoundError):
                name.lstat()
    except ValueError:
        raise InputError(f"{shown} is not the name of a file in UTF-8") from None
    except OSError as error:
        raise InputError(f"{shown}: cannot be written: {error.strerror}") from None
    if target.exists() or target.is_symlink():
        if not force:
            raise InputError(f"{shown} exists; --force (in Python force=True) replaces it")
        is_store = any((target / name).is_file() for name in (".zgroup", "zarr.json"))
        if target.is_dir() != (target.suffix == ".zarr") or (target.is_dir() and not is_store):
            raise InputError(f"{shown} exists and is no sweep: not replaced")
        if not target.is_dir() and not target.is_file():
            raise InputError(f"{shown} exists and is no regular file: not replaced")
    return target


def _partial(target: Path) -> Path:
    return target.with_name(target.name + ".partial")


class PartialStore:
    """The working directory of one sweep; locked while it is open.

    Opening a directory that an interrupted sweep left continues it.

    Raises:
        InputError: the directory is somebody else's, belongs to another sweep or is
            damaged, or another process is writing it.
    """

    def __init__(self, target: Path, plan: Plan, create: Callable[[Path], None]) -> None:
        self.target = target
        self.plan = plan
        self._replaces = os.path.lexists(target)
        self.root = _partial(target)
        self.data = self.root / "store.zarr"
        self._marker = self.root / "sweep.json"
        self._journal_file = self.root / "finished"
        self._lock: IO[bytes] | None = None
        self._journal: IO[bytes] | None = None
        self._arrays: dict[str, Any] = {}
        self._sums: dict[int, str] = {}
        description = {"format": FORMAT, **plan.description()}
        if not os.path.lexists(self.root):
            self._begin(description)
        self._check_ours()
        self._lock = self._locked()
        try:
            made = self._prepared(description, create)
            self._sums = {} if made else self._read_journal()
            self._journal = self._opened(self._journal_file, "ab", create=True)
            if self._journal.tell():
                self._journal.write(b"\n")  # a line that was cut off ends here
        except BaseException:
            self.close()
            raise

    # --- whose it is ---------------------------------------------------------

    def _begin(self, description: dict[str, Any]) -> None:
        """A directory with its marker, under its name from the first moment."""
        made = Path(tempfile.mkdtemp(prefix=".costgraph-", dir=self.root.parent))
        try:
            text = json.dumps({**description, "store": ""}, indent=1)
            (made / self._marker.name).write_text(text + "\n", encoding="utf-8")
            made.chmod(0o777 & ~umask())
            made.rename(self.root)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise

    def _check_ours(self) -> None:
        if self.root.is_symlink() or not self.root.is_dir() or self._read_marker() is None:
            raise InputError(
                f"{self.root} exists and is not an unfinished sweep: move it away, or choose "
                "another output"
            )

    def _read_marker(self) -> dict[str, Any] | None:
        """What the marker says; None where there is none of ours."""
        try:
            with self._opened(self._marker, "rb") as file:
                found = outside.json_value(file.read(_MARKER), self._marker.name)
        except (FileNotFoundError, InputError):
            return None
        ours = isinstance(found, dict) and found.get("format") == FORMAT
        return found if ours else None

    def _opened(self, path: Path, mode: str, create: bool = False) -> IO[bytes]:
        """A regular file; anything else in its place is refused without being waited for.

        Raises:
            InputError: it is a link, a pipe, a device or a directory.
        """
        flags = os.O_RDONLY if mode == "rb" else os.O_RDWR | os.O_APPEND
        flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
        flags |= os.O_CREAT if create else 0
        try:
            handle = os.open(path, flags, 0o666)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise InputError(f"{path}: not a file of a sweep: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise InputError(f"{path}: not a file of a sweep: no regular file")
        return os.fdopen(handle, mode)

    def _locked(self) -> IO[bytes]:
        file = self._opened(self.root / "lock", "ab", create=True)
        try:
            import fcntl  # not on every platform; there, sweeps are not locked
        except ImportError:
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise InputError(f"{self.root}: another sweep is writing there") from None
        return file

    # --- what is there -------------------------------------------------------

    def _prepared(self, wanted: dict[str, Any], create: Callable[[Path], None]) -> bool:
        """Makes the store, or checks the one that is there; True if it was made."""
        found = self._read_marker()
        if found is None:  # the sweep that was writing here has finished meanwhile
            raise InputError(f"{self.root}: another sweep was writing there; try again")
        frame = found.pop("store", "")
        differing = sorted(k for k in wanted | found if wanted.get(k) != found.get(k))
        if differing:
            raise InputError(
                f"{self.root} holds another, unfinished sweep (different: "
                f"{', '.join(map(str, differing))[:200]}); remove it or choose another output"
            )
        if not frame:  # nothing was begun, or only the preparation
            _removed(self.data)
            _removed(self._journal_file)
            create(self.data)
            temporary = self.root / "sweep.tmp"
            text = json.dumps({**wanted, "store": self._frame()}, indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")
            temporary.replace(self._marker)
            return True
        check_store(self.data)  # a marker that fits may be made as well
        if frame != self._frame():
            raise InputError(
                f"{self.data}: damaged since it was begun: remove {self.root} to start afresh"
            )
        return False

    def _frame(self) -> str:
        """A checksum of the store but for the blocks: metadata and coordinates."""
        blocks = {*self.plan.metrics, "fits"}
        made = hashlib.sha256()
        for path in _files(self.data):
            if not stat.S_ISREG(path.lstat().st_mode):  # a pipe would be waited for
                return f"{path.name} is no regular file"
            inside = path.relative_to(self.data)
            if inside.parts[0] in blocks and not inside.name.startswith(".z"):
                continue
            with self._opened(path, "rb") as file:
                made.update(os.fsencode(inside) + b"\0" + file.read())
        return made.hexdigest()

    def _read_journal(self) -> dict[int, str]:
        """The checksums of finished blocks; lines that are not ours are passed over."""
        try:
            with self._opened(self._journal_file, "rb") as file:
                data = file.read(_LINE * (2 * self.plan.task_count + 1024))
        except FileNotFoundError:
            return {}
        found = {}
        for line in data.split(b"\n")[:-1]:
            number, _, checksum = line[:_LINE].decode("ascii", "replace").partition(" ")
            if number.isascii() and number.isdigit() and len(number) < 16:
                found[int(number)] = checksum
        return found

    def holds(self, task: Task) -> bool:
        """Whether a block is finished and its values are those that were written."""
        known = self._sums.get(task.number)
        if known is None:
            return False
        names = self._variables(task)
        try:
            values = {name: self._array(name)[self._place(task, name)] for name in names}
        except Exception:  # whatever a library makes of a damaged file
            return False
        return known == _checksum(task, values)

    def _variables(self, task: Task) -> tuple[str, ...]:
        """What a block of a task holds."""
        present = self.plan.cells[task.cell].formulas
        names = [m for m in self.plan.groups[task.group].metrics if m in present]
        return (*names, *(("fits",) if self.plan.fits_known and "memory" in names else ()))

    def _place(self, task: Task, name: str) -> tuple[slice, ...]:
        return tuple(self.plan.region(task, "memory" if name == "fits" else name).values())

    def _array(self, name: str) -> Any:
        if name not in self._arrays:
            self._arrays[name] = require("zarr").open_group(str(self.data), mode="r+")[name]
        return self._arrays[name]

    # --- writing -------------------------------------------------------------

    def write(self, task: Task, values: dict[str, Any]) -> None:
        """Write a block's results to their regions, then note that it is finished."""
        assert self._journal is not None
        shaped = {}
        for name, block in values.items():
            place = self._place(task, name)
            shaped[name] = block.reshape(tuple(s.stop - s.start for s in place))
            self._array(name)[place] = shaped[name]
        self._journal.write(f"{task.number} {_checksum(task, shaped)}\n".encode())
        self._journal.flush()

    def publish(self, made: Path) -> None:
        """Give what was made at ``made`` (inside the working directory) its final name.

        Raises:
            InputError: something has appeared under that name.
        """
        if os.path.lexists(self.target) and not self._replaces:
            raise InputError(
                f"{clip(str(self.target))} exists by now: move it away, and the same command "
                "finishes the sweep"
            )
        if made.is_file():
            flushed(made)
        replaced = self.root / "replaced"
        if self.target.is_dir():  # a store to be replaced: out of the way first
            self.target.rename(replaced)
        try:
            made.replace(self.target)
        except OSError:
            if replaced.is_dir():
                replaced.rename(self.target)
            raise
        self.close()
        # Only what a sweep writes; files of others keep the directory.
        for name in ("store.zarr", "replaced", "finished", "lock", "sweep.tmp", "sweep.json"):
            _removed(self.root / name)
        with contextlib.suppress(OSError):
            self.root.rmdir()

    def close(self) -> None:
        """Release the files; what was written stays for a later call."""
        for file in (self._journal, self._lock):
            if file is not None:
                with contextlib.suppress(OSError):  # a full disk: the block is done again
                    file.close()
        self._journal = self._lock = None


def _checksum(task: Task, values: dict[str, Any]) -> str:
    """Of a block's values, its place included: swapped blocks differ."""
    made = hashlib.blake2b(str(task.number).encode(), digest_size=16)
    for name in sorted(values):
        # Some versions of xarray store truth values as small integers.
        kind = bool if name == "fits" else np.float64
        block = np.ascontiguousarray(values[name], dtype=kind)
        made.update(f"{name} {block.dtype.str} {block.shape}".encode())
        made.update(block.tobytes())
    return made.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    """The files of a directory in a fixed order; links are not followed."""
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield Path(where) / name


def _removed(path: Path) -> None:
    """Removes a file, or a directory with what is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
