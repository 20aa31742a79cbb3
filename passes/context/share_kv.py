"""Layers that read the caches of others (cross-layer attention, YOCO)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer, Mul

from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.op import Op
from costgraph.ir.presence import EVERYONE
from costgraph.ir.program import Phase, Program
from costgraph.ir.regions import Region, Repeat
from costgraph.ir.tensor import Tensor
from costgraph.ops import AttentionScores, KVAppend, Linear, SelectLast, Split
from costgraph.ops.pattern import Window
from costgraph.ops.views import Slice
from costgraph.passes.context.seeing import Seen, chosen, in_all_phases, is_whole, keeping, told
from costgraph.rewriting.binding import at
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage, option
from costgraph.rewriting.rewrite import live, rebuild
from costgraph.symbols import q

ONE = Integer(1)


@dataclass(frozen=True)
class ShareKV(Pass):
    """Layers without keys and values of their own read those of a layer in front of them.

    ``by=layers`` (CLA): of ``layers`` in a row the first keeps a cache for all. ``by=half``
    (YOCO): the first half of the layers attends a window, and the first layer behind it
    keeps the cache of all others; a prompt passes that half with its last position alone.
    """

    name: ClassVar[str] = "share-kv"
    title: ClassVar[str] = "layers read the keys and values that one layer keeps for them"
    formula: ClassVar[str] = (
        "by layers: caches and their projections of ceil(L/layers) layers in place of L; by half: "
        "of floor(L/2) windows and of one layer. Every layer still reads what it attends"
    )
    source: ClassVar[str] = (
        "Brandon et al., CLA, arXiv 2405.12981; Sun et al., YOCO, arXiv 2405.05254"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "a model has to be trained so: what it answers changes, and no quality is counted",
    )
    stage: ClassVar[Stage] = Stage.SHARING

    by: str = option("word", "layers", "which layers share", choices=("layers", "half"))
    layers: Expr = option(
        "integer",
        Integer(2),
        "layers that share a cache",
        minimum=2,
        symbolic=False,
        under=("by=layers",),
    )
    window: Expr = option(
        "integer", Integer(1024), "tokens that the first half sees", minimum=1, under=("by=half",)
    )

    def run(self, program: Program, system: System) -> Outcome:
        made, seen = in_all_phases(program, self._done)
        none = "no layers in a row attend a cache of their context"
        return told(self.name, program, made, seen, none)

    def _done(self, program: Program, seen: Seen) -> Program:
        return replace(program, phases=tuple(self._phase(p, seen) for p in program.phases))

    def _phase(self, phase: Phase, seen: Seen) -> Phase:
        # Only a prompt that gives one token can leave all but its last position behind.
        ends = phase.span is None and phase.generated == 1 and _gives_last(phase.graph)

        def new(graph: Graph) -> Graph:
            return self._walk(graph, graph, seen, ends and graph is phase.graph)

        return phase.rewritten(new)

    def _walk(self, graph: Graph, whole: Graph, seen: Seen, ends: bool) -> Graph:
        made = _Chain(graph)
        for node in graph.nodes:
            region = node.op
            if not isinstance(region, Region):
                made.put(node)
            elif not keeps_caches(region):
                inner = [self._walk(g, whole, seen, False) for g in region.graphs]
                made.put(replace(node, op=region.with_graphs(inner)))
            elif node.name in seen.misses:
                made.put(node)
            elif why := unlike(region) or (
                _unhalved(graph, region, whole) if self.by == "half" else ""
            ):
                seen.misses[node.name] = Miss(self.name, node.name, why)
                made.put(node)
            else:
                assert isinstance(region, Repeat)
                seen.hits[node.name] = None
                seen.layers.add(node.name)
                shared = Shared.of(region.body)
                if self.by == "half":
                    self._half(made, node, shared, ends)
                else:
                    self._grouped(made, node, shared)
        return made.graph()

    def _grouped(self, made: _Chain, node: Node, shared: Shared) -> None:
        assert isinstance(node.op, Repeat)
        body = node.op.body
        first, names = body.inputs[0].name, [t.name for t in body.inputs]
        given = dict(zip(names, node.inputs, strict=True))
        times, rest = divmod(int(node.op.count), int(self.layers))
        if times:
            period = Repeat(_period(body, shared, self.layers), Integer(times))
            given[first] = made.add(f"{node.name}_shared", period, *node.inputs)
        if rest:
            given[first] = made.group(f"{node.name}_last_", given, shared, Integer(rest))
        made.instead(node, given[first])

    def _half(self, made: _Chain, node: Node, shared: Shared, ends: bool) -> None:
        assert isinstance(node.op, Repeat)
        body, count = node.op.body, int(node.op.count)
        near = Repeat(keeping(body, Window(self.window)), Integer(count // 2))
        hidden = made.add(f"{node.name}_near", near, *node.inputs)
        given = dict(zip((t.name for t in body.inputs), node.inputs, strict=True))
        given[body.inputs[0].name] = hidden
        maker, reader = shared.maker, shared.reader
        op = Repeat(maker, ONE, carried=0)
        kept = made.all(f"{node.name}_cache", op, *(given[t.name] for t in maker.inputs))
        given |= dict(zip(shared.handed, kept, strict=True))
        if ends:
            reader = at(reader, {q: ONE})
            own = [t.name for t in reader.inputs if t.name not in shared.handed]
            given |= {name: made.last(f"{node.name}_last_{name}", given[name]) for name in own}
        op = Repeat(reader, Integer(count - count // 2))
        made.instead(
            node, made.add(f"{node.name}_far", op, *(given[t.name] for t in reader.inputs))
        )


@dataclass(frozen=True)
class Shared:
    """A layer in parts.

    Attributes:
        storing: the layer, which also gives what it keeps.
        maker: what leads to that alone.
        reader: the layer with what another keeps among its operands, without what leads to it.
        handed: names of what is kept, among the reader's operands.
    """

    storing: Graph
    maker: Graph
    reader: Graph
    handed: tuple[str, ...]

    @classmethod
    def of(cls, body: Graph) -> Shared:
        """The parts of a layer."""
        handed = tuple(n.output for n in body.nodes if isinstance(n.op, KVAppend))
        storing = replace(body, outputs=(*body.outputs, *handed))
        maker = _narrowed(live(replace(body, outputs=handed)))
        kept = (body.tensors[name] for name in handed)
        given = tuple(Tensor(t.name, t.shape, t.dtype) for t in kept)
        nodes = tuple(n for n in body.nodes if not isinstance(n.op, KVAppend))
        reader = live(replace(body, sources=(*body.sources, *given), nodes=nodes))
        return cls(storing, maker, _narrowed(reader), handed)


def _narrowed(graph: Graph) -> Graph:
    """Products whose columns are not all needed, such as queries, keys and values in one."""
    for node in graph.nodes:
        product = graph.producer.get(node.inputs[0]) if isinstance(node.op, Split) else None
        if product is None or not isinstance(product.op, Linear) or product.op.split:
            continue
        assert isinstance(node.op, Split)
        used = {i for n in graph.nodes for i in n.inputs} | set(graph.outputs)
        needed = [i for i, t in enumerate(node.outputs) if t.name in used]
        if len(needed) == len(node.outputs) or graph.consumers[product.output] != (node,):
            continue
        parts = tuple(node.op.parts[i] for i in needed)
        width = sum((Mul(*part) for part in parts), Integer(0))
        names = set(product.inputs[1:])
        sources = tuple(
            replace(t, shape=(width, *t.shape[1:])) if t.name in names else t for t in graph.sources
        )
        out = product.outputs[0]
        wide = replace(product, outputs=(replace(out, shape=(*out.shape[:-1], width)),))
        cut = replace(node, op=Split(parts), outputs=tuple(node.outputs[i] for i in needed))
        nodes = tuple({product.name: wide, node.name: cut}.get(n.name, n) for n in graph.nodes)
        graph = replace(graph, sources=sources, nodes=nodes)
    return graph


class _Chain:
    """A graph that is made anew, node by node, with the sources of another."""

    def __init__(self, graph: Graph) -> None:
        self._of = graph
        self._tensors = {t.name: t for t in graph.sources}
        self._nodes: list[Node] = []
        self._instead: dict[str, str] = {}

    def put(self, node: Node) -> None:
        """Takes a node over; operands that were replaced are their replacements."""
        inputs = tuple(self._instead.get(i, i) for i in node.inputs)
        self._nodes.append(replace(node, inputs=inputs))
        self._tensors |= {t.name: t for t in node.outputs}

    def all(self, name: str, op: Op, *inputs: str) -> tuple[str, ...]:
        """Adds a node: the names of its results."""
        given = tuple(self._instead.get(i, i) for i in inputs)
        specs = op.infer(tuple(self._tensors[i] for i in given))
        names = (name,) if len(specs) == 1 else tuple(f"{name}.{i}" for i in range(len(specs)))
        outputs = tuple(spec.named(n) for spec, n in zip(specs, names, strict=True))
        self.put(Node(name, op, given, outputs, Origin(made_by=ShareKV.name)))
        return names

    def add(self, name: str, op: Op, *inputs: str) -> str:
        """Adds a node: the name of its first result."""
        return self.all(name, op, *inputs)[0]

    def group(self, prefix: str, given: dict[str, str], shared: Shared, count: Expr) -> str:
        """Adds a layer that keeps, and those that read it: the hidden state behind them.

        ``given`` names what the inputs of a layer are.
        """
        first = shared.storing.inputs[0].name
        operands = (given[t.name] for t in shared.storing.inputs)
        hidden, *kept = self.all(f"{prefix}own", Repeat(shared.storing, ONE), *operands)
        if count == 1:
            return hidden
        names = {**given, first: hidden, **dict(zip(shared.handed, kept, strict=True))}
        op = Repeat(shared.reader, count - 1)
        return self.add(f"{prefix}reads", op, *(names[t.name] for t in shared.reader.inputs))

    def last(self, name: str, x: str) -> str:
        """Adds the view of the last position: of hidden states ``(B, q, d)``, tables ``(q, n)``."""
        if len(self._tensors[x].shape) == 3:
            return self.add(name, SelectLast(ONE), x)
        return self.add(name, Slice(0, q - 1), x)

    def instead(self, node: Node, name: str) -> None:
        """Tensor ``name`` takes the place of a node's result."""
        self._instead[node.output] = name

    def graph(self) -> Graph:
        """The graph, without what nothing needs."""
        outputs = tuple(self._instead.get(o, o) for o in self._of.outputs)
        made = replace(self._of, nodes=tuple(self._nodes), outputs=outputs)
        return rebuild(made)


