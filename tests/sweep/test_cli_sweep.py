"""The commands sweep and search."""

from __future__ import annotations

import json
import os

import pytest

import costgraph as cg
from costgraph.cli import main


def printed(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.count("\n") == 1
    assert "Traceback" not in found.err
    return found.err


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_sweep_prints_a_table(capsys):
    pytest.importorskip("xarray")
    text = printed(
        capsys, "sweep", "gpt2", "--on", "a6000,h100", "--passes", "", "--passes", "fuse",
        "-B", "1:4:x2", "-T", "9", "--metric", "tpot",
    )  # fmt: skip
    lines = text.splitlines()
    assert lines[0] == "model=gpt2, accounting=exact, fidelity=ideal, T=9"
    assert lines[2].split() == ["hardware", "passes", "B", "tpot"]
    assert len([x for x in lines if "µs" in x or " ms" in x]) == 12
    end = lines.index("12 rows")
    assert lines[end + 1] == "assuming"
    value = cg.compile("gpt2", "h100", "fuse").tpot.evaluate(B=4, T=9)
    assert lines[end - 1].split() == ["h100", "fuse", "4", f"{value / 1e-6:.4g}", "µs"]


def test_a_long_table_says_how_much_is_left_out(capsys):
    pytest.importorskip("xarray")
    text = printed(capsys, "sweep", "gpt2", "--on", "h100", "-B", "1:300", "-T", "9")
    table = text.split("assuming")[0].splitlines()
    assert len(table) == 4 + 20 + 1
    assert table[-1] == "… 300 rows; -o FILE writes all of them, --format csv prints them"


@pytest.mark.parametrize("suffix", ["csv", "parquet", "nc", "zarr"])
def test_sweep_writes_files(capsys, here, suffix):
    pytest.importorskip("zarr")
    pytest.importorskip("h5netcdf")
    pytest.importorskip("pyarrow")
    call = ("sweep", "gpt2", "--on", "h100", "--on", "a6000", "-T", "9,10", "-o", f"o.{suffix}")
    assert printed(capsys, *call).startswith(f"wrote o.{suffix}\nassuming\n")
    assert os.listdir(here) == [f"o.{suffix}"]
    assert "exists" in refused(capsys, *call)
    assert printed(capsys, *call, "--force", "-B", "3").startswith(f"wrote o.{suffix}\n")
    assert os.listdir(here) == [f"o.{suffix}"]


def test_symbols_of_passes_are_set(capsys):
    pytest.importorskip("xarray")
    text = printed(
        capsys, "sweep", "gpt2-xl", "--on", "h100", "--passes",
        "speculative{draft=gpt2,alpha=a}", "-T", "9", "--set", "a=0.2:0.8:0.3",
    )  # fmt: skip
    lines = text.splitlines()
    assert "passes=speculative{draft=gpt2,alpha=a}" in lines[0]
    assert [line.split()[0] for line in lines[4:7]] == ["0.2", "0.5", "0.8"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-T", "1:x"], "--context: "),
        (["-T", "1:5:x1"], "factor"),
        (["-T", "5:1"], "ends before it starts"),
        (["-B", "0", "-T", "1"], "--batch must be positive, not '0'"),
        (["-T", "9", "--metric", "tpott"], "did you mean 'tpot'"),
        (["-T", "9", "--metric", "ttft"], "ttft needs values for S"),
        (["-T", "9", "--set", "a"], "NAME=NUMBER"),
        (["-T", "9", "-B", "1", "--set", "B=2"], "given twice"),
        (["-T", "9", "--set", "a=2"], "depends on a"),
        (["-T", "9", "--set", "__import__=2"], "symbol name"),
        (["-T", "9", "--passes", "fuze"], "did you mean 'fuse'"),
        (["-T", "9", "--passes", "page-kv,page-kv"], "paged already"),
        (["-T", "9", "--on", "h1000"], "did you mean"),
        (["-T", "9", "--chunk", "-5"], "positive whole number"),
        (["-T", "9", "--accounting", "exat"], "did you mean 'exact'"),
        ([], "tpot needs B, T"),
    ],
)
def test_bad_sweeps_leave_one_line_and_no_file(capsys, here, arguments, words):
    pytest.importorskip("xarray")
    text = refused(capsys, "sweep", "gpt2", "--on", "h100", "-o", "o.csv", *arguments)
    assert words in text
    assert os.listdir(here) == []


