"""Sweeps on disk: every format holds the same values; interrupted ones continue."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import costgraph as cg
from costgraph.errors import InputError

xr = pytest.importorskip("xarray")
pytest.importorskip("zarr")
pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")
pytest.importorskip("h5netcdf")

from costgraph.asking.sweeping import open_sweep, write_sweep  # noqa: E402

CALL = ("gpt2", ["a6000", "h100"], ["", "fuse"])
GRID = {"B": [1, 2, 7, 9], "T": [3, 600], "S": 12, "N": [1, 5, 30]}


SMALL = ("gpt2", ["a6000", "h100"])
LESS = {"metrics": ["tpot", "memory"], "B": [1, 2, 7, 9], "T": [3, 600], "S": 12, "N": [1, 5]}


class Interrupted(Exception):
    """Stands for a crash in the middle."""


def stop_after(blocks):
    def report(done, total):
        if done == blocks:
            raise Interrupted

    return report


@pytest.fixture(scope="module")
def whole():
    return cg.sweep(*CALL, **GRID)


@pytest.fixture(scope="module")
def small():
    return cg.sweep(*SMALL, **LESS)


#: The last column of a CSV file: what other formats have as attributes.
REMARKS = ["remarks"]


def from_csv(path: Path):
    """A table with its numbers exactly as they are written: some versions of pandas round."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns=REMARKS)
    for name in frame.columns[frame.columns.get_loc("fidelity") + 1 :]:
        kind = {"True": bool, "False": bool}.get(frame[name][0], float)
        frame[name] = [x == "True" if kind is bool else kind(x) for x in frame[name]]
    return frame


def read(path: Path):
    if path.suffix in (".zarr", ".nc"):
        with open_sweep(path) as data:
            return data.load()
    frame = from_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    dims = ["hardware", "passes", "B", "N", "T"]
    return frame.drop(columns=["model", "S"]).set_index(dims).to_xarray()


@pytest.mark.parametrize("suffix", [".zarr", ".nc", ".csv", ".parquet"])
def test_each_format_reads_back_equal(tmp_path, whole, suffix):
    path = write_sweep(tmp_path / f"out{suffix}", *CALL, **GRID, chunks=3)
    assert os.listdir(tmp_path) == [path.name]
    found = read(path)
    if suffix in (".zarr", ".nc"):
        xr.testing.assert_identical(found, whole)
        return
    for name in whole.data_vars:
        expected = whole[name].broadcast_like(whole.tpot.broadcast_like(whole.memory))
        aligned = found[name].sel(hardware=whole.hardware, passes=whole.passes)
        assert (aligned.transpose(*expected.dims).values == expected.values).all(), name


@pytest.mark.parametrize("suffix", [".zarr", ".nc", ".csv", ".parquet"])
def test_what_numbers_rest_on_is_in_the_file_and_printed(tmp_path, suffix, capsys):
    from costgraph.cli import main

    pipeline, out = "prune{sparsity=0.1}", tmp_path / f"out{suffix}"
    main(["sweep", "gpt2", "--on", "a6000", "--passes", pipeline, "-T", "9", "-o", str(out)])
    setting = cg.compile("gpt2", "a6000", pipeline).setting
    said = (*setting.assumptions, *setting.remarks)
    assert len(said) > 2
    printed = capsys.readouterr()
    assert printed.out.startswith(f"wrote {out}\n")
    assert not printed.err
    if suffix == ".csv":
        held = pd.read_csv(out).remarks[0]
    elif suffix == ".parquet":
        import pyarrow.parquet as pq

        held = json.loads(pq.read_schema(out).metadata[b"costgraph"])
        held = "\n".join(held.values())
    else:
        with open_sweep(out) as data:
            held = "\n".join(map(str, data.attrs.values()))
    for sentence in said:
        assert sentence in held
        assert sentence in printed.out


def test_tables_have_a_row_a_point_in_order(tmp_path, whole):
    frame = pd.read_csv(write_sweep(tmp_path / "out.csv", *CALL, **GRID))
    assert list(frame.columns) == [
        "model", "hardware", "passes", "accounting", "fidelity", "B", "S", "N", "T", "ttft",
        "tpot", "latency", "throughput", "memory", "flops", "bytes", "fits", *REMARKS,
    ]  # fmt: skip
    assert frame.remarks.notna().tolist() == [True] + [False] * (len(frame) - 1)
    assert len(frame) == 2 * 2 * 4 * 3 * 2
    keys = frame[["hardware", "passes", "B", "N", "T"]].apply(tuple, axis=1).tolist()
    order = [
        (h, p, b, n, t)
        for h in ("a6000", "h100")
        for p in ("none", "fuse")
        for b in GRID["B"]
        for n in GRID["N"]
        for t in GRID["T"]
    ]
    assert keys == order


