"""Measuring the machine that this runs on, through NumPy and its BLAS, in fp32.

Every timing is the least of several repeats: other programs only ever add time.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from costgraph.fidelity import kernels
from costgraph.fidelity.table import Datasheet, Table

#: Work sizes of the products: rows, and (summed, width) of weight matrices.
ROWS = (1, 4, 16, 64, 256)
WEIGHTS = ((256, 256), (512, 512), (512, 1408), (1408, 512), (1024, 1024), (512, 8192),
           (1024, 4096), (4096, 1024), (2048, 2048), (4096, 4096))  # fmt: skip
#: Element-wise sizes.
SIZES = ((1, 512), (8, 512), (64, 512), (64, 1408), (256, 1408), (512, 4096), (2048, 4096))


@dataclass(frozen=True)
class Measured:
    """Timings of this machine and the rates that they reach."""

    name: str
    sheet: Datasheet
    gemm: Table
    elementwise: Table
    cores: int


def best(run: Callable[[], Any], seconds: float) -> float:
    """The least time of a call over repeats that fill ``seconds`` (at least three)."""
    run()
    least, spent, calls = float("inf"), 0.0, 0
    while calls < 3 or (spent < seconds and calls < 2000):
        start = time.perf_counter()
        run()
        took = time.perf_counter() - start
        least, spent, calls = min(least, took), spent + took, calls + 1
    return least


def cases() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Everything that :func:`measure` times, by kind."""
    yield "stream", (1 << 25,)
    for k, n in WEIGHTS:
        for m in ROWS:
            yield "gemm", (m, n, k)
    for op in kernels.ELEMENTWISE:
        for size in SIZES:
            yield op, size


def measure(seconds: float = 0.15, progress: Callable[[str], None] = lambda _: None) -> Measured:
    """Measure this machine, ``seconds`` per case.

    Weights of products are taken from a pool larger than the last cache in turn,
    as a model's layers are, so that products with few rows read memory.
    """
    random = np.random.default_rng(0)
    pool = random.standard_normal(1 << 25, dtype=np.float32)  # 128 MiB
    bandwidth = 0.0
    gemm: list[tuple[Any, ...]] = []
    light: list[tuple[Any, ...]] = []
    for kind, shape in cases():
        progress(f"{kind} {'x'.join(map(str, shape))}")
        if kind == "stream":
            target = np.empty_like(pool)
            bandwidth = 2 * pool.nbytes / best(_copy(pool, target), 4 * seconds)
            del target
        elif kind == "gemm":
            gemm.append((*shape, best(_product(pool, shape), seconds)))
        else:
            operands = kernels.operands(kind, shape, random)
            light.append((kind, *shape, best(kernels.call(kind, operands), seconds)))
    peak = max(2.0 * m * n * k / t for m, n, k, t in gemm)
    # Reading alone may beat a copy: the roof is the best that anything reached.
    read = max(4.0 * (m * k + k * n + m * n) / t for m, n, k, t in gemm)
    moved = max(4.0 * r * c * kernels.MOVES[op] / t for op, r, c, t in light if r * c > 1 << 22)
    cores = os.cpu_count() or 1
    sheet = Datasheet({"fp32": peak}, max(bandwidth, read, moved), float(cores), 1.0)
    name = "this-" + "".join(ch if ch.isalnum() else "-" for ch in platform.machine().lower())
    return Measured(name, sheet, _gemm_table(name, gemm), _light_table(name, light), cores)


def _copy(source: Any, target: Any) -> Callable[[], Any]:
    return lambda: np.copyto(target, source)


def _product(pool: Any, shape: tuple[int, ...]) -> Callable[[], Any]:
    m, n, k = shape
    random = np.random.default_rng(1)
    x = random.standard_normal((m, k), dtype=np.float32)
    out = np.empty((m, n), np.float32)
    copies = max(len(pool) // (k * n), 1)
    state = {"at": 0}

    def run() -> None:
        state["at"] = (state["at"] + 1) % copies
        start = state["at"] * k * n
        np.matmul(x, pool[start : start + k * n].reshape(k, n), out=out)

    return run


def _labels(name: str, size: int) -> dict[str, Any]:
    text = {"hw": name, "dtype": "fp32", "backend": "numpy", "source": "measured"}
    return {k: np.full(size, v) for k, v in text.items()} | {"warm_l2": np.zeros(size)}


def _gemm_table(name: str, rows: list[Any]) -> Table:
    m, n, k, t = (np.array(c, float) for c in zip(*rows, strict=True))
    columns = {**_labels(name, len(t)), "m": m, "n": n, "k": k, "quant_included": np.zeros(len(t))}
    return Table("gemm", columns, t)


def _light_table(name: str, rows: list[Any]) -> Table:
    op, r, c, t = zip(*rows, strict=True)
    columns = {**_labels(name, len(t)), "op": np.array(op), "rows": np.array(r, float),
               "cols": np.array(c, float)}  # fmt: skip
    return Table("elementwise", columns, np.array(t, float))


def device_text(made: Measured) -> str:
    """A device file of the measured rates, as :mod:`costgraph.hardware` reads it."""
    peak, bandwidth = made.sheet.peaks["fp32"], made.sheet.bandwidth
    title = (platform.processor() or platform.machine() or "this machine").replace('"', "")
    source = "measured through NumPy and its BLAS, the best of all cases"
    return f"""name = "{made.name}"
title = "this machine: {title}"
kind = "cpu"

[sources]
measured = "{source}"

[peaks.tensor]
fp32 = {{ value = "{peak / 1e9:.4f} GFLOP/s", source = "measured" }}

[peaks.vector]
fp32 = {{ value = "{peak / 1e9:.4f} GFLOP/s", source = "measured" }}

[memory]
bandwidth = {{ value = "{bandwidth / 1e9:.4f} GB/s", source = "measured" }}

[onchip]
multiprocessors = {{ value = {made.cores}, source = "measured" }}
"""
