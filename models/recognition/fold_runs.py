"""Finding layers in a flat graph: an order in which they are alike, and runs of alike parts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from costgraph.ir.graph import Graph, Node
from costgraph.ops.views import Slice
from costgraph.rewriting.runs import Run, runs_of

#: Candidate distances between a layer and the next that are tried.
PERIODS = 16
#: Operations between two users of a tensor that make them users in two layers.
LAYER = 4


def by_need(graph: Graph) -> tuple[Node, ...]:
    """Nodes, operands first, depth first from the results: alike layers come in alike order.

    What layers share (rotary tables, masks) comes before all else, or it would stand
    in the middle of the first layer; so do the parts that layers take of one tensor, each
    its own.
    """
    seen: set[str] = set()
    order: list[Node] = []
    used = {i for n in graph.nodes for i in n.inputs}
    places = _places(graph)
    cuts = _cuts(graph, places)
    roots = [
        n
        for n in graph.nodes
        if n.name in cuts or any(_by_layers(graph.consumers[t.name], places) for t in n.outputs)
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


def _cuts(graph: Graph, places: Mapping[str, tuple[int, int]]) -> set[str]:
    """Slices of one tensor at different places that stand in different layers."""
    found: set[str] = set()
    for users in graph.consumers.values():
        alike: dict[object, list[Node]] = defaultdict(list)
        for user in users:
            if isinstance(user.op, Slice):
                alike[user.op.axis, user.op.length, user.op.step].append(user)
        for slices in alike.values():
            after = sorted(places[n.name][1] for n in slices)
            steps = [b - a for a, b in pairwise(after)]
            if steps and min(steps) >= LAYER:
                found.update(n.name for n in slices)
    return found


def find_runs(graph: Graph, shortest: int) -> list[Run]:
    """Candidate runs, what saves most first: stretches that repeat with a period, wired alike."""
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

        found += [_at_modules(graph, r, alike) for r in runs_of(len(nodes), period, alike)]
    return sorted(found, key=lambda r: ((1 - r.copies) * r.period, r.period, r.start))


def _at_modules(graph: Graph, run: Run, alike: Callable[[int, int], bool]) -> Run:
    """The run, or one that starts a little later and cuts layers where modules begin.

    Parts that repeat can be cut anywhere; where names tell modules, theirs is the best place.
    """
    length = run.period * (run.copies - 1)
    best, depth = run, _common(graph, run)
    for start in range(run.start + 1, run.start + run.period):
        end = start + length + run.period
        if end > len(graph.nodes) or not alike(start, end - run.period - 1):
            break
        later = Run(start, run.period, run.copies)
        common = _common(graph, later)
        if common > depth and all(alike(start, i) for i in range(start, start + length)):
            best, depth = later, common
    return best


def _common(graph: Graph, run: Run) -> int:
    """How many modules around the first part all its operations have in common."""
    names = [n.name for n in graph.nodes[run.start : run.start + run.period]]
    return prefix_of(names).count(".")


def prefix_of(names: Sequence[str]) -> str:
    """The module that all names have in common, with its last point."""
    columns = zip(*(n.split(".")[:-1] for n in names), strict=False)
    common = []
    for column in columns:
        if len(set(column)) > 1:
            break
        common.append(column[0])
    return ".".join(common) + "." if common else ""


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
        # Each part's own weights, and what each part is handed from outside.
        if x < start and y < start and graph.tensors[a].role is graph.tensors[b].role:
            continue
        # The first part may take its start from anywhere before it.
        if not (first_part and x < start <= y < start + period):
            return False
    return True