def test_parquet_has_row_groups_units_and_types(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    monkeypatch.setattr("costgraph.asking.sweeping.export.frames.__defaults__", (10,))
    path = write_sweep(tmp_path / "out.parquet", *CALL, **GRID)
    file = pq.ParquetFile(path)
    assert file.num_row_groups > 4
    assert file.metadata.num_rows == 96
    schema = file.schema_arrow
    assert schema.field("tpot").metadata[b"units"] == b"s"
    assert schema.field("memory").metadata[b"units"] == b"byte"
    assert json.loads(schema.metadata[b"costgraph"])["accounting"] == "exact"
    assert str(schema.field("B").type) == "int64"
    assert str(schema.field("fits").type) == "bool"
    file.close()


def test_missing_values_stay_missing(tmp_path):
    call = ("gpt2", "h100", ["", "page-kv,page-kv"])
    path = write_sweep(tmp_path / "o.csv", *call, metrics=["tpot"], B=[1, 2], T=9, errors="nan")
    lines = path.read_text().splitlines()
    assert len(lines) == 5
    assert all(line.endswith(",,") for line in lines[3:])  # and no remark
    assert not any(line.endswith(",,") for line in lines[:3])


def test_a_stored_sweep_is_read_lazily(tmp_path, whole):
    data = cg.sweep(*CALL, **GRID, chunks=3, store=tmp_path / "out.zarr")
    assert data.tpot.chunks is not None
    xr.testing.assert_identical(data.compute(), whole)


def test_a_sweep_of_one_point_can_be_stored(tmp_path):
    path = write_sweep(tmp_path / "o.csv", "gpt2", "h100", metrics=["tpot"], B=1, T=5)
    frame = pd.read_csv(path)
    assert len(frame) == 1
    assert frame.tpot[0] == cg.sweep("gpt2", "h100", metrics=["tpot"], B=1, T=5).tpot.item()


@pytest.mark.parametrize("suffix", [".zarr", ".parquet"])
@pytest.mark.parametrize("blocks", [1, 9])
def test_an_interrupted_sweep_continues(tmp_path, small, suffix, blocks):
    path = tmp_path / f"out{suffix}"
    with pytest.raises(Interrupted):
        write_sweep(path, *SMALL, **LESS, chunks=3, progress=stop_after(blocks))
    assert os.listdir(tmp_path) == [path.name + ".partial"]
    seen = []
    write_sweep(path, *SMALL, **LESS, chunks=3, progress=lambda done, total: seen.append(done))
    assert seen[0] == blocks + 1  # what was finished is not done again
    assert os.listdir(tmp_path) == [path.name]
    if suffix == ".zarr":
        xr.testing.assert_identical(read(path), small)
        return
    uninterrupted = write_sweep(tmp_path / "other.parquet", *SMALL, **LESS)
    pd.testing.assert_frame_equal(pd.read_parquet(path), pd.read_parquet(uninterrupted))


def test_an_interruption_between_block_and_journal_costs_one_block(tmp_path, small):
    path = tmp_path / "out.zarr"
    with pytest.raises(Interrupted):
        write_sweep(path, *SMALL, **LESS, chunks=3, progress=stop_after(6))
    journal = tmp_path / "out.zarr.partial" / "finished"
    lines = journal.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "2", "3", "4", "5"]
    journal.write_text("\n".join(lines) + "\n2")  # cut off while being written
    write_sweep(path, *SMALL, **LESS, chunks=3)
    xr.testing.assert_identical(read(path), small)


def test_an_interrupted_preparation_starts_afresh(tmp_path, small, monkeypatch):
    def half(plan, path):
        path.mkdir()
        (path / ".zgroup").write_text("{")
        raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr("costgraph.asking.sweeping.grid._create", half)
        with pytest.raises(Interrupted):
            write_sweep(tmp_path / "out.zarr", *SMALL, **LESS, chunks=3)
    assert os.listdir(tmp_path) == ["out.zarr.partial"]
    write_sweep(tmp_path / "out.zarr", *SMALL, **LESS, chunks=3)
    xr.testing.assert_identical(read(tmp_path / "out.zarr"), small)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"B": [1, 2, 7, 10]}, "values of B"),
        ({"chunks": 4}, "chunks"),
        ({"metrics": ["memory", "tpot"]}, "metrics"),
        ({"accounting": "survey"}, "accounting"),
        ({"weights": "fp32"}, "formulas"),
        ({"passes": [""]}, "values of passes"),
    ],
)
def test_a_partial_sweep_of_other_inputs_is_refused(tmp_path, small, change, word):
    path = tmp_path / "out.zarr"
    with pytest.raises(Interrupted):
        write_sweep(path, *SMALL, **LESS, chunks=3, progress=stop_after(2))
    arguments = {
        "model": SMALL[0], "hardware": SMALL[1], "chunks": 3, **LESS, **change,
    }  # fmt: skip
    with pytest.raises(InputError, match=rf"unfinished sweep \(different: .*{word}"):
        write_sweep(path, **arguments)
    write_sweep(path, *SMALL, **LESS, chunks=3)  # the refusal harmed nothing
    xr.testing.assert_identical(read(path), small)


