"""Folding: layers written out one after another become one repeated region."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer

from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.op import Op, same_shape
from costgraph.ir.program import Program
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.recognition.fold_runs import by_need, find_runs, prefix_of
from costgraph.ops.views import Reshape, Slice, Stack
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.rewriting.runs import Run

_NUMBER = re.compile(r"(?<![A-Za-z0-9])\d+(?![A-Za-z0-9])")
ONE = Integer(1)
#: What each round of a region has of its own.
OWN = (Role.WEIGHT, Role.KV, Role.STATE)
#: A result by its place: operation of a layer, and result of the operation.
Place = tuple[int, int]
#: What a layer is given: what the one before made at a place, a tensor of all layers, a
#: tensor for each layer, a weight.
Given = Place | str | tuple[str, ...]


@dataclass(frozen=True)
class Fold(Pass):
    """Finds parts of a graph that follow each other and are alike; keeps one with a count."""

    name: ClassVar[str] = "fold"
    title: ClassVar[str] = "repeated layers of an imported graph as one region with a count"
    formula: ClassVar[str] = "cost(layer 1) + … + cost(layer k) = k · cost(layer)"
    source: ClassVar[str] = "exact: equal layers only"
    stage: ClassVar[Stage] = Stage.FOLDING

    shortest: Expr = option(
        "integer", Integer(3), "least operations in a layer", minimum=2, symbolic=False
    )

    def run(self, program: Program, system: System) -> Outcome:
        hits: list[str] = []
        misses: list[Miss] = []
        made = program.rewritten(lambda g: folded(g, int(self.shortest), hits, misses))
        return Outcome(made, tuple(hits), tuple(misses))


def folded(graph: Graph, shortest: int, hits: list[str], misses: list[Miss]) -> Graph:
    """``graph`` with each run of alike parts as one region; its cost is the same."""
    graph = replace(graph, nodes=by_need(graph))
    while True:
        for run in find_runs(graph, shortest):
            made = _folded(graph, run)
            if not isinstance(made, str):
                graph, name = made
                hits.append(f"fold: {name} × {run.copies}")
                break
            misses.append(Miss("fold", graph.nodes[run.start].name, made))
        else:
            return graph


def _folded(graph: Graph, run: Run) -> tuple[Graph, str] | str:
    """The graph with one run as a region, and the region's name; or why not."""
    try:
        layers = _Layers(graph, run)
        return layers.folded(), layers.name
    except _Refused as why:
        return str(why)


class _Refused(Exception):
    """Why a run cannot be a region."""


