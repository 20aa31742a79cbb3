"""Early exit: tokens leave the stack of layers once a confidence is high enough."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer, Rational

from costgraph.errors import PipelineError, clip
from costgraph.graph import Builder, Graph, Node, Origin, Repeat, Traffic
from costgraph.machine import Machine
from costgraph.ops.exits import Confidence
from costgraph.passes import depth
from costgraph.pipeline import Option, Outcome, Pass, number, option
from costgraph.program import Program
from costgraph.symbols import B
from costgraph.tensor import Role, Tensor

ONE, ZERO = Integer(1), Integer(0)


@dataclass(frozen=True)
class EarlyExit(Pass):
    """Splits the layers where tokens may leave; later parts run for those that are left.

    Only decode steps exit. Weights and caches of all layers stay in memory.
    """

    name: ClassVar[str] = "early-exit"
    title: ClassVar[str] = "let tokens leave the stack of layers early, by a distribution"
    formula: ClassVar[str] = (
        "layers run: sum of 1 - F(l) per token; weights read: 1 - F(l)^B; "
        "depth of a batch: sum of 1 - F(l)^B"
    )
    source: ClassVar[str] = (
        "CALM, arXiv 2207.07061; FREE, arXiv 2310.05424; SkipDecode, arXiv 2307.02628"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "sequences of a batch exit independently of one another",
        "expected work and traffic stand inside the maxima: a lower bound of the expected time",
    )

    distribution: str = option(
        "word", "two-exit", "where tokens leave",
        choices=("two-exit", "geometric", "uniform", "beta", "layers", "schedule"),
    )  # fmt: skip
    exit: Expr = option("number", ZERO, "two-exit: the early layer; 0 means half", minimum=0)
    p: Expr = option("probability", Rational(1, 2), "share that leaves (at each exit)")
    first: Expr = option("number", ONE, "geometric: first exit", minimum=1)
    every: Expr = option("number", ONE, "geometric: layers between exits", minimum=1)
    a: Expr = option("number", Integer(2), "beta: first parameter, whole", minimum=1)
    b: Expr = option("number", Integer(2), "beta: second parameter, whole", minimum=1)
    shares: str = option("word", "", "layers: percent that leaves after each: p0|p10|p20")
    low: Expr = option("number", ZERO, "schedule: least layers; 0 means half", minimum=0)
    confidence: str = option(
        "word", "none", "how an exit is decided",
        choices=("none", "softmax", "classifier", "cosine"),
    )  # fmt: skip
    propagate: str = option(
        "word", "none", "caches of skipped layers: left out, projected from the exit state, or "
        "computed later together with other tokens",
        choices=("none", "project", "recompute"),
    )  # fmt: skip
    together: Expr = option("number", ONE, "recompute: tokens computed at once", minimum=1)
    batch: str = option(
        "word", "compact", "those left go on alone, or all run until the last one leaves",
        choices=("compact", "all"),
    )  # fmt: skip

    def run(self, program: Program, machine: Machine) -> Outcome:
        phases, hits = [], []
        for phase in program.phases:
            if phase.span is None:
                phases.append(phase)
                continue
            phases.append(replace(phase, graph=self._split(phase.graph)))
            hits.append(phase.name)
        return Outcome(replace(program, phases=tuple(phases)), tuple(hits))

    def left(self, layers: int) -> tuple[Expr, ...]:
        """The share that has left after each number of layers.

        Raises:
            PipelineError: an option does not fit the number of layers.
        """
        if self.distribution == "uniform":
            return depth.uniform(layers)
        if self.distribution == "geometric":
            return depth.geometric(layers, self.p, _int(self.first), _int(self.every))
        if self.distribution == "beta":
            return depth.beta(layers, _int(self.a), _int(self.b))
        if self.distribution == "layers":
            return depth.per_layer(layers, _shares(self.shares))
        if self.distribution == "schedule":
            # Depth falls evenly from all layers to the least: the share of
            # positions that run layer l is the share of the schedule above it.
            low = _int(self.low) or layers // 2
            if not 0 < low <= layers:
                raise PipelineError(f"low = {low} is not between 1 and {layers}")
            steps = layers - low
            return tuple(
                ZERO if n < low else Rational(2 * (n - low) + 1, 2 * steps) if n < layers else ONE
                for n in range(layers + 1)
            )
        return depth.two_exit(layers, _int(self.exit) or layers // 2, self.p)

    def _split(self, graph: Graph) -> Graph:
        regions = [n for n in graph.nodes if isinstance(n.op, Repeat)]
        if len(regions) != 1:
            raise PipelineError("early-exit needs a model whose layers are all alike")
        node, region = regions[0], regions[0].op
        assert isinstance(region, Repeat)
        if any(isinstance(n.op, Repeat) for n in region.body.nodes):
            raise PipelineError("early-exit needs a model whose layers are all alike")
        if region.parts or region.gathered:
            raise PipelineError("early-exit cannot split layers that each take or give parts")
        if not region.count.is_Integer or not region.traffic.is_full:
            raise PipelineError(f"early-exit cannot split {region.count} layers: use numbers")
        nodes: list[Node] = []
        for other in graph.nodes:
            if other is not node:
                nodes.append(other)
                continue
            nodes.extend(self._parts(graph, node, region))
        return replace(graph, nodes=tuple(nodes))

    def _parts(self, graph: Graph, node: Node, region: Repeat) -> list[Node]:
        """The layers as runs of equal share, exits and propagation between them."""
        runs = depth.segments(self.left(int(region.count)))
        made: list[Node] = []
        state, previous = node.inputs[0], node.inputs[0]
        origin = Origin((node.name,), self.name)
        for index, (count, share) in enumerate(runs):
            final = index == len(runs) - 1
            name = node.outputs[0].name if final else f"{node.name}.{index}"
            outputs = tuple(t.renamed(name) for t in node.outputs)
            op = replace(region, count=Integer(count), traffic=self._traffic(share))
            label = node.name if len(runs) == 1 else f"{node.name}.{index}"
            made.append(Node(label, op, (state, *node.inputs[1:]), outputs, origin))
            previous, state = state, name
            if not final and self.confidence != "none":
                made.append(self._exit(graph, index, state, previous, self._traffic(share)))
            if share != 0 and self.propagate != "none":
                made.append(self._caches(node, region, index, count, share, previous))
        return made

    def _traffic(self, share: Expr) -> Traffic:
        """What runs once ``share`` of the tokens has left."""
        if share == 0:
            return Traffic()
        stay = 1 - share
        if self.distribution == "schedule":  # all sequences leave at the same depth
            return Traffic(stay, stay, stay, stay)
        some = 1 - share**B
        if self.batch == "all":
            return Traffic(some, some, some, some)
        return Traffic(stay, some, stay, stay)

    def _exit(self, graph: Graph, index: int, state: str, previous: str, traffic: Traffic) -> Node:
        """The confidence estimate behind one run of layers."""
        head = _head(graph)
        body = Builder("exit")
        region = next(n.op for n in graph.nodes if isinstance(n.op, Repeat))
        x = body.source(region.body.inputs[0].renamed("state"))
        if self.confidence == "cosine":
            other = body.source(region.body.inputs[0].renamed("previous"))
            operands: tuple[str, ...] = (state, previous)
        else:
            shape = head.shape if self.confidence == "softmax" else (ONE, head.shape[-1])
            other = body.source(Tensor("exit.weight", shape, head.dtype, Role.WEIGHT))
            operands = (state,)
        body.add("confidence", Confidence(self.confidence), x, other)
        # A classifier brings a weight of its own; the head's is counted already.
        own = ONE if self.confidence == "classifier" else ZERO
        op = Repeat(body.build(x), ONE, 1, traffic, own)
        output = region.body.inputs[0].renamed(f"exit.{index}.state")
        return Node(f"exit.{index}", op, operands, (output,), Origin((), self.name))

    def _caches(
        self, node: Node, region: Repeat, index: int, count: int, share: Expr, state: str
    ) -> Node:
        """Keys and values of skipped layers for the tokens that have left."""
        together = self.batch == "all" or self.distribution == "schedule"
        if self.batch == "all":
            share = share**B  # tokens skip a layer only if all of them do
        reads = share if together else 1 - (1 - share) ** B
        if self.propagate == "recompute":
            body = region.body
            traffic = Traffic(share, reads / self.together, share, share)
            label = f"recompute.{index}"
        else:
            body = _cache_part(region.body)
            traffic = Traffic(share, reads, share, share)
            label = f"propagate.{index}"
        wanted = {t.name for t in body.inputs}
        operands = tuple(
            given
            for given, inner in zip((state, *node.inputs[1:]), region.body.inputs, strict=True)
            if inner.name in wanted
        )
        op = Repeat(body, Integer(count), 1, traffic, ZERO)
        results = tuple(body.tensors[o].renamed(f"{label}.{i}") for i, o in enumerate(body.outputs))
        return Node(label, op, operands, results, Origin((node.name,), self.name))


def _head(graph: Graph) -> Tensor:
    """The weight that makes logits."""
    for name in ("lm_head.weight", "embed.weight"):
        if name in graph.tensors:
            return graph.tensors[name]
    raise PipelineError("early-exit: the model has no head to measure confidence with")


def _cache_part(body: Graph) -> Graph:
    """The part of a layer that makes keys and values: what the appends need.

    Raises:
        PipelineError: a fused kernel makes them together with other results.
    """
    appends = [n for n in body.nodes if n.op.kind == "kv-append"]
    if not appends:
        raise PipelineError(
            "propagate=project must come before fuse: the layers' projections "
            "are already one kernel"
        )
    needed = {name for n in appends for name in n.inputs}
    kept: list[Node] = []
    for node in reversed(body.nodes):
        if node in appends or any(t.name in needed for t in node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    first = body.inputs[0].name
    sources = tuple(t for t in body.sources if t.name in needed or t.name == first)
    return Graph("caches", sources, tuple(reversed(kept)), (first,))


def _int(value: Expr) -> int:
    if not value.is_Integer:
        raise PipelineError(f"early-exit: {value} must be a whole number here")
    return int(value)


def _shares(text: str) -> list[Expr]:
    spec = Option("number", "", minimum=0)
    parts = text.split("|") if text else []
    if not parts:
        raise PipelineError(f"shares: {clip(text)} is not a list such as p0|p10|p20")
    return [number("shares", spec, p.removeprefix("p")) / 100 for p in parts]
