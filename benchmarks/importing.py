"""Importing, fusing and evaluating imported graphs of growing size.

Stacks of gated layers, all alike (they fold into one region) and of different widths (they
do not). Each step's time, and how many times as long it takes for twice the operations: 2
where time grows with the graph.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sympy import Expr, Integer

import costgraph as cg
from costgraph.models.torch_export import from_torch
from costgraph.models.traced.record import Call, Ref, Result, Source, Traced
from costgraph.symbols import B, S

WIDTH = Integer(64)
Timed = TypeVar("Timed")


def stack(layers: int, alike: bool) -> Traced:
    """A program of ``layers`` gated layers of six operators, as ``torch.export`` writes it."""
    rows = (B, S, WIDTH)
    sources = [Source("x", rows, "bfloat16", "input")]
    calls: list[Call] = []

    def add(at: str, name: str, target: str, shape: tuple[Expr, ...], *args: Any) -> Ref:
        result = Result(f"{at}_{name}".replace(".", "_"), shape, "bfloat16")
        calls.append(Call(result.name, target, args, {}, (result,), at))
        return Ref(result.name)

    x = Ref("x")
    for index in range(layers):
        at = f"layers.{index}"
        inner = Integer(96 if alike else 32 + 8 * ((index * 37) % 997))
        for name, shape in (
            ("norm", (WIDTH,)), ("up", (inner, WIDTH)), ("down", (WIDTH, inner))
        ):  # fmt: skip
            sources.append(Source(f"{at}.{name}.weight", shape, "bfloat16", "weight"))
        wide = (B, S, inner)
        h = add(at, "norm", "rms_norm", rows, x, (WIDTH,), Ref(f"{at}.norm.weight"), 1e-6)
        up = add(at, "up", "linear", wide, h, Ref(f"{at}.up.weight"))
        gate = add(at, "act", "silu", wide, up)
        both = add(at, "mul", "mul", wide, gate, up)
        down = add(at, "down", "linear", rows, both, Ref(f"{at}.down.weight"))
        x = add(at, "sum", "add", rows, x, down)
    return Traced("stack", "aten", 0, tuple(sources), tuple(calls), (x.name,))


def timed(function: Callable[[], Timed]) -> tuple[Timed, float]:
    """What ``function`` returns, and the seconds of this process that it took."""
    start = time.process_time()
    return function(), time.process_time() - start


def measured(layers: int, alike: bool) -> dict[str, float]:
    """Seconds by step."""
    traced = stack(layers, alike)
    program, importing = timed(lambda: from_torch(traced))
    compiled, fusing = timed(lambda: cg.compile(program, "h100", "fuse"))
    _, latency = timed(lambda: compiled.latency(B=1, S=128))
    _, memory = timed(lambda: compiled.memory(B=1, S=128))
    return {"import": importing, "fuse": fusing, "latency": latency, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=800, help="of the largest stack")
    largest = parser.parse_args().layers
    measured(8, False)  # warm
    for alike in (True, False):
        print(f"layers {'alike' if alike else 'of different widths'}")
        before: dict[str, float] = {}
        for layers in (largest // 4, largest // 2, largest):
            found = measured(layers, alike)
            shown = [f"{6 * layers:6} operations"]
            for step, seconds in found.items():
                ratio = f" ×{seconds / before[step]:<4.1f}" if before.get(step) else ""
                shown.append(f"{step} {seconds:6.3f} s{ratio}")
            print("  " + "  ".join(shown), flush=True)
            before = found


if __name__ == "__main__":
    main()
