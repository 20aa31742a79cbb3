"""Operations that are one but for their name: their time is derived once.

Stages of a pipeline, and runs of layers, repeat the same operations under other names.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import replace

from costgraph.counting.count import Row
from costgraph.counting.mixed import MixedRow
from costgraph.formula.terms import Term
from costgraph.ir.graph import Graph, Node
from costgraph.ir.program import Phase
from costgraph.ir.tensor import Tensor, level_of
from costgraph.ops.fused import Fused
from costgraph.ops.quant import QuantizeTo
from costgraph.timing.fidelity.expert_block import grouped_product
from costgraph.timing.roofline import Timing


class Likeness:
    """What operations are, apart from names and from the unit that runs them.

    One serves the rows of one program: it keeps what it finds of their graphs.
    """

    def __init__(self) -> None:
        self._grouped: dict[int, tuple[Graph, bool]] = {}

    def of(self, phase: Phase, row: Row) -> Hashable | None:
        """A key that rows share whose calibrated times differ by their names alone.

        None of exchanges, whose units count, and in graphs with grouped products, where the block
        around an operation does.
        """
        cost = row.cost
        if cost.links or self._has_experts(row.graph):
            return None
        users = row.graph.consumers[row.node.output] if isinstance(row.node.op, QuantizeTo) else ()
        return (
            (phase.name, phase.bindings, phase.span, phase.pace(row.unit), level_of(row.unit)),
            (row.kind, row.count, row.presence, type(row)),
            row.graph is phase.graph and row.node is phase.graph.nodes[0],
            (row.beside, row.steps) if isinstance(row, MixedRow) else (),
            tuple(cost.flops.items()), tuple(cost.bytes.items()), cost.launches,
            _shape(row.graph, row.node), tuple(_shape(row.graph, user) for user in users),
        )  # fmt: skip

    def _has_experts(self, graph: Graph) -> bool:
        # The graph is kept beside what is known of it, so that no other takes its place.
        if id(graph) not in self._grouped:
            self._grouped[id(graph)] = graph, grouped_product(graph) is not None
        return self._grouped[id(graph)][1]


def once(timing: Timing) -> Timing:
    """The same times, derived once for operations that are one but for their names."""
    known: dict[Hashable, tuple[Term, ...]] = {}
    likeness = Likeness()

    def times(phase: Phase, row: Row) -> Iterator[Term]:
        key = likeness.of(phase, row)
        if key is None:
            yield from timing(phase, row)
            return
        if key not in known:
            made = known[key] = tuple(timing(phase, row))
            yield from made
            return
        yield from (replace(term, ops=(row.name,)) for term in known[key])

    return times


def _shape(graph: Graph, node: Node, places: dict[str, int] | None = None) -> Hashable:
    """A node as it stands in a graph, tensors told by their order and not by their names."""
    order = {} if places is None else places

    def plain(tensors: Iterable[Tensor]) -> tuple[Hashable, ...]:
        return tuple(
            (order.setdefault(t.name, len(order)), t.shape, t.dtype, t.role, t.stored, t.level,
             t.spread)
            for t in tensors
        )  # fmt: skip

    operands, outputs = plain(graph.operands(node)), plain(node.outputs)
    if not isinstance(node.op, Fused):
        return operands, outputs, node.op
    body, inner = node.op.body, dict[str, int]()
    again = dict(node.op.recompute)
    return operands, outputs, tuple((_shape(body, n, inner), again.get(n.name)) for n in body.nodes)
