"""Counting: a graph to one row per operation, each with its cost vector and count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from sympy import Add, Expr, Integer

from costgraph.counting.accounting import EXACT, Accounting, Facts, Site
from costgraph.errors import MissingRuleError
from costgraph.formula.envelope import dominates
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
        aside: nothing that the step results in waits for it.
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
    aside: bool = False

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
        aside: as of rows.
    """

    name: str
    count: Expr
    bodies: tuple[tuple[str, tuple[Item, ...]], ...]
    unit: str = ""
    aside: bool = False


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
    count, awaited = _Count(accounting, single_query, gather_facts(graph)), _awaited(graph)
    found = tuple(
        item if node.name in awaited else replace(item, aside=True)
        for node in graph.nodes
        for item in count.node(node, graph, ONE)
    )
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


@dataclass(frozen=True)
class _Count:
    """What is the same for all operations of a count."""

    accounting: Accounting
    single_query: bool
    facts: Facts

    def graph(self, graph: Graph, count: Expr, region: str, unit: str) -> Iterator[Item]:
        """The operations of a graph that runs ``count`` times."""
        for node in graph.nodes:
            yield from self.node(node, graph, count, region, unit)

    def node(
        self, node: Node, graph: Graph, count: Expr, region: str = "", unit: str = ""
    ) -> Iterator[Item]:
        """An operation, or those of a region."""
        op, runs_on = node.op, node.unit or unit
        if isinstance(op, Parallel):
            bodies = tuple(
                (
                    body.name,
                    tuple(
                        self.graph(
                            body.graph, ONE, f"{node.name}.{body.name}", body.unit or runs_on
                        )
                    ),
                )
                for body in op.bodies
            )
            yield Overlap(node.name, count, bodies, runs_on)
        elif isinstance(op, Region):
            for body in op.graphs:
                inner = self.graph(body, count * op.times, node.name, runs_on)
                yield from _shared(inner, op.taking_part)
        else:
            site = Site(node, graph, region != "", self.single_query, self.facts)
            try:
                cost = self.accounting.cost(site)
            except MissingRuleError as error:
                raise MissingRuleError(f"node {node.name!r}: {error}") from error
            yield Row(node.name, op.kind, count, cost, node, graph, region, runs_on)


def _awaited(graph: Graph) -> frozenset[str]:
    """The nodes on whose results those of the graph depend."""
    wanted, found = set(graph.outputs), set()
    for node in reversed(graph.nodes):
        if any(t.name in wanted for t in node.outputs):
            found.add(node.name)
            wanted.update(node.inputs)
    return frozenset(found)


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


def held_parameters(program: Program) -> Expr:
    """Parameters of all that a program holds, what passes added (drafts, heads) included.

    What several phases hold counts once, as it is where it is largest; so do tensors that
    draft and target share.
    """
    most: dict[str, Expr] = {}
    for phase in program.phases:
        held: dict[str, list[Expr]] = {}  # a draft's may be called as the target's
        for tensor, count in phase.weights():
            held.setdefault(tensor.name, []).append(count * tensor.numel)
        for name, parts in held.items():
            total = Add(*parts)
            if name not in most or dominates(total, most[name]):
                most[name] = total
    return Add(*most.values())


def held_on(program: Program) -> str:
    """Whose the parameters are that :func:`held_parameters` counts; empty for all of them."""
    if program.devices in (1, program.stages) or program.groups is not None:
        return ""  # graphs of stages, or of a row of devices, are together all of it
    return "on each device" if program.stages == 1 else "on one device of each stage"


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
