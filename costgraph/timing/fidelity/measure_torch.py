"""Timings of a GPU's products, attention and additions through PyTorch, in bf16.

As in the tables that calibrations are shipped from, calls are captured in a CUDA
graph and replayed, so that floors hold a kernel's own start and not the host's
launch. Operands come in turn from copies that exceed the L2 cache together; where
so many would not fit, rows are marked as read from the cache.

API: https://docs.pytorch.org/docs/stable/notes/cuda.html (graphs, events).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np

from costgraph.timing.fidelity.table import Table

#: (rows, width, summed size) of products.
PRODUCTS = tuple(
    (m, n, k)
    for n, k in ((1024, 1024), (4096, 1024), (4096, 4096), (11008, 4096), (4096, 11008))
    for m in (1, 16, 64, 256, 1024, 4096)
)
#: (batch, queries, context, heads, cached heads, head size).
PREFILL = tuple(
    (b, s, s, h, hk, dh)
    for b, s in ((1, 128), (1, 512), (1, 2048), (4, 512), (8, 1024), (1, 4096))
    for h, hk, dh in ((32, 32, 128), (32, 8, 128), (16, 16, 64))
)
DECODE = tuple(
    (b, 1, t, h, hk, dh)
    for b in (1, 8, 64)
    for t in (256, 1024, 4096)
    for h, hk, dh in ((32, 32, 128), (32, 8, 128), (16, 16, 64))
)
SIZES = tuple((r, c) for r in (1, 16, 256, 4096) for c in (1024, 4096, 14336))
#: Calls in one graph at least, and copies of operands at most.
CALLS, COPIES = 16, 64
#: Copies exceed the L2 cache this many times; less than 1.25 counts as read from it.
COLD, WARM = 3.0, 1.25


def graphed(torch: Any, run: Callable[[], Any], calls: int) -> Callable[[], Any]:
    """``calls`` calls as one replay of a CUDA graph.

    Work is warmed up on a side stream before its capture, as PyTorch asks for.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            run()
    replay: Callable[[], Any] = graph.replay
    return replay


def timed(torch: Any, run: Callable[[], Any], seconds: float, calls: int) -> float:
    """Seconds of one of ``calls`` calls in a graph: the median over replays."""
    replay = graphed(torch, run, calls)
    taken: list[float] = []
    spent = 0.0
    while spent < seconds or len(taken) < 4:
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        start.record()
        replay()
        end.record()
        end.synchronize()
        took = start.elapsed_time(end) / 1e3  # milliseconds
        taken.append(took / calls)
        spent += max(took, 1e-4)
    return float(np.median(taken[1:]))


def tables(
    torch: Any, name: str, seconds: float, l2: float, progress: Callable[[str, int], None]
) -> tuple[Table, ...]:
    """Timings of every case, ``seconds`` each, as tables for a fit.

    Args:
        torch: the module; it must find a GPU.
        name: of the device in the tables.
        l2: bytes of its last cache.
        progress: takes what is being timed and of how many steps.
    """
    steps = len(PRODUCTS) + len(PREFILL) + len(DECODE) + len(SIZES)

    def time(
        what: str, sizes: tuple[int, ...], made: Callable[[], tuple[Any, ...]], call: Any
    ) -> tuple[float, float]:
        """Seconds, and 1 where the operands of all calls fit the cache."""
        progress(f"{what} {'x'.join(map(str, sizes))}", steps)
        first = made()
        size = sum(x.numel() * x.element_size() for x in first)
        copies = [first, *(made() for _ in range(_copies(size, l2) - 1))]
        turns = cycle(copies)
        took = timed(torch, lambda: call(*next(turns)), seconds, max(CALLS, len(copies)))
        return took, float(size * len(copies) <= WARM * l2)

    def randn(*shape: int) -> Any:
        return torch.randn(shape, dtype=torch.bfloat16, device="cuda")

    with torch.inference_mode():
        return (
            _products(randn, torch.matmul, time, name),
            _attention(torch, randn, time, name, "prefill"),
            _attention(torch, randn, time, name, "decode"),
            _light(randn, torch.add, time, name),
        )


def _copies(size: int, l2: float) -> int:
    """How many copies of operands exceed the cache :data:`COLD` times, at most COPIES."""
    return int(min(max(np.ceil(COLD * l2 / size), 1), COPIES)) if l2 > 1 else CALLS


def _products(randn: Any, matmul: Any, time: Any, name: str) -> Table:
    found = [
        time("gemm", (m, n, k), lambda m=m, n=n, k=k: (randn(m, k), randn(k, n)), matmul)
        for m, n, k in PRODUCTS
    ]
    m, n, k = np.array(PRODUCTS, float).T
    columns = {"m": m, "n": n, "k": k, "quant_included": np.zeros(len(found))}
    return _table("gemm", name, columns, found)


def _attention(torch: Any, randn: Any, time: Any, name: str, kind: str) -> Table:
    attend = torch.nn.functional.scaled_dot_product_attention
    cases = PREFILL if kind == "prefill" else DECODE
    found = []
    for case in cases:
        h, hk = case[3:5]

        def made(case: tuple[int, ...] = case) -> tuple[Any, ...]:
            b, q, t, h, hk, dh = case
            return randn(b, h, q, dh), randn(b, hk, t, dh), randn(b, hk, t, dh)

        def call(x: Any, y: Any, z: Any, grouped: bool = h != hk) -> Any:
            return attend(x, y, z, is_causal=kind == "prefill", enable_gqa=grouped)

        found.append(time(kind, case, made, call))
    names = ("batch", "q_len", "kv_len", "n_heads", "n_kv_heads", "head_dim")
    columns: dict[str, Any] = dict(zip(names, np.array(cases, float).T, strict=True))
    columns["kv_dtype"] = np.full(len(found), "bf16")
    return _table(kind, name, columns, found)


def _light(randn: Any, add: Any, time: Any, name: str) -> Table:
    found = [time("add", (r, c), lambda r=r, c=c: (randn(r, c), randn(r, c)), add)
             for r, c in SIZES]  # fmt: skip
    rows, cols = np.array(SIZES, float).T
    return _table("elementwise", name, {"op": np.full(len(found), "add"), "rows": rows,
                                        "cols": cols}, found)  # fmt: skip


def _table(kind: str, name: str, columns: dict[str, Any], found: list[Any]) -> Table:
    seconds, warm = np.array(found, float).T
    texts = {"hw": name, "backend": "torch", "source": "measured", "dtype": "bf16"}
    labels = {k: np.full(len(seconds), v) for k, v in texts.items()}
    return Table(kind, {**labels, **columns, "warm_l2": warm}, seconds)
