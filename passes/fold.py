"""Folding: layers written out one after another become one repeated region."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.graph import Graph, Node, Origin, Repeat
from costgraph.machine import Machine
from costgraph.pipeline import Miss, Outcome, Pass, option
from costgraph.program import Program
from costgraph.runs import Run, runs_of
from costgraph.tensor import Role, Tensor

#: Candidate distances between a layer and the next that are tried.
PERIODS = 16
#: Operations between two users of a tensor that make them users in two layers.
LAYER = 4
_NUMBER = re.compile(r"(?<![A-Za-z0-9])\d+(?![A-Za-z0-9])")


@dataclass(frozen=True)
class Fold(Pass):
    """Finds parts of a graph that follow each other and are alike; keeps one with a count."""

    name: ClassVar[str] = "fold"
    title: ClassVar[str] = "repeated layers of an imported graph as one region with a count"
    formula: ClassVar[str] = "cost(layer 1) + … + cost(layer k) = k · cost(layer)"
    source: ClassVar[str] = "exact: equal layers only"

    shortest: Expr = option("number", Integer(3), "least operations in a layer", minimum=2)

    def run(self, program: Program, machine: Machine) -> Outcome:
        hits: list[str] = []
        misses: list[Miss] = []
        made = program.rewritten(lambda g: folded(g, int(self.shortest), hits, misses))
        return Outcome(made, tuple(hits), tuple(misses))


@dataclass(frozen=True)
class _Body:
    """One part as a region, and what it takes."""

    graph: Graph
    operands: tuple[str, ...]
    carried: int


def folded(graph: Graph, shortest: int, hits: list[str], misses: list[Miss]) -> Graph:
    """``graph`` with each run of alike parts as one region; its cost is the same."""
    graph = replace(graph, nodes=by_need(graph))
    refused: set[Run] = set()
    while True:
        runs = [r for r in find_runs(graph, shortest) if r not in refused]
        if not runs:
            return graph
        run = max(runs, key=lambda r: ((r.copies - 1) * r.period, -r.period, -r.start))
        made = _fold(graph, run)
        if isinstance(made, str):
            refused.add(run)
            misses.append(Miss("fold", graph.nodes[run.start].name, made))
            continue
        graph, name = made
        refused = set()
        hits.append(f"fold: {name} × {run.copies}")


def by_need(graph: Graph) -> tuple[Node, ...]:
    """Nodes, operands first, depth first from the results: alike layers come in alike order.

    What layers share (rotary tables, masks) comes before all else, or it would stand
    in the middle of the first layer.
    """
    seen: set[str] = set()
    order: list[Node] = []
    used = {i for n in graph.nodes for i in n.inputs}
    places = _places(graph)
    roots = [
        n
        for n in graph.nodes
        if any(_by_layers(graph.consumers[t.name], places) for t in n.outputs)
    ]
    roots += [graph.producer[o] for o in graph.outputs if o in graph.producer]
    roots += [n for n in graph.nodes if not any(t.name in used for t in n.outputs)]
    for root in roots:
        stack = [(root, False)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
            elif node.name not in seen:
                seen.add(node.name)
                stack.append((node, True))
                before = [graph.producer.get(i) for i in node.inputs]
                stack.extend((n, False) for n in reversed(before) if n is not None)
    return tuple(order)


def _places(graph: Graph) -> Mapping[str, tuple[int, int]]:
    """Nodes on the longest way from the sources to each node, and from it to the results."""
    before: dict[str, int] = {}
    after: dict[str, int] = {}
    for node in graph.nodes:
        makers = (graph.producer.get(i) for i in node.inputs)
        before[node.name] = 1 + max((before[n.name] for n in makers if n is not None), default=0)
    for node in reversed(graph.nodes):
        users = (u for t in node.outputs for u in graph.consumers[t.name])
        after[node.name] = 1 + max((after[u.name] for u in users), default=0)
    return {name: (before[name], after[name]) for name in before}


def _by_layers(users: tuple[Node, ...], places: Mapping[str, tuple[int, int]]) -> bool:
    """True if two users do the same in different layers: one of them stands much later."""
    first: dict[object, tuple[int, int]] = {}
    for user in users:
        place = places[user.name]
        other = first.setdefault((user.op, len(user.inputs)), place)
        if max(abs(a - b) for a, b in zip(place, other, strict=True)) >= LAYER:
            return True
    return False


# --- finding


def find_runs(graph: Graph, shortest: int) -> list[Run]:
    """Candidate runs: stretches of nodes that repeat with a period, wired alike."""
    nodes = graph.nodes
    names: dict[object, int] = {}
    shades = [names.setdefault(_signature(graph, n), len(names)) for n in nodes]
    gaps: Counter[int] = Counter()
    recent: dict[int, list[int]] = defaultdict(list)
    for index, shade in enumerate(shades):
        gaps.update(index - before for before in recent[shade])
        recent[shade].append(index)
        del recent[shade][:-12]
    chosen = [p for p, _ in sorted(gaps.items(), key=lambda i: (-i[1], i[0])) if p >= shortest]
    position = {t.name: i for i, n in enumerate(nodes) for t in n.outputs}
    found: list[Run] = []
    for period in sorted(chosen[:PERIODS]):

        def alike(start: int, index: int, period: int = period) -> bool:
            return _alike(graph, shades, position, start, index, period)

        found += runs_of(len(nodes), period, alike)
    return found


def _signature(graph: Graph, node: Node) -> object:
    """Equal for nodes that do the same with operands of the same form."""
    forms = tuple((t.shape, t.dtype, t.role) for t in graph.operands(node))
    return (node.op, forms, len(node.outputs))


def _alike(
    graph: Graph,
    shades: list[int],
    position: Mapping[str, int],
    start: int,
    index: int,
    period: int,
) -> bool:
    """True if a node and the one a period later are wired alike."""
    if shades[index] != shades[index + period]:
        return False
    pairs = zip(graph.nodes[index].inputs, graph.nodes[index + period].inputs, strict=True)
    first_part = index - start < period
    for a, b in pairs:
        x, y = position.get(a, -1), position.get(b, -1)
        if x >= start and y == x + period:
            continue
        if a == b and x < start:
            continue
        if y < 0 and x < 0:  # each part's own weights
            if graph.tensors[a].role is Role.WEIGHT and graph.tensors[b].role is Role.WEIGHT:
                continue
            return False
        # The first part may take its start from anywhere before it.
        if not (first_part and x < start <= y < start + period):
            return False
    return True


# --- folding


def _fold(graph: Graph, run: Run) -> tuple[Graph, str] | str:
    """The graph with one run as a region, and the region's name; or why not."""
    nodes = graph.nodes
    parts = [
        nodes[run.start + k * run.period : run.start + (k + 1) * run.period]
        for k in range(run.copies)
    ]
    place = {t.name: (k, i, j) for k, p in enumerate(parts) for i, n in enumerate(p)
             for j, t in enumerate(n.outputs)}  # fmt: skip
    private = _private(graph, parts)
    if isinstance(private, str):
        return private
    carried: dict[tuple[int, int], str] = {}
    for k, part in enumerate(parts[1:], start=1):
        for i, node in enumerate(part):
            for slot, name in enumerate(node.inputs):
                if name in place and place[name][0] != k:
                    at = place[name]
                    if at[0] != k - 1:
                        return "a layer uses what another than the one before it made"
                    start = parts[0][i].inputs[slot]
                    if carried.setdefault(at[1:], start) != start:
                        return "what layers hand on enters the first one in two forms"
    escaping = _escaping(graph, parts, place)
    if isinstance(escaping, str):
        return escaping
    first = parts[0]
    for (i, j), start in carried.items():
        a, b = graph.tensors[start], first[i].outputs[j]
        if (a.shape, a.dtype, a.role) != (b.shape, b.dtype, b.role):
            return f"{start!r} enters the first layer in another form than the later ones"
    body = _body(graph, first, carried, escaping, private)
    if isinstance(body, str):
        return body
    name = _region_name(graph, parts)
    results = [*carried, *(e for e in escaping if e not in carried)]
    last = parts[-1]
    outputs = []
    for i, j in results:
        tensor = last[i].outputs[j]
        outputs.append(tensor)
    origin = Origin(
        tuple(o for p in parts for n in p for o in (n.origin.nodes or (n.name,))), Fold.name
    )
    op = Repeat(body.graph, Integer(run.copies), body.carried)
    region = Node(name, op, body.operands, tuple(outputs), origin)
    kept = (*nodes[: run.start], region, *nodes[run.start + run.period * run.copies :])
    return graph.with_nodes(kept), name


