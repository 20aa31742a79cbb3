"""Models that are a stack of blocks, without symbolic dimensions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from sympy import Expr, Integer, Symbol

from costgraph.errors import InputError
from costgraph.graph import Graph
from costgraph.models.blocks import Segment, Stack, Style
from costgraph.models.blocks.stack import Repeatable


@dataclass(frozen=True)
class Stacked:
    """A :class:`Stack` as a model."""

    stack: Stack

    def graph(self, name: str, style: Style) -> Graph:
        """The step graph over ``B``, ``q`` and ``T``."""
        return self.stack.graph(name, style)

    def symbolic(self) -> tuple[Stacked, dict[Symbol, Expr]]:
        """Refused: layers differ, their dimensions have no common names."""
        raise InputError("this model keeps no symbolic dimensions: its layers are not all alike")


def gathered(layers: Iterable[tuple[str, Repeatable]]) -> tuple[Segment, ...]:
    """One segment per kind of layer, in order of first appearance.

    Times, traffic and memory do not depend on where equal layers stand.
    """
    counts: dict[str, int] = {}
    kinds: dict[str, Repeatable] = {}
    for name, layer in layers:
        counts[name] = counts.get(name, 0) + 1
        kinds[name] = layer
    return tuple(Segment(name, kinds[name], Integer(n)) for name, n in counts.items())


def runs(layers: Iterable[tuple[str, Repeatable]]) -> tuple[Segment, ...]:
    """A segment per run of equal neighbours, in the model's order."""
    found: list[Segment] = []
    for index, (_, members) in enumerate(groupby(layers, key=lambda pair: pair[0])):
        run = list(members)
        name, layer = run[0]
        found.append(Segment(f"{name}_{index}", layer, Integer(len(run))))
    return tuple(found)
