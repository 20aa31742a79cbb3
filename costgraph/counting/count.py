"""Counting: a graph to one row per operation, each with its cost vector and count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from sympy import Add, Expr, Integer

from costgraph.counting.accounting import EXACT, Accounting, Facts, Site
from costgraph.errors import MissingRuleError
from costgraph.ir.cost import Cost
from costgraph.ir.graph import Graph, Node
from costgraph.ir.presence import EVERYONE, Presence
from costgraph.ir.regions import Parallel, Region
from costgraph.ir.tensor import Role

if TYPE_CHECKING:
    from costgraph.ir.program import Phase, Program

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
        region: name of the innermost region, or an empty string.
        unit: who runs it; empty for the device itself.
        presence: which of the step's tokens take part, where not all do.
    """

    name: str
    kind: str
    count: Expr
    cost: Cost
    node: Node
    graph: Graph
    region: str
    unit: str = ""
    presence: Presence = EVERYONE

    @property
    def total(self) -> Cost:
        """Cost of all executions."""
        return self.cost.scaled(self.count)


@dataclass(frozen=True)
class Overlap:
    """Rows that do not all follow one another: bodies that run at the same time.

    Attributes:
        name: the region's node.
        count: how often the region runs in one step.
        bodies: name and rows of each body, counted within one run of the region.
        unit: who runs the region.
    """

    name: str
    count: Expr
    bodies: tuple[tuple[str, tuple[Item, ...]], ...]
    unit: str = ""


Item: TypeAlias = "Row | Overlap"


def rows(
    graph: Graph, accounting: Accounting = EXACT, single_query: bool = False
) -> tuple[Row, ...]:
    """One row per operation of ``graph``, regions opened, in execution order.

    Arguments and errors as in :func:`counted`.
    """
    return flat(counted(graph, accounting, single_query))


def flat(items: Iterable[Item], count: Expr = ONE) -> tuple[Row, ...]:
    """Every row of a count, with how often it runs in one step."""
    found: list[Row] = []
    for item in items:
        if isinstance(item, Row):
            found.append(item if count == 1 else replace(item, count=count * item.count))
            continue
        for _, inner in item.bodies:
            found.extend(flat(inner, count * item.count))
    return tuple(found)


def counted(
    graph: Graph, accounting: Accounting = EXACT, single_query: bool = False
) -> tuple[Item, ...]:
    """The operations of ``graph`` as rows, and as they overlap.

    Args:
        graph: a step graph.
        accounting: the counting convention.
        single_query: the step processes one position per sequence. Only
            conventions that treat decoding apart look at it.

    Raises:
        MissingRuleError: an operation has no rule under this accounting.
    """
    facts = gather_facts(graph)
    found = tuple(_walk(graph, accounting, single_query, facts, ONE, "", ""))
    names = Counter(r.name for r in flat(found))
    return _told_apart(found, {name for name, n in names.items() if n > 1})


def _told_apart(items: tuple[Item, ...], clashing: set[str]) -> tuple[Item, ...]:
    """Rows of one name with their region's in front."""
    if not clashing:
        return items
    found: list[Item] = []
    for item in items:
        if isinstance(item, Overlap):
            bodies = tuple((name, _told_apart(inner, clashing)) for name, inner in item.bodies)
            found.append(replace(item, bodies=bodies))
        elif item.name in clashing and item.region:
            found.append(replace(item, name=f"{item.region}.{item.name}"))
        else:
            found.append(item)
    return tuple(found)


def _walk(
    graph: Graph,
    accounting: Accounting,
    single_query: bool,
    facts: Facts,
    count: Expr,
    region: str,
    unit: str,
) -> Iterator[Item]:
    for node in graph.nodes:
        runs_on = node.unit or unit
        if isinstance(node.op, Parallel):
            bodies = tuple(
                (
                    body.name,
                    tuple(
                        _walk(
                            body.graph,
                            accounting,
                            single_query,
                            facts,
                            ONE,
                            f"{node.name}.{body.name}",
                            body.unit or runs_on,
                        )
                    ),
                )
                for body in node.op.bodies
            )
            yield Overlap(node.name, count, bodies, runs_on)
            continue
        if isinstance(node.op, Region):
            inner = node.op
            for body in inner.graphs:
                yield from _shared(
                    _walk(
                        body,
                        accounting,
                        single_query,
                        facts,
                        count * inner.times,
                        node.name,
                        runs_on,
                    ),
                    inner.taking_part,
                )
            continue
        site = Site(node, graph, region != "", single_query, facts)
        try:
            cost = accounting.cost(site)
        except MissingRuleError as error:
            raise MissingRuleError(f"node {node.name!r}: {error}") from error
        yield Row(node.name, node.op.kind, count, cost, node, graph, region, runs_on)


def _shared(items: Iterable[Item], presence: Presence) -> Iterator[Item]:
    """Items in which only some of the step's tokens take part."""
    if presence.is_full:
        yield from items
        return
    for item in items:
        if isinstance(item, Row):
            yield replace(item, cost=presence.expected(item.cost), presence=presence)
        else:
            bodies = tuple((name, tuple(_shared(inner, presence))) for name, inner in item.bodies)
            yield replace(item, bodies=bodies)


def exact_cost(graph: Graph) -> Cost:
    """The exact cost vector of a graph, regions included with their counts."""
    return graph.cost


def parameters(holder: Graph | Phase | Program) -> Expr:
    """Number of parameters: elements of all weight tensors, shared ones once.

    Of a graph; of all that is in memory in a phase; of a program's model.
    """
    return Add(*(count * t.numel for t, count in holder.weights()))


def gather_facts(graph: Graph) -> Facts:
    """Widest element formats of weights, activations and caches in the graph."""
    widest: dict[Role, Expr] = {}

    def visit(g: Graph) -> None:
        for node in g.nodes:
            if isinstance(node.op, Region):
                for inner in node.op.graphs:
                    visit(inner)
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
