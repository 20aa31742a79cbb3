"""Seconds to draw and to write reports, as ratios to compiling llama-3-70b in the same run."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from sympy import Integer

import costgraph as cg
from costgraph.ir.graph import Builder, Graph, Node
from costgraph.ir.program import Program, autoregressive
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.elementwise import Add
from costgraph.ops.linear import Linear
from costgraph.showing.draw import Drawing, draw
from costgraph.showing.draw.render import can_render
from costgraph.showing.report import Report, report
from costgraph.symbols import B, q


def synthetic(nodes: int, alike: bool) -> Graph:
    """A flat graph of ``nodes`` additions, in layers of ten with a bypass around each.

    Unless ``alike``, every layer has a width of its own, so that nothing folds.
    """
    dtype = cg.compile("gpt2", "a6000").graph.nodes[0].outputs[0].dtype
    sources = [Tensor("x", (Integer(8),), dtype)]
    made: list[Node] = []
    here = "x"
    for layer in range(nodes // 10):
        entry = here
        for index in range(10):
            name = f"l{layer}.{index}"
            other = entry
            if index < 9:
                # Only drawn, never counted: shapes need not fit together.
                other = f"{name}.w"
                shape = (Integer(8),) if alike else (Integer(layer + 1),)
                sources.append(Tensor(other, shape, dtype, Role.WEIGHT))
            out = Tensor(name, (Integer(8),), dtype)
            made.append(Node(name, Add(), (here, other), (out,)))
            here = name
    return Graph("synthetic", tuple(sources), tuple(made), (here,))


def far(nodes: int) -> Graph:
    """A flat graph of ``nodes`` additions, each of the last and of one up to 500 before it."""
    tensor = synthetic(10, True).sources[0]
    names = ["x", *(f"{index * 7919 % 104_729:x}" for index in range(1, nodes))]
    made = [
        Node(name, Add(), (names[i], names[max(i - _back(i), 0)]), (replace(tensor, name=name),))
        for i, name in enumerate(names[1:])
    ]
    return Graph("far", (tensor,), tuple(made), (names[-1],))


def _back(index: int) -> int:
    """How far back the second operand of an operation lies: spread over 1 … 500."""
    return 1 + index * 131 % 500


def countable(nodes: int, alike: bool) -> Program:
    """A program of ``nodes`` matrix products in a row; unless ``alike``, of 97 widths."""
    dtype = cg.compile("gpt2", "a6000").graph.nodes[0].outputs[0].dtype

    def width(index: int) -> int:
        return 64 if alike else 64 + 8 * (index * index % 97)

    builder = Builder("synthetic")
    here = builder.source(Tensor("x", (B, q, Integer(width(0))), dtype))
    for index in range(nodes):
        shape = (Integer(width(index + 1)), Integer(width(index)))
        weight = builder.source(Tensor(f"w{index}", shape, dtype, Role.WEIGHT))
        here = builder.add(f"op{index}", Linear(), here, weight)
    return autoregressive("synthetic", builder.build(here))


def sizes(reports: dict[str, Callable[[], Report]]) -> None:
    """Size of each report, in megabytes."""
    for name, make in reports.items():
        print(f"{name:52} {len(make().html.encode()) / 1e6:8.2f} MB")


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    compiled = cg.compile("llama-3-70b", "h100", "fuse")
    repeated, different = synthetic(5000, True), synthetic(5000, False)
    tangled = far(5000)
    cases: dict[str, Callable[[], Drawing]] = {
        "llama-3-70b": lambda: draw(compiled),
        "llama-3-70b, times": lambda: draw(compiled, B=1, T=4096),
        "llama-3-70b, difference": lambda: draw(compiled, diff=True),
        "5,000 nodes that repeat": lambda: draw(repeated),
        "5,000 nodes that differ": lambda: draw(different),
        "5,000 nodes with links far back": lambda: draw(tangled),
    }
    work: dict[str, Callable[[], object]] = {
        "compile llama-3-70b": lambda: cg.compile("llama-3-70b", "h100", "fuse").tpot
    }
    for name, make in cases.items():
        work[f"DOT of {name}"] = lambda make=make: make().dot
        if can_render("svg"):
            drawing = make()
            work[f"SVG of {name} ({len(drawing.scene.vertices)} vertices)"] = (
                lambda drawing=drawing: Drawing(drawing.scene, drawing.whole).svg
            )
    like, unlike = countable(5000, True), countable(5000, False)
    reports: dict[str, Callable[[], Report]] = {
        "report of llama-3-70b": lambda: report("llama-3-70b", "h100"),
        "report of llama-3-70b, 3 pipelines, 2 devices": lambda: report(
            "llama-3-70b", ["h100", "a100"], ["", "fuse", "fuse,quantize{weights=int4}"]
        ),
        "report of 5,000 operations that repeat": lambda: report(like, "h100"),
        "report of 5,000 operations that differ": lambda: report(unlike, "h100"),
    }
    work |= reports
    samples: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(runs):  # interleaved, so that drift hits all alike
        for name, call in work.items():
            samples[name].append(seconds(call))
    base = statistics.median(samples["compile llama-3-70b"])
    for name, values in samples.items():
        median = statistics.median(values)
        print(f"{name:52} {median * 1e3:8.1f} ms   {median / base:6.2f} x compiling")
    sizes(reports)


if __name__ == "__main__":
    main()
