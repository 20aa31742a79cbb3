"""Regimes, maps and solutions of whole models, and how compiling grows with distinct operations."""

from __future__ import annotations

import argparse
import platform
import time

from sympy import Integer
from timing import median

import costgraph as cg
from costgraph.compiling.compiled import Compiled
from costgraph.counting.accounting import EXACT
from costgraph.hardware import load_hardware
from costgraph.ir.dtypes import BF16
from costgraph.ir.graph import Graph
from costgraph.ir.program import autoregressive
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Style
from costgraph.symbols import B, q


def chain(length: int) -> Graph:
    """A chain of linear layers, no two of the same shape."""
    maker = Maker("chain", Style())
    x = maker.source(Tensor("x", (B, q, Integer(64)), BF16))
    for index in range(length):
        x = maker.linear(f"l{index}", x, Integer(65 + index), Integer(64 + index))
    return maker.build(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--largest", type=int, default=10_000, help="distinct operations")
    arguments = parser.parse_args()
    runs = arguments.runs
    print(
        f"machine: {platform.processor() or platform.machine()}, Python {platform.python_version()}"
    )

    whole = cg.compile("llama-3-70b", "h100", "fuse")
    plain = cg.compile("llama-2-7b", "a6000")
    symbolic = cg.compile("llama-2-7b", "a6000", symbolic_hardware=True)
    point = {s.name: v for s, v in symbolic.bound.bindings().items()} if symbolic.bound else {}
    for label, action in (
        ("regimes of llama-3-70b (fused) along B", lambda: whole.tpot.regimes("B", T=2048)),
        ("regimes of llama-2-7b along B", lambda: plain.tpot.regimes("B", T=2048)),
        (
            "  the same, rates symbolic",
            lambda: symbolic.tpot.regimes("B", at=point, T=2048),
        ),
        ("region map of llama-2-7b over B, S", lambda: plain.ttft.region_map("B", "S")),
        ("largest batch within 50 ms", lambda: plain.tpot.solve_for("B", budget=0.05, T=2048)),
    ):
        action()
        print(f"{label:42} {median(action, runs) * 1e3:8.2f} ms")

    print("compiling a chain of distinct operations to tpot, and its first value")
    machine, per_op = load_hardware("h100"), []
    sizes = [n for n in (10, 100, 1_000, 10_000) if n <= arguments.largest]
    for size in sizes:
        start = time.perf_counter()
        program = autoregressive("chain", chain(size))
        Compiled(program, machine, EXACT, bound=machine).tpot.evaluate(B=3)
        took = time.perf_counter() - start
        per_op.append(took / size)
        print(f"{size:8} operations {took * 1e3:10.1f} ms {per_op[-1] * 1e6:8.0f} µs an operation")
    if len(per_op) > 1:
        print(f"cost an operation, largest over 100: {per_op[-1] / per_op[1]:.2f} (1 is linear)")


if __name__ == "__main__":
    main()
