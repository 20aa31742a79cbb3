"""Early exit: tokens leave the stack of layers once a confidence is high enough."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from sympy import Expr, Integer, Rational

from costgraph.errors import PipelineError, clip
from costgraph.hardware.systems import System
from costgraph.ir.graph import Builder, Graph, Node, Origin
from costgraph.ir.presence import EVERYONE, TOKENS, Presence
from costgraph.ir.program import Phase, Program, Resident
from costgraph.ir.regions import Region, Repeat
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.elementwise import Activation
from costgraph.ops.exits import Confidence
from costgraph.ops.linear import Linear
from costgraph.passes.decoding import depth
from costgraph.passes.precision.layers import in_order
from costgraph.rewriting.pipeline import Miss, Option, Outcome, Pass, Stage, number, option

ONE, ZERO = Integer(1), Integer(0)
STEP = "step"


@dataclass(frozen=True)
class EarlyExit(Pass):
    """Splits the layers where tokens may leave; later parts run for those that are left.

    Only decode steps exit, each of their tokens on its own. Weights and caches of all
    layers stay in memory. The options describe one model, so a draft does not get them.
    """

    name: ClassVar[str] = "early-exit"
    title: ClassVar[str] = "let tokens leave the stack of layers early, by a distribution"
    formula: ClassVar[str] = (
        "layers run: sum of 1 - F(l) per token; of n = B·q tokens, weights read: 1 - F(l)^n; "
        "depth of a batch: sum of 1 - F(l)^n; experts: E·(1 - (1 - (1 - F(l))·k/E)^n)"
    )
    source: ClassVar[str] = (
        "CALM, arXiv 2207.07061; FREE, arXiv 2310.05424; SkipDecode, arXiv 2307.02628; "
        "EE-LLM, arXiv 2312.04916; ConsistentEE, arXiv 2312.11882; Din et al., arXiv 2303.09435"
    )
    assumptions: ClassVar[tuple[str, ...]] = (
        "tokens of a step exit independently of one another",
        "expected work and traffic stand inside the maxima: a lower bound of the expected time",
    )

    stage: ClassVar[Stage] = Stage.DEPTH
    inherited: ClassVar[bool] = False

    distribution: str = option(
        "word", "two-exit", "where tokens leave",
        choices=("two-exit", "geometric", "uniform", "beta", "layers", "schedule"),
    )  # fmt: skip
    exit: Expr = option(
        "integer",
        ZERO,
        "two-exit: the early layer; 0 means half",
        minimum=0,
        symbolic=False,
        under=("distribution=two-exit",),
    )
    p: Expr = option(
        "probability",
        Rational(1, 2),
        "share that leaves (at each exit)",
        under=("distribution=two-exit|geometric",),
    )
    first: Expr = option(
        "integer",
        ONE,
        "geometric: first exit",
        minimum=1,
        symbolic=False,
        under=("distribution=geometric",),
    )
    every: Expr = option(
        "integer",
        ONE,
        "geometric: layers between exits",
        minimum=1,
        symbolic=False,
        under=("distribution=geometric",),
    )
    a: Expr = option(
        "integer",
        Integer(2),
        "beta: first parameter",
        minimum=1,
        maximum=100,
        symbolic=False,
        under=("distribution=beta",),
    )
    b: Expr = option(
        "integer",
        Integer(2),
        "beta: second parameter",
        minimum=1,
        maximum=100,
        symbolic=False,
        under=("distribution=beta",),
    )
    shares: str = option(
        "word",
        "",
        "layers: percent that leaves after each: p0|p10|p20",
        under=("distribution=layers",),
    )
    low: Expr = option(
        "integer",
        ZERO,
        "schedule: least layers; 0 means half",
        minimum=0,
        symbolic=False,
        under=("distribution=schedule",),
    )
    confidence: str = option(
        "word", "none", "how an exit is decided",
        choices=("none", "softmax", "classifier", "cosine", "policy"),
    )  # fmt: skip
    width: Expr = option(
        "integer", ZERO, "policy: hidden width of its two layers", minimum=0, symbolic=False
    )
    shortcut: str = option(
        "word", "none", "a linear map (d × d) of the state at an exit, in front of its decision",
        choices=("none", "linear"),
    )  # fmt: skip
    propagate: str = option(
        "word", "none", "caches of skipped layers: left out, projected from the exit state, "
        "computed later together with other tokens, or with the next token that stays",
        choices=("none", "project", "recompute", "synchronised"),
    )  # fmt: skip
    together: Expr | str = option(
        "integer", STEP, "recompute: tokens computed at once; 'step': those that left in one step. "
        "synchronised: steps that are waited for at most; 'step': until a token stays",
        minimum=1, choices=(STEP,), under=("propagate=recompute|synchronised",),
    )  # fmt: skip
    batch: str = option(
        "word", "compact", "those left go on alone, or all run until the last one leaves",
        choices=("compact", "all"),
        under=(
            "distribution!=schedule&propagate!=synchronised",
            "distribution!=schedule&confidence!=none",
            "distribution!=schedule&shortcut!=none",
        ),
    )  # fmt: skip

    def run(self, program: Program, system: System) -> Outcome:
        self._check()
        steps = {p.name: self._split(p.graph) for p in program.phases if p.span is not None}
        if not steps:
            miss = Miss(self.name, program.name, "there are no decode steps to leave early")
            return Outcome(program, (), (miss,))
        made = program.with_graphs(steps)
        phases = tuple(_holding(p, steps.values()) if p.span is None else p for p in made.phases)
        return Outcome(replace(made, phases=phases), tuple(steps))

    def _check(self) -> None:
        """Options that need others.

        Raises:
            PipelineError: one is missing, or contradicts another.
        """
        if (self.confidence == "policy") != (self.width != 0):
            raise PipelineError(
                "early-exit: confidence=policy and width=W, its hidden width, belong together"
            )
        if self.propagate == "synchronised" and self.distribution == "schedule":
            raise PipelineError(
                "early-exit: depths of a schedule fall with the position, so no later token needs "
                "what is skipped: propagate=none"
            )

    def left(self, layers: int) -> tuple[Expr, ...]:
        """The share that has left after each number of layers.

        Raises:
            PipelineError: an option does not fit the number of layers.
        """
        if self.distribution == "uniform":
            return depth.uniform(layers)
        if self.distribution == "geometric":
            return depth.geometric(layers, self.p, int(self.first), int(self.every))
        if self.distribution == "beta":
            return depth.beta(layers, int(self.a), int(self.b))
        if self.distribution == "layers":
            return depth.per_layer(layers, _shares(self.shares))
        if self.distribution == "schedule":
            # Depth falls evenly from all layers to the least: the share of
            # positions that run layer l is the share of the schedule above it.
            low = int(self.low) or layers // 2
            if not 0 < low <= layers:
                raise PipelineError(f"low = {low} is not between 1 and {layers}")
            steps = layers - low
            return tuple(
                ZERO if n < low else Rational(2 * (n - low) + 1, 2 * steps) if n < layers else ONE
                for n in range(layers + 1)
            )
        return depth.two_exit(layers, int(self.exit) or layers // 2, self.p)

    def _split(self, graph: Graph) -> Graph:
        flat, layers = in_order(graph, self.name)
        counts = [region.op.count for region in layers if isinstance(region.op, Repeat)]
        if not all(count.is_Integer for count in counts):
            raise PipelineError(
                f"early-exit cannot split {', '.join(map(str, counts))} layers: use numbers"
            )
        runs = depth.segments(self.left(sum(map(int, counts))))
        nodes: list[Node] = []
        for other in flat.nodes:
            if other in layers:
                within = _within(runs, layers, other)
                nodes.extend(self._parts(flat, other, within, len(layers) == 1))
            else:
                nodes.append(other)
        return replace(flat, nodes=tuple(nodes))

    def _parts(
        self, graph: Graph, node: Node, runs: list[tuple[int, int, Expr, Expr, bool]], alone: bool
    ) -> list[Node]:
        """One region as runs of equal share, exits and propagation between them.

        ``alone``: it holds all layers of the model.
        """
        region = node.op
        assert isinstance(region, Repeat)
        made: list[Node] = []
        state, previous = node.inputs[0], node.inputs[0]
        origin = Origin((node.name,), self.name)
        for place, (index, count, share, upto, ends) in enumerate(runs):
            final = place == len(runs) - 1
            name = node.outputs[0].name if final else f"{node.name}.{place}"
            outputs = tuple(t.renamed(name) for t in node.outputs)
            op = replace(region, count=Integer(count), presence=self._presence(share))
            label = node.name if len(runs) == 1 else f"{node.name}.{place}"
            made.append(Node(label, op, (state, *node.inputs[1:]), outputs, origin))
            previous, state = state, name
            if ends:
                made.extend(self._exit(graph, region, index, state, previous, share, upto))
            if share != 0 and self.propagate in ("project", "recompute"):
                suffix = f"{index}" if alone else f"{index}.{node.name}"
                made.extend(self._caches(node, region, suffix, count, share, previous, label))
        return made

    def _presence(self, share: Expr) -> Presence:
        """Who runs layers once ``share`` of the tokens has left."""
        if share != 0 and self.propagate == "synchronised":
            longest = None if self.together == STEP else self.together
            assert longest is None or isinstance(longest, Expr)
            if share == 1 and longest is None:
                raise PipelineError(
                    "synchronised: every token has left, so that none comes by which those that "
                    "wait could go on: give together=K, the most steps that they wait"
                )
            return Presence(tokens=1 - share, wait=True, longest=longest)
        return self._staying(share)

    def _staying(self, share: Expr) -> Presence:
        """Who is there once ``share`` of the tokens has left."""
        if share == 0:
            return EVERYONE
        if self.distribution == "schedule":  # all sequences leave at the same depth
            return Presence(runs=1 - share)
        if self.batch == "all":
            return Presence(runs=1 - share**TOKENS)
        return Presence(tokens=1 - share)

    def _absence(self, share: Expr) -> Presence:
        """Who is computed later once ``share`` of the tokens has left."""
        at_once = None if self.propagate == "project" or self.together == STEP else self.together
        assert at_once is None or isinstance(at_once, Expr)
        if self.distribution == "schedule":
            return Presence(runs=share, together=at_once)
        if self.batch == "all":  # tokens skip a layer only if all of them do
            return Presence(runs=share**TOKENS, together=at_once)
        return Presence(tokens=share, together=at_once)

    def _leaving(self, before: Expr, after: Expr) -> Presence:
        """Who leaves where the share that has left grows from one to the other."""
        if self.distribution == "schedule":
            return Presence(runs=after - before)
        if self.batch == "all":
            return Presence(runs=after**TOKENS - (before**TOKENS if before != 0 else ZERO))
        return Presence(tokens=after - before)

    def _exit(
        self,
        graph: Graph,
        region: Repeat,
        index: int,
        state: str,
        previous: str,
        share: Expr,
        after: Expr,
    ) -> Iterator[Node]:
        """What stands behind one run of layers: a shortcut, and the estimate of confidence.

        The share that has left grows from ``share`` to ``after`` there.
        """
        hidden = region.body.inputs[0]
        width = hidden.shape[-1]

        def node(name: str, body: Graph, *given: str, own: Expr, who: Presence) -> Node:
            op = Repeat(body, ONE, 1, who, own, rounds="other")
            output = hidden.renamed(f"{name}.state")
            return Node(name, op, given, (output,), Origin((), self.name))

        # Where exits are decided all are mapped that are there, else those that leave.
        decided = self.confidence != "none"
        there = self._staying(share) if decided else self._leaving(share, after)
        if not decided and self.shortcut == "none":
            return
        head = _head(graph)
        if self.shortcut == "linear":
            m = Builder("shortcut")
            x = m.source(hidden.renamed("state"))
            w = m.source(Tensor("shortcut.weight", (width, width), head.dtype, Role.WEIGHT))
            mapped = m.add("shortcut", Linear(), x, w)
            made = node(f"shortcut.{index}", m.build(mapped), state, own=ONE, who=there)
            yield made
            state = made.outputs[0].name
        if not decided:
            return
        body = Builder("exit")
        x = body.source(hidden.renamed("state"))
        operands: tuple[str, ...] = (state,)
        # Scores bring weights of their own; the head's are counted already.
        own, scored, method = ONE, x, self.confidence
        if self.confidence == "policy":
            w = body.source(Tensor("policy.weight", (self.width, width), head.dtype, Role.WEIGHT))
            scored = body.add("policy_act", Activation("relu"), body.add("policy", Linear(), x, w))
            width, method = self.width, "classifier"
        if self.confidence == "cosine":
            other = body.source(hidden.renamed("previous"))
            operands, own = (state, previous), ZERO
        else:
            shape = head.shape if self.confidence == "softmax" else (ONE, width)
            other = body.source(Tensor("exit.weight", shape, head.dtype, Role.WEIGHT))
            own = ZERO if self.confidence == "softmax" else ONE
        body.add("confidence", Confidence(method), scored, other)
        yield node(f"exit.{index}", body.build(x), *operands, own=own, who=there)

    def _caches(
        self,
        node: Node,
        region: Repeat,
        index: str,
        count: int,
        share: Expr,
        state: str,
        layers: str,
    ) -> Iterator[Node]:
        """What skipped ``layers`` keep of the tokens that have left."""
        if self.propagate == "recompute":
            body, label = region.body, f"recompute.{index}"
        else:
            body, label = _kept_part(node.name, region.body), f"propagate.{index}"
            if not body.nodes:
                return  # a later token reads nothing of these layers
        wanted = {t.name for t in body.inputs}
        operands = tuple(
            given
            for given, inner in zip((state, *node.inputs[1:]), region.body.inputs, strict=True)
            if inner.name in wanted
        )
        op = Repeat(
            body, Integer(count), 1, self._absence(share), ZERO, rounds="other", again=layers
        )
        results = tuple(body.tensors[o].renamed(f"{label}.{i}") for i, o in enumerate(body.outputs))
        yield Node(label, op, operands, results, Origin((node.name,), self.name))


def _holding(phase: Phase, steps: Iterable[Graph]) -> Phase:
    """A phase with what exits of ``steps`` bring in memory: their weights do not come and go."""
    known = {t.name for t, _ in phase.weights()}
    beside = tuple(
        Resident(step, shared=tuple(sorted(known)), part=True)
        for step in steps
        if any(count != 0 and t.name not in known for t, count in step.weights())
    )
    return replace(phase, resident=(*phase.resident, *beside))


def _within(
    runs: tuple[tuple[int, Expr], ...], layers: tuple[Node, ...], node: Node
) -> list[tuple[int, int, Expr, Expr, bool]]:
    """The runs of one region: (its number, layers, share that left, that after it, exit behind)."""
    first = 0
    for region in layers:
        assert isinstance(region.op, Repeat)
        last = first + int(region.op.count)
        if region is node:
            break
        first = last
    found: list[tuple[int, int, Expr, Expr, bool]] = []
    at = 0
    for index, (count, share) in enumerate(runs):
        inside = min(at + count, last) - max(at, first)
        if inside > 0:
            ends = at + count <= last and index < len(runs) - 1
            after = runs[index + 1][1] if ends else share
            found.append((index, inside, share, after, ends))
        at += count
    return found


def _head(graph: Graph) -> Tensor:
    """The weight that makes logits."""
    for name in ("lm_head.weight", "embed.weight"):
        if name in graph.tensors:
            return graph.tensors[name]
    raise PipelineError("early-exit: the model has no head to measure confidence with")


def _kept_part(region: str, body: Graph) -> Graph:
    """The part of a layer that makes what later tokens read: caches and states.

    A scan that makes a state and a result of it counts whole.

    Raises:
        PipelineError: a region within the layer keeps it.
    """
    needed: set[str] = set()
    kept: list[Node] = []
    for node in reversed(body.nodes):
        keeps = node.op.kind == "kv-append" or any(
            t.role is Role.STATE for t in body.operands(node)
        )
        if isinstance(node.op, Region) and any(
            t.role in (Role.KV, Role.STATE) for g in node.op.graphs for t in g.persistent
        ):
            raise PipelineError(
                f"propagate=project: the layers {region!r} keep caches inside {node.name!r}, of "
                "which no part runs alone: propagate=recompute"
            )
        if keeps or any(t.name in needed for t in node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    first = body.inputs[0].name
    sources = tuple(t for t in body.sources if t.name in needed or t.name == first)
    return Graph("caches", sources, tuple(reversed(kept)), (first,))


def _shares(text: str) -> list[Expr]:
    spec = Option("number", "", minimum=0)
    parts = text.split("|") if text else []
    if not parts:
        raise PipelineError(f"shares: {clip(text)} is not a list such as p0|p10|p20")
    return [number("shares", spec, p.removeprefix("p")) / 100 for p in parts]
