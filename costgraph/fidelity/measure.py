"""Measuring the machine that this runs on, through NumPy and its BLAS, in fp32.

Every timing is the least of several repeats: other programs only ever add time.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from costgraph.fidelity import kernels
from costgraph.fidelity.table import Datasheet, Table

#: Times that all cases are gone through: bursts of other work hit few of them.
ROUNDS = 3
#: Work sizes of the products: rows, and (summed, width) of weight matrices.
ROWS = (1, 4, 16, 64, 256)
WEIGHTS = ((256, 256), (512, 512), (512, 1408), (1408, 512), (1024, 1024), (512, 8192),
           (1024, 4096), (4096, 1024), (2048, 2048), (4096, 4096))  # fmt: skip
#: Batches of small products, as attention over heads: products, rows, width, summed size.
BATCHES = tuple(
    case
    for n in (8, 32, 128)
    for t in (64, 256, 1024)
    for case in ((n, 1, t, 64), (n, 1, 64, t))
) + tuple(
    case
    for n in (8, 32)
    for t in (64, 128, 256, 512)
    for case in ((n, t, t, 64), (n, t, 64, t))
)  # fmt: skip
#: Element-wise sizes.
SIZES = ((1, 512), (8, 512), (16, 1408), (64, 512), (64, 1408), (256, 512), (256, 1408),
         (512, 1408), (512, 4096), (4096, 512))  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """Timings of this machine and the rates that they reach."""

    name: str
    sheet: Datasheet
    gemm: Table
    elementwise: Table
    cores: int


def best(run: Callable[[], Any], seconds: float) -> float:
    """The least time of a call over repeats that fill ``seconds`` (at least two)."""
    run()
    least, spent, calls = float("inf"), 0.0, 0
    while calls < 2 or (spent < seconds and calls < 2000):
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
            yield "gemm", (1, m, n, k)
    for case in BATCHES:
        yield "gemm", case
    for op in kernels.ELEMENTWISE:
        for size in SIZES:
            yield op, size


def measure(seconds: float = 0.15, progress: Callable[[str], None] = lambda _: None) -> Measured:
    """Measure this machine, ``seconds`` per case, in :data:`ROUNDS` rounds over all cases.

    Weights of products are taken from a pool larger than the last cache in turn,
    as a model's layers are, so that products with few rows read memory.
    """
    kernels.keep_heap()
    random = np.random.default_rng(0)
    pool = random.standard_normal(1 << 25, dtype=np.float32)  # 128 MiB
    least: dict[tuple[str, tuple[int, ...]], float] = {}
    for _ in range(ROUNDS):
        for case in cases():
            kind, shape = case
            progress(f"{kind} {'x'.join(map(str, shape))}")
            took = best(_run(kind, shape, pool, random), seconds / ROUNDS)
            least[case] = min(took, least.get(case, took))
    gemm = [(*shape, t) for (kind, shape), t in least.items() if kind == "gemm"]
    light = [
        (kind, *shape, t) for (kind, shape), t in least.items() if kind not in ("gemm", "stream")
    ]
    bandwidth = 2 * pool.nbytes / least["stream", pool.shape]
    peak = max(2.0 * b * m * n * k / t for b, m, n, k, t in gemm)
    # Reading alone may beat a copy: the roof is the best that anything from memory reached.
    read = max(4.0 * (m * k + k * n + m * n) / t for b, m, n, k, t in gemm if b == 1)
    cores = os.cpu_count() or 1
    sheet = Datasheet({"fp32": peak}, max(bandwidth, read), float(cores), 1.0)
    name = "this-" + "".join(ch if ch.isalnum() else "-" for ch in platform.machine().lower())
    return Measured(name, sheet, _gemm_table(name, gemm), _light_table(name, light), cores)


def with_products(made: Measured, products: Table) -> Measured:
    """The same machine with other timings of products, peaks of their types included."""
    c = products.columns
    rates = 2 * c["batch"] * c["m"] * c["n"] * c["k"] / products.seconds
    peaks = {str(t): float(rates[c["dtype"] == t].max()) for t in np.unique(c["dtype"])}
    return replace(made, gemm=products, sheet=replace(made.sheet, peaks=peaks))


def _run(kind: str, shape: tuple[int, ...], pool: Any, random: Any) -> Callable[[], Any]:
    """What one case times."""
    if kind == "stream":
        return _copy(pool, np.empty_like(pool))
    if kind == "gemm":
        return _product(pool, shape[1:]) if shape[0] == 1 else _batch(shape)
    return kernels.call(kind, kernels.operands(kind, shape, random))


def _copy(source: Any, target: Any) -> Callable[[], Any]:
    return lambda: np.copyto(target, source)


def _product(pool: Any, shape: tuple[int, ...]) -> Callable[[], Any]:
    m, n, k = shape
    random = np.random.default_rng(1)
    x = random.standard_normal((m, k), dtype=np.float32)
    copies = max(len(pool) // (k * n), 1)
    state = {"at": 0}

    def run() -> None:
        state["at"] = (state["at"] + 1) % copies
        start = state["at"] * k * n
        x @ pool[start : start + k * n].reshape(k, n)

    return run


def _batch(shape: tuple[int, ...]) -> Callable[[], Any]:
    """Products of a batch, as attention over heads does them."""
    b, m, n, k = shape
    random = np.random.default_rng(1)
    x = random.standard_normal((b, m, k), dtype=np.float32)
    y = random.standard_normal((b, n, k) if k == 64 else (b, k, n), dtype=np.float32)
    if k == 64:  # keys are stored by position
        y = y.transpose(0, 2, 1)
    return lambda: x @ y


def _labels(name: str, size: int) -> dict[str, Any]:
    text = {"hw": name, "dtype": "fp32", "backend": "numpy", "source": "measured"}
    return {k: np.full(size, v) for k, v in text.items()}


def _gemm_table(name: str, rows: list[Any]) -> Table:
    b, m, n, k, t = (np.array(c, float) for c in zip(*rows, strict=True))
    columns = {**_labels(name, len(t)), "batch": b, "m": m, "n": n, "k": k}
    return Table("host_gemm", columns, t)


def _light_table(name: str, rows: list[Any]) -> Table:
    op, r, c, t = zip(*rows, strict=True)
    columns = {**_labels(name, len(t)), "op": np.array(op), "rows": np.array(r, float),
               "cols": np.array(c, float)}  # fmt: skip
    return Table("host_elementwise", columns, np.array(t, float))


def device_text(made: Measured) -> str:
    """A device file of the measured rates, as :mod:`costgraph.hardware` reads it."""
    peak, bandwidth = made.sheet.peaks["fp32"], made.sheet.bandwidth
    rates = "\n".join(
        f'{kind} = {{ value = "{rate / 1e9:.4f} GFLOP/s", source = "measured" }}'
        for kind, rate in made.sheet.peaks.items()
    )
    title = (platform.processor() or platform.machine() or "this machine").replace('"', "")
    source = "measured through this machine's libraries, the best of all cases"
    return f"""name = "{made.name}"
title = "this machine: {title}"
kind = "cpu"

[sources]
measured = "{source}"

[peaks.tensor]
{rates}

[peaks.vector]
fp32 = {{ value = "{peak / 1e9:.4f} GFLOP/s", source = "measured" }}

[memory]
bandwidth = {{ value = "{bandwidth / 1e9:.4f} GB/s", source = "measured" }}

[onchip]
multiprocessors = {{ value = {made.cores}, source = "measured" }}
"""
