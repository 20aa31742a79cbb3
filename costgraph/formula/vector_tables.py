"""What depends on one symbol alone, for many points: computed once for each of its numbers.

Batches and token counts are whole numbers of which many points share a value. Norms of one of
them alone are looked up in a table over its range instead of being computed at every point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from costgraph.formula.dag import Dag
from costgraph.formula.program import is_norms

if TYPE_CHECKING:
    from costgraph.formula.vector import Array

Index: TypeAlias = NDArray[np.intp]
#: A table has at most this share of a block's points as numbers.
SHARE = 0.5
_LOOPS = frozenset(("loop", "envelope"))


@dataclass(frozen=True)
class Alone:
    """Nodes of one symbol alone that contain a norm.

    Attributes:
        steps: the nodes to compute over the symbol's numbers, in order.
        results: those of them that others take.
        inner: those that nothing else needs.
    """

    steps: tuple[int, ...]
    results: frozenset[int]
    inner: frozenset[int]


def alone(dag: Dag, symbol: int, steps: Sequence[int], users: Mapping[int, set[int]]) -> Alone:
    """What of ``steps`` depends on ``symbol`` alone and leads to a norm.

    Args:
        users: of each node, who takes it; -1 stands for the outside.
    """
    nodes = dag.nodes
    own = {symbol}
    heavy: set[int] = set()
    for index in steps:
        node = nodes[index]
        taken = [a for a in node.args if nodes[a].op not in ("num", "bool")]
        if node.op in _LOOPS or not taken or not own.issuperset(taken):
            continue
        own.add(index)
        if is_norms(dag, node) or not heavy.isdisjoint(node.args):
            heavy.add(index)
    results = frozenset(i for i in heavy if users[i] - own)
    needed, left = set(), list(results)
    while left:
        index = left.pop()
        if index not in needed:
            needed.add(index)
            left += nodes[index].args
    chain = tuple(i for i in steps if i in needed)
    inner = set(chain) - results
    for index in reversed(chain):
        # A value that also serves others is computed at every point as well.
        if not users[index] <= inner | results:
            inner.discard(index)
    return Alone(chain, results, frozenset(inner))


def numbers(values: Array) -> tuple[Array, Index] | None:
    """The whole numbers from the least to the largest value, and where each value stands.

    None where values are not whole, or too few of them alike.
    """
    low, high = float(values.min()), float(values.max())
    if high - low + 1 > SHARE * len(values) or not (values == np.floor(values)).all():
        return None
    return np.arange(low, high + 1), (values - low).astype(np.intp)
