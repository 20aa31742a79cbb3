"""Functional graph rewriting: rules that match or say why not, and their driver."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from typing import Protocol

from costgraph.errors import VerifyError
from costgraph.graph import Graph, Node, Origin
from costgraph.machine import Machine
from costgraph.ops.base import Op
from costgraph.ops.fused import Fused
from costgraph.pipeline import Miss
from costgraph.program import Program
from costgraph.regions import Region
from costgraph.tensor import Tensor


@dataclass(frozen=True)
class Replacement:
    """``nodes`` of a graph give way to ``new``; results keep their names.

    ``also`` are further new nodes that lead up to ``new``.
    """

    nodes: tuple[Node, ...]
    new: Node
    also: tuple[Node, ...] = ()


class Rule(Protocol):
    """A rule looks at one node and returns what to replace, a reason, or nothing.

    ``match`` returns a :class:`Replacement`, a :class:`Miss` where the pattern
    was there but a condition failed, or None where there was no pattern.
    """

    @property
    def name(self) -> str:
        """Name in hits and misses."""

    def match(self, graph: Graph, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Try the rule at ``node``."""


def apply(graph: Graph, found: Replacement, made_by: str) -> Graph:
    """``graph`` with the replacement made and put in order; provenance is merged."""
    gone = {n.name for n in found.nodes}
    origins = tuple(
        dict.fromkeys(name for n in found.nodes for name in (n.origin.nodes or (n.name,)))
    )
    new = replace(found.new, origin=Origin(origins, made_by))
    nodes: list[Node] = []
    last = max(i for i, n in enumerate(graph.nodes) if n.name in gone)
    for index, node in enumerate(graph.nodes):
        if index == last:
            nodes.extend(replace(n, origin=new.origin) for n in found.also)
            nodes.append(new)
        elif node.name not in gone:
            nodes.append(node)
    return graph.with_nodes(ordered(nodes))


def ordered(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """``nodes`` in a topological order that keeps the given order where it can.

    Raises:
        VerifyError: they form a cycle.
    """
    listed = list(nodes)
    producer = {t.name: i for i, n in enumerate(listed) for t in n.outputs}
    needs = [{producer[name] for name in n.inputs if name in producer} for n in listed]
    users: list[list[int]] = [[] for _ in listed]
    for index, before in enumerate(needs):
        for other in before:
            users[other].append(index)
    waiting = [len(n) for n in needs]
    ready = [i for i, n in enumerate(waiting) if n == 0]
    heapify(ready)
    result: list[Node] = []
    while ready:
        index = heappop(ready)
        result.append(listed[index])
        for user in users[index]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heappush(ready, user)
    if len(result) != len(listed):
        raise VerifyError("the rewritten nodes form a cycle")
    return tuple(result)


def live(graph: Graph) -> Graph:
    """The graph without operations that no output needs."""
    needed = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if any(t.name in needed for t in node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    sources = tuple(t for t in graph.sources if t.name in needed)
    return replace(graph, nodes=tuple(reversed(kept)), sources=sources)


def reaches(graph: Graph, starts: Iterable[str], goal: str, without: set[str]) -> bool:
    """True if a path of nodes outside ``without`` leads from the tensors to node ``goal``."""
    seen: set[str] = set()
    open_ = list(starts)
    while open_:
        for user in graph.consumers[open_.pop()]:
            if user.name == goal:
                return True
            if user.name in without or user.name in seen:
                continue
            seen.add(user.name)
            open_.extend(t.name for t in user.outputs)
    return False


def rewrite_graph(
    graph: Graph, rules: Iterable[Rule], machine: Machine, made_by: str
) -> tuple[Graph, tuple[str, ...], tuple[Miss, ...]]:
    """Apply each rule to a fixpoint, in order, in the graph and in its regions.

    Returns:
        The new graph, ``rule: node`` for each hit, and the misses that are
        left once nothing applies any more.
    """
    listed = tuple(rules)
    hits: list[str] = []
    misses: dict[tuple[str, str], Miss] = {}
    nodes = []
    for node in graph.nodes:
        if isinstance(node.op, Region):
            bodies = []
            for inner in node.op.graphs:
                body, inner_hits, inner_misses = rewrite_graph(inner, listed, machine, made_by)
                bodies.append(body)
                hits.extend(inner_hits)
                misses.update({(m.rule, m.node): m for m in inner_misses})
            node = replace(node, op=node.op.with_graphs(bodies))
        nodes.append(node)
    graph = replace(graph, nodes=tuple(nodes))
    for rule in listed:
        changed = True
        while changed:
            changed = False
            here: dict[tuple[str, str], Miss] = {}
            for node in graph.nodes:
                found = rule.match(graph, node, machine)
                if isinstance(found, Miss):
                    here[found.rule, found.node] = found
                elif found is not None:
                    graph = apply(graph, found, made_by)
                    hits.append(f"{rule.name}: {found.new.name}")
                    changed = True
                    break
            if not changed:
                misses.update(here)
    return graph, tuple(hits), tuple(misses.values())


def rewrite_program(
    program: Program, rules: Iterable[Rule], machine: Machine, made_by: str
) -> tuple[Program, tuple[str, ...], tuple[Miss, ...]]:
    """Rewrite every step graph once; phases that shared a graph still do."""
    listed = tuple(rules)
    hits: list[str] = []
    misses: list[Miss] = []

    def new(graph: Graph) -> Graph:
        made, found, missed = rewrite_graph(graph, listed, machine, made_by)
        hits.extend(found)
        misses.extend(missed)
        return made

    return program.rewritten(new), tuple(hits), tuple(misses)


def rebuild(graph: Graph, f: Callable[[Node, tuple[Tensor, ...]], Op]) -> Graph:
    """``graph`` with each operation replaced by ``f(node, operands)``, results inferred anew.

    Bodies of regions and fused kernels are rebuilt first; ``f`` sees only the
    operations inside them.
    """
    tensors = {t.name: t for t in graph.sources}
    nodes = []
    for node in graph.nodes:
        operands = tuple(tensors[name] for name in node.inputs)
        op: Op
        if isinstance(node.op, Region):
            op = node.op.with_graphs([rebuild(g, f) for g in node.op.graphs])
        elif isinstance(node.op, Fused):
            body = replace(node.op.body, sources=operands)
            op = replace(node.op, body=rebuild(body, f))
        else:
            op = f(node, operands)
        specs = op.infer(operands)
        outputs = tuple(s.named(t.name) for s, t in zip(specs, node.outputs, strict=True))
        tensors.update((t.name, t) for t in outputs)
        nodes.append(replace(node, op=op, outputs=outputs))
    return replace(graph, nodes=tuple(nodes))
