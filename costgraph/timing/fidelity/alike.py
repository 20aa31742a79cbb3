"""Operations that are one but for their name and number: their time is derived once.

Stages of a pipeline, and runs of layers, repeat the same operations under other names; plans, and
variants of a model that are held against each other, have most of theirs in common.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import replace
from typing import Generic, TypeVar

from sympy import Expr, Integer

from costgraph.counting.count import Row
from costgraph.counting.mixed import MixedRow
from costgraph.formula.terms import Term, chained
from costgraph.ir.graph import Graph, Node
from costgraph.ir.program import Phase
from costgraph.ir.tensor import Tensor, level_of
from costgraph.ops.fused import Fused
from costgraph.ops.quant import QuantizeTo
from costgraph.timing.fidelity.expert_block import around, grouped_product
from costgraph.timing.roofline import Timing

ONE = Integer(1)
#: Operations of which something is kept; all are found anew where there are more.
MOST = 1024

Found = TypeVar("Found")


class Kept(Generic[Found]):
    """What was found of operations by what they are, for all programs that ask."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Found] = {}

    def of(self, key: Hashable, find: Callable[[], Found]) -> Found:
        """What is kept of an operation, or else what is found now."""
        found = self._found.get(key)
        if found is None:
            found = find()
            if len(self._found) >= MOST:
                self._found = {}
            self._found[key] = found
        return found


class Likeness:
    """What operations are, apart from names, from how often they run and from the unit that does.

    One serves the rows of one program: it keeps what it finds of their graphs.
    """

    def __init__(self) -> None:
        self._grouped: dict[int, tuple[Graph, Node | None]] = {}

    def of(self, phase: Phase, row: Row) -> Hashable:
        """A key that rows share whose calibrated times differ by names and counts alone."""
        cost = row.cost
        users = row.graph.consumers[row.node.output] if isinstance(row.node.op, QuantizeTo) else ()
        return (
            (phase.name, phase.bindings, phase.span, phase.pace(row.unit), level_of(row.unit)),
            (row.kind, row.presence, type(row), begins(phase, row)),
            (row.beside, row.steps) if isinstance(row, MixedRow) else (),
            tuple(cost.flops.items()), tuple(cost.bytes.items()), tuple(cost.links.items()),
            cost.launches, self._block(row.graph, row.node),
            _shape(row.graph, row.node), tuple(_shape(row.graph, user) for user in users),
        )  # fmt: skip

    def _block(self, graph: Graph, node: Node) -> Hashable:
        """The block of experts that an operation is part of, if any, and its place there."""
        # The graph is kept beside what is known of it, so that no other takes its place.
        if id(graph) not in self._grouped:
            self._grouped[id(graph)] = graph, grouped_product(graph)
        product = self._grouped[id(graph)][1]
        found = None if product is None else around(graph, node, product)
        if found is None:
            return ()
        own, block = found
        first = block.first == node.name
        return first, block.inner, block.hidden, block.tokens, _shape(graph, own)


def begins(phase: Phase, row: Row) -> bool:
    """Whether a row is the first of a step, with which its host's time counts, once."""
    return row.graph is phase.graph and row.node is phase.graph.nodes[0]


def once(timing: Timing, kept: Kept[tuple[str, tuple[Term, ...]]]) -> Timing:
    """The same times, derived once for operations that are one but for their names and counts.

    Terms are counted as often as their operation.
    """
    likeness = Likeness()

    def times(phase: Phase, row: Row) -> Iterator[Term]:
        if begins(phase, row):
            yield from timing(phase, row)
            return

        def find() -> tuple[str, tuple[Term, ...]]:
            return row.name, tuple(timing(phase, replace(row, count=ONE)))

        name, terms = kept.of(likeness.of(phase, row), find)
        count = phase.bind(row.count)
        if count != 0:
            yield from (_of(term, name, row.name, count) for term in terms)

    return times


def _of(term: Term, name: str, other: str, count: Expr) -> Term:
    """The term of an operation as that of another, which runs so many times."""
    made = replace(term, count=term.count * count)
    return made if name == other else _named(made, name, other)


def _named(term: Term, name: str, other: str) -> Term:
    arms = tuple(
        chained(
            (_named(t, name, other) for t in a.chain),
            other if a.resource == name else a.resource,
        )
        if a.chain
        else a
        for a in term.arms
    )
    return replace(term, arms=arms, ops=(other,))


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
