"""calibrate and validate: fits from files, refusals, nothing half-written."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.timing.fidelity import measure
from costgraph.timing.fidelity.calibration import load_calibration

DATA = Path(__file__).parents[2] / "benchmarks" / "data" / "timings"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """GEMM timings of one device."""
    with gzip.open(DATA / "gemm.csv.gz", "rt") as file:
        lines = file.readlines()
    path = tmp_path / "gemm.csv"
    path.write_text("".join([lines[0], *(x for x in lines if x.startswith("a40,"))]))
    return path


def test_a_table_becomes_a_calibration(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "a40.toml"
    main(["calibrate", "--from", str(table), "--device", "a40", "-o", str(target)])
    out = capsys.readouterr().out
    assert "efficiency of compute" in out
    assert "unseen shapes" in out
    made = load_calibration(target).fits["gemm", "fp16"]
    assert 0.6 < made.values["ec"] < 0.95
    assert made.heldout["mean"] < 10
    again = tmp_path / "again.toml"
    main(["calibrate", "--from", str(table), "--device", "a40", "-o", str(again), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert again.read_text() == target.read_text()
    assert (found["device"], found["written"]) == ("a40", [str(again)])
    (one,) = [f for f in found["fits"] if f["variant"] == "fp16"]
    assert {p["name"]: p["value"] for p in one["parameters"]} == pytest.approx(
        dict(made.values), rel=1e-3
    )
    assert one["unseen"]["mean"] == pytest.approx(made.heldout["mean"], rel=1e-3)
    fitted = cg.compile("llama-2-7b", "a40", fidelity="calibrated", calibration=target)
    assert fitted.tpot(B=1, T=100) > cg.compile("llama-2-7b", "a40").tpot(B=1, T=100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "none.csv", "--device", "a40"], "no such file"),
        (["--from", "{t}"], "needs --device"),
        (["--from", "{t}", "--device", "a4o"], "unknown hardware"),
        (["--from", "{t}", "{t}", "--device", "a40"], "two tables of kind 'gemm'"),
        (["--from", "{t}", "--device", "a40", "--plot", "x.gif"], "one of .png, .svg"),
        (["--this-machine", "-o", "x.txt"], "ends in .toml"),
        (["--this-machine", "--minutes", "0"], "--minutes must be from"),
        ([], "one of the arguments"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as error:
        main(["calibrate", *(a.replace("{t}", str(table)) for a in arguments)])
    assert error.value.code == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_too_few_rows_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "few.csv"
    path.write_text("hw,dtype,m,n,k,seconds\nx,bf16,1,2,3,1e-5\n")
    with pytest.raises(SystemExit):
        main(["calibrate", "--from", str(path), "--device", "a40"])
    assert "too few" in capsys.readouterr().err


def test_this_machine_is_measured_and_validated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "WEIGHTS", ((256, 256), (512, 512), (512, 1024), (1024, 512)))
    monkeypatch.setattr(measure, "ROWS", (1, 4, 16, 64, 128, 256))
    monkeypatch.setattr(measure, "BATCHES", measure.BATCHES[::6])
    target = tmp_path / "me.toml"
    main(["calibrate", "--this-machine", "-o", str(target), "--minutes", "0.02"])
    assert "GFLOP/s" in capsys.readouterr().out
    machine = cg.load_hardware(target) if hasattr(cg, "load_hardware") else None
    assert machine is None or machine.kind == "cpu"
    assert {k for k, _ in load_calibration(tmp_path / "me.calibration.toml").fits} == {
        "host_gemm",
        "host_elementwise",
    }
    from costgraph.showing import validation

    monkeypatch.setattr(validation, "DECODE", ((1, 16),))
    monkeypatch.setattr(validation, "PREFILL", ((1, 16),))
    # Kinds that were not measured take the product's form: attention, experts.
    for model in ("llama-2-7b", "mixtral-8x7b", "deepseek-v2-lite", "whisper-tiny"):
        for pipeline in ("", "fuse"):
            ideal = cg.compile(model, str(target), pipeline).ttft
            fitted = cg.compile(model, str(target), pipeline, fidelity="calibrated").ttft
            at = {k.name: {"B": 2, "S": 50}[k.name] for k in ideal.symbols}
            assert fitted(**at) >= ideal(**at)
    main(["validate", "--on", str(target), "--minutes", "0.02"])
    assert "mean absolute error: ideal" in capsys.readouterr().out
    main(["validate", "--on", str(target), "--minutes", "0.02", "--json"])
    found = json.loads(capsys.readouterr().out)
    for p in found["points"]:
        assert p["ideal_error"] == pytest.approx(p["ideal"] / p["measured"] - 1)
        assert 0 < p["ideal"] <= p["calibrated"]
    assert {p["phase"] for p in found["points"]} == {"prefill", "decode"}
    assert len(found["mean_absolute_errors"]) == 3 * len({p["type"] for p in found["points"]})


def test_residuals_are_plotted(table: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "residuals.svg"
    main(["calibrate", "--from", str(table), "--device", "a40", "--plot", str(target)])
    assert "<svg" in target.read_text()