def _private(graph: Graph, parts: list[tuple[Node, ...]]) -> dict[str, str] | str:
    """Weights of the first part, each its own in every part; or why not."""
    found: dict[str, str] = {}
    owner: dict[str, tuple[int, str]] = {}
    inside = {n.name for p in parts for n in p}
    for k, part in enumerate(parts):
        for node, like in zip(part, parts[0], strict=True):
            for name, its in zip(node.inputs, like.inputs, strict=True):
                if graph.tensors[name].role is not Role.WEIGHT or name in graph.producer:
                    continue
                if name == its and k:
                    return f"layers share the weight {name!r}"
                if owner.setdefault(name, (k, its)) != (k, its):
                    return f"layers share the weight {name!r}"
                if any(u.name not in inside for u in graph.consumers[name]):
                    return f"the weight {name!r} is also used outside the layers"
                found[its] = its
    return found


def _escaping(
    graph: Graph, parts: list[tuple[Node, ...]], place: Mapping[str, tuple[int, int, int]]
) -> list[tuple[int, int]] | str:
    """Results of the last part that are used after it; results of others must not be."""
    inside = {n.name for p in parts for n in p}
    found: dict[tuple[int, int], None] = {}
    for name, (k, i, j) in place.items():
        outside = name in graph.outputs or any(u.name not in inside for u in graph.consumers[name])
        if not outside:
            continue
        if k != len(parts) - 1:
            return f"{name!r}, made inside a layer, is used outside the layers"
        found[i, j] = None
    return list(found)


