"""Counting: a graph to one row per operation, each with its cost vector and count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from sympy import Expr, Integer

from costgraph.accounting import EXACT, Accounting, Facts, Site
from costgraph.cost import Cost, total
from costgraph.errors import MissingRuleError
from costgraph.graph import Graph, Node, Repeat
from costgraph.presence import EVERYONE, Presence
from costgraph.tensor import Role

ONE = Integer(1)


@dataclass(frozen=True)
class Row:
    """One operation's cost.

    Attributes:
        name: the node's name, prefixed by its region where names would clash.
        kind: operation kind.
        count: how often the operation runs in one step.
        cost: cost vector of one execution (expected, inside partial regions).
        node, graph: the node and the graph (region) that holds it.
        region: name of the innermost repeated region, or an empty string.
        presence: which of the step's tokens take part, where not all do.
    """

    name: str
    kind: str
    count: Expr
    cost: Cost
    node: Node
    graph: Graph
    region: str
    presence: Presence = EVERYONE

    @property
    def total(self) -> Cost:
        """Cost of all executions."""
        return self.cost.scaled(self.count)


def rows(
    graph: Graph, accounting: Accounting = EXACT, single_query: bool = False
) -> tuple[Row, ...]:
    """One row per operation of ``graph``, regions opened, in execution order.

    Args:
        graph: a step graph.
        accounting: the counting convention.
        single_query: the step processes one position per sequence. Only
            conventions that treat decoding apart look at it.

    Raises:
        MissingRuleError: an operation has no rule under this accounting.
    """
    facts = gather_facts(graph)
    found = tuple(_walk(graph, accounting, single_query, facts, ONE, ""))
    clashing = {name for name, n in Counter(r.name for r in found).items() if n > 1}
    if not clashing:
        return found
    return tuple(
        replace(r, name=f"{r.region}.{r.name}") if r.name in clashing and r.region else r
        for r in found
    )


def _walk(
    graph: Graph,
    accounting: Accounting,
    single_query: bool,
    facts: Facts,
    count: Expr,
    region: str,
) -> Iterator[Row]:
    for node in graph.nodes:
        if isinstance(node.op, Repeat):
            inner = node.op
            for row in _walk(
                inner.body, accounting, single_query, facts, count * inner.count, node.name
            ):
                if inner.presence.is_full:
                    yield row
                else:
                    cost = inner.presence.expected(row.cost)
                    yield replace(row, cost=cost, presence=inner.presence)
            continue
        site = Site(node, graph, region != "", single_query, facts)
        try:
            cost = accounting.cost(site)
        except MissingRuleError as error:
            raise MissingRuleError(f"node {node.name!r}: {error}") from error
        yield Row(node.name, node.op.kind, count, cost, node, graph, region)


def exact_cost(graph: Graph) -> Cost:
    """The exact cost vector of a graph, regions included with their counts."""
    return total(node.op.cost(graph.operands(node), node.outputs) for node in graph.nodes)


def parameters(graph: Graph) -> Expr:
    """Number of parameters: elements of all weight tensors, shared ones once."""
    return sum((count * t.numel for t, count in graph.weights()), Integer(0))


def gather_facts(graph: Graph) -> Facts:
    """Widest element formats of weights, activations and caches in the graph."""
    widest: dict[Role, Expr] = {}

    def visit(g: Graph) -> None:
        for node in g.nodes:
            if isinstance(node.op, Repeat):
                visit(node.op.body)
                continue
            if node.op.kind == "embedding":
                continue
            for tensor in (*g.operands(node), *node.outputs):
                if tensor.dtype.bits.is_Integer and not tensor.dtype.name.startswith("int64"):
                    bits = widest.get(tensor.role, Integer(0))
                    widest[tensor.role] = max(bits, tensor.dtype.bits, key=int)

    visit(graph)
    bits: Mapping[Role, int] = {role: int(value) for role, value in widest.items()}
    return Facts(bits.get(Role.WEIGHT, 16), bits.get(Role.ACTIVATION, 16), bits.get(Role.KV, 16))