@pytest.mark.parametrize("name", ["o.xlsx", "o", "no/such/o.csv"])
def test_bad_outputs_are_refused_before_work(capsys, here, name):
    pytest.importorskip("xarray")
    refused(capsys, "sweep", "gpt2", "--on", "h100", "-T", "9", "-o", name)
    assert os.listdir(here) == []


def test_search_prints_candidates_and_front(capsys):
    text = printed(
        capsys, "search", "llama-2-7b", "--on", "a6000,h100", "--passes", "", "--passes", "fuse",
        "--limit", "tpot=0.05", "--limit", "memory=40GB", "--pareto", "latency,throughput",
        "-B", "1:64",
    )  # fmt: skip
    assert "tpot ≤ 50 ms, memory ≤ 40GB" in text
    assert text.splitlines()[6].split()[:2] == ["--------", "------"]
    assert text.splitlines()[7].startswith("h100")
    assert "Pareto front of latency and throughput" in text


def test_search_in_json_is_the_python_result(capsys):
    text = printed(
        capsys, "search", "gpt2", "--on", "h100", "--metric", "latency", "-S", "9", "-N", "7",
        "--limit", "throughput=50000", "--json",
    )  # fmt: skip
    expected = cg.search(
        "gpt2", ["h100"], [""], S=9, N=7, objective="latency", limits={"throughput": 50000}
    )
    assert json.loads(text) == json.loads(json.dumps(expected.to_dict()))
    (candidate,) = json.loads(text)["candidates"]
    assert candidate["batch"] > 1
    assert "throughput" in candidate["binding"][0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metric", "trougput"], "did you mean 'throughput'"),
        (["--limit", "tpot"], "write METRIC=VALUE"),
        (["--limit", "tpot="], "write METRIC=VALUE"),
        (["--limit", "tpot=1", "--limit", "tpot=2"], "given twice"),
        (["--limit", "tpot=1GB"], "a time is written"),
        (["--limit", "speed=1"], "unknown metric"),
        (["--pareto", "latency"], "two different metrics"),
        (["-B", "9:1"], "two ends"),
        (["-B", "1,2"], "give one value"),
        (["-S", "1:4"], "give one value"),
        (["--set", "a=1,2"], "give one value"),
        (["--passes", "page-kv,page-kv"], "no candidate can be compiled"),
    ],
)
def test_bad_searches_leave_one_line(capsys, arguments, words):
    assert words in refused(capsys, "search", "gpt2", "--on", "h100", *arguments)


def test_an_interrupted_sweep_says_how_to_go_on(capsys, here, monkeypatch):
    pytest.importorskip("zarr")
    import costgraph.asking.sweeping.grid as sweeping

    evaluate = sweeping.evaluate

    def interrupted(plan, tasks, client=None):
        for number, item in enumerate(evaluate(plan, tasks, client)):
            if number == 3:
                raise KeyboardInterrupt
            yield item

    call = ["sweep", "gpt2", "--on", "h100", "-T", "1:6", "--chunk", "1", "-o", "o.csv"]
    monkeypatch.setattr(sweeping, "evaluate", interrupted)
    assert main(call) == 130
    assert "the same command continues" in capsys.readouterr().err
    assert os.listdir(here) == ["o.csv.partial"]
    monkeypatch.setattr(sweeping, "evaluate", evaluate)
    assert main(call) == 0
    assert os.listdir(here) == ["o.csv"]
    assert len((here / "o.csv").read_text().splitlines()) == 7
