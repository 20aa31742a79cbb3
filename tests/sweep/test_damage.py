"""Unfinished sweeps: damage is mended or refused, and files of others are left alone."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from costgraph.errors import InputError

xr = pytest.importorskip("xarray")
pytest.importorskip("zarr")
pytest.importorskip("pandas")

from costgraph.asking.sweeping import open_sweep, write_sweep  # noqa: E402

CALL = ("gpt2", ["a6000", "h100"])
GRID = {"metrics": ["tpot", "memory"], "B": [1, 2, 7, 9], "T": [3, 600], "S": 12, "N": [1, 5]}


class Interrupted(Exception):
    """Stands for a crash in the middle."""


def interrupted(path: Path, blocks: int = 6) -> Path:
    """The working directory of a sweep that stopped after some blocks."""

    def stop(done: int, total: int) -> None:
        if done == blocks:
            raise Interrupted

    with pytest.raises(Interrupted):
        write_sweep(path, *CALL, **GRID, chunks=3, progress=stop)
    return path.with_name(path.name + ".partial")


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    return interrupted(tmp_path_factory.mktemp("begun") / "o.zarr")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with open_sweep(
        write_sweep(tmp_path_factory.mktemp("whole") / "o.zarr", *CALL, **GRID, chunks=3)
    ) as data:
        return data.load()


def chunks(partial: Path) -> list[Path]:
    """Files of finished blocks of the time per token."""
    found = sorted((partial / "store.zarr" / "tpot").glob("[0-9]*"))
    assert len(found) >= 2
    return found


def deleted(partial: Path) -> None:
    chunks(partial)[0].unlink()


def swapped(partial: Path) -> None:
    first, second = chunks(partial)[:2]
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


def copied(partial: Path) -> None:
    first, second = chunks(partial)[:2]
    shutil.copy(first, second)


def truncated(partial: Path) -> None:
    first = chunks(partial)[0]
    first.write_bytes(first.read_bytes()[:9])


def emptied(partial: Path) -> None:
    chunks(partial)[0].write_bytes(b"")


def turned(partial: Path) -> None:
    first = chunks(partial)[0]
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(bytes(data))


def a_directory(partial: Path) -> None:
    first = chunks(partial)[0]
    first.unlink()
    first.mkdir()


def journal(text: bytes) -> Callable[[Path], None]:
    return lambda partial: (partial / "finished").write_bytes(text)


def checksum_changed(partial: Path) -> None:
    file = partial / "finished"
    file.write_text(re.sub(r"(?m)^1 .", "1 z", file.read_text()))


MENDED = [
    deleted, swapped, copied, truncated, emptied, turned, checksum_changed,
    journal(b""), journal(b"\x00\xff" * 99), journal(b"9" * 6000 + b" 1\n0\n-1 x\n" + b"\xb2 y\n"),
]  # fmt: skip


@pytest.mark.parametrize("damage", MENDED, ids=lambda f: f.__name__)
def test_a_damaged_block_is_computed_again(tmp_path, begun, whole, damage):
    partial = Path(shutil.copytree(begun, tmp_path / "o.zarr.partial"))
    damage(partial)
    with open_sweep(write_sweep(tmp_path / "o.zarr", *CALL, **GRID, chunks=3)) as data:
        xr.testing.assert_identical(data.load(), whole)
    assert os.listdir(tmp_path) == ["o.zarr"]


def garbage(*names: str) -> Callable[[Path], None]:
    def damage(partial: Path) -> None:
        partial.joinpath(*names).write_bytes(b"\x00{garbage")

    damage.__name__ = f"garbage in {'/'.join(names)}"
    return damage


def gone(*names: str) -> Callable[[Path], None]:
    def damage(partial: Path) -> None:
        partial.joinpath(*names).unlink()

    damage.__name__ = f"no {'/'.join(names)}"
    return damage


def pipe(*names: str) -> Callable[[Path], None]:
    def damage(partial: Path) -> None:
        path = partial.joinpath(*names)
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    damage.__name__ = f"a pipe as {'/'.join(names)}"
    return damage


def link(*names: str) -> Callable[[Path], None]:
    def damage(partial: Path) -> None:
        path = partial.joinpath(*names)
        path.rename(partial.parent / "elsewhere")
        path.symlink_to(partial.parent / "elsewhere")

    damage.__name__ = f"a link as {'/'.join(names)}"
    return damage


REFUSED = [
    *(f("sweep.json") for f in (garbage, gone, pipe, link)),
    *(f("store.zarr", ".zmetadata") for f in (garbage, gone, pipe)),
    *(f("store.zarr", "tpot", ".zarray") for f in (garbage, gone, pipe)),
    *(f("store.zarr", "B", "0") for f in (garbage, gone, pipe)),
    pipe("store.zarr", "tpot", "0.0.0"), pipe("lock"), link("lock"), pipe("finished"),
    link("finished"),
]  # fmt: skip


def test_a_directory_in_place_of_a_block_is_refused(tmp_path, begun):
    partial = Path(shutil.copytree(begun, tmp_path / "o.zarr.partial"))
    a_directory(partial)
    with pytest.raises(InputError, match="cannot be written"):
        write_sweep(tmp_path / "o.zarr", *CALL, **GRID, chunks=3)


@pytest.mark.parametrize("damage", REFUSED, ids=lambda f: f.__name__)
def test_other_damage_is_refused_and_left_as_it_is(tmp_path, begun, damage):
    partial = Path(shutil.copytree(begun, tmp_path / "o.zarr.partial"))
    damage(partial)
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        write_sweep(tmp_path / "o.zarr", *CALL, **GRID, chunks=3)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o.zarr").exists()
    after = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    assert [p for p in after if p.name != "lock"] == [p for p in before if p.name != "lock"]


@pytest.mark.parametrize("suffix", [".csv", ".zarr"])
@pytest.mark.parametrize("kind", ["empty", "files", "file", "link", "pipe", "manifest"])
def test_what_is_not_ours_is_never_taken_over(tmp_path, suffix, kind):
    partial = tmp_path / f"o{suffix}.partial"
    if kind in ("empty", "files", "manifest"):
        partial.mkdir()
    if kind == "files":
        (partial / "store.zarr").mkdir()
        (partial / "store.zarr" / "thesis.tex").write_text("precious")
        (partial / "finished").write_text("yes")
    elif kind == "manifest":
        (partial / "sweep.json").write_text(json.dumps({"format": "another program's"}))
    elif kind == "file":
        partial.write_text("precious")
    elif kind == "link":
        (tmp_path / "folder").mkdir()
        partial.symlink_to(tmp_path / "folder")
    elif kind == "pipe":
        os.mkfifo(partial)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="is not an unfinished sweep: move it away"):
        write_sweep(tmp_path / f"o{suffix}", *CALL, **GRID)
    assert sorted(tmp_path.rglob("*")) == before


def test_files_of_others_in_a_working_directory_stay(tmp_path):
    partial = interrupted(tmp_path / "o.csv")
    (partial / "notes.txt").write_text("precious")
    write_sweep(tmp_path / "o.csv", *CALL, **GRID, chunks=3)
    assert sorted(os.listdir(tmp_path)) == ["o.csv", "o.csv.partial"]
    assert os.listdir(partial) == ["notes.txt"]


@pytest.mark.parametrize(
    "name", ["a" * 260 + ".csv", "a" * 250 + ".csv", "a\udcff.csv", "a\ud800.zarr", "a\0.nc"]
)
def test_names_that_cannot_be_written_are_refused_before_anything_is(tmp_path, name):
    with pytest.raises(InputError) as caught:
        write_sweep(tmp_path / name, "gpt2", "h100", B=1, T=5)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_a_sweep_that_continues(tmp_path, whole, monkeypatch):
    import costgraph.asking.sweeping.export as export

    def full(data, path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(export, "write_csv", full)
        with pytest.raises(InputError, match="No space left"):
            write_sweep(tmp_path / "o.csv", *CALL, **GRID, chunks=3)
    assert "finished.csv" not in os.listdir(tmp_path / "o.csv.partial")
    counted = []
    write_sweep(
        tmp_path / "o.csv", *CALL, **GRID, chunks=3, progress=lambda d, t: counted.append(d)
    )
    assert counted == []  # nothing was computed twice
    assert os.listdir(tmp_path) == ["o.csv"]


def test_what_appears_meanwhile_under_the_name_is_not_overwritten(tmp_path):
    path = tmp_path / "o.csv"

    def meddle(done, total):
        path.write_text("precious")

    with pytest.raises(InputError, match="exists by now"):
        write_sweep(path, "gpt2", "h100", B=[1, 2], T=5, progress=meddle)
    assert path.read_text() == "precious"
    path.unlink()
    write_sweep(path, "gpt2", "h100", B=[1, 2], T=5)
    assert os.listdir(tmp_path) == ["o.csv"]


def test_a_grid_of_many_blocks_is_prepared_in_little_memory(tmp_path):
    import tracemalloc

    def stop(done, total):
        raise Interrupted

    call = ("gpt2", "h100")
    grid = {"metrics": ["tpot"], "B": range(1, 300_001), "T": range(1, 900)}
    tracemalloc.start()
    try:
        with pytest.raises(Interrupted):
            write_sweep(tmp_path / "o.zarr", *call, **grid, chunks=1000, progress=stop)
        assert tracemalloc.get_traced_memory()[1] < 60e6  # 270,000 blocks
    finally:
        tracemalloc.stop()