def test_two_sweeps_do_not_write_to_one_place(tmp_path):
    path = tmp_path / "out.zarr"

    def meddle(done, total):
        with pytest.raises(InputError, match="another sweep is writing"):
            write_sweep(path, *SMALL, **LESS, chunks=3)

    write_sweep(path, *SMALL, **LESS, chunks=100, progress=meddle)
    assert path.is_dir()


@pytest.mark.parametrize("name", ["o.zarr", "o.nc", "o.csv", "o.parquet"])
def test_outputs_are_replaced_only_when_asked(tmp_path, name):
    path = tmp_path / name
    write_sweep(path, "gpt2", "h100", B=[1, 2], T=5)
    with pytest.raises(InputError, match="exists"):
        write_sweep(path, "gpt2", "h100", B=[3], T=5)
    write_sweep(path, "gpt2", "h100", B=[3], T=5, force=True)
    assert os.listdir(tmp_path) == [name]
    if path.suffix == ".csv":
        assert path.read_text().splitlines()[1].split(",")[5] == "3"


def test_a_directory_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "o.zarr").mkdir()
    (tmp_path / "o.zarr" / "thesis.tex").write_text("precious")
    (tmp_path / "o.csv").mkdir()
    for name in ("o.zarr", "o.csv"):
        with pytest.raises(InputError, match="no sweep"):
            write_sweep(tmp_path / name, "gpt2", "h100", B=1, T=5, force=True)
    assert (tmp_path / "o.zarr" / "thesis.tex").read_text() == "precious"


def test_nothing_is_left_when_a_call_is_refused(tmp_path):
    for arguments in ({"B": [0], "T": 1}, {"B": 1, "T": 1, "metrics": ["tpt"]}):
        with pytest.raises(InputError):
            write_sweep(tmp_path / "o.zarr", "gpt2", "h100", **arguments)
    with pytest.raises(InputError, match="no directory"):
        write_sweep(tmp_path / "no" / "o.zarr", "gpt2", "h100", B=1, T=1)
    assert os.listdir(tmp_path) == []


KILLED = """
import sys, time
from costgraph.asking.sweeping import write_sweep

def report(done, total):
    print(done, flush=True)
    time.sleep(0.05)

write_sweep(sys.argv[1], "gpt2", ["a6000", "h100"], metrics=["tpot"],
            B=range(1, 12), T=range(1, 9), chunks=8, progress=report)
"""


@pytest.mark.parametrize("suffix", [".zarr", pytest.param(".nc", marks=pytest.mark.slow)])
def test_a_killed_process_continues(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 5:
                os.kill(process.pid, signal.SIGKILL)
                break
        assert process.wait(timeout=60) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert os.listdir(tmp_path) == [path.name + ".partial"]
    seen = []
    call = ("gpt2", ["a6000", "h100"])
    grid = {"metrics": ["tpot"], "B": range(1, 12), "T": range(1, 9)}
    write_sweep(path, *call, **grid, chunks=8, progress=lambda d, t: seen.append((d, t)))
    assert seen[0][0] >= 6  # formulas are the same in both processes
    assert seen[-1] == (22, 22)
    xr.testing.assert_identical(read(path), cg.sweep(*call, **grid))


@pytest.mark.slow
def test_memory_stays_bounded(tmp_path):
    """Results of 240 MB pass through a process that may grow by 120 MB."""
    code = """
import resource, sys
import numpy as np
import costgraph.asking.sweeping.run as run
from costgraph.asking.sweeping import write_sweep

class Function:  # stands for the evaluator, whose speed is not tested here
    names = ("B", "T")
    def __call__(self, B, T):
        return (B * 1.0 + T,)

run.compile_vector = lambda formulas: Function()
write_sweep(sys.argv[1] + "/a.nc", "pythia-160m", "h100", metrics=["tpot"], B=2, T=[1, 2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_sweep(sys.argv[1] + "/b.nc", "pythia-160m", "h100", metrics=["tpot"],
            B=range(1, 3001), T=range(1, 10001))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    started = time.monotonic()
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) < 120, f"{found.stdout} MB in {time.monotonic() - started:.0f} s"
    assert (tmp_path / "b.nc").stat().st_size > 200e6
