"""Early exit: tokens that leave the layer stack before its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

from sympy import Add, Expr, Integer, binomial

from costgraph.errors import InputError, PipelineError
from costgraph.formula.terms import Limit
from costgraph.graph import Graph, Node, Origin, Repeat, Traffic
from costgraph.machine import Machine
from costgraph.ops.base import same
from costgraph.ops.exits import MEASURES, ConfidenceHead
from costgraph.ops.fused import Fused
from costgraph.ops.tokens import Split
from costgraph.pipeline import Miss, Outcome, Pass, option
from costgraph.program import Phase, Program
from costgraph.symbols import B
from costgraph.tensor import Role, Tensor

ZERO, ONE, TWO = Integer(0), Integer(1), Integer(2)
NONE = "none"


# --- how deep tokens go -------------------------------------------------------


@dataclass(frozen=True)
class Exits:
    """The distribution of the depth at which a token leaves ``layers`` layers.

    Attributes:
        layers: layers of the whole stack.
        gone: (layer, share of tokens that have left after it), by rising layer;
            the last layer itself is not listed.
        together: all sequences leave at the same layer (a schedule), instead of
            each on its own.
    """

    layers: Expr
    gone: tuple[tuple[Expr, Expr], ...] = ()
    together: bool = False

    @property
    def segments(self) -> tuple[tuple[Expr, Expr, Expr], ...]:
        """(first layer counted from 0, layers, share of tokens gone before them)."""
        starts = ((ZERO, ZERO), *self.gone, (self.layers, ONE))
        return tuple((a, b - a, share) for (a, share), (b, _) in pairwise(starts))

    def expected_depth(self) -> Expr:
        """Expected layers per token: ``Σ_{l<L} (1 − F(l))``."""
        return Add(*(count * (1 - share) for _, count, share in self.segments))

    def expected_max_depth(self, batch: Expr = B) -> Expr:
        """Expected layers until the last of ``batch`` tokens leaves: ``Σ_{l<L} (1 − F(l)^B)``."""
        return Add(*(count * (1 - self.all_gone(f, batch)) for _, count, f in self.segments))

    def all_gone(self, share: Expr, batch: Expr = B) -> Expr:
        """Probability that a whole batch is gone where each token is with ``share``."""
        return share if self.together or share in (ZERO, ONE) else share**batch


def two_exits(layers: Expr, exit: Expr, p: Expr) -> Exits:
    """One early exit after layer ``exit``, taken with probability ``p`` (FREE)."""
    return Exits(layers, ((exit, p),))


def geometric(layers: int, p: Expr, first: int = 1, every: int = 1) -> Exits:
    """Every exit on the way is taken with the same probability ``p``."""
    points = range(first, layers, every)
    gone = ((Integer(point), 1 - (1 - p) ** (k + 1)) for k, point in enumerate(points))
    return Exits(Integer(layers), tuple(gone))


def uniform(layers: int, first: int = 1, every: int = 1) -> Exits:
    """All exits, the end included, are equally likely."""
    points = range(first, layers, every)
    gone = ((Integer(point), Integer(k + 1) / (len(points) + 1)) for k, point in enumerate(points))
    return Exits(Integer(layers), tuple(gone))


def schedule(layers: int, least: int, most: int) -> Exits:
    """Depth falls evenly from ``most`` to ``least`` over the positions (SkipDecode).

    All sequences of a batch stand at the same position and leave together.
    """
    steps = most - least + 1
    points = range(least, min(most + 1, layers))
    gone = ((Integer(n), Integer(n - least + 1) / steps) for n in points)
    return Exits(Integer(layers), tuple(gone), together=True)


def beta(layers: int, a: int, b: int, first: int = 1, every: int = 1) -> Exits:
    """Depth over ``layers`` follows Beta(a, b), rounded up to the next exit.

    With whole parameters ``F(x) = Σ_{j=a}^{a+b−1} C(a+b−1, j) x^j (1−x)^{a+b−1−j}``.
    """
    n = a + b - 1

    def below(x: Expr) -> Expr:
        return Add(*(binomial(n, j) * x**j * (1 - x) ** (n - j) for j in range(a, n + 1)))

    points = range(first, layers, every)
    return Exits(Integer(layers), tuple((Integer(m), below(Integer(m) / layers)) for m in points))


def two_exit_depth(layers: Expr, exit: Expr, p: Expr) -> Expr:
    """Expected depth with one early exit: ``p·e + (1 − p)·L``."""
    return p * exit + (1 - p) * layers


def geometric_depth(layers: Expr, p: Expr) -> Expr:
    """Expected depth with an exit after every layer: ``(1 − (1 − p)^L) / p``."""
    return (1 - (1 - p) ** layers) / p


def uniform_depth(layers: Expr) -> Expr:
    """Expected depth with all depths equally likely: ``(L + 1) / 2``."""
    return (layers + 1) / 2


def schedule_depth(least: Expr, most: Expr) -> Expr:
    """Mean depth of a linear schedule: ``(least + most) / 2``."""
    return (least + most) / 2


# --- the pass -----------------------------------------------------------------


@dataclass(frozen=True)
class EarlyExit(Pass):
    """Decode steps run only the layers that tokens reach, in expectation.

    The layers are cut at the exits. Past a share ``F`` of exits, layers work for
    ``1 − F`` of the tokens and read their weights unless the whole batch is gone,
    ``1 − F^B``. All layers stay in memory. The prefill is left as it is.
    """

    name: ClassVar[str] = "early-exit"
    title: ClassVar[str] = "stop each token at the layer where it is decided"
    formula: ClassVar[str] = (
        "layers per token = sum over l < L of (1 - F(l)), read per batch: 1 - F(l)^B; "
        "a skipped layer still costs its key and value projections, 2·d·dk weights"
    )
    source: ClassVar[str] = (
        "CALM, arXiv 2207.07061; FREE, arXiv 2310.05424; SkipDecode, arXiv 2307.02628; "
        "EE-LLM, arXiv 2312.04916"
    )

    distribution: str = option(
        "word", "two-exit", "where tokens leave",
        choices=("two-exit", "geometric", "uniform", "schedule", "beta"),
    )  # fmt: skip
    exit: Expr = option("number", ZERO, "layer of the early exit; 0 means half", minimum=0)
    p: Expr = option("probability", ONE / 2, "probability that an exit is taken")
    first: Expr = option("integer", ONE, "first layer with an exit behind it", minimum=1)
    every: Expr = option("integer", ONE, "layers from one exit to the next", minimum=1)
    min: Expr = option("integer", ONE, "least depth of a schedule", minimum=1)
    max: Expr = option("integer", ZERO, "greatest depth of a schedule; 0 means all", minimum=0)
    a: Expr = option("integer", TWO, "first parameter of beta", minimum=1)
    b: Expr = option("integer", TWO, "second parameter of beta", minimum=1)
    batch: str = option(
        "word", "compact", "tokens that leave make room, or wait until all have left",
        choices=("compact", "all"),
    )  # fmt: skip
    confidence: str = option(
        "word", NONE, "what is computed at an exit to decide", choices=(NONE, *MEASURES)
    )
    propagate: str = option(
        "word", "project",
        "keys and values of skipped layers: projected from the exit state, recomputed with the "
        "next token that goes deeper, or left out",
        choices=("project", "recompute", NONE),
    )  # fmt: skip

    def run(self, program: Program, machine: Machine) -> Outcome:
        stepping = [p for p in program.phases if p.span is not None]
        if any(p.tokens != 1 or p.weight != 1 or p.query != 1 for p in stepping):
            raise PipelineError("early-exit: the program already emits several tokens per step")
        if self.distribution == "schedule" and self.confidence != NONE:
            raise PipelineError("early-exit: a schedule decides by position, without confidence")
        done: dict[int, tuple[Graph, tuple[str, ...]]] = {}
        misses: list[Miss] = []

        def new(phase: Phase) -> Phase:
            if phase.span is None:
                return phase
            key = id(phase.graph)
            if key not in done:
                made = self._rewritten(phase.graph)
                if isinstance(made, Miss):
                    misses.append(made)
                    made = phase.graph, ()
                done[key] = made
            return replace(phase, graph=done[key][0])

        phases = tuple(new(p) for p in program.phases)
        hits = tuple(dict.fromkeys(hit for _, found in done.values() for hit in found))
        if not hits:
            return Outcome(program, (), tuple(misses))
        limits = tuple(
            Limit(given, bound, f"early-exit: {why}")
            for given, bound, why in self._bounds(stepping[0].graph)
            if given.free_symbols and not bound.free_symbols
        )
        kept = tuple(dict.fromkeys((*program.limits, *limits)))
        made = replace(program, phases=phases, limits=kept)
        return Outcome(made.assuming(*self._assumptions()), hits, tuple(misses))

    def exits(self, layers: Expr) -> Exits:
        """The distribution of depths over ``layers`` layers.

        Raises:
            PipelineError: options contradict one another or the model.
        """
        if self.distribution == "two-exit":
            exit = self.exit if self.exit != 0 else layers / 2
            if exit.is_number and not exit.is_Integer:
                raise PipelineError(f"early-exit: exit must be a whole layer, not {exit}")
            if (layers - exit).is_negative:
                raise PipelineError(f"early-exit: exit {exit} is past the {layers} layers")
            return two_exits(layers, exit, self.p) if exit != layers else Exits(layers)
        if not layers.is_Integer:
            raise PipelineError(f"early-exit: {self.distribution} needs a number of layers")
        count = int(layers)
        first, every = _whole("first", self.first), _whole("every", self.every)
        if self.distribution == "geometric":
            return geometric(count, self.p, first, every)
        if self.distribution == "uniform":
            return uniform(count, first, every)
        if self.distribution == "beta":
            return beta(count, _whole("a", self.a), _whole("b", self.b), first, every)
        least, most = _whole("min", self.min), _whole("max", self.max) or count
        if not least <= most <= count:
            raise PipelineError(
                f"early-exit: depths from {least} to {most} do not fit {count} layers"
            )
        return schedule(count, least, most)

    def _bounds(self, graph: Graph) -> Iterable[tuple[Expr, Expr, str]]:
        layers = Add(*(n.op.count for n in graph.nodes if isinstance(n.op, Repeat)))
        if self.distribution in ("two-exit", "geometric"):
            yield self.p, ONE, "a probability is at most one"
        if self.distribution == "two-exit":
            yield self.exit, layers, "the exit lies within the layers"

    def _assumptions(self) -> Iterable[str]:
        if self.distribution == "schedule":
            yield "depth falls evenly over the generated positions, whatever the context"
        else:
            yield "tokens exit independently of one another and of the context"
        yield (
            "shares of early exit are expected values inside the maxima: times are lower "
            "bounds of the expected time"
        )
        if self.propagate == "project":
            yield "skipped layers project keys and values of the exit state in kernels of their own"
        elif self.propagate == "recompute":
            yield (
                "skipped layers are computed together with the next token that goes deeper and "
                "read weights and caches once for all"
            )
        else:
            yield "skipped layers leave no keys and values behind"

    def traffic(self, exits: Exits, gone: Expr) -> Traffic:
        """Share of a layer's cost that is left after a share ``gone`` has exited."""
        reached = 1 - exits.all_gone(gone)
        stay = reached if self.batch == "all" else 1 - gone
        if self.propagate == "recompute":
            return Traffic(ONE, reached, ONE, stay)
        return Traffic(stay, reached, stay, stay)

    def skipped(self, exits: Exits, gone: Expr) -> Traffic | None:
        """Share of the key and value projections that skipped layers cost, if any."""
        left = exits.all_gone(gone) if self.batch == "all" else gone
        if self.propagate == NONE or left == 0:
            return None
        if self.propagate == "recompute":  # the products are counted with the layers
            return Traffic(ZERO, ZERO, ZERO, left)
        touched = left if self.batch == "all" else 1 - exits.all_gone(1 - gone)
        return Traffic(left, touched, left, left)

    def _rewritten(self, graph: Graph) -> tuple[Graph, tuple[str, ...]] | Miss:
        regions = [(n, n.op) for n in graph.nodes if isinstance(n.op, Repeat)]
        if not regions:
            return Miss(self.name, graph.name, "there are no repeated layers")
        exits = self.exits(Add(*(op.count for _, op in regions)))
        if all(gone == 0 for _, gone in exits.gone) and (self.confidence == NONE or not exits.gone):
            return Miss(self.name, regions[0][0].name, "no token ever exits")
        for node, op in regions:
            if op.shared_instances is not None or op.carried != len(node.outputs):
                return Miss(self.name, node.name, "its rounds share weights or keep results")
            if not op.traffic.is_full:
                raise PipelineError(f"early-exit: {node.name!r} already runs in part only")
        return _Cutter(self, exits, graph).cut()


