"""Hosts: timing, caches, kernels of a library, and their forms in formulas."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import costgraph as cg
from costgraph.cli import main
from costgraph.errors import InputError
from costgraph.timing.fidelity import measure
from costgraph.timing.fidelity.calibration import Calibration, Fit, calibration_text
from costgraph.timing.fidelity.forms import FORMS
from costgraph.timing.fidelity.kernels import ELEMENTWISE, NumPy, blas_threads

EM = 0.3
HELD = {"rows": 9.0, "mean": 5.0, "median": 4.0, "q10": 0.9, "q50": 1.0, "q90": 1.1}
DEVICE = """name = "small-host"
title = "a host"
kind = "cpu"
[sources]
here = "made up"
[peaks.tensor]
fp32 = { value = "100 GFLOP/s", source = "here" }
[peaks.vector]
fp32 = { value = "100 GFLOP/s", source = "here" }
[memory]
bandwidth = { value = "40 GB/s", source = "here" }
[onchip]
l2 = { value = "1 MiB", source = "here" }
[tiers.l3]
capacity = { value = "32 MiB", source = "here" }
"""
MODEL = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 512,
    "intermediate_size": 1408, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 8, "vocab_size": 4096, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 1 << 20, "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip
WIDE = {"weights": "fp32", "activations": "fp32", "kv": "fp32"}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A device with a calibration whose kernels differ in ``ec`` alone."""
    path = tmp_path_factory.mktemp("host") / "small-host.toml"
    path.write_text(DEVICE)
    gemm = {p.name: p.start for p in FORMS["host_gemm"].parameters}
    light = {p.name: p.start for p in FORMS["host_elementwise"].parameters}
    light |= {"l2": 4.0, "em": EM}
    fits = {("host_gemm", "fp32"): Fit("host_gemm", "fp32", gemm, HELD)}
    for rank, name in enumerate(ELEMENTWISE):
        values = light | {"ec": 0.5 / (1 + rank)}
        key = ("host_elementwise", f"fp32-{name}")
        fits[key] = Fit(*key, values, HELD)
    made = Calibration("small-host", "test", fits)
    path.with_name("small-host.calibration.toml").write_text(calibration_text(made))
    return str(path)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 64), st.integers(1, 4096))
def test_the_roofline_stays_a_lower_bound_in_caches(host: str, batch: int, tokens: int) -> None:
    for passes in ("", "fuse"):
        ideal = cg.compile(MODEL, host, passes, **WIDE)
        fitted = cg.compile(MODEL, host, passes, fidelity="calibrated", **WIDE)
        at = {"B": batch, "S": tokens}
        for low, close in zip(
            ideal.breakdown("prefill", **at), fitted.breakdown("prefill", **at), strict=True
        ):
            assert float(close.seconds) >= float(low.seconds) * (1 - 1e-9)
        assert fitted.tpot(B=batch, T=tokens) >= ideal.tpot(B=batch, T=tokens)


@pytest.mark.parametrize("share", ["1/4", "1"])
def test_layers_that_a_token_leaves_cost_as_often_as_they_run(host: str, share: str) -> None:
    """With one sequence a layer runs or not: the mean of the models with and without it."""
    short, whole, exits = (
        cg.compile(
            {**MODEL, "num_hidden_layers": layers}, host, passes, fidelity="calibrated", **WIDE
        ).tpot.evaluate(B=1, T=3000)
        for layers, passes in ((1, "fuse"), (2, "fuse"), (2, f"fuse,early-exit{{p={share}}}"))
    )
    left = float(Fraction(share))
    # Vector work that is not proved to be absorbed stands in the norm beside the products.
    assert exits == pytest.approx(left * short + (1 - left) * whole, rel=1e-6)


def test_activations_come_from_the_cache_up_to_its_size(host: str) -> None:
    fitted = cg.compile(MODEL, host, fidelity="calibrated", **WIDE)

    def taken(tokens: int, name: str = "mlp_norm") -> float:
        rows = fitted.breakdown("prefill", B=1, S=tokens)
        return float(next(r for r in rows if r.name == name).seconds)

    def slope(lower: int, upper: int) -> float:
        return (taken(upper) - taken(lower)) / (upper - lower)

    moved = 8 * 512 / 40e9  # seconds of traffic per token at full bandwidth
    within, beyond = slope(500, 1000), slope(20000, 40000)
    assert beyond - within == pytest.approx(moved / EM * (1 - 1 / 4), rel=1e-6)
    # Bytes that fit keep their rate: the lines meet where the operands fill the cache.
    full = (32 << 20) / (8 * 512)
    assert taken(500) + within * (full - 500) == pytest.approx(
        taken(20000) - beyond * (20000 - full), rel=1e-3
    )
    # A copy does not go below its traffic at full bandwidth.
    ideal = cg.compile(MODEL, host, **WIDE).breakdown("prefill", B=1, S=500)
    bound = float(next(r for r in ideal if r.name == "k_append").seconds)
    floor = FORMS["host_elementwise"].parameter("t0").start
    assert taken(500, "k_append") == pytest.approx(bound + floor, rel=1e-6)


