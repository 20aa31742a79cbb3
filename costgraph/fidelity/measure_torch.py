"""Timings of this machine's products and attention through PyTorch, where it is installed.

On the CPU ``matmul`` in fp32 and bf16; with CUDA ``matmul`` in bf16,
``scaled_dot_product_attention`` of prefills and decode steps, and additions. A GPU
is timed by CUDA events around a run of calls, so launches overlap as they do in a
model; no graph is captured. What is called is small and public: ``randn``,
``matmul``, ``add``, ``cuda.Event``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from costgraph.errors import InputError
from costgraph.fidelity.measure import best
from costgraph.fidelity.table import Table

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


def load_torch() -> Any:
    """The module ``torch``.

    Raises:
        InputError: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise InputError("--library torch needs PyTorch: pip install torch") from None
    return torch


def timer(torch: Any, device: str) -> Callable[[Callable[[], Any], float], float]:
    """How calls are timed on ``device``: a clock of the host, or events of the GPU."""
    if device == "cpu":
        return best

    def timed(run: Callable[[], Any], seconds: float, calls: int = 10) -> float:
        run()
        torch.cuda.synchronize()
        least, spent = float("inf"), 0.0
        while spent < seconds or least == float("inf"):
            start = torch.cuda.Event(enable_timing=True)
            end = torch.cuda.Event(enable_timing=True)
            start.record()
            for _ in range(calls):
                run()
            end.record()
            end.synchronize()
            took = start.elapsed_time(end) / 1e3  # milliseconds
            least, spent = min(least, took / calls), spent + max(took, 1e-4)
        return least

    return timed


def tables(
    torch: Any, device: str, name: str, seconds: float, l2: float = 0.0
) -> tuple[Table, ...]:
    """Timings of every case, ``seconds`` each, as tables for a fit.

    Args:
        torch: the module.
        device: ``cpu`` or ``cuda``.
        name: of the machine in the tables.
        l2: bytes of its last cache: repeated calls on less do not read memory.
    """
    time = timer(torch, device)
    if device == "cpu":
        types = (("fp32", torch.float32), ("bf16", torch.bfloat16))
        return (_products(torch, time, device, name, seconds, types),)
    half = (("bf16", torch.bfloat16),)
    return (
        _products(torch, time, device, name, seconds, half),
        _attention(torch, time, device, name, seconds, "prefill", l2),
        _attention(torch, time, device, name, seconds, "decode", l2),
        _light(torch, time, device, name, seconds, l2),
    )


def _products(
    torch: Any, time: Any, device: str, name: str, seconds: float, types: Iterable[Any]
) -> Table:
    rows = []
    for label, dtype in types:
        for m, n, k in PRODUCTS:
            x = torch.randn(m, k, dtype=dtype, device=device)
            # Weights in turn, as layers have them: more than any cache holds.
            size = k * n * x.element_size()
            pool = [torch.randn(k, n, dtype=dtype, device=device)
                    for _ in range(max(1, min(64, (1 << 28) // size)))]  # fmt: skip
            rows.append((label, m, n, k, time(_in_turn(torch.matmul, x, pool), seconds)))
    label, *sizes = zip(*rows, strict=True)
    m_, n_, k_, t = (np.array(c, float) for c in sizes)
    columns = {"dtype": np.array(label), "m": m_, "n": n_, "k": k_}
    if device == "cpu":
        return _table("host_gemm", name, {**columns, "batch": np.ones(len(t))}, t)
    flags = {"quant_included": np.zeros(len(t)), "warm_l2": np.zeros(len(t))}
    return _table("gemm", name, {**columns, **flags}, t)


def _in_turn(call: Callable[..., Any], x: Any, pool: list[Any]) -> Callable[[], Any]:
    state = {"at": 0}

    def run() -> Any:
        state["at"] = (state["at"] + 1) % len(pool)
        return call(x, pool[state["at"]])

    return run


def _attention(
    torch: Any, time: Any, device: str, name: str, seconds: float, kind: str, l2: float
) -> Table:
    attend = torch.nn.functional.scaled_dot_product_attention
    cases = PREFILL if kind == "prefill" else DECODE
    taken = []
    for b, q, t, h, hk, dh in cases:

        def made(heads: int, length: int, b: int = b, dh: int = dh) -> Any:
            return torch.randn(b, heads, length, dh, dtype=torch.bfloat16, device=device)

        query, keys, values = made(h, q), made(hk, t), made(hk, t)

        def run(a: Any = query, k: Any = keys, v: Any = values, grouped: bool = h != hk) -> Any:
            return attend(a, k, v, is_causal=kind == "prefill", enable_gqa=grouped)

        taken.append(time(run, seconds))
    names = ("batch", "q_len", "kv_len", "n_heads", "n_kv_heads", "head_dim")
    columns: dict[str, Any] = dict(zip(names, np.array(cases, float).T, strict=True))
    text = np.full(len(taken), "bf16")
    b, q, t, h, hk, dh = np.array(cases, float).T
    touched = 2 * b * dh * (2 * q * h + 2 * t * hk)
    more = {"dtype": text, "kv_dtype": text, "warm_l2": _warm(touched, l2)}
    return _table(kind, name, {**columns, **more}, np.array(taken))


def _warm(touched: Any, l2: float) -> Any:
    """1 where everything that a timed call touches fits 1.25 times the cache."""
    return (touched <= 1.25 * l2).astype(float)


def _light(torch: Any, time: Any, device: str, name: str, seconds: float, l2: float) -> Table:
    taken = []
    for rows, cols in SIZES:
        x = torch.randn(rows, cols, dtype=torch.bfloat16, device=device)
        y = torch.randn(rows, cols, dtype=torch.bfloat16, device=device)
        taken.append(time(lambda x=x, y=y: torch.add(x, y), seconds))
    r, c = np.array(SIZES, float).T
    columns = {"op": np.full(len(taken), "add"), "dtype": np.full(len(taken), "bf16"),
               "rows": r, "cols": c, "warm_l2": _warm(6 * r * c, l2)}  # fmt: skip
    return _table("elementwise", name, columns, np.array(taken))


def _table(kind: str, name: str, columns: dict[str, Any], seconds: Any) -> Table:
    size = len(seconds)
    texts = {"hw": name, "backend": "torch", "source": "measured"}
    labels = {k: np.full(size, v) for k, v in texts.items()}
    return Table(kind, {**labels, **columns}, np.asarray(seconds, float))