class _Cutter:
    """Cuts the regions of one graph at the exits."""

    def __init__(self, made_by: EarlyExit, exits: Exits, graph: Graph) -> None:
        self.made_by, self.exits, self.graph = made_by, exits, graph
        self.names = set(graph.tensors) | {n.name for n in graph.nodes}
        self.tensors: dict[str, Tensor] = dict(graph.tensors)
        self.sources = list(graph.sources)
        self.nodes: list[Node] = []
        self.hits: list[str] = []

    def cut(self) -> tuple[Graph, tuple[str, ...]]:
        """The graph with its regions cut, and the names of what was added."""
        regions = sum(isinstance(n.op, Repeat) for n in self.graph.nodes)
        offset: Expr = ZERO
        for node in self.graph.nodes:
            if not isinstance(node.op, Repeat):
                self.nodes.append(node)
                continue
            end = offset + node.op.count
            segments = [
                (max(a, offset, key=int), min(a + n, end, key=int), gone)
                for a, n, gone in self.exits.segments
                if regions > 1 and _numbers(a, n, offset, end) and a < end and a + n > offset
            ] or [(a, a + n, gone) for a, n, gone in self.exits.segments]
            if regions > 1 and not _numbers(*(e for a, b, _ in segments for e in (a, b))):
                raise InputError("symbolic layers need a model whose layers are all alike")
            self._region(node, node.op, segments)
            offset = end
        made = replace(self.graph, sources=tuple(self.sources), nodes=tuple(self.nodes))
        return made, tuple(self.hits)

    def _region(self, node: Node, region: Repeat, segments: list[tuple[Expr, Expr, Expr]]) -> None:
        made_by, points = self.made_by, {layer for layer, _ in self.exits.gone}
        origin = self._origin(node)
        state = node.inputs
        for index, (start, end, gone) in enumerate(segments):
            final = index == len(segments) - 1
            traffic = made_by.traffic(self.exits, gone)
            name = node.name if len(segments) == 1 else self._fresh(f"{node.name}_{index}")
            outputs = tuple(
                t if final else replace(t, name=self._fresh(f"{t.name}_{index}_out"))
                for t in node.outputs
            )
            self.tensors.update((t.name, t) for t in outputs)
            op = replace(region, count=end - start, traffic=traffic)
            self.nodes.append(Node(name, op, state, outputs, origin))
            self.hits.append(name)
            self._propagation(node, op, state, gone, name)
            before = state[0]
            state = (*(t.name for t in outputs), *node.inputs[region.carried :])
            if made_by.confidence != NONE and end in points:
                self._head(node, end, state[0], before, gone)

    def _propagation(
        self, node: Node, region: Repeat, state: tuple[str, ...], gone: Expr, name: str
    ) -> None:
        traffic = self.made_by.skipped(self.exits, gone)
        body = projections(region.body)
        if traffic is None or body is None:
            return
        # The layers hold the weights and caches; this region holds none of its own.
        op = Repeat(body, region.count, 0, traffic, ZERO)
        self.nodes.append(Node(self._fresh(f"{name}_kv"), op, state, (), self._origin(node)))

    def _head(self, node: Node, layer: Expr, hidden: str, before: str, gone: Expr) -> None:
        """A confidence head behind ``layer``, for the tokens that reached it."""
        op = ConfidenceHead(self.made_by.confidence)
        other = self.tensors[before] if op.measure == "cosine" else self._weight(hidden)
        x = self.tensors[hidden]
        name = self._fresh(f"exit_{layer}")
        traffic = replace(self.made_by.traffic(self.exits, gone))
        if self.made_by.propagate == "recompute":  # nobody asks again about tokens that left
            traffic = replace(self.made_by, propagate=NONE).traffic(self.exits, gone)
        result = op.infer((x, other))[0].named(f"{name}_score")
        inner = Node(name, op, (x.name, other.name), (result,), self._origin(node))
        body = Graph("exit", (x, other), (inner,), ())
        operands = (x.name, other.name) if other.role is Role.ACTIVATION else (x.name,)
        region = Repeat(body, ONE, 0, traffic, ZERO)
        self.nodes.append(
            Node(self._fresh(f"{name}_head"), region, operands, (), self._origin(node))
        )
        self.hits.append(name)

    def _weight(self, hidden: str) -> Tensor:
        """What confidence is measured with: the output projection, or a classifier."""
        x = self.tensors[hidden]
        if self.made_by.confidence == "softmax":
            return output_weight(self.graph, x.shape[-1])
        found = Tensor("exit_classifier.weight", (ONE, x.shape[-1]), x.dtype, Role.WEIGHT)
        return found

    def _origin(self, node: Node) -> Origin:
        return Origin(node.origin.nodes or (node.name,), self.made_by.name)

    def _fresh(self, name: str) -> str:
        made, index = name, 2
        while made in self.names:
            made, index = f"{name}_{index}", index + 1
        self.names.add(made)
        return made


