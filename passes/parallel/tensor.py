"""Tensor parallelism: the program of one device of a group, found from the graph.

A product with a whole operand keeps its columns, and what follows goes on with its part,
until a product sums over it: its result is a partial sum on every device, added up by an
all-reduce where it is needed whole (Shoeybi et al., arXiv 1909.08053). A split that some
operation on the way does not take is taken back: those weights stay whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from sympy import Expr, Integer, Mul

from costgraph.dtypes import INT32, INT64
from costgraph.errors import PipelineError
from costgraph.graph import Graph, Node, Origin
from costgraph.links import Hop
from costgraph.ops.attention import KVAppend
from costgraph.ops.base import Op
from costgraph.ops.collectives import (
    AllGather,
    AllReduce,
    AllToAll,
    MergeAttention,
    Received,
    ReduceScatter,
    RowStatistics,
    SharedNorm,
)
from costgraph.ops.experts import ExpertLinear
from costgraph.ops.fused import Fused
from costgraph.ops.tokens import Sample, Split
from costgraph.ops.views import Slice
from costgraph.passes.parallel.experts import Share, Spread
from costgraph.passes.parallel.places import ANY, WHOLE, BlockedError, Place
from costgraph.passes.parallel.rules import Piece, Ruled, Site, rule_of, shares_heads
from costgraph.pipeline import Miss
from costgraph.regions import Region
from costgraph.symbols import B, q
from costgraph.tensor import Role, Tensor

ONE = Integer(1)


@dataclass(frozen=True)
class Group:
    """Devices that share the tensors of a program.

    Attributes:
        degree: how many they are.
        hops: the levels that they span.
        sequence: between products, each device has a part of the tokens.
        spread: whole experts over devices, or None: their width is split like any other.
        context: devices among which positions are split, in a walk of its own.
        decoding: the step has few queries: the positions of caches are split, not its own.
        made_by: the pass, for the origin of what it adds.
    """

    degree: Expr
    hops: tuple[Hop, ...]
    sequence: bool = False
    spread: Spread | None = None
    context: Expr = ONE
    decoding: bool = False
    made_by: str = "parallel"

    @property
    def splits(self) -> bool:
        """Whether anything lies on several of its devices."""
        return self.degree != 1 or self.spread is not None or self.context != 1


def shard(graph: Graph, group: Group) -> tuple[Graph, tuple[Miss, ...]]:
    """The graph that one device of the group runs, and which weights stay whole, and why.

    Raises:
        PipelineError: nothing of the graph can be split.
        UnevenError: heads or widths do not divide by the degree.
    """
    opened = unfused(graph)
    reasons: dict[str, str] = {}
    if group.degree == 1:  # tensors stay whole; experts may be shared
        return _Walk(group, frozenset()).graph(opened, ""), ()
    trial = replace(group, degree=ANY, hops=tuple(replace(h, ranks=ANY) for h in group.hops[:1]))
    while True:
        try:
            _Walk(trial, frozenset(reasons)).graph(opened, "")
            break
        except BlockedError as error:
            fresh = error.roots - set(reasons)
            if not fresh:
                raise PipelineError(f"{graph.name} cannot be split: {error}") from None
            reasons.update(dict.fromkeys(fresh, str(error)))
    walk = _Walk(group, frozenset(reasons))
    made = walk.graph(opened, "")
    if not walk.split and group.spread is None:
        why = next(iter(reasons.values()), "no product is left to split")
        raise PipelineError(f"{graph.name} has nothing to split over devices: {why}")
    return made, tuple(Miss("split", name, why) for name, why in reasons.items())


def unfused(graph: Graph) -> Graph:
    """The graph with the bodies of fused kernels in their place."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node.op, Fused):
            nodes.extend(node.op.body.nodes)
        elif isinstance(node.op, Region):
            inner = [unfused(g) for g in node.op.graphs]
            nodes.append(replace(node, op=node.op.with_graphs(inner)))
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


@dataclass
class _Walk:
    """One walk over a graph and its regions."""

    group: Group
    stays: frozenset[str]
    split: set[str] = field(default_factory=set)

    def graph(self, graph: Graph, path: str, given: Mapping[str, Place] | None = None) -> Graph:
        """The graph of one device; operands in the places given, results likewise whole."""
        return _Level(self, graph, path, dict(given or {})).made()


