"""What the engines for arrays compute."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from costgraph.formula.dag import Dag, Node
from costgraph.symbols import SIZES, N, S


def is_norms(dag: Dag, node: Node) -> bool:
    """Whether a node is a power of a norm: only their exponents are floats."""
    return node.op == "pow" and isinstance(dag.nodes[node.args[1]].value, float)


@dataclass(frozen=True, eq=False)
class Program:
    """A graph with its inputs, results and checks.

    Attributes:
        dag: the operations; its outputs are the results and the checks.
        names: the symbols, in the order of the inputs.
        results: the node of each result.
        checks: conditions that must hold nowhere.
        zero: names of the symbols that may be zero; all others are positive, and sizes at
            least one.
    """

    dag: Dag
    names: tuple[str, ...]
    results: tuple[int, ...]
    checks: tuple[int, ...]
    zero: tuple[str, ...] = ()

    @cached_property
    def has_norms(self) -> bool:
        """Whether there are norms."""
        used = (n for n, uses in zip(self.dag.nodes, self.dag.used(), strict=True) if uses)
        return any(is_norms(self.dag, n) for n in used)

    @property
    def least(self) -> tuple[float, ...]:
        """The smallest value of each input; the least positive double for what has none."""
        return tuple(
            1.0 if n in SIZES else 0.0 if n in self.zero else math.ulp(0.0) for n in self.names
        )

    @property
    def whole(self) -> tuple[int, ...]:
        """Places of the inputs that must be whole numbers (tokens)."""
        return tuple(i for i, n in enumerate(self.names) if n in (S.name, N.name))