def _body(
    graph: Graph,
    first: tuple[Node, ...],
    carried: Mapping[tuple[int, int], str],
    escaping: list[tuple[int, int]],
    private: Mapping[str, str],
) -> _Body | str:
    """The first part as a region's body: carried operands, then shared ones."""
    prefix = _prefix([n.name for n in first])
    made = {t.name for n in first for t in n.outputs}
    starts = list(carried.values())
    shared = [
        i for i in dict.fromkeys(i for n in first for i in n.inputs)
        if i not in made and i not in private and i not in starts
    ]  # fmt: skip
    if any(graph.tensors[i].role is not Role.ACTIVATION for i in (*starts, *shared)):
        return "the layers share what is no activation"
    # Two results that start from one tensor need it under two names.
    if len(set(starts)) != len(starts):
        return "what layers hand on starts from one tensor twice"

    def short(name: str) -> str:
        return name.removeprefix(prefix) if name in mine else name

    mine = made | set(private) | {n.name for n in first}
    taken = Counter(short(n) for n in (*made, *private, *starts, *shared))
    if any(count > 1 for count in taken.values()):
        mine = set()
    tensors: dict[str, Tensor] = {}
    for name in (*starts, *shared, *private):
        tensors[name] = graph.tensors[name].renamed(short(name))
    nodes = tuple(
        replace(
            n,
            name=short(n.name),
            inputs=tuple(short(i) for i in n.inputs),
            outputs=tuple(t.renamed(short(t.name)) for t in n.outputs),
        )
        for n in first
    )
    results = [*carried, *(e for e in escaping if e not in carried)]
    outputs = tuple(short(first[i].outputs[j].name) for i, j in results)
    body = Graph(f"{prefix.rstrip('.') or 'layer'}", tuple(tensors.values()), nodes, outputs)
    return _Body(body, (*starts, *shared), len(starts))


def _prefix(names: list[str]) -> str:
    """The module that all names have in common, with its last point."""
    columns = zip(*(n.split(".")[:-1] for n in names), strict=False)
    common = []
    for column in columns:
        if len(set(column)) > 1:
            break
        common.append(column[0])
    return ".".join(common) + "." if common else ""


def _region_name(graph: Graph, parts: list[tuple[Node, ...]]) -> str:
    """The name of the list of layers (``layers`` of ``layers.0.…``), or ``layers``."""
    inside = {n.name for p in parts for n in p}
    taken = {n.name for n in graph.nodes if n.name not in inside}
    module = _prefix([n.name for n in parts[0]]).rstrip(".")
    base = _NUMBER.sub("", module).strip(".").replace("..", ".") or "layers"
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    return name
