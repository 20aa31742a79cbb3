"""Layers of several kinds as segments."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from sympy import Integer

from costgraph.models.blocks import Segment
from costgraph.models.blocks.stack import Repeatable


def gathered(layers: Iterable[tuple[str, Repeatable]]) -> tuple[Segment, ...]:
    """One segment per kind of layer, in order of first appearance.

    Times, traffic and memory do not depend on where equal layers stand.
    """
    counts: dict[str, int] = {}
    kinds: dict[str, Repeatable] = {}
    for name, layer in layers:
        counts[name] = counts.get(name, 0) + 1
        kinds[name] = layer
    several = len(counts) > 1
    return tuple(Segment(name, kinds[name], Integer(n), several) for name, n in counts.items())


def runs(layers: Iterable[tuple[str, Repeatable]]) -> tuple[Segment, ...]:
    """A segment per run of equal neighbours, in the model's order."""
    found: list[Segment] = []
    for index, (_, members) in enumerate(groupby(layers, key=lambda pair: pair[0])):
        run = list(members)
        name, layer = run[0]
        found.append(Segment(f"{name}_{index}", layer, Integer(len(run))))
    return tuple(found)