def projections(layer: Graph) -> Graph | None:
    """The part of a layer that fills its caches; None if it has none.

    Everything that the cache appends need, applied to the layer's input. Fused
    kernels are opened, and of packed projections only the used rows are left.
    """
    nodes: list[Node] = []
    for node in layer.nodes:
        nodes.extend(node.op.body.nodes if isinstance(node.op, Fused) else (node,))
    needed: set[str] = set()
    kept: list[Node] = []
    for node in reversed(nodes):
        if any(t.role is Role.KV or t.name in needed for t in node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    if not kept:
        return None
    used = tuple(reversed(kept))
    sources = {t.name: t for t in layer.sources if t.name in needed or t.role is Role.ACTIVATION}
    unpacked = _unpacked(used, needed, sources)
    return Graph(f"{layer.name}-kv", tuple(sources.values()), unpacked, ())


def _unpacked(
    nodes: tuple[Node, ...], needed: set[str], sources: dict[str, Tensor]
) -> tuple[Node, ...]:
    """``nodes`` with packed products cut to the parts that are used."""
    made = {n.name: n for n in nodes}
    producer = {t.name: n for n in nodes for t in n.outputs}
    for node in nodes:
        packed = producer.get(node.inputs[0])
        if not isinstance(node.op, Split) or packed is None or packed.op.kind != "linear":
            continue
        chosen = [i for i, t in enumerate(node.outputs) if t.name in needed]
        if len(chosen) == len(node.outputs) or len(packed.outputs[0].shape) != 3:
            continue
        parts = tuple(node.op.parts[i] for i in chosen)
        rows = Add(*(_size(part) for part in parts))
        for name in packed.inputs[1:]:
            sources[name] = replace(sources[name], shape=(rows, *sources[name].shape[1:]))
        out = packed.outputs[0]
        made[packed.name] = replace(packed, outputs=(replace(out, shape=(*out.shape[:-1], rows)),))
        outputs = tuple(node.outputs[i] for i in chosen)
        made[node.name] = replace(node, op=Split(parts), outputs=outputs)
    return tuple(made[n.name] for n in nodes)


def _size(shape: tuple[Expr, ...]) -> Expr:
    size: Expr = ONE
    for side in shape:
        size = size * side
    return size


def output_weight(graph: Graph, width: Expr) -> Tensor:
    """The matrix of the output projection, found from the end of the graph.

    Raises:
        PipelineError: no matrix there takes states of the given width.
    """
    for node in reversed(graph.nodes):
        if isinstance(node.op, Repeat):
            break
        for tensor in graph.operands(node):
            matrix = tensor.role is Role.WEIGHT and len(tensor.shape) == 2
            if matrix and same(tensor.shape[1], width):
                return tensor
    raise PipelineError("early-exit: no output projection of the layers' width for confidence")


def _numbers(*values: Expr) -> bool:
    return all(bool(v.is_Integer) for v in values)


def _whole(name: str, value: Expr) -> int:
    if not value.is_Integer:
        raise PipelineError(f"early-exit: {name} must be a whole number here, not {value}")
    return int(value)


#: Closed forms of the expected depth, by distribution.
CLOSED_FORMS: Mapping[str, object] = {
    "two-exit": two_exit_depth,
    "geometric": geometric_depth,
    "uniform": uniform_depth,
    "schedule": schedule_depth,
}
