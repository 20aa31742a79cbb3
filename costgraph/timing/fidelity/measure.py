"""Measuring the machine that this runs on, through a library of a host.

A timing is the median of a round's repeats, the least over the rounds: bursts of
other work fall into few rounds, and a repeat in a model is an ordinary one. Weights
and caches come in turn from a pool larger than the last cache, as layers have
them. Before a kernel runs, weights of about a layer are read and its operand is
written, as the products around it do: its code and tables have left the near caches.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from costgraph.quoting import toml_text, visible
from costgraph.timing.fidelity.kernels import ELEMENTWISE, Library, kernel
from costgraph.timing.fidelity.table import BYTES, Datasheet, Table
from costgraph.timing.fidelity.table import ELEMENTWISE as COUNTS

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
#: Attention in one call: batch, queries, context, heads, cached heads, head size.
HEADS = ((8, 8, 64), (16, 4, 64), (8, 8, 128), (32, 8, 128))
PREFILL = tuple(
    (b, s, s, *h) for b, s in ((1, 64), (1, 256), (4, 128), (2, 512), (1, 1024)) for h in HEADS
)
DECODE = tuple((b, 1, t, *h) for b in (1, 4, 16) for t in (64, 256, 1024) for h in HEADS)
#: Element-wise sizes; one beyond the last cache is added.
SIZES = ((1, 512), (8, 512), (16, 1408), (64, 512), (64, 1408), (256, 512), (256, 1408),
         (512, 1408), (512, 4096), (4096, 512))  # fmt: skip
#: Bytes of weights that are read between two calls of a kernel: about a layer's.
BETWEEN = 12 << 20
#: Bytes of the pool: four last caches, within these limits.
POOL = (1 << 27, 1 << 30)

#: Kind, data type, sizes.
Key = tuple[str, str, tuple[int, ...]]


@dataclass(frozen=True)
class Measured:
    """Timings of this machine and the rates that they reach.

    Attributes:
        name: of the machine.
        sheet: the best rates of all cases.
        tables: timings by kind.
        threads: cores that the library's calls used.
        caches: bytes of the caches by level, empty where the system does not say.
        library: what was measured, with its version.
    """

    name: str
    sheet: Datasheet
    tables: tuple[Table, ...]
    threads: int
    caches: dict[int, int]
    library: str


def typical(
    run: Callable[[], Any],
    seconds: float,
    prepare: Callable[[], Any] | None = None,
    threads: int | None = None,
) -> float:
    """The median time of a call over repeats that fill ``seconds``, after a first one.

    A repeat that the system interrupted to run something else does not count; of a call
    in one thread, its time on the core counts instead. If all were interrupted, the
    least counts. ``prepare`` runs before each repeat, its time towards ``seconds`` only.
    """
    wall, core = time.perf_counter, time.thread_time
    kept: list[float] = []
    lost: list[float] = []
    begin = wall()
    for repeat in range(2000):
        if prepare is not None:
            prepare()
        switches, spent = _interruptions(), core()
        start = wall()
        run()
        end = wall()
        spent = core() - spent
        if not repeat:  # warms up
            continue
        if _interruptions() == switches:
            kept.append(end - start)
        elif threads == 1:
            kept.append(min(spent, end - start))
        else:
            lost.append(end - start)
        if end - begin >= seconds:
            break
    return median(kept) if kept else min(lost)


def _interruptions() -> int:
    """How often the system took a core from this process to run another one."""
    try:
        import resource
    except ImportError:  # not on every system
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def cache_sizes(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict[int, int]:
    """Bytes of the data caches that the first core reaches, by level (Linux; else empty)."""
    found: dict[int, int] = {}
    for index in sorted(folder.glob("index*")):
        try:
            kind = (index / "type").read_text().strip()
            level = int((index / "level").read_text())
            size = (index / "size").read_text().strip()
            if kind in ("Data", "Unified") and size[-1:] in ("K", "M"):
                found[level] = int(size[:-1]) << {"K": 10, "M": 20}[size[-1]]
        except (OSError, ValueError):
            continue
    return found


def cases(library: Library, cache: int) -> Iterator[Key]:
    """Everything that :func:`measure` times."""
    yield "stream", "fp32", (1,)
    for dtype in library.types:
        for k, n in WEIGHTS:
            for m in ROWS:
                yield "gemm", dtype, (1, m, n, k)
        for batch in BATCHES[:: 3 if library.tiled else 1]:
            yield "gemm", dtype, batch
        if library.tiled:
            for shape in PREFILL:
                yield "prefill", dtype, shape
            for shape in DECODE:
                yield "decode", dtype, shape
        beyond = min(max(2 * cache // (4096 * int(BYTES[dtype])), 512), 16384)
        for op in ELEMENTWISE:
            for size in (*SIZES, (beyond, 4096)):
                yield op, dtype, size


def measure(
    library: Library, budget: float, progress: Callable[[str, int], None] = lambda *_: None
) -> Measured:
    """Measure this machine in about ``budget`` seconds, at least one round of all cases.

    ``progress`` takes what is being timed and of how many steps.
    """
    caches = cache_sizes()
    cache = max(caches.values(), default=0)
    todo = list(cases(library, cache))
    share = 0.75 * budget / len(todo) / ROUNDS
    least: dict[Key, float] = {}
    begin = time.perf_counter()
    with library.quiet():
        size = min(max(4 * cache, POOL[0]), POOL[1])
        pools = {t: library.random((size // int(BYTES[t]),), t) for t in library.types}
        for turn in range(ROUNDS):
            for key in todo:
                if turn and time.perf_counter() - begin > budget:
                    break
                kind, dtype, shape = key
                steps = len(todo) * ROUNDS
                progress(f"{kind} {dtype} {'x'.join(map(str, shape))}", steps)
                run, prepare = _timed(library, key, pools[dtype])
                took = typical(run, share, prepare, library.threads)
                least[key] = min(took, least.get(key, took))
    name = "this-" + "".join(c if c.isalnum() else "-" for c in platform.machine().lower())
    tables = _tables(name, library, least, cache)
    threads = library.threads or os.cpu_count() or 1
    stream = 2 * size / least["stream", "fp32", (1,)]
    sheet = _best_rates(tables, stream, float(threads), float(cache))
    made = f"{library.name} {library.version}"
    return Measured(name, sheet, tables, threads, caches, made)


def _best_rates(tables: tuple[Table, ...], stream: float, units: float, cache: float) -> Datasheet:
    """The roof that no measurement exceeds: the best rates of all of them."""
    from costgraph.timing.fidelity.table import features

    unit = Datasheet(dict.fromkeys(("fp32", "16"), 1.0), 1.0, units, 1.0)
    peaks: dict[str, float] = {}
    bandwidth = stream
    for table in tables:
        f = features(table, dict.fromkeys(np.unique(table.columns["hw"]).tolist(), unit))
        if table.kind != "host_elementwise":
            for dtype in np.unique(table.columns["dtype"]):
                own = table.columns["dtype"] == dtype
                best = float((f["C"][own] / table.seconds[own]).max())
                peaks[str(dtype)] = max(peaks.get(str(dtype), 0.0), best)
        # Reading alone may beat a copy.
        cold = f["resident"] == 0 if "resident" in f else f["M"] > 0
        if cold.any():
            bandwidth = max(bandwidth, float((f["M"][cold] / table.seconds[cold]).max()))
    return Datasheet(peaks, bandwidth, units, cache or 1.0)


def _timed(library: Library, key: Key, pool: Any) -> tuple[Callable[[], Any], Any]:
    """What one case times, and what runs before each repeat or None."""
    kind, dtype, shape = key
    if kind == "stream":
        target = pool + 0
        return lambda: library.copy(target, pool), None
    if kind == "gemm" and shape[0] == 1:
        return _product(library, dtype, shape[1:], pool), None
    between = _product(library, dtype, (1, BETWEEN // int(BYTES[dtype]) // 2048, 2048), pool)
    if kind in ("prefill", "decode"):
        return _attention(library, dtype, shape, pool), between
    if kind == "gemm":
        return _batch(library, dtype, shape, pool), between
    source, written = library.random(shape, dtype), library.random(shape, dtype)

    def prepare() -> None:
        between()
        library.copy(written, source)

    return kernel(library, kind, written, dtype), prepare


def _pieces(pool: Any, *sizes: int) -> Iterator[list[Any]]:
    """Neighbouring pieces of the pool, others at every call, in turn."""
    total = sum(sizes)
    starts = range(0, max(len(pool) - total, 0) + 1, total)
    for start in cycle(starts):
        made, at = [], start
        for size in sizes:
            made.append(pool[at : at + size])
            at += size
        yield made


def _product(library: Library, dtype: str, shape: tuple[int, ...], pool: Any) -> Callable[[], Any]:
    m, n, k = shape
    x = library.random((m, k), dtype)
    stored = (k, n) if library.weights == "kn" else (n, k)
    pieces = _pieces(pool, k * n)
    return lambda: library.linear(x, next(pieces)[0].reshape(stored))


def _batch(library: Library, dtype: str, shape: tuple[int, ...], pool: Any) -> Callable[[], Any]:
    """Products of a batch, as attention over heads does them; keys are stored by position."""
    b, m, n, k = shape
    x = library.random((b, m, k), dtype)
    pieces = _pieces(pool, b * k * n)
    if k == 64:
        return lambda: x @ next(pieces)[0].reshape(b, n, k).swapaxes(1, 2)
    return lambda: x @ next(pieces)[0].reshape(b, k, n)


def _attention(
    library: Library, dtype: str, shape: tuple[int, ...], pool: Any
) -> Callable[[], Any]:
    b, q, t, h, hk, dh = shape
    query = library.random((b, h, q, dh), dtype)
    pieces = _pieces(pool, b * hk * t * dh, b * hk * t * dh)
    size = (b, hk, t, dh)

    def run() -> Any:
        keys, values = next(pieces)
        return library.attend(query, keys.reshape(size), values.reshape(size))

    return run


_NAMES = {
    "host_gemm": ("batch", "m", "n", "k"),
    "prefill": ("batch", "q_len", "kv_len", "n_heads", "n_kv_heads", "head_dim"),
    "decode": ("batch", "q_len", "kv_len", "n_heads", "n_kv_heads", "head_dim"),
    "host_elementwise": ("rows", "cols"),
}


def _tables(name: str, library: Library, least: dict[Key, float], cache: int) -> tuple[Table, ...]:
    """The timings as tables, one of each kind that was timed."""
    rows: dict[str, list[tuple[Key, float]]] = {}
    for key, took in least.items():
        kind = {"gemm": "host_gemm"}.get(key[0], key[0])
        if kind in ELEMENTWISE:
            kind = "host_elementwise"
        if kind != "stream":
            rows.setdefault(kind, []).append((key, took))
    made = []
    for kind, found in rows.items():
        sizes = np.array([key[2] for key, _ in found], float).T
        columns: dict[str, Any] = dict(zip(_NAMES[kind], sizes, strict=True))
        texts = {"hw": name, "backend": library.name.lower(), "source": "measured"}
        columns |= {k: np.full(len(found), v) for k, v in texts.items()}
        columns["dtype"] = np.array([key[1] for key, _ in found])
        if kind in ("prefill", "decode"):
            columns["kv_dtype"] = columns["dtype"]
            columns["warm_l2"] = np.zeros(len(found))
        if kind == "host_elementwise":
            columns["op"] = np.array([key[0] for key, _ in found])
            moved = [COUNTS[key[0]][0] * BYTES[key[1]] * key[2][0] * key[2][1] for key, _ in found]
            columns["warm_l2"] = (np.array(moved) <= cache).astype(float)
        made.append(Table(kind, columns, np.array([t for _, t in found])))
    return tuple(made)


def device_text(made: Measured) -> str:
    """A device file of the measured rates, as :mod:`costgraph.hardware` reads it."""
    peaks = "\n".join(
        f'{kind} = {{ value = "{rate / 1e9:.4f} GFLOP/s", source = "measured" }}'
        for kind, rate in made.sheet.peaks.items()
    )
    vector = made.sheet.peaks["fp32"]
    processor = platform.processor() or platform.machine() or "this machine"
    title = toml_text(visible(f"this machine: {processor}"))
    used = f"{made.library}, {made.threads} of its threads: the best rate of all cases"
    library = toml_text(visible(used))
    figures = [f'multiprocessors = {{ value = {made.threads}, source = "measured" }}']
    if 2 in made.caches:
        figures.append(f'l2 = {{ value = "{made.caches[2]} B", source = "system" }}')
    text = f"""name = {toml_text(made.name)}
title = {title}
kind = "cpu"

[sources]
measured = {library}
system = "the operating system"

[peaks.tensor]
{peaks}

[peaks.vector]
fp32 = {{ value = "{vector / 1e9:.4f} GFLOP/s", source = "measured" }}

[memory]
bandwidth = {{ value = "{made.sheet.bandwidth / 1e9:.4f} GB/s", source = "measured" }}

[onchip]
""" + "\n".join(figures)
    for level, size in sorted(made.caches.items()):
        if level > 2:
            text += f'\n\n[tiers.l{level}]\ncapacity = {{ value = "{size} B", source = "system" }}'
    return text + f'\n\n[topology]\ncores = {{ value = {made.threads}, source = "measured" }}\n'
