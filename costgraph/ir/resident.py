"""What stays in memory while another graph runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sympy import Expr

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor


@dataclass(frozen=True)
class Resident:
    """A graph that stays in memory while another one runs.

    Attributes:
        graph: as it runs in its own phase.
        caches: its caches are there as well as its weights.
        shared: names of weights that the running graph holds already.
        part: it holds weights of the model itself (a decoder beside the encoder's phase).
    """

    graph: Graph
    caches: bool = False
    shared: tuple[str, ...] = ()
    part: bool = False

    def weights(self) -> Iterator[tuple[Tensor, Expr]]:
        """Its weights that the running graph does not hold, with their counts."""
        return ((t, count) for t, count in self.graph.weights() if t.name not in self.shared)
