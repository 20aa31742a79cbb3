"""Measuring through PyTorch: for real on a CPU where it is installed; GPUs by a stand-in."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.showing import validation
from costgraph.timing.fidelity import measure, measure_torch
from costgraph.timing.fidelity.calibration import load_calibration


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

    def numel(self) -> int:
        return self.size


class Graph:
    """A graph that runs again what ran while it was captured."""

    current: Graph | None = None

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def replay(self) -> None:
        assert self.calls
        for call, given in self.calls:
            call(*given)


class Capture:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __enter__(self) -> None:
        Graph.current = self.graph

    def __exit__(self, *_: object) -> None:
        Graph.current = None


def captured(call: Any) -> Any:
    def wrapped(*given: Any, **options: Any) -> Any:
        if Graph.current is not None:
            Graph.current.calls.append((lambda *g: call(*g, **options), given))
            return None
        return call(*given, **options)

    return wrapped


def attend(q: Any, k: Any, v: Any, is_causal: bool, enable_gqa: bool) -> Any:
    assert enable_gqa == (q.shape[1] != k.shape[1])
    assert is_causal == (q.shape[2] > 1)
    k, v = (np.repeat(x, q.shape[1] // k.shape[1], axis=1) for x in (k, v))
    return (q @ k.transpose(0, 1, 3, 2)) @ v


def fake(cuda: bool) -> ModuleType:
    """What the GPU path calls of ``torch``, with NumPy behind it."""
    made: Any = ModuleType("torch")
    made.__version__ = "0.fake"
    made.bfloat16 = "bfloat16"
    made.matmul, made.add = captured(np.matmul), captured(np.add)
    made.inference_mode = nullcontext

    def randn(shape: tuple[int, ...], dtype: str, device: str) -> Any:
        assert (dtype, device) == ("bfloat16", "cuda")
        return np.ones(shape, np.float32).view(Array)

    made.randn = randn
    made.nn = SimpleNamespace(
        functional=SimpleNamespace(scaled_dot_product_attention=captured(attend))
    )
    stream = SimpleNamespace(wait_stream=lambda _: None)
    made.cuda = SimpleNamespace(
        is_available=lambda: cuda, synchronize=lambda: None, Event=Event, CUDAGraph=Graph,
        Stream=lambda: stream, current_stream=lambda: stream, stream=lambda _: nullcontext(),
        graph=Capture, get_device_name=lambda: "a stand-in",
    )  # fmt: skip
    return made


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = tuple((m, n, k) for m in (1, 8, 32, 64) for n in (64, 128, 256) for k in (64, 128))
    heads = ((2, 2, 16), (4, 2, 16))
    monkeypatch.setattr(measure_torch, "PRODUCTS", sizes)
    prefill = tuple((b, s, s, *h) for b in (1, 2) for s in (8, 16, 24, 32, 48) for h in heads)
    decode = tuple((b, 1, t, *h) for b in (1, 2, 3) for t in (16, 32, 64, 128) for h in heads)
    for module in (measure_torch, measure):
        monkeypatch.setattr(module, "PREFILL", prefill)
        monkeypatch.setattr(module, "DECODE", decode)
    monkeypatch.setattr(measure_torch, "SIZES", tuple((r, 64) for r in range(1, 13)))
    monkeypatch.setattr(measure_torch, "COPIES", 4)
    monkeypatch.setattr(measure, "WEIGHTS", ((128, 128), (256, 256), (128, 512)))
    monkeypatch.setattr(measure, "ROWS", (1, 4, 16, 64, 128, 256))
    monkeypatch.setattr(measure, "BATCHES", ((2, 1, 16, 64), (4, 1, 64, 32)) * 2)
    monkeypatch.setattr(measure, "SIZES", tuple((r, 128) for r in (1, 4, 16, 64, 128)))
    monkeypatch.setattr(measure, "POOL", (1 << 24, 1 << 24))
    monkeypatch.setattr(measure, "cache_sizes", lambda: {2: 1 << 18, 3: 1 << 20})
    monkeypatch.setattr(measure, "ROUNDS", 1)


def test_a_gpu_becomes_a_calibration(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake(cuda=True))
    target = tmp_path / "gpu.calibration.toml"
    command = ["calibrate", "--this-machine", "--library", "torch", "--device", "h100"]
    main([*command, "-o", str(target), "--minutes", "0.02"])
    made = load_calibration(target)
    assert set(made.fits) == {
        ("gemm", "bf16"), ("prefill", "bf16-bf16"), ("decode", "bf16-bf16"),
        ("elementwise", "map"),
    }  # fmt: skip
    assert "CUDA graphs, a stand-in" in made.provenance
    fitted = cg.compile("llama-2-7b", "h100", "fuse", fidelity="calibrated", calibration=target)
    assert fitted.tpot(B=1, T=64) > cg.compile("llama-2-7b", "h100", "fuse").tpot(B=1, T=64)


def test_operands_of_a_graph_exceed_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measure_torch._copies(1 << 20, 50e6) == 64
    assert measure_torch._copies(8 << 20, 50e6) == 18
    assert measure_torch._copies(1 << 30, 50e6) == 1
    torch, seen = fake(cuda=True), []
    monkeypatch.setattr(
        measure_torch, "timed", lambda torch, run, s, calls: seen.append(calls) or 1
    )
    monkeypatch.setattr(measure_torch, "PRODUCTS", ((1, 64, 64), (64, 512, 512)))
    for name in ("PREFILL", "DECODE"):
        monkeypatch.setattr(measure_torch, name, ((1, 2, 2, 1, 1, 8),))
    monkeypatch.setattr(measure_torch, "SIZES", ((1, 8),))
    gemm, *_ = measure_torch.tables(torch, "h100", 0.0, 1e6, lambda *_: None)
    # The small product's copies stay in the cache together; the large one's do not.
    assert list(gemm.columns["warm_l2"]) == [1.0, 0.0]
    assert seen[:2] == [64, 16]


def test_a_cpu_is_measured_and_validated(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    target = tmp_path / "me.toml"
    try:
        main(["calibrate", "--this-machine", "--library", "torch", "-o", str(target),
              "--minutes", "0.02", "--threads", "1"])  # fmt: skip
        assert "1 thread:" in capsys.readouterr().out
        machine = cg.hardware.load_hardware(target)
        types = {kind for _, kind in machine.peaks}
        assert "fp32" in types
        made = load_calibration(tmp_path / "me.calibration.toml")
        assert torch.__version__ in made.provenance
        for dtype in types:
            assert {("host_gemm", dtype), ("prefill", f"{dtype}-{dtype}"),
                    ("decode", f"{dtype}-{dtype}"), ("host_elementwise", f"{dtype}-rope"),
                    } <= set(made.fits)  # fmt: skip
        fitted = cg.compile("llama-2-7b", str(target), "fuse", fidelity="calibrated")
        assert fitted.tpot(B=1, T=64) > cg.compile("llama-2-7b", str(target), "fuse").tpot(
            B=1, T=64
        )
        assert "fp32-fp32" in " ".join(
            cg.compile("llama-2-7b", str(target), "fuse", fidelity="calibrated",
                       weights="fp32", activations="fp32", kv="fp32").assumptions
        )  # fmt: skip
        monkeypatch.setattr(validation, "DECODE", ((1, 16),))
        monkeypatch.setattr(validation, "PREFILL", ((1, 16),))
        main(["validate", "--on", str(target), "--minutes", "0.02"])
        shown = capsys.readouterr().out
        assert "PyTorch, fp32:" in shown
        assert shown.count("decode: mean absolute error: ideal") == len(types)
    finally:
        torch.set_num_threads(before)


def test_both_libraries_compute_the_same_decoder() -> None:
    torch = pytest.importorskip("torch")
    from costgraph.timing.fidelity.kernels import Decoder, NumPy, config
    from costgraph.timing.fidelity.kernels_torch import Torch

    shape = config(hidden=64, inner=96, layers=2, heads=4, vocabulary=50)
    ours, theirs = NumPy(), Torch()
    a, b = Decoder(shape, ours), Decoder(shape, theirs)
    for mine, other in zip(a.layers, b.layers, strict=True):
        for name, weight in mine.items():
            other[name] = torch.from_numpy(np.ascontiguousarray(weight.T))
    b.embedding, b.head = torch.from_numpy(a.embedding), torch.from_numpy(a.head.T.copy())
    for tokens in (1, 7):
        first, second = a.caches(2, 7), b.caches(2, 7)
        for mine, other in zip(first, second, strict=True):
            for x, y in zip(mine, other, strict=True):
                y.copy_(torch.from_numpy(x))
        ids = np.arange(2 * tokens).reshape(2, tokens)
        with theirs.quiet():
            b.step(torch.from_numpy(ids), second)
        a.step(ids, first)
        for mine, other in zip(first, second, strict=True):
            for x, y in zip(mine, other, strict=True):
                np.testing.assert_allclose(x, y.numpy(), rtol=2e-3, atol=2e-3)


def test_a_slow_type_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from costgraph.timing.fidelity import kernels_torch

    monkeypatch.setattr(kernels_torch, "SLOW", 0.0)
    assert kernels_torch.Torch().types == ("fp32",)


def test_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["calibrate", "--this-machine", "--library", "torch"]
    for module, more, message in (
        (None, [], "pip install 'costgraph[torch]'"),
        (None, ["--device", "h100"], "pip install 'costgraph[torch]'"),
        (fake(cuda=False), ["--device", "h100"], "finds no GPU"),
        (fake(cuda=False), ["--threads", "0"], "--threads: '0' is not a positive whole number"),
    ):
        monkeypatch.setitem(sys.modules, "torch", module)
        with pytest.raises(SystemExit) as error:
            main([*command, *more])
        assert error.value.code == 2
        shown = capsys.readouterr().err
        assert message in shown
        assert len(shown.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
