"""Speed of calibrated formulas over that of ideal ones, measured in turns in one run.

    python benchmarks/calibrated_speed.py

One point in Python, and points of arrays in NumPy, of the time per token, the first token and
the latency of a request: the sum over a generation. Processor time, the least of a few
rounds; the rounds of both take turns, so what else runs on the machine slows both. The last
column is what the powers of norms alone take over the ideal's time: a logarithm and an
exponential for each, counted while the formula runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from unittest import mock

import numpy as np

import costgraph as cg
from costgraph.formula import Formula
from costgraph.formula.vector import compile_vector
from costgraph.showing.export.table import plain_table

FIDELITIES = ("ideal", "calibrated")
CASES = (
    ("llama-3-70b", "h100", "fuse"),
    ("mixtral-8x7b", "h100", "fuse"),
    ("deepseek-v3", "b200", "fuse"),
)
#: What a formula is taken at, and up to what in arrays.
FORMULAS = {
    "tpot": ({"B": 1, "T": 2048}, {"B": 512, "T": 100_000}),
    "ttft": ({"B": 1, "S": 1024}, {"B": 512, "S": 4096}),
    "latency": ({"B": 1, "S": 1024, "N": 512}, {"B": 512, "S": 4096, "N": 1000}),
}
HEAD = ("model", "formula", "points at once", "ideal", "calibrated", "ratio", "powers alone")


def seconds(action: Callable[[], object], repeat: int) -> float:
    """Processor seconds of one call."""
    start = time.process_time()
    for _ in range(repeat):
        action()
    return (time.process_time() - start) / repeat


def turns(actions: list[Callable[[], object]], repeat: int, rounds: int) -> list[float]:
    """The least seconds of each action over rounds in which they take turns."""
    for action in actions:
        action()
    return [
        min(found)
        for found in zip(
            *([seconds(a, repeat) for a in actions] for _ in range(rounds)), strict=True
        )
    ]


def powers(action: Callable[[], object]) -> list[int]:
    """The sizes of the arrays that norms take to a power while ``action`` runs."""
    sizes, logarithm = [], np.log

    def counted(x: np.ndarray, **kept: np.ndarray) -> np.ndarray:
        sizes.append(np.size(x))
        return np.asarray(logarithm(x, **kept))

    with mock.patch.object(np, "log", counted):
        action()
    return sizes


def take(sizes: list[int]) -> None:
    """A logarithm, a product and an exponential for arrays of these sizes."""
    values = np.linspace(0.5, 1.5, max(sizes, default=1))
    out = np.empty_like(values)
    for size in sizes:
        part = out[:size]
        np.exp(np.multiply(np.log(values[:size], out=part), 2.5, out=part), out=part)


def rows(model: str, device: str, passes: str, rounds: int) -> list[tuple[str, ...]]:
    """The lines of one model."""
    compiled = [cg.compile(model, device, passes, fidelity=f) for f in FIDELITIES]
    random, out = np.random.default_rng(0), []

    def line(formula: str, points: int, actions: list[Callable[[], object]], repeat: int) -> None:
        alone = [partial(take, powers(actions[1]))] if points > 1 else []
        times = [s / points for s in turns([*actions, *alone], repeat, rounds)]
        shown = [f"{1e6 * s:.2f} us" if s > 1e-6 else f"{1e9 * s:.0f} ns" for s in times[:2]]
        ratios = [f"{s / times[0]:.1f}" for s in times[1:]] + ["-"] * (1 - len(alone))
        out.append((model, formula, f"{points:,}", *shown, *ratios))

    for name, (point, highest) in FORMULAS.items():
        formulas: list[Formula] = [getattr(c, name) for c in compiled]
        line(name, 1, [partial(f.evaluate, **point) for f in formulas], 2000)
        for points in (1000, 100_000):
            arrays = {k: random.integers(1, v, points).astype(float) for k, v in highest.items()}
            made = [compile_vector([f], engine="numpy") for f in formulas]
            line(name, points, [partial(f, **arrays) for f in made], 1)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    made = [row for case in CASES for row in rows(*case, arguments.rounds)]
    print(plain_table(HEAD, made))


if __name__ == "__main__":
    main()