@dataclass
class _Level:
    """A graph that is being split: what lies where, and the nodes made so far."""

    walk: _Walk
    whole: Graph
    path: str
    given: dict[str, Place]
    local: dict[str, Tensor] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    known: dict[tuple[str, Place], str] = field(default_factory=dict)

    @property
    def group(self) -> Group:
        return self.walk.group

    def made(self) -> Graph:
        for tensor in self.whole.inputs:
            place = self.given.get(tensor.name, self._at_start(tensor))
            self.local[tensor.name] = self._part(tensor, place)
            self.places[tensor.name] = place
        for node in self.whole.nodes:
            if isinstance(node.op, Region):
                self._region(node, node.op)
            else:
                self._operation(node)
        outputs = tuple(self.put(o, self._between(o), not self.path) for o in self.whole.outputs)
        sources = tuple(self.local.get(t.name, t) for t in self.whole.sources)
        return Graph(self.whole.name, sources, tuple(self.nodes), outputs)

    def _at_start(self, tensor: Tensor) -> Place:
        """Where an input lies: the step's positions in parts, where they are split."""
        c = self.group.context
        if self.path or c == 1 or self.group.decoding or q not in tensor.shape:
            return WHOLE
        axis = tensor.shape.index(q)
        return Place(axis, tensor.shape[axis] / c)

    def _between(self, name: str) -> Place:
        """Where a tensor lies between regions: hidden states as the group keeps them."""
        tensor = self.whole.tensors[name]
        if tensor.role is not Role.ACTIVATION:
            return self.places.get(name, WHOLE)
        if self.group.context != 1:
            return self.places.get(name, self._at_start(tensor))
        hidden = len(tensor.shape) == 3 and tensor.shape[0] == B
        inside = self.path or name not in self.whole.outputs
        return self._tokens(tensor) if self.group.sequence and hidden and inside else WHOLE

    # --- nodes -----------------------------------------------------------------

    def _operation(self, node: Node) -> None:
        qualified = f"{self.path}{node.name}"
        operands = self.whole.operands(node)
        site = Site(
            qualified,
            node.op,
            operands,
            node.outputs,
            tuple(self.places.get(name) for name in node.inputs),
            self.group.degree,
            qualified in self.walk.stays,
            self._pieces,
            self._is_shared,
            self._is_logits,
            self._producer(node),
            tuple(user.op for user in self.whole.consumers[node.outputs[0].name]),
            self.group.spread,
            self._tokens(operands[0]),
            self.group.context,
            self.group.decoding,
        )
        ruled = rule_of(node.op)(site)
        inputs = tuple(
            self.put(name, place, index in ruled.gathers)
            for index, (name, place) in enumerate(zip(node.inputs, ruled.wanted, strict=True))
        )
        op = ruled.op
        if ruled.statistics:
            inputs = (*inputs, self._statistics(node.name, inputs[0], ruled))
            op = SharedNorm(op)
        for index, place in enumerate(ruled.wanted):
            tensor = operands[index]
            if tensor.role is Role.WEIGHT and place.axis is not None:
                self.walk.split.add(f"{self.path}{tensor.name}")
        self._add(node.name, op, inputs, tuple(t.name for t in node.outputs), node.origin)
        for tensor, place in zip(node.outputs, ruled.results, strict=True):
            self.places[tensor.name] = place

    def _statistics(self, name: str, x: str, ruled: Ruled) -> str:
        made = self._one(f"{name}_statistics", RowStatistics(ruled.statistics), x)
        return self._one(f"{name}_statistics_sum", AllReduce(self.group.hops), made)

    def _region(self, node: Node, region: Region) -> None:
        inputs = tuple(self.put(name, self._between(name)) for name in node.inputs)
        bodies = []
        for body, takes in zip(region.graphs, region.takes, strict=True):
            given = {
                inner.name: self._between(node.inputs[at])
                for inner, at in zip(body.inputs, takes, strict=True)
            }
            bodies.append(self.walk.graph(body, f"{self.path}{node.name}/", given))
        names = tuple(t.name for t in node.outputs)
        self._add(node.name, region.with_graphs(bodies), inputs, names, node.origin)
        for name in names:
            self.places[name] = self._between(name)

    def _producer(self, node: Node) -> Op | None:
        maker = self.whole.producer.get(node.inputs[0]) if node.inputs else None
        return None if maker is None else maker.op

    def _tokens(self, tensor: Tensor) -> Place:
        """A device's part of the tokens of a tensor whose first axis is the batch."""
        ways = self.group.degree
        if ways == 1:
            return WHOLE
        return Place(0, tensor.shape[0] / ways, tokens=True)

    # --- places ------------------------------------------------------------------

    def put(self, name: str, place: Place, gathers: bool = False) -> str:
        """The name of the tensor in a place, brought there if it lies elsewhere.

        Raises:
            BlockedError: it lies split where it is needed otherwise.
        """
        have = self.places.get(name)
        if have is None:  # a weight, cache or state that nothing has used yet
            source = self.whole.tensors[name]
            self.local[name] = self._part(source, place)
            self.places[name] = replace(place, partial=False)
            return name
        if _lies(have) == _lies(place):
            return name
        if place.away:
            return self._once(name, place, lambda: self._sent(name, place))
        if have.away:
            return self._once(name, place, lambda: self._returned(name, have, place))
        if have.is_whole and place.axis is not None and not self._persistent(name):
            return self._once(name, place, lambda: self._slice(name, place))
        if have.partial and place.tokens:
            return self._once(name, place, lambda: self._scattered(name))
        if have.partial and place.is_whole:
            return self._once(name, place, lambda: self._reduced(name, have))
        if have.partial:
            return self.put(self.put(name, WHOLE), place)
        if have.axis is not None and place.is_whole and (gathers or have.tokens):
            return self._once(name, place, lambda: self._gathered(name, have))
        # Of two ways to split a weight, the first one stays.
        later = place.roots if self._persistent(name) else frozenset[str]()
        raise BlockedError(f"{name!r} is needed in two ways", later or have.roots | place.roots)

    def _persistent(self, name: str) -> bool:
        return name not in self.whole.producer and self.local[name].role is not Role.ACTIVATION

    def _once(self, name: str, place: Place, make: Callable[[], str]) -> str:
        key = (name, replace(place, roots=frozenset()))
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]

    def _slice(self, name: str, place: Place) -> str:
        """A part of a whole tensor: a view, which costs nothing."""
        assert place.axis is not None
        assert place.length is not None
        return self._one(f"{name}_part", Slice(place.axis, length=place.length), name)

    def _sent(self, name: str, place: Place) -> str:
        """Rows of the tokens of all replicas that chose this device's experts.

        Numbers of experts travel with the rows: as they need no exchange of their own, the
        ones received are a view.
        """
        spread, tensor = self.group.spread, self.whole.tensors[name]
        assert spread is not None
        assert place.length is not None
        home = self.put(name, self._tokens(tensor))
        batch, *rest = self.local[home].shape
        received = (batch * spread.ways * spread.replicas, *rest[:1], place.length)
        if tensor.dtype.name in (INT32.name, INT64.name):
            return self._one(f"{name}_received", Received(shape=received), home)
        moved = self._travelling(tensor)
        op = AllToAll(spread.hops, (*received, tensor.shape[-1]), moved)
        return self._one(f"{name}_dispatch", op, home)

    def _returned(self, name: str, have: Place, place: Place) -> str:
        """The rows of a device's own tokens, back from the experts."""
        spread, tensor = self.group.spread, self.whole.tensors[name]
        assert spread is not None
        shape = list(tensor.shape)
        shape[0] = shape[0] / self.group.degree
        op = AllToAll(spread.hops, tuple(shape), self._travelling(tensor))
        return self._one(f"{name}_return", op, name)

    def _travelling(self, tensor: Tensor) -> Expr:
        """Bytes of the rows of a device's tokens that go to other devices, each once."""
        spread, experts = self.group.spread, self.experts
        assert spread is not None
        assert experts is not None
        others = 1 - 1 / spread.ranks
        rows = tensor.shape[0] * tensor.shape[1] / self.group.degree * experts.ranks * others
        return rows * tensor.shape[-1] * tensor.dtype.bytes_per_element

    @cached_property
    def experts(self) -> Share | None:
        """How the experts of this level are shared among devices, if it has any."""
        spread = self.group.spread
        for node in self.whole.nodes if spread is not None else ():
            if isinstance(node.op, ExpertLinear):
                weight, numbers = self.whole.operands(node)[1:3]
                return spread.share(node.op.routing, weight, numbers)
        return None

    def _reduced(self, name: str, have: Place) -> str:
        merge = MergeAttention if have.weighted else AllReduce
        return self._one(f"{name}_sum", merge(self.group.hops), name)

    def _scattered(self, name: str) -> str:
        made = self._one(f"{name}_scattered", ReduceScatter(self.group.hops, 0), name)
        self.places[made] = self._tokens(self.whole.tensors[name])
        return made

    def _gathered(self, name: str, have: Place) -> str:
        assert have.axis is not None
        size = self.whole.tensors[name].shape[have.axis]
        return self._one(f"{name}_all", AllGather(self.group.hops, have.axis, size), name)

    def _part(self, tensor: Tensor, place: Place) -> Tensor:
        if place.axis is None:
            return tensor
        assert place.length is not None
        shape = list(tensor.shape)
        before = shape[place.axis]
        shape[place.axis] = place.length
        stored = tensor.stored
        if stored is not None:
            stored = stored * place.length / before
        return replace(tensor, shape=tuple(shape), stored=stored)

    def _one(self, name: str, op: Op, operand: str) -> str:
        origin = Origin((operand,), self.group.made_by)
        self._add(name, op, (operand,), (name,), origin)
        self.places[name] = WHOLE
        return name

    def _add(
        self,
        name: str,
        op: Op,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        origin: Origin,
    ) -> None:
        specs = op.infer(tuple(self.local[i] for i in inputs))
        made = tuple(s.named(n) for s, n in zip(specs, outputs, strict=True))
        self.local.update((t.name, t) for t in made)
        self.nodes.append(Node(name, op, inputs, made, origin))

    # --- what a flat axis is made of ------------------------------------------------

    def _pieces(self, name: str) -> tuple[Piece, ...]:
        """What the last axis of a tensor, or its last two, are cut into later on."""
        tensor = self.whole.tensors[name]
        for user in self.whole.consumers[name]:
            if isinstance(user.op, Split) and user.inputs[0] == name:
                if tensor.shape[:-1] != user.outputs[0].shape[: len(tensor.shape) - 1]:
                    continue
                found: list[Piece] = []
                for shape, result in zip(user.op.parts, user.outputs, strict=True):
                    if len(shape) == 1:
                        found.extend(self._pieces(result.name))
                    else:
                        width = Mul(*shape[1:])
                        found.append(Piece(shape[0], width, self._is_shared(result.name)))
                return tuple(found)
            if _passes(user, name, tensor):
                return self._pieces(user.outputs[0].name)
        return (Piece(tensor.shape[-1]),)

    def _is_shared(self, name: str) -> bool:
        """Whether several query heads use one head of a tensor, wherever it ends up."""
        tensor = self.whole.tensors[name]
        for user in self.whole.consumers[name]:
            if any(shares_heads(user.op, i) for i, x in enumerate(user.inputs) if x == name):
                return True
            follow = isinstance(user.op, KVAppend) or _passes(user, name, tensor)
            if follow and self._is_shared(user.outputs[0].name):
                return True
        return False

    def _is_logits(self, name: str) -> bool:
        """Whether a tensor is chosen from, or is what the graph makes: no product uses it."""
        if name in self.whole.outputs:
            return not self.path
        users = self.whole.consumers[name]
        return bool(users) and all(
            isinstance(user.op, Sample)
            or (
                _passes(user, name, self.whole.tensors[name])
                and self._is_logits(user.outputs[0].name)
            )
            for user in users
        )


def _passes(user: Node, name: str, tensor: Tensor) -> bool:
    """Whether an operation makes a result of its first operand's shape."""
    return user.inputs[0] == name and user.outputs[0].shape == tensor.shape


def _lies(place: Place) -> tuple[int | None, Expr | None, bool, bool]:
    return place.axis, place.length, place.partial, place.away


__all__ = ["Group", "ReduceScatter", "shard", "unfused"]
