"""What became of each request, in files of ``serve-simulate --served``."""

from __future__ import annotations

import csv
import json
from statistics import stdev

import pytest

from costgraph.cli import main

pytest.importorskip("simpy")
LINE = ("serve-simulate", "llama-3.2-1b", "--on", "h100", "--passes", "fuse", "--json")
LOADS = {
    "open": ("--rate", "60", "--prompt", "uniform:300:0.5", "--generate", "uniform:9:0.9"),
    "apart": ("--closed", "4", "--prompt", "300", "--generate", "5", "--decode-replicas", "2"),
}


@pytest.mark.parametrize("load", LOADS)
def test_rows_are_what_the_summary_is_made_of(load, capsys, tmp_path):
    files = [tmp_path / f"served.{kind}" for kind in ("csv", "json")]
    for file in files:
        line = (*LINE, *LOADS[load], "--requests", "40", "--served", str(file))
        main(list(line))
        whole = json.loads(capsys.readouterr().out)
    rows = list(csv.DictReader(files[0].read_text().splitlines()))
    told = json.loads(files[1].read_text())
    assert len(rows) == len(told["served"]) == whole["requests"] == 40
    for row, same in zip(rows, told["served"], strict=True):
        assert {k: float(row[k]) for k in same if k.endswith("_s") and row[k]} == {
            k: v for k, v in same.items() if k.endswith("_s") and v is not None
        }
        begun, first, done = (
            float(row[f"{k}_s"]) for k in ("admitted", "first_token", "last_token")
        )
        assert float(row["arrival_s"]) <= begun < first <= done
        assert (row["tpot_s"] == "") == (row["generated_tokens"] == "1")
        places = row["servers"].split("; ")
        assert len(places) == (2 if load == "apart" else 1)
        assert places[0] == "0"
    for name in ("ttft", "tpot", "latency"):
        found = [float(r[f"{name}_s"]) for r in rows if r[f"{name}_s"]]
        assert sum(found) / len(found) == pytest.approx(whole[name]["mean"], rel=1e-12)
        # Ten parts of four requests each, where arrivals are drawn at a rate.
        if load == "open" and name == "ttft":
            parts = [sum(found[i : i + 4]) / 4 for i in range(0, 40, 4)]
            error = stdev(parts) / 10**0.5 / whole[name]["mean"]
            assert whole["standard_errors"][name] == pytest.approx(error, rel=1e-9)
    assert ("standard_errors" in whole) == (load == "open")
    tokens = sum(int(r["generated_tokens"]) for r in rows)
    assert tokens / whole["seconds"] == pytest.approx(whole["tokens_per_second"], rel=1e-12)
    # What it was served by goes with it: in every row, and sentences in the first.
    assert {r["model"] for r in rows} == {"llama-3.2-1b"}
    assert "all requests count" in rows[0]["remarks"]
    assert told["assumptions"] == whole["assumptions"]
    assert told["fidelity"] == "ideal"


def test_a_file_of_another_kind_is_refused_before_anything_runs(capsys, tmp_path):
    file = tmp_path / "served.txt"
    with pytest.raises(SystemExit):
        main([*LINE, *LOADS["open"], "--served", str(file)])
    assert "--served" in capsys.readouterr().err
    assert not file.exists()
