"""``calibrated@llama.cpp``: measured runs that no fit saw, its bound, its file, its refusals."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path

import pytest

import costgraph as cg
from costgraph.errors import HardwareError, InputError
from costgraph.hardware import device_names, load_hardware
from costgraph.timing.fidelity.frameworks import (
    PARAMETERS,
    PLATFORMS,
    framework,
    framework_from,
    framework_names,
)

ROOT = Path(__file__).parents[2]
FILE = ROOT / "hardware" / "frameworks" / "llama.cpp.toml"
PASSES = "fuse,quantize{weights=q4_1,keep=none}"


@pytest.fixture(scope="module")
def bench(from_benchmarks):
    return from_benchmarks("llama_cpp")


@pytest.mark.parametrize(("name", "bound"), [("decode, batch 1", 15), ("prompt", 25)])
def test_runs_kept_back_are_met(bench, name: str, bound: float) -> None:
    runs = [r for r in bench.groups(bench.read_runs())[name] if r.kept_back]
    assert len(runs) >= 10
    ideal = bench.ratios(runs, lambda r: bench.predicted(r, "ideal"))
    made = bench.ratios(runs, lambda r: bench.predicted(r, "calibrated@llama.cpp"))
    assert bench.errors(made)[1] <= bound
    assert bench.errors(made)[1] < bench.errors(ideal)[1] / 2
    assert (made >= ideal).all()


def test_the_file_states_the_errors_of_runs_kept_back(bench) -> None:
    runs = bench.read_runs()
    found = bench.heldout(runs, lambda r: bench.predicted(r, "calibrated@llama.cpp"))
    stated = framework("llama.cpp").heldout
    for step, table in found.items():
        assert dict(stated[step]) == pytest.approx(table, rel=1e-3)


def test_a_fit_finds_the_parameters_that_made_the_times(bench) -> None:
    """From times made with the shipped parameters, of devices on both platforms."""
    pytest.importorskip("scipy")
    truth = framework("llama.cpp").platforms
    some = [r for r in bench.read_runs() if r.device in ("rtx-3090", "a100-80g", "m2-ultra")]
    made = [
        bench.replace(r, seconds=bench.predicted(r, "calibrated@llama.cpp"))
        for r in some
        if not r.kept_back
    ]
    found = bench.fitted(made)
    for key in ("launch", "stream"):
        assert found["cuda"][key] == pytest.approx(truth["cuda"][key], rel=0.2)
    for key in ("em", "ec"):
        assert found["metal"][key] == pytest.approx(truth["metal"][key], rel=0.1)


@pytest.mark.parametrize("device", device_names())
def test_every_device_is_served_above_its_bound_or_refused_in_a_line(device: str) -> None:
    machine = load_hardware(device)
    served = framework("llama.cpp")
    lacking = "was not timed on devices like" if machine.instruction not in PLATFORMS else ""
    if PLATFORMS.get(machine.instruction) == "cuda" and machine.topology.clock is None:
        lacking = r"needs topology\.clock"
    if lacking:
        with pytest.raises(HardwareError, match=lacking) as refused:
            cg.compile("llama-3-8b", device, fidelity="calibrated@llama.cpp")
        assert f"{device!r}" in str(refused.value)
        return
    for grouped in (False, True):
        slow, read = served.factors(machine, "bf16", grouped)
        assert slow >= 1
        assert read >= 1
        assert slow <= 30
        assert read <= 5


def test_terms_are_named_and_said() -> None:
    made = cg.compile("llama-3-8b", "rtx-4090", PASSES, fidelity="calibrated@llama.cpp")
    ideal = cg.compile(made.program, "rtx-4090")
    assert {r.fit for r in made.breakdown("decode", B=1, T=500) if r.seconds} == {
        framework("llama.cpp").trust(load_hardware("rtx-4090"), "decode")
    }
    assert any("fitted to whole runs" in a for a in made.tpot.assumptions)
    # Maxima and sums alone: a generation has a closed form, and its derivatives.
    steps = sum(made.tpot(B=1, T=100 + i) for i in range(1, 50))
    assert made.latency(B=1, S=100, N=50) == pytest.approx(made.ttft(B=1, S=100) + steps)
    assert made.explain("latency", B=1, S=100, N=50).timed
    low, high = (
        cg.compile(made.program, "rtx-4090", fidelity=f"{band}@llama.cpp").tpot(B=1, T=500)
        for band in ("low", "high")
    )
    assert low < made.tpot(B=1, T=500) < high
    assert made.tpot(B=1, T=500) > ideal.tpot(B=1, T=500)


def test_launches_do_not_hang_on_how_a_graph_is_fused() -> None:
    """The framework starts its own kernels, however the graph is written."""
    fused, plain = (
        cg.compile("llama-3-8b", "rtx-4090", passes, fidelity="calibrated@llama.cpp")
        for passes in ("fuse", "")
    )
    assert fused.tpot(B=1, T=500) == pytest.approx(plain.tpot(B=1, T=500), rel=0.03)


def test_names_and_calibrations_are_refused(tmp_path: Path) -> None:
    assert framework_names() == ("llama.cpp",)
    with pytest.raises(InputError, match=r"did you mean 'llama\.cpp'"):
        cg.compile("llama-3-8b", "rtx-4090", fidelity="calibrated@lama.cpp")
    with pytest.raises(InputError, match=r"changes nothing for llama\.cpp"):
        cg.compile("llama-3-8b", "h100", fidelity="calibrated@llama.cpp", calibration="x.toml")


@pytest.mark.parametrize(
    ("where", "key", "value", "words"),
    [
        ("cuda", "em", 1.5, "cuda.em must be a number from 0.02 to 1"),
        ("cuda", "launch", None, "lacks 'launch'"),
        ("cuda", "lunch", 1.0, "did you mean 'launch'"),
        ("metal", "ec", "1", "metal.ec must be a number"),
        ("", "rocm", {}, "unknown key 'rocm'"),
        ("", "heldout", {}, r"needs tables \[heldout.decode\]"),
        ("", "framework", 3, "'framework' must be a text"),
    ],
)
def test_wrong_files_are_refused(where: str, key: str, value: object, words: str) -> None:
    data = copy.deepcopy(tomllib.loads(FILE.read_text()))
    table = data[where] if where else data
    table[key] = value
    if value is None:
        del table[key]
    with pytest.raises(HardwareError, match=words):
        framework_from(data, "x.toml")


def test_parameters_are_within_their_limits() -> None:
    for table in framework("llama.cpp").platforms.values():
        for name, value in table.items():
            low, high, meaning = PARAMETERS[name]
            assert low <= value <= high
            assert meaning