class _Layers:
    """The parts of a run, and what passes between them and the rest of the graph.

    Attributes:
        carried: what a layer takes from the one before it, and what the first one takes.
        weights: names of the first layer's own weights, caches and states.
        shared: what all layers take from outside.
        handed: what each layer takes of its own from outside: the first one's name, and all.
        kept: results used outside, of the last layer alone or of several.
    """

    def __init__(self, graph: Graph, run: Run) -> None:
        self.graph = graph
        stop = run.start + run.copies * run.period
        self.before, self.after = graph.nodes[: run.start], graph.nodes[stop:]
        self.parts = [
            graph.nodes[at : at + run.period] for at in range(run.start, stop, run.period)
        ]
        self.place: dict[str, tuple[int, Place]] = {
            t.name: (k, (i, j))
            for k, part in enumerate(self.parts)
            for i, node in enumerate(part)
            for j, t in enumerate(node.outputs)
        }
        self.inside = {n.name for p in self.parts for n in p}
        self.carried: dict[Place, str] = {}
        self.weights: dict[str, None] = {}
        self.one_set = False
        self.shared: dict[str, None] = {}
        self.handed: dict[tuple[str, ...], None] = {}
        self.slots: dict[Place, Given] = {}
        self._sort_operands()
        self._sort_weights()
        self.last, self.every = self._kept()
        self.name = _region_name(graph, self.parts)
        self.taken = {n.name for n in graph.nodes} | set(graph.tensors)

    # --- what comes in

    def _sort_operands(self) -> None:
        for i, node in enumerate(self.parts[0]):
            for slot, name in enumerate(node.inputs):
                names = tuple(part[i].inputs[slot] for part in self.parts)
                if any(n in self.place for n in names[1:]):
                    place = self._carry(name, names)
                    if place is not None:
                        self.slots[i, slot] = place
                elif self.graph.tensors[name].role in OWN and self._is_source(name):
                    self.weights[name] = None
                    self.slots[i, slot] = name
                elif len(set(names)) == 1:
                    self.shared[name] = None
                    self.slots[i, slot] = name
                else:
                    self.handed[names] = None
                    self.slots[i, slot] = names
        starts = (*self.shared, *(n[0] for n in self.handed), *self.carried.values())
        for name in starts:
            if self.graph.tensors[name].role is not Role.ACTIVATION:
                raise _Refused("the layers share what is no activation")
        for names in self.handed:
            forms = [self.graph.tensors[n] for n in names]
            if not all(_alike(forms[0], f) for f in forms):
                raise _Refused(f"{names[0]!r} is handed to the layers in different forms")

    def _carry(self, start: str, names: tuple[str, ...]) -> Place | None:
        """The place in the layer before from which an operand comes; None within a layer."""
        for k, name in enumerate(names[1:], start=1):
            maker, place = self.place.get(name, (-1, (-1, -1)))
            if maker == k:
                return None
            if maker != k - 1:
                raise _Refused("a layer uses what another than the one before it made")
            if self.carried.setdefault(place, start) != start:
                raise _Refused("what layers hand on enters the first one in two forms")
            made = self.parts[0][place[0]].outputs[place[1]]
            if not _alike(self.graph.tensors[start], made):
                raise _Refused(
                    f"{start!r} enters the first layer in another form than the later ones"
                )
        return place

    def _is_source(self, name: str) -> bool:
        return name not in self.graph.producer

    def _sort_weights(self) -> None:
        """Weights of the first layer, each its own in every layer, or the same in all."""
        owner: dict[str, str] = {}
        common: set[str] = set()
        for k, part in enumerate(self.parts):
            for node, like in zip(part, self.parts[0], strict=True):
                for name, its in zip(node.inputs, like.inputs, strict=True):
                    if its not in self.weights:
                        continue
                    if not _alike(self.graph.tensors[name], self.graph.tensors[its]):
                        raise _Refused(f"{name!r} and {its!r} have different forms")
                    if owner.setdefault(name, its) != its:
                        raise _Refused(f"layers share the weight {name!r}")
                    if name == its and k:
                        common.add(its)
                    if any(u.name not in self.inside for u in self.graph.consumers[name]):
                        raise _Refused(f"the weight {name!r} is also used outside the layers")
        if common and common != set(self.weights):
            raise _Refused(f"layers share the weight {min(common)!r}")
        expected = len(self.weights) * (1 if common else len(self.parts))
        if len(owner) != expected:
            raise _Refused("some layers share a weight")
        self.one_set = bool(common)

    # --- what goes out

    def _kept(self) -> tuple[list[Place], dict[Place, dict[int, str]]]:
        """Results of the last layer that are used after it, and those of several layers."""
        last: dict[Place, None] = dict.fromkeys(self.carried)
        every: dict[Place, dict[int, str]] = {}
        outputs = set(self.graph.outputs)
        for name, (k, place) in self.place.items():
            users = self.graph.consumers[name]
            if name in outputs or any(u.name not in self.inside for u in users):
                every.setdefault(place, {})[k] = name
        final = len(self.parts) - 1
        for place in [p for p, made in every.items() if set(made) == {final}]:
            last[place] = None
            del every[place]
        return list(last), every

    # --- the region

    def folded(self) -> Graph:
        """The graph with the region in place of the layers."""
        body = self._body()
        count = Integer(len(self.parts))
        stacks, stacked = self._stacks()
        op = Repeat(
            body,
            count,
            len(self.carried),
            shared_instances=ONE if self.one_set else None,
            parts=len(self.handed),
            gathered=len(self.every),
        )
        outputs = [self.parts[-1][i].outputs[j] for i, j in self.last]
        views: list[Node] = []
        for (i, j), made in self.every.items():
            tensor = self.parts[0][i].outputs[j]
            whole = tensor.renamed(self._fresh(f"{self.name}.{self._local(tensor.name)}"))
            whole = replace(whole, shape=(count, *tensor.shape))
            outputs.append(whole)
            for k, name in made.items():
                views.extend(self._cut(whole, k, self.graph.tensors[name]))
        origin = Origin(
            tuple(o for p in self.parts for n in p for o in (n.origin.nodes or (n.name,))),
            Fold.name,
        )
        if len(stacks) + 1 + len(views) >= len(self.parts) * len(self.parts[0]):
            raise _Refused("what passes in and out outweighs the layers")
        operands = (*self.carried.values(), *self.shared, *stacked)
        region = Node(self.name, op, operands, tuple(outputs), origin)
        return self.graph.with_nodes((*self.before, *stacks, region, *views, *self.after))

    def _stacks(self) -> tuple[list[Node], list[str]]:
        nodes = []
        for names in self.handed:
            op: Op = Stack()
            (spec,) = op.infer(tuple(self.graph.tensors[n] for n in names))
            label = self._fresh(f"{self.name}.{self._local(names[0])}")
            nodes.append(Node(label, op, names, (spec.named(label),)))
        return nodes, [n.name for n in nodes]

    def _cut(self, whole: Tensor, k: int, tensor: Tensor) -> list[Node]:
        """Views that give the ``k``-th layer's result its old name."""
        label = self._fresh(f"{tensor.name}.round")
        part = replace(whole, name=label, shape=(ONE, *whole.shape[1:]))
        return [
            Node(label, Slice(0, Integer(k), ONE), (whole.name,), (part,)),
            Node(self._fresh(f"{tensor.name}.view"), Reshape(tensor.shape), (label,), (tensor,)),
        ]

    def _fresh(self, name: str) -> str:
        made, index = name, 1
        while made in self.taken:
            index += 1
            made = f"{name}_{index}"
        self.taken.add(made)
        return made

    def _local(self, name: str) -> str:
        return name.removeprefix(prefix_of([n.name for n in self.parts[0]]))

    def _body(self) -> Graph:
        """The first layer: carried operands, then shared ones, then its parts of others."""
        first = self.parts[0]
        prefix = prefix_of([n.name for n in first])
        made = {t.name for n in first for t in n.outputs}
        mine = made | set(self.weights) | {n.name for n in first}
        if len({n.removeprefix(prefix) for n in (*made, *self.weights)}) < len(made) + len(
            self.weights
        ):
            mine = set()

        def short(name: str) -> str:
            return name.removeprefix(prefix) if name in mine else name

        # One tensor may be given in several ways; each is an operand of its own.
        given: list[tuple[Given, str]] = [*self.carried.items()]
        given += [(n, n) for n in self.shared]
        given += [(n, n[0]) for n in self.handed]
        given += [(n, n) for n in self.weights]
        local: dict[Given, str] = {}
        taken = {short(n) for n in made}
        for key, name in given:
            label, count = short(name), 1
            while label in taken:
                count += 1
                label = f"{short(name)}_{count}"
            local[key] = label
            taken.add(label)
        sources = tuple(self.graph.tensors[n].renamed(local[key]) for key, n in given)
        nodes = tuple(
            replace(
                n,
                name=short(n.name),
                inputs=tuple(
                    local[self.slots[i, slot]] if (i, slot) in self.slots else short(name)
                    for slot, name in enumerate(n.inputs)
                ),
                outputs=tuple(t.renamed(short(t.name)) for t in n.outputs),
            )
            for i, n in enumerate(first)
        )
        results = (*self.last, *self.every)
        outputs = tuple(short(first[i].outputs[j].name) for i, j in results)
        return Graph(prefix.rstrip(".") or "layer", sources, nodes, outputs)


def _alike(a: Tensor, b: Tensor) -> bool:
    """True for one shape, format and role."""
    return (
        (a.dtype, a.role) == (b.dtype, b.role)
        and same_shape(a.shape, b.shape)
    )  # fmt: skip


def _region_name(graph: Graph, parts: list[tuple[Node, ...]]) -> str:
    """The name of the list of layers (``layers`` of ``layers.0.…``), or ``layers``."""
    inside = {n.name for p in parts for n in p}
    taken = {n.name for n in graph.nodes if n.name not in inside}
    module = prefix_of([n.name for n in parts[0]]).rstrip(".")
    base = _NUMBER.sub("", module).strip(".").replace("..", ".") or "layers"
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    return name
