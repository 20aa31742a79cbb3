"""Stores that name a codec which runs what it unpacks."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from pathlib import Path

import pytest

from costgraph.asking.sweeping.grid import open_sweep, write_sweep
from costgraph.errors import InputError

pytest.importorskip("xarray")
zarr = pytest.importorskip("zarr")

PICKLE = {"id": "pickle", "protocol": 5}
TEXTS = {"id": "vlen-utf8"}


class Canary:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return (os.mkdir, (str(self.place),))


def store(path: Path, canary: Path, **changed: object) -> Path:
    """A store of one text whose chunk is a pickle."""
    (path / "x").mkdir(parents=True)
    about = {
        "zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "compressor": None,
        "fill_value": None, "filters": [TEXTS, PICKLE], "order": "C",
    } | changed  # fmt: skip
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / ".zattrs").write_text("{}")
    (path / "x" / ".zarray").write_text(json.dumps(about))
    (path / "x" / ".zattrs").write_text('{"_ARRAY_DIMENSIONS": ["a"]}')
    (path / "x" / "0").write_bytes(pickle.dumps(Canary(canary)))
    return path


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """The codec as releases of zarr and numcodecs have it that load pickles without asking."""
    pickles = pytest.importorskip("numcodecs.pickles")
    monkeypatch.setattr(pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    with zarr.config.set({"array.allow_unsafe_pickle_decode": True}):
        yield


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"filters": [TEXTS], "compressor": PICKLE},
        {"filters": [PICKLE], "dtype": "<f8"},
        {"filters": [{"id": "json2"}]},
        {"filters": ["pickle"]},
    ],
)
def test_codecs_that_run_what_they_unpack_are_refused(changed, tmp_path):
    canary = tmp_path / "canary"
    path = store(tmp_path / "evil.zarr", canary, **changed)
    with pytest.raises(InputError, match=r"evil\.zarr.*packed by '(pickle|json2)'") as error:
        open_sweep(path).load()
    assert "\n" not in str(error.value)
    assert not canary.exists()


def test_the_refused_store_is_live(tmp_path):
    canary = tmp_path / "canary"
    path = store(tmp_path / "evil.zarr", canary)
    with contextlib.suppress(Exception):
        zarr.open_group(str(path), mode="r")["x"][:]
    assert canary.exists()


def test_consolidated_metadata_is_looked_at_too(tmp_path):
    canary = tmp_path / "canary"
    path = store(tmp_path / "evil.zarr", canary)
    hidden = (path / "x" / ".zarray").read_text()
    whole = {"zarr_consolidated_format": 1, "metadata": {"x/.zarray": json.loads(hidden)}}
    (path / ".zmetadata").write_text(json.dumps(whole))
    (path / "x" / ".zarray").unlink()
    with pytest.raises(InputError, match="packed by 'pickle'"):
        open_sweep(path)


def test_own_stores_are_opened(tmp_path):
    target = tmp_path / "own.zarr"
    write_sweep(target, "gpt2", "h100", ["", "fuse"], B=[1, 2], T=[8, 16], metrics=["tpot"])
    with open_sweep(target) as data:
        assert data["tpot"].shape == (2, 2, 2)
