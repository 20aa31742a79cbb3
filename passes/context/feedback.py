"""One memory for all layers, of what all of them made (Feedback Transformer)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Integer

from costgraph.formula.terms import Span
from costgraph.hardware.systems import System
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.op import Op
from costgraph.ir.program import Program
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops import Add, KVAppend
from costgraph.ops.maps import Map
from costgraph.ops.pattern import FULL
from costgraph.passes.context.memory_tokens import without_logits
from costgraph.passes.context.seeing import Seen, prompt_and_answer, seeing, told
from costgraph.passes.context.share_kv import Shared, keeps_caches, sees_all, unlike
from costgraph.rewriting.binding import prefixed
from costgraph.rewriting.pipeline import Miss, Outcome, Pass, Stage
from costgraph.rewriting.rewrite import rebuild
from costgraph.symbols import S, T, q

ONE, ZERO = Integer(1), Integer(0)
#: Of tensors and nodes that make the memory.
PREFIX = "memory_"


@dataclass(frozen=True)
class Feedback(Pass):
    """All layers attend one memory, which holds what all layers made of earlier positions.

    Behind the last layer a position becomes the weighted sum of its embedding and what each
    layer made of it; keys and values of that sum are made once and kept once. So a position
    waits for the one in front of it: prompts pass token by token.
    """

    name: ClassVar[str] = "feedback"
    title: ClassVar[str] = "all layers attend one memory of what all of them made"
    formula: ClassVar[str] = (
        "keys and values of one layer for all, T - 1 rows seen by each; (L + 1)·d weighted sum; "
        "prompt: S steps of one position"
    )
    source: ClassVar[str] = (
        "Fan et al., Feedback Transformer, arXiv 2002.09402, with keys and values that layers share"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "a model has to be trained so: what it answers changes, and no quality is counted",
        "devices that split heads each hold all of the memory",
    )
    stage: ClassVar[Stage] = Stage.SHARING
    once: ClassVar[bool] = True

    def run(self, program: Program, system: System) -> Outcome:
        _, answer = prompt_and_answer(self.name, program)
        seen = Seen()
        graph = self._fed(answer.graph, seen)
        if seen.misses or not seen.hits:
            none = "no layers in a row attend a cache of their context"
            return told(self.name, program, program, Seen(misses=seen.misses), none)
        # One position after the other: all but the last give no token.
        reading = replace(
            answer, name="reading", graph=without_logits(graph), span=Span(T, ONE, S - 1),
            tokens=ZERO,
        )  # fmt: skip
        last = replace(answer, name="prefill", graph=graph, bindings=((q, ONE), (T, S)), span=None)
        made = replace(
            program,
            phases=(reading, last, replace(answer, graph=graph)),
            unserved="prompts pass token by token",
        )
        return told(self.name, program, made, seen)

    def _fed(self, graph: Graph, seen: Seen) -> Graph:
        """The step with one memory for the layers of its one region."""
        found = [n for n in graph.nodes if isinstance(n.op, Repeat) and keeps_caches(n.op)]
        if len(found) != 1:
            why = f"{len(found)} kinds of layers keep caches: one memory is for all that do"
            if found:
                seen.misses[graph.name] = Miss(self.name, found[0].name, why)
            return graph
        (node,) = found
        assert isinstance(node.op, Repeat)
        why = unlike(node.op)
        if not why and not sees_all(node.op.body):
            why = "its positions do not see all before them already"
        if why:
            seen.misses[graph.name] = Miss(self.name, node.name, why)
            return graph
        seen.hits[node.name] = None
        return _Fed(graph, node).graph()


class _Fed:
    """A step whose layers attend a memory that is made behind the last of them."""

    def __init__(self, graph: Graph, node: Node) -> None:
        assert isinstance(node.op, Repeat)
        self._graph, self._node, self._body = graph, node, node.op.body
        self._count = node.op.count
        self._shared = Shared.of(self._body)
        #: What makes keys and values of the sum behind the last layer.
        self._maker = prefixed(self._shared.maker, PREFIX)
        appends = [n for n in self._shared.maker.nodes if isinstance(n.op, KVAppend)]
        #: The cache that stands for what each append makes, as it is in front of the step.
        self._rows = {n.output: PREFIX + n.inputs[0] for n in appends}
        self._tensors = dict(graph.tensors)
        self._sources = list(graph.sources)
        self._nodes: list[Node] = []

    def graph(self) -> Graph:
        """The graph."""
        for node in self._graph.nodes:
            if node is self._node:
                self._layers()
            else:
                self._nodes.append(node)
        # What is kept leads to nothing in its own step: it is a result of it.
        kept = (n.output for n in self._nodes if isinstance(n.op, KVAppend))
        outputs = (*self._graph.outputs, *kept)
        return rebuild(
            replace(
                self._graph, sources=tuple(self._sources), nodes=tuple(self._nodes),
                outputs=outputs,
            )
        )  # fmt: skip

    def _put(self, name: str, op: Op, inputs: tuple[str, ...], *names: str) -> str:
        """Adds a node whose results are called ``names``, or as it is: the last of them."""
        specs = op.infer(tuple(self._tensors[i] for i in inputs))
        outputs = tuple(s.named(n) for s, n in zip(specs, names or (name,), strict=True))
        self._nodes.append(Node(name, op, inputs, outputs, Origin(made_by=Feedback.name)))
        self._tensors |= {t.name: t for t in outputs}
        return outputs[-1].name

    def _source(self, tensor: Tensor) -> str:
        self._sources.append(tensor)
        self._tensors[tensor.name] = tensor
        return tensor.name

    def _layers(self) -> None:
        hidden = self._node.inputs[0]
        like = self._tensors[hidden]
        share = self._source(Tensor(f"{PREFIX}share", (ONE,), like.dtype, Role.WEIGHT))
        begun = self._put(f"{PREFIX}begun", Map("mul"), (hidden, share))
        given = dict(zip((t.name for t in self._body.inputs), self._node.inputs, strict=True))
        for source in self._maker.persistent:
            self._source(source)
        layer, known = self._layer(), {**given, **self._rows}
        operands = (hidden, begun, *(known[t.name] for t in layer.inputs[2:]))
        op = Repeat(layer, self._count, carried=2)
        memory = self._put(self._node.name, op, operands, self._node.output, f"{PREFIX}sum")
        self._kept({**given, self._body.inputs[0].name: memory})

    def _layer(self) -> Graph:
        """A layer that reads the memory, and adds what it made to what will be."""
        reader = self._shared.reader
        hidden = reader.inputs[0]
        rows = {made: self._tensors[cache] for made, cache in self._rows.items()}
        sources = [hidden, replace(hidden, name=f"{PREFIX}so_far")]
        for source in reader.sources:
            if source.name in rows:
                source = replace(source, shape=rows[source.name].shape)
            if source is not hidden:
                sources.append(source)
        share = Tensor(f"{PREFIX}share", (ONE,), hidden.dtype, Role.WEIGHT)
        nodes = [replace(n, op=seeing(n.op, FULL)) for n in reader.nodes]
        (out,) = reader.outputs
        made = reader.tensors[out]
        part = Node(
            f"{PREFIX}part", Map("mul"), (out, share.name), (replace(made, name=f"{PREFIX}part"),)
        )
        total = Node(
            f"{PREFIX}add", Add(), (part.output, sources[1].name),
            (replace(made, name=f"{PREFIX}add"),),
        )  # fmt: skip
        return rebuild(
            replace(
                reader, sources=(*sources, share), nodes=(*nodes, part, total),
                outputs=(out, total.output),
            )
        )  # fmt: skip

    def _kept(self, given: dict[str, str]) -> None:
        """Adds keys and values of the sum behind the last layer."""
        operands = {PREFIX + name: found for name, found in given.items()}
        for node in self._maker.nodes:
            inputs = tuple(operands.get(i, i) for i in node.inputs)
            self._put(node.name, node.op, inputs, *(t.name for t in node.outputs))