def test_kernels_of_a_host_have_parameters_of_their_own(host: str) -> None:
    words = " ".join(cg.compile(MODEL, host, fidelity="calibrated", **WIDE).assumptions)
    for name in ("softmax", "rope", "rmsnorm", "silu", "add", "copy"):
        assert f"host_elementwise fp32-{name} fitted" in words
    assert "host_gemm fp32 fitted" in words


def test_sums_over_contexts_equal_the_sum_of_steps_on_a_host(host: str) -> None:
    fitted = cg.compile(MODEL, host, fidelity="calibrated", **WIDE)
    steps = fitted.ttft(B=8, S=60000)
    steps += sum(fitted.tpot(B=8, T=60000 + i) for i in range(1, 50))
    assert fitted.latency(B=8, S=60000, N=50) == pytest.approx(steps, rel=1e-9)


def test_cache_sizes_are_read_from_the_system(tmp_path: Path) -> None:
    for index, (kind, level, size) in enumerate(
        (("Data", 1, "48K"), ("Instruction", 1, "32K"), ("Unified", 2, "1024K"),
         ("Unified", 3, "32M"), ("Unified", "x", "1K"), ("Unified", 4, "much"))
    ):  # fmt: skip
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (("type", kind), ("level", level), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    assert measure.cache_sizes(tmp_path) == {1: 48 << 10, 2: 1 << 20, 3: 32 << 20}
    assert measure.cache_sizes(tmp_path / "none") == {}


def test_interrupted_repeats_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(1000))

    def run() -> None:
        time.sleep(0.02 if next(calls) % 2 else 0.001)

    # Every other repeat is interrupted: the slow ones.
    seen = iter(n for i in range(1000) for n in (i, i + i % 2))
    monkeypatch.setattr(measure, "_interruptions", lambda: next(seen))
    assert measure.typical(run, 0.15) < 0.01
    # All are: the least counts, or the time on the core.
    ticks = iter(range(10**6))
    monkeypatch.setattr(measure, "_interruptions", lambda: next(ticks))
    assert 0.0009 < measure.typical(run, 0.1) < 0.01
    assert measure.typical(run, 0.1, None, threads=1) < 0.001


def test_a_model_is_measured_within_about_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "WEIGHTS", ((64, 64),))
    monkeypatch.setattr(measure, "BATCHES", ((2, 1, 16, 64),))
    monkeypatch.setattr(measure, "SIZES", ((1, 128), (64, 128)))
    monkeypatch.setattr(measure, "POOL", (1 << 24, 1 << 24))
    monkeypatch.setattr(measure, "cache_sizes", lambda: {2: 1 << 18})
    seen: list[tuple[str, int]] = []
    made = measure.measure(NumPy(), 0.5, lambda text, steps: seen.append((text, steps)))
    assert len(seen) <= seen[0][1]
    assert {t.kind for t in made.tables} == {"host_gemm", "host_elementwise"}
    for table in made.tables:
        assert (table.seconds > 0).all()
    light = next(t for t in made.tables if t.kind == "host_elementwise")
    large = light.columns["rows"] * light.columns["cols"] * 8 > 1 << 18
    assert (light.columns["warm_l2"][large] == 0).all()
    assert np.isfinite(made.sheet.bandwidth)


def test_an_interruption_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "typical", stop)
    monkeypatch.setattr(measure, "POOL", (1 << 20, 1 << 20))
    target = tmp_path / "me.toml"
    code = main(["calibrate", "--this-machine", "-o", str(target), "--minutes", "0.02"])
    assert code == 130
    assert capsys.readouterr().err == "costgraph: interrupted\n"
    assert not list(tmp_path.iterdir())


def test_a_gpu_is_not_validated_here(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["validate", "--on", "h100", "--minutes", "0.02"])
    assert error.value.code == 2
    assert "'h100' is of kind 'gpu'" in capsys.readouterr().err


def test_threads_are_set_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    before = blas_threads()
    if before is None:
        pytest.skip("NumPy's BLAS here is not OpenBLAS")
    try:
        assert NumPy(1).threads == 1
    finally:
        NumPy(before)
    from costgraph.timing.fidelity import kernels

    monkeypatch.setattr(kernels, "_openblas", lambda _: None)
    assert NumPy().threads is None
    with pytest.raises(InputError, match="not OpenBLAS"):
        NumPy(2)
