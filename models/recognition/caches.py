"""Caches in traced graphs: operands that a step writes its rows into and hands on.

Exporters know no caches. Keys and values of earlier positions are an operand of the graph
(``past_key_values``), new ones are joined behind them, and the whole is a result; or they are
a buffer of fixed size, a step's rows are put into it, and it is written back. Both are told
by that structure alone, never by a name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sympy import Expr, Integer

from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Op, same
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.arrays import Join, Scatter
from costgraph.ops.attention import AttentionScores, AttentionValues, KVAppend
from costgraph.ops.views import Reshape, Transpose

ONE = Integer(1)
#: Axes of a cache ``(B, T, Hk, dh)`` in one whose positions stand on an axis.
ORDERS = {1: (0, 1, 2, 3), 2: (0, 2, 1, 3), 3: (0, 3, 1, 2)}


@dataclass(frozen=True)
class _Written:
    """A node that adds a step's rows to an operand.

    Attributes:
        node: which node.
        cache, rows: the operand, and what is added.
        axis: on which axis positions stand.
        before: how many positions the cache holds beside the new ones.
    """

    node: Node
    cache: Tensor
    rows: Tensor
    axis: int
    before: Expr


def with_caches(graph: Graph) -> Graph:
    """``graph`` with each operand that keeps a step's rows as a cache, appended to in place.

    Such an operand is used once, by what adds the rows; the whole is a result. Results that
    are caches stay in memory: they are handed out no more. A buffer of ``M`` positions into
    which ``n`` are put is a cache of ``M - n`` to which ``n`` are appended: the same bytes in
    memory, read and written.
    """
    found = {w.node.name: w for w in map(_reader(graph), graph.nodes) if w is not None}
    if not found:
        return graph
    caches: dict[str, Tensor] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        written = found.get(node.name)
        if written is None:
            nodes.append(node)
        else:
            cache, made = _appended(written)
            caches[cache.name] = cache
            nodes.extend(made)
    held = {w.node.output for w in found.values()}
    return Graph(
        graph.name,
        tuple(caches.get(t.name, t) for t in graph.sources),
        tuple(nodes),
        tuple(o for o in graph.outputs if o not in held),
    )


class _reader:
    """Finds what a node of a graph adds to an operand that is handed on."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.results = set(graph.outputs)

    def __call__(self, node: Node) -> _Written | None:
        if not isinstance(node.op, (Join, Scatter)) or node.output not in self.results:
            return None
        operands = self.graph.operands(node)
        cache, rows, made = operands[0], operands[-1], node.outputs[0]
        alone = cache.name not in self.graph.producer and node.inputs.count(cache.name) == 1
        if not alone or self.graph.consumers[cache.name] != (node,):
            return None
        # Rows for a batch of one are written down without it.
        wide = (ONE,) * (4 - len(rows.shape)) + rows.shape
        if len(cache.shape) != 4 or len(wide) != 4 or made.dtype != cache.dtype:
            return None
        if isinstance(node.op, Join):
            # A weight in front of what a step makes is a prefix, not a cache.
            if len(operands) != 2 or cache.role is not Role.ACTIVATION:
                return None
            axis, before = node.op.axis, cache.shape[node.op.axis]
        else:
            other = [i for i in range(4) if not same(cache.shape[i], wide[i])]
            if node.op.combines or len(other) != 1:
                return None
            axis = other[0]
            before = cache.shape[axis] - wide[axis]
        return _Written(node, cache, rows, axis, before) if axis in ORDERS else None


def _appended(written: _Written) -> tuple[Tensor, list[Node]]:
    """The cache, and the nodes in place of the one that added rows."""
    node, order = written.node, ORDERS[written.axis]
    shape = list(written.cache.shape)
    shape[written.axis] = written.before
    placed = tuple(shape[a] for a in order)
    cache = Tensor(written.cache.name, placed, written.cache.dtype, Role.KV)
    made: list[Node] = []

    def add(suffix: str, op: Op, *operands: Tensor) -> Tensor:
        tensor = op.infer(operands)[0].named(f"{node.output}.{suffix}")
        made.append(Node(tensor.name, op, tuple(t.name for t in operands), (tensor,)))
        return tensor

    rows = written.rows
    if len(rows.shape) < 4:
        rows = add("whole", Reshape((ONE,) * (4 - len(rows.shape)) + rows.shape), rows)
    rows = add("rows", Transpose(order), rows)
    held = add("held", KVAppend(), cache, rows)
    back = Transpose(tuple(order.index(i) for i in range(4)))
    return cache, [*made, replace(node, op=back, inputs=(held.name,))]


def appends(graph: Graph) -> Iterator[tuple[Graph, Node]]:
    """The nodes that append to caches, each with the graph that it stands in."""
    for inner in graph.walk():
        yield from ((inner, n) for n in inner.nodes if isinstance(n.op, KVAppend))


def unattended(graph: Graph) -> str:
    """A cache that something else than attention uses, or nothing; empty if there is none."""
    for inner, node in appends(graph):
        users = inner.consumers[node.output]
        attends = all(
            isinstance(u.op, (AttentionScores, AttentionValues))
            and u.inputs[1] == node.output
            and u.inputs.count(node.output) == 1
            for u in users
        )
        if not users or not attends or node.output in inner.outputs:
            return node.inputs[0]
    return ""
