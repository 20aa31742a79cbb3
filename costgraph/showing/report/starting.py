"""Where the controls of a page start unless something else is said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import lcm
from typing import Any

from sympy import Add

from costgraph.compiling.compiled import Compiled
from costgraph.formula.formula import exact
from costgraph.formula.terms import Limit
from costgraph.ir.graph import Graph
from costgraph.symbols import G, K, symbol

START = {"B": 1, "S": 1024, "N": 256, "T": 2048, "K": 32}
#: Of models that make pictures: positions of CLIP's text encoder, which U-Nets read, and what a
#: picture of 1024 x 1024 pixels is where a position is 16 x 16 of them (FLUX.1, Qwen-Image).
PICTURES = {"S": 77, "G": 4096}
#: Of models that read images: 448 x 448 pixels where a token is 28 x 28 of them (Qwen2-VL), and
#: one image of Gemma 3.
SEEN = 256


def image_unit(variants: Sequence[Compiled]) -> int:
    """Of how many tokens ``G`` must be a multiple for numbers of images and windows to be whole."""
    phases = (phase for c in variants for phase in c.program.phases)
    return lcm(*(c for phase in phases for c in _denominators(phase.graph)))


def _denominators(graph: Graph) -> Iterator[int]:
    """What shares of ``G`` among the sizes of a graph are divided by."""
    dims = {d for part in graph.walk() for t in part.tensors.values() for d in t.shape}
    for part in (part for d in dims if d.has(G) for part in Add.make_args(d)):
        share, rest = part.as_coeff_Mul()
        if share.is_Rational and G in rest.as_powers_dict():
            yield int(share.q)


def start(variants: Sequence[Compiled], given: Mapping[str, Any]) -> dict[str, Any]:
    """Where the controls start.

    What is not given is halved until every variant has it, and made less by one where the
    values that a variant allows stand apart (whole shares of an answer). Images are whole.
    """
    unit, usual = _usual(variants)
    free = {k: v for k, v in usual.items() if k not in given}
    limits = {x: None for c in variants for x in c.latency.limits}
    limits |= {
        x: None for c in variants for p in c.program.phases if p.span for x in _of(c, p.name)
    }
    while True:
        values = {symbol(k): exact(v) for k, v in (usual | dict(given) | free).items()}
        broken = [x for x in limits if x.broken(values) is not None]
        smaller: dict[str, int] = {}
        for k in ("S", "N", "T", "G"):
            beyond = [x for x in broken if symbol(k) in x.expr.free_symbols]
            if k in free and beyond:
                apart, least = all(x.apart for x in beyond), unit if k == "G" else 1
                smaller[k] = max(least, free[k] - least if apart else free[k] // 2 // least * least)
        if all(free[k] == v for k, v in smaller.items()):
            return usual | dict(given) | free
        free |= smaller


def _usual(variants: Sequence[Compiled]) -> tuple[int, dict[str, int]]:
    """The tokens of whole images, and where controls start while no limit is looked at."""
    symbols = {s for c in variants for s in c.latency.symbols}
    usual = START | (PICTURES if K in symbols else {"G": SEEN})
    if G not in symbols:
        del usual["G"]
        return 1, usual
    unit = image_unit(variants)
    return unit, usual | {"G": -(-usual["G"] // unit) * unit}


def _of(compiled: Compiled, phase: str) -> tuple[Limit, ...]:
    return compiled.time(phase).limits
