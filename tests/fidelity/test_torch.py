"""Measuring through PyTorch, with a module that stands for it: NumPy behind the same calls."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.fidelity import measure, measure_torch
from costgraph.fidelity.calibration import load_calibration


class Event:
    """A CUDA event on the host's clock."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return (end.at - self.at) * 1e3


class Array(np.ndarray):  # type: ignore[type-arg]
    def element_size(self) -> int:
        return 2


def attend(q: Any, k: Any, v: Any, is_causal: bool, enable_gqa: bool) -> Any:
    assert enable_gqa == (q.shape[1] != k.shape[1])
    assert is_causal == (q.shape[2] > 1)
    k, v = (np.repeat(x, q.shape[1] // k.shape[1], axis=1) for x in (k, v))
    return (q @ k.transpose(0, 1, 3, 2)) @ v


def fake(cuda: bool) -> ModuleType:
    made: Any = ModuleType("torch")
    made.__version__ = "0.fake"
    made.float32, made.bfloat16 = "float32", "bfloat16"
    made.matmul, made.add = np.matmul, np.add

    def randn(*shape: int, dtype: str, device: str) -> Any:
        assert dtype in ("float32", "bfloat16")
        assert device == ("cuda" if cuda else "cpu")
        return np.ones(shape, np.float32).view(Array)

    made.randn = randn
    made.nn = SimpleNamespace(functional=SimpleNamespace(scaled_dot_product_attention=attend))
    made.cuda = SimpleNamespace(is_available=lambda: cuda, synchronize=lambda: None, Event=Event)
    return made


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = tuple((m, n, k) for m in (1, 8, 32, 64) for n in (64, 128, 256) for k in (64, 128))
    heads = ((2, 2, 16), (4, 2, 16))
    monkeypatch.setattr(measure_torch, "PRODUCTS", sizes)
    prefill = tuple((b, s, s, *h) for b in (1, 2) for s in (8, 16, 24, 32, 48) for h in heads)
    decode = tuple((b, 1, t, *h) for b in (1, 2, 3) for t in (16, 32, 64, 128) for h in heads)
    monkeypatch.setattr(measure_torch, "PREFILL", prefill)
    monkeypatch.setattr(measure_torch, "DECODE", decode)
    monkeypatch.setattr(measure_torch, "SIZES", tuple((r, 64) for r in range(1, 13)))
    monkeypatch.setattr(measure, "WEIGHTS", ((128, 128), (256, 256)))
    monkeypatch.setattr(measure, "BATCHES", ((2, 1, 16, 64),))


def test_a_gpu_becomes_a_calibration(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake(cuda=True))
    target = tmp_path / "gpu.calibration.toml"
    command = ["calibrate", "--this-machine", "--library", "torch", "--device", "h100"]
    main([*command, "-o", str(target), "--minutes", "0.02"])
    made = load_calibration(target)
    assert set(made.fits) == {
        ("gemm", "bf16"), ("prefill", "bf16-bf16"), ("decode", "bf16-bf16"),
        ("elementwise", "any"),
    }  # fmt: skip
    assert "CUDA events" in made.provenance
    fitted = cg.compile("llama-2-7b", "h100", "fuse", fidelity="calibrated", calibration=target)
    assert fitted.tpot(B=1, T=64) > cg.compile("llama-2-7b", "h100", "fuse").tpot(B=1, T=64)


def test_a_cpu_gets_products_in_two_types(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake(cuda=False))
    target = tmp_path / "me.toml"
    main(["calibrate", "--this-machine", "--library", "torch", "-o", str(target),
          "--minutes", "0.02"])  # fmt: skip
    machine = cg.hardware.load_hardware(target)
    assert {kind for _, kind in machine.peaks} == {"fp32", "bf16"}
    made = load_calibration(tmp_path / "me.calibration.toml")
    assert {v for k, v in made.fits if k == "host_gemm"} == {"fp32", "bf16"}
    fitted = cg.compile("llama-2-7b", str(target), fidelity="calibrated")
    assert fitted.tpot(B=1, T=64) > 0


def test_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["calibrate", "--this-machine", "--library", "torch"]
    for module, more, message in (
        (None, [], "pip install torch"),
        (None, ["--device", "h100"], "pip install torch"),
        (fake(cuda=False), ["--device", "h100"], "finds no GPU"),
    ):
        monkeypatch.setitem(sys.modules, "torch", module)
        with pytest.raises(SystemExit) as error:
            main([*command, *more])
        assert error.value.code == 2
        shown = capsys.readouterr().err
        assert message in shown
        assert len(shown.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