def _period(body: Graph, shared: Shared, count: Expr) -> Graph:
    """The graph of several layers that share."""
    empty = replace(body, name="period", sources=body.inputs, nodes=(), outputs=())
    made = _Chain(empty)
    hidden = made.group("", {t.name: t.name for t in body.inputs}, shared, count)
    return replace(made.graph(), outputs=(hidden,))


def keeps_caches(region: Region) -> bool:
    """True for a region whose graph itself keeps keys and values of its own."""
    return any(isinstance(n.op, KVAppend) for g in region.graphs for n in g.nodes)


def unlike(region: Region) -> str:
    """Why layers cannot share; empty where they can."""
    if not isinstance(region, Repeat):
        return "its layers run at once"
    own = (region.shared_instances, region.shared_weights) == (None, None) and not region.again
    whole = region.presence == EVERYONE and region.rounds == "layers"
    if not (own and whole) or region.parts or region.gathered or region.carried != 1:
        return "its rounds are not layers of the model one after the other"
    if region.places:
        return "layers of other kinds stand between them"
    if len(region.body.outputs) != 1:
        return "others read what its layers keep already"
    if not region.count.is_Integer:
        return "the number of layers is a symbol"
    if region.count == 1:
        return "no layer of its kind stands beside it"
    return chosen(region.body)


def _unhalved(graph: Graph, region: Region, whole: Graph) -> str:
    """Why the layers of a region are not the model's two halves; empty where they are."""
    regions = (n.op for g in whole.walk() for n in g.nodes if isinstance(n.op, Region))
    if graph is not whole or sum(map(keeps_caches, regions)) != 1:
        return "halves are of layers that are all alike, and others keep caches as well"
    if not sees_all(region.graphs[0]):
        return "its positions do not see all before them already"
    return ""


def sees_all(body: Graph) -> bool:
    """True where attention sees all positions before it."""
    patterns = [n.op.pattern for n in body.nodes if isinstance(n.op, AttentionScores)]
    return bool(patterns) and all(is_whole(p) for p in patterns)


def _gives_last(graph: Graph) -> bool:
    """True where only the last position leads to results."""
    return any(isinstance(n.op, SelectLast) and n.op.count == 1 for n in graph.nodes)
