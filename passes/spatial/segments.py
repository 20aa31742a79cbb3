"""Segments: operations between two exchanges of rows, and which rows each part needs when.

A segment runs on bands without a word between the parts. It ends where an operation needs
rows that another part makes. What a part needs follows backwards from what it is to make:
windows reach over its own rows, as far as padding and image go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sympy import Integer

from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import same
from costgraph.ir.regions import Repeat
from costgraph.passes.spatial.bands import Cuts, Order
from costgraph.passes.spatial.rows import (
    Interval,
    Rows,
    Ruled,
    Site,
    Window,
    image_rows,
    rule_for,
)

ZERO = Integer(0)
#: Rows of tensors that each part needs, by tensor and place of the part.
Needs = dict[str, dict[int, Interval]]


@dataclass(frozen=True)
class Read:
    """A graph as the split sees it.

    Attributes:
        graph: the graph.
        rows: where rows lie, by tensor that has some.
        rules: by node that runs on bands.
        inner: layers that run on bands as a whole, by node.
        whole: nodes that need the whole image, or what is made from it.
    """

    graph: Graph
    rows: Mapping[str, Rows]
    rules: Mapping[str, Ruled]
    inner: Mapping[str, Read]
    whole: tuple[Node, ...]


def read(graph: Graph, given: Mapping[str, Rows] | None = None) -> Read:
    """Which operations of ``graph`` run on bands; ``given`` says where its inputs have rows."""
    rows = dict(image_rows(graph) if given is None else given)
    rules: dict[str, Ruled] = {}
    inner: dict[str, Read] = {}
    whole: list[Node] = []
    for node in graph.nodes:
        if isinstance(node.op, Repeat):
            body = _layers(node.op, [rows.get(i) for i in node.inputs])
            if body is None:
                whole.append(node)
                continue
            inner[node.name] = body
            rows.update({t.name: rows[i] for t, i in zip(node.outputs, node.inputs, strict=True)})
            continue
        found = rule_for(Site(node, graph.operands(node), [rows.get(i) for i in node.inputs]))
        if found is None:
            whole.append(node)
            continue
        rules[node.name] = found
        rows.update({t.name: found.result for t in node.outputs})
    return Read(graph, rows, rules, inner, tuple(whole))


def _layers(region: Repeat, given: Sequence[Rows | None]) -> Read | None:
    """Layers as :func:`read` has them, if they take rows and hand on the same ones."""
    inputs = region.body.inputs
    alone = region.carried == len(inputs) == len(region.body.outputs)
    known = [p for p in given if p is not None]
    plain = alone and not (region.parts or region.gathered) and region.presence.is_full
    if not plain or len(known) < len(inputs) or not region.count.is_Integer:
        return None
    found = read(region.body, dict(zip((t.name for t in inputs), known, strict=True)))
    same_rows = all(found.rows.get(o) == p for o, p in zip(region.body.outputs, known, strict=True))
    return found if same_rows and not found.whole else None


@dataclass(frozen=True)
class Steps:
    """What runs one after the other: segments of nodes that have rules, or layers.

    Attributes:
        of: the graph.
        segments: their nodes, in order; layers are a segment of their own.
        made_in: the segment that makes a tensor; inputs are made before the first.
    """

    of: Read
    segments: tuple[tuple[Node, ...], ...]
    made_in: Mapping[str, int]


@dataclass(frozen=True)
class Asker:
    """Answers which rows parts need, for one way to deal rows out.

    Attributes:
        cuts: how they are dealt out.
        order: puts them in order.
        host: the part that has images, and whatever needs them whole.
        exchanging: segments end where rows of others are needed; else parts make them
            again, from as many rows of the image as it takes.
    """

    cuts: Cuts
    order: Order
    host: int
    exchanging: bool = True

    def own(self, rows: Rows) -> tuple[Interval, ...]:
        """The rows of each part."""
        return self.cuts.bands(rows.count)

    def parts(self, rows: Rows) -> tuple[int, ...]:
        """The parts that have rows."""
        return tuple(k for k, (a, b) in enumerate(self.own(rows)) if not same(a, b))

    def steps(self, of: Read) -> Steps:
        """The graph in segments."""
        made_in = {t.name: -1 for t in of.graph.inputs if t.name in of.rows}
        layers: set[int] = set()
        found: dict[int, list[Node]] = {}
        last = -1
        for node in of.graph.nodes:
            if node.name in of.inner:
                place = last = last + 1
                layers.add(place)
            elif node.name in of.rules:
                place = 0
                for index, window in of.rules[node.name].windows.items():
                    before = made_in[node.inputs[index]]
                    waits = before in layers or before < 0
                    if self.exchanging and not waits:
                        results = of.rows[node.outputs[0].name]
                        waits = self._crosses(window, results, of.rows[node.inputs[index]])
                    place = max(place, before + waits)
                # What runs after layers may not run beside them.
                while place in layers:
                    place += 1
                last = max(last, place)
            else:
                continue
            found.setdefault(place, []).append(node)
            made_in.update((t.name, place) for t in node.outputs)
        segments = tuple(tuple(found.get(i, ())) for i in range(last + 1))
        return Steps(of, segments, made_in)

    def _crosses(self, window: Window, results: Rows, rows: Rows) -> bool:
        """Whether a part needs rows of another one."""
        for wanted, own in zip(self.own(results), self.own(rows), strict=True):
            if same(*wanted):
                continue
            first, last = self.order.needs(window, wanted, rows.count)
            if not (self.order.at_most(own[0], first) and self.order.at_most(last, own[1])):
                return True
        return False

    def backward(
        self, of: Read, nodes: Sequence[Node], wanted: Mapping[str, Interval]
    ) -> dict[str, Interval]:
        """The rows of every tensor that ``nodes`` need in order to make those wanted."""
        needed: dict[str, list[Interval]] = {name: [rows] for name, rows in wanted.items()}
        for node in reversed(nodes):
            asked = [r for t in node.outputs for r in needed.get(t.name, ())]
            if not asked:
                continue
            made, rule = self.order.union(asked), of.rules[node.name]
            for index, window in rule.windows.items():
                name = node.inputs[index]
                rows = self.order.needs(window, made, of.rows[name].count)
                needed.setdefault(name, []).append(rows)
        return {name: self.order.union(rows) for name, rows in needed.items()}

    def needs(self, steps: Steps, results: Mapping[str, Mapping[int, Interval]]) -> Needs:
        """All rows of each tensor that each part needs at some time, its own among them.

        ``results`` are those that outputs of the graph are wanted in.
        """
        of, found = steps.of, dict[str, dict[int, list[Interval]]]()

        def note(name: str, part: int, rows: Interval) -> None:
            found.setdefault(name, {}).setdefault(part, []).append(rows)

        for name, wanted in results.items():
            for part, rows in wanted.items():
                note(name, part, rows)
        for node in of.whole:
            for name in node.inputs:
                if name in of.rows:
                    note(name, self.host, (ZERO, of.rows[name].count))
        for place, nodes in enumerate(steps.segments):
            if nodes and nodes[0].name in of.inner:
                for name, wanted in self.carried(of, nodes[0]).items():
                    for part, rows in wanted.items():
                        note(name, part, rows)
                continue
            for part, wanted_here in self.made(steps, place).items():
                inner = {t.name for n in nodes for t in n.outputs}
                for name, rows in self.backward(of, nodes, wanted_here).items():
                    if name not in inner:
                        note(name, part, rows)
        for name, place in steps.made_in.items():
            for part in self.parts(of.rows[name]) if place >= 0 else ():
                note(name, part, self.own(of.rows[name])[part])
        return {
            name: {part: self.order.union(rows) for part, rows in parts.items()}
            for name, parts in found.items()
        }

    def carried(self, of: Read, node: Node) -> Needs:
        """The rows that a round of layers needs of what it is given, by the region's operand."""
        body = of.inner[node.name]
        wanted = {
            o: {k: self.own(body.rows[o])[k] for k in self.parts(body.rows[o])}
            for o in body.graph.outputs
        }
        needs = self.needs(self.steps(body), wanted)
        found: Needs = {}
        for name, tensor in zip(node.inputs, body.graph.inputs, strict=True):
            rows, wider = of.rows[name], needs.get(tensor.name, {})
            own = self.own(rows)
            found[name] = {
                k: self.order.union((own[k], wider.get(k, own[k]))) for k in self.parts(rows)
            }
        return found

    def made(self, steps: Steps, place: int) -> dict[int, dict[str, Interval]]:
        """What each part makes in a segment for others to use: its rows of them."""
        found: dict[int, dict[str, Interval]] = {}
        for name in used_later(steps, place):
            rows = steps.of.rows[name]
            for part in self.parts(rows):
                found.setdefault(part, {})[name] = self.own(rows)[part]
        return found


def used_later(steps: Steps, place: int) -> tuple[str, ...]:
    """Tensors of a segment that something outside it uses."""
    graph, nodes = steps.of.graph, steps.segments[place]
    inside: Collection[str] = {n.name for n in nodes}
    made: Iterable[str] = (t.name for n in nodes for t in n.outputs)
    return tuple(
        name
        for name in made
        if name in graph.outputs or any(u.name not in inside for u in graph.consumers[name])
    )
