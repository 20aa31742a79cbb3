"""A sweep on disk: written block by block, resumed after an interruption, finished by a rename.

While a sweep runs, ``OUT.partial/`` holds a Zarr store, a manifest of what is
being computed, and a journal of finished blocks. ``OUT`` itself appears only
when everything is there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from costgraph import outside
from costgraph.errors import InputError, clip
from costgraph.sweeping.codecs import check_store
from costgraph.sweeping.plan import Plan, Task

#: Raised when the layout of a partial sweep changes.
LAYOUT = 1
#: Bytes of the files beside the store.
LARGEST_MANIFEST, LARGEST_JOURNAL = 2**26, 2**31
SUFFIXES = (".zarr", ".nc", ".parquet", ".csv")


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
    if target.suffix not in SUFFIXES:
        raise InputError(f"{clip(str(path))}: the suffix must be one of {', '.join(SUFFIXES)}")
    if not target.parent.is_dir():
        raise InputError(f"{clip(str(path))}: no directory {clip(str(target.parent))}")
    if target.exists() or target.is_symlink():
        if not force:
            raise InputError(f"{clip(str(path))} exists; remove it or ask to replace it")
        is_store = any((target / name).is_file() for name in (".zgroup", "zarr.json"))
        if target.is_dir() != (target.suffix == ".zarr") or (target.is_dir() and not is_store):
            raise InputError(f"{clip(str(path))} exists and is no sweep: not replaced")
    return target


class PartialStore:
    """The working directory of one sweep; locked while it is open.

    Opening a directory that an interrupted sweep left continues it.

    Raises:
        InputError: the directory belongs to another sweep, or another process
            is writing it.
    """

    def __init__(self, target: Path, plan: Plan, create: Callable[[Path], None]) -> None:
        self.target = target
        self.plan = plan
        self.root = target.with_name(target.name + ".partial")
        self.data = self.root / "store.zarr"
        self._manifest = self.root / "manifest.json"
        self._finished = self.root / "finished"
        self._lock: IO[str] | None = None
        self._journal: IO[str] | None = None
        self._arrays: dict[str, Any] = {}
        self.root.mkdir(exist_ok=True)
        self._lock = self._locked()
        try:
            try:
                self._check_or_create(create)
            except BaseException:
                if not self._manifest.is_file():  # nothing worth keeping was begun
                    self.discard()
                raise
            self.done = self._read_journal()
            self._journal = self._finished.open("a", encoding="ascii")
        except BaseException:
            self.close()
            raise

    def _locked(self) -> IO[str]:
        file = (self.root / "lock").open("a", encoding="ascii")
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

    def _check_or_create(self, create: Callable[[Path], None]) -> None:
        wanted = {"layout": LAYOUT, **self.plan.description()}
        if self._manifest.is_file() and self.data.is_dir():
            try:
                found = outside.read_json(self._manifest, LARGEST_MANIFEST)
            except InputError:
                found = None
            if not isinstance(found, dict):
                raise InputError(f"{self._manifest}: not a manifest; remove {self.root}")
            check_store(self.data)
            differing = sorted(k for k in wanted | found if wanted.get(k) != found.get(k))
            if differing:
                raise InputError(
                    f"{self.root} holds another, unfinished sweep (different: "
                    f"{', '.join(map(str, differing))[:200]}); remove it or choose another output"
                )
            return
        # Nothing was begun, or only the preparation: start afresh.
        shutil.rmtree(self.data, ignore_errors=True)
        self._finished.unlink(missing_ok=True)
        create(self.data)
        temporary = self.root / "manifest.tmp"
        temporary.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self._manifest)

    def _read_journal(self) -> frozenset[int]:
        if not self._finished.is_file():
            return frozenset()
        journal = outside.read_bytes(self._finished, LARGEST_JOURNAL)
        lines = journal.decode("ascii", "replace").splitlines(True)
        whole = [line.strip() for line in lines if line.endswith("\n")]
        if lines and not lines[-1].endswith("\n"):  # cut off while being written
            self._finished.write_text("".join(f"{x}\n" for x in whole), encoding="ascii")
        return frozenset(int(x) for x in whole if x.isdigit())

    def write(self, task: Task, values: dict[str, Any]) -> None:
        """Write a block's results to their regions, then note that it is finished."""
        assert self._journal is not None
        for name, block in values.items():
            metric = "memory" if name == "fits" else name
            region = self.plan.region(task, metric)
            array = self._array(name)
            array[tuple(region.values())] = block.reshape(
                tuple(s.stop - s.start for s in region.values())
            )
        self._journal.write(f"{task.number}\n")
        self._journal.flush()

    def _array(self, name: str) -> Any:
        if name not in self._arrays:
            self._arrays[name] = require("zarr").open_group(str(self.data), mode="r+")[name]
        return self._arrays[name]

    def publish(self, made: Path) -> None:
        """Give what was made at ``made`` (inside the working directory) its final name."""
        self.close()
        if self.target.is_dir():  # a store to be replaced: out of the way first
            self.target.rename(self.root / "replaced")
        made.replace(self.target)
        shutil.rmtree(self.root)

    def discard(self) -> None:
        """Remove the working directory."""
        self.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def close(self) -> None:
        """Release the files; what was written stays for a later call."""
        for file in (self._journal, self._lock):
            if file is not None:
                file.close()
        self._journal = self._lock = None
