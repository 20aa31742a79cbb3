"""Functional graph rewriting: rules that match or say why not, and their driver."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from heapq import heapify, heappop, heappush
from typing import Protocol

from costgraph.errors import VerifyError
from costgraph.hardware.machine import Machine
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.op import Op
from costgraph.ir.program import Program
from costgraph.ir.regions import Region
from costgraph.ir.tensor import Tensor
from costgraph.ops.fused import Fused
from costgraph.ops.quant import NarrowResult
from costgraph.rewriting.draft import EVERYTHING, Draft
from costgraph.rewriting.pipeline import Miss


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
    was there but a condition failed, or None where there was no pattern. It may
    look at as much of the graph as it likes, through the :class:`Draft` alone.
    """

    @property
    def name(self) -> str:
        """Name in hits and misses."""

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Try the rule at ``node``."""


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


def rewrite_graph(
    graph: Graph, rules: Iterable[Rule], machine: Machine, made_by: str
) -> tuple[Graph, tuple[str, ...], tuple[Miss, ...]]:
    """Apply each rule to a fixpoint, in order, in the graph and in its regions.

    A rule is tried at the nodes from the first to the last, and after a hit again
    wherever its answer may have changed. A replacement that would break an
    invariant of graphs is not made: it is a miss that says what would break.

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
    draft = Draft(replace(graph, nodes=tuple(nodes)))
    for rule in listed:
        found, missed = _to_fixpoint(draft, rule, machine, made_by)
        hits.extend(found)
        misses.update({(m.rule, m.node): m for m in missed})
    return draft.graph(), tuple(hits), tuple(misses.values())


def _to_fixpoint(
    draft: Draft, rule: Rule, machine: Machine, made_by: str
) -> tuple[list[str], list[Miss]]:
    """Apply one rule until it applies nowhere: hits in order, and the misses that are left."""
    hits: list[str] = []
    missed: dict[str, Miss] = {}
    looking: dict[str, set[str]] = defaultdict(set)  # who looked at a tensor
    open_ = {node.name for node in draft.nodes}
    queue, stretched = _in_order(draft, open_)
    while queue:
        place, name = heappop(queue)
        node = draft.node(name)
        if node is None or name not in open_ or draft.position(node) != place:
            continue
        open_.discard(name)
        answer, seen = draft.watched(partial(_tried, rule, draft, node, machine))
        if isinstance(answer, Replacement) and len({n.unit for n in answer.nodes}) > 1:
            answer = Miss(rule.name, name, "different units run the parts")
        if isinstance(answer, Replacement):
            try:
                made = _in_their_place(answer, made_by)
                change = draft.put({n.name: n for n in answer.nodes}.values(), made)
            except VerifyError as error:
                answer = Miss(rule.name, name, f"the result would not hold: {error}")
        if not isinstance(answer, Replacement):
            missed.pop(name, None)
            if answer is not None:
                missed[name] = answer
            for tensor in seen:
                looking[tensor].add(name)
            continue
        hits.append(f"{rule.name}: {answer.new.name}")
        again = {n.name for n in made}
        for tensor in (*change.tensors, EVERYTHING):
            again |= looking.pop(tensor, set())
        open_ |= again
        again.update(open_.intersection(change.moved))
        if draft.stretched != stretched:
            queue, stretched = _in_order(draft, open_)
            continue
        for other in again:
            standing = draft.node(other)
            if standing is not None:
                heappush(queue, (draft.position(standing), other))
    left = (missed.get(node.name) for node in draft.nodes)
    return hits, [m for m in left if m is not None]


def _tried(rule: Rule, draft: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
    try:
        return rule.match(draft, node, machine)
    except VerifyError as error:
        # The parts that a rule would put together do not fit each other.
        return Miss(rule.name, node.name, f"the result would not hold: {error}")


def _in_order(draft: Draft, names: Iterable[str]) -> tuple[list[tuple[int, str]], int]:
    nodes = (draft.node(name) for name in names)
    queue = [(draft.position(node), node.name) for node in nodes if node is not None]
    heapify(queue)
    return queue, draft.stretched


def _in_their_place(found: Replacement, made_by: str) -> tuple[Node, ...]:
    """The new nodes, with the provenance of all that they replace, on the unit that ran it.

    Raises:
        VerifyError: several units ran it.
    """
    names = dict.fromkeys(name for n in found.nodes for name in (n.origin.nodes or (n.name,)))
    origin, units = Origin(tuple(names), made_by), {n.unit for n in found.nodes}
    if len(units) > 1:
        shown = " and ".join(sorted(unit or "the device" for unit in units))
        raise VerifyError(f"its parts run on {shown}")
    (unit,) = units
    return tuple(replace(n, origin=origin, unit=unit) for n in (*found.also, found.new))


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


def _as_it_is(node: Node, operands: tuple[Tensor, ...]) -> Op:
    return node.op


def rebuild(graph: Graph, f: Callable[[Node, tuple[Tensor, ...]], Op] = _as_it_is) -> Graph:
    """``graph`` with each operation replaced by ``f(node, operands)``, results inferred anew.

    Without ``f`` operations stay, and results are inferred from operands that changed.
    Bodies of regions and fused kernels are rebuilt first; ``f`` sees only the operations
    inside them, and inside of what stores a result narrow as it is made.
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
        elif isinstance(node.op, NarrowResult):
            op = replace(node.op, inner=f(replace(node, op=node.op.inner), operands))
        else:
            op = f(node, operands)
        specs = op.infer(operands)
        outputs = tuple(s.named(t.name) for s, t in zip(specs, node.outputs, strict=True))
        tensors.update((t.name, t) for t in outputs)
        nodes.append(replace(node, op=op, outputs=outputs))
    return replace(graph, nodes=tuple(nodes))
