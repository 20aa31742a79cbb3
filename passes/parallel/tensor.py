"""Tensor parallelism: the program of one device of a group, found from the graph.

A product with a whole operand keeps its columns, and what follows goes on with its part,
until a product sums over it: its result is a partial sum on every device, added up by an
all-reduce where it is needed whole (Shoeybi et al., arXiv 1909.08053). A split that some
operation on the way does not take ends at once, its result gathered, or, where that is more
than its weights would be, is taken back: they stay whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from sympy import Add, Expr, Integer

from costgraph.errors import PipelineError
from costgraph.hardware.links import Hop
from costgraph.ir.dtypes import INT32, INT64
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.op import Op, same
from costgraph.ir.regions import Region
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.adapters import AdapterLinear
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
from costgraph.ops.compress import Compress
from costgraph.ops.conv import Conv
from costgraph.ops.experts import ExpertLinear
from costgraph.ops.fused import Fused
from costgraph.ops.linear import Linear
from costgraph.ops.pool import ConvTranspose
from costgraph.ops.quant import QuantizeTo, plain, stored_as
from costgraph.ops.views import Slice
from costgraph.passes.parallel.ahead import Ahead, growth
from costgraph.passes.parallel.experts import Share, Spread, UnevenExpertsError
from costgraph.passes.parallel.places import ANY, WHOLE, BlockedError, Place, UnevenError
from costgraph.passes.parallel.rules import rule_of
from costgraph.passes.parallel.site import Ruled, Site
from costgraph.rewriting.pipeline import Miss
from costgraph.symbols import B, q

ONE = Integer(1)
CONVOLUTIONS: tuple[type[Op], ...] = (Conv, ConvTranspose)


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
    if group.degree == 1:  # tensors stay whole; experts or positions may be shared
        try:
            return _Walk(group).graph(opened, ""), ()
        except BlockedError as error:
            raise PipelineError(
                f"positions of {graph.name} cannot lie on several devices: {error}"
            ) from None
    stays, ends = _feasible(opened, group)
    walk = _Walk(group, frozenset(stays), frozenset(ends))
    try:
        made = walk.graph(opened, "")
    except UnevenExpertsError:  # which says itself what divides them
        raise
    except UnevenError as error:
        raise UnevenError(f"{error}{_nearest(opened, group, stays, ends)}") from None
    if not walk.split and group.spread is None:
        why = next(iter(stays.values()), "no product is left to split")
        raise PipelineError(f"{graph.name} has nothing to split over devices: {why}")
    _check_convolutions(opened, walk)
    _check_handed_on(made)
    whole = (Miss("split", n, stays.get(n, _kept(op))) for n, op in walk.kept.items())
    return made, (*whole, *(Miss("split", n, why) for n, why in walk.copied.items()))


def _more(held: int, size: int, devices: Expr) -> str:
    """Why all devices together hold more rows of a matrix than it has."""
    if held - size < devices:
        return f"filled up to {held:,} rows, so that all devices have equally many"
    return f"{held:,} rows instead of {size:,}: fewer heads than devices, so some hold the same"


def _kept(op: Op) -> str:
    if isinstance(op, CONVOLUTIONS):
        return "convolutions are not split: their channels stay on every device"
    if isinstance(op, AdapterLinear):
        return "the rank of an adapter is not split"
    if isinstance(op, Compress):
        return "its matrices are the same for all heads"
    return "not between products that are split"


def _check_convolutions(graph: Graph, walk: _Walk) -> None:
    """Refuses a model of which convolutions hold most weights.

    Raises:
        PipelineError: the share that they hold.
    """
    held = {name for name, op in walk.kept.items() if isinstance(op, CONVOLUTIONS)}
    total = Add(*(count * t.bytes for t, count in graph.weights()))
    kept = _matrices(graph, held)
    if total.is_number and kept > total / 2:
        raise PipelineError(
            f"convolutions hold {float(kept / total):.0%} of the weights of {graph.name}, and "
            "tensor parallelism does not split their channels: share the batch (dp) instead"
        )


def _part_of(whole: Tensor, local: Tensor) -> Place:
    """Where a device's part of a tensor lies in it."""
    pairs = enumerate(zip(whole.shape, local.shape, strict=True))
    axes = [axis for axis, (a, b) in pairs if not same(a, b)]
    return Place(axes[0], local.shape[axes[0]]) if axes else WHOLE


def _check_handed_on(graph: Graph) -> None:
    """Refuses layers that read caches of other layers which are split in another way.

    Raises:
        PipelineError: which layers read what.
    """
    for inner, node in ((g, n) for g in graph.walk() for n in g.nodes):
        if not isinstance(node.op, Region):
            continue
        operands = inner.operands(node)
        for body, seen in zip(node.op.graphs, node.op.given(operands), strict=True):
            for given, wanted in zip(seen, body.inputs, strict=True):
                if given.shape != wanted.shape:
                    raise PipelineError(
                        f"{graph.name}: {node.name!r} reads {wanted.name!r} of other layers, whose "
                        "caches tensor parallelism (tp) does not split: share the batch (dp) "
                        "instead"
                    )


def _matrices(graph: Graph, names: set[str], path: str = "", times: Expr = ONE) -> Expr:
    """Bytes of the weights of named operations, regions with their counts."""
    found = []
    for node in graph.nodes:
        if isinstance(node.op, Region):
            for inner in node.op.graphs:
                sets = times * node.op.weight_sets
                found.append(_matrices(inner, names, f"{path}{node.name}/", sets))
        elif f"{path}{node.name}" in names:
            weights = (t for t in graph.operands(node) if t.role is Role.WEIGHT)
            found.extend(times * t.bytes for t in weights)
    return Add(*found)


def _feasible(graph: Graph, group: Group) -> tuple[dict[str, str], set[str]]:
    """Products whose weights stay whole, and why, and those whose result is gathered at once.

    Found with a degree that divides everything.
    """
    trial = replace(group, degree=ANY, hops=tuple(replace(h, ranks=ANY) for h in group.hops[:1]))
    stays: dict[str, str] = {}
    ends: set[str] = set()
    while True:
        walk = _Walk(trial, frozenset(stays), frozenset(ends))
        try:
            walk.graph(graph, "")
            return stays, ends
        except BlockedError as error:
            fresh = error.roots - set(stays)
            if not fresh:
                raise PipelineError(f"{graph.name} cannot be split: {error}") from None
            for root in fresh:
                if root in walk.widening - ends:
                    ends.add(root)
                else:
                    stays[root] = str(error)


def _nearest(graph: Graph, group: Group, stays: dict[str, str], ends: set[str]) -> str:
    """The next degrees below and above that split the graph, in words."""
    if not group.degree.is_Integer:
        return ""
    degree, found = int(group.degree), []
    for others in (range(degree - 1, 1, -1), range(degree + 1, 4 * degree + 1)):
        for other in others:
            hops = tuple(replace(h, ranks=Integer(other)) for h in group.hops[:1])
            trial = replace(group, degree=Integer(other), hops=hops)
            try:
                _Walk(trial, frozenset(stays), frozenset(ends)).graph(graph, "")
            except UnevenError:
                continue
            found.append(str(other))
            break
    if not found:
        return f"; no degree up to {4 * degree} divides all of {graph.name}"
    return f"; the nearest that divide all of {graph.name}: {' and '.join(found)}"


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
    stays: frozenset[str] = frozenset()
    ends: frozenset[str] = frozenset()
    split: set[str] = field(default_factory=set)
    #: Operations whose matrices stay whole on every device.
    kept: dict[str, Op] = field(default_factory=dict)
    #: Operations whose matrices take more than one in all, and why.
    copied: dict[str, str] = field(default_factory=dict)
    #: Products that make at least as many elements as they take: their weights are not small.
    widening: set[str] = field(default_factory=set)

    def graph(self, graph: Graph, path: str, given: Mapping[str, Place] | None = None) -> Graph:
        """The graph of one device; operands in the places given, results likewise whole."""
        return _Level(self, graph, path, dict(given or {})).made()

    def note(self, name: str, node: Node, operands: tuple[Tensor, ...], ruled: Ruled) -> None:
        """What becomes of an operation's matrices."""
        places = zip(operands, ruled.wanted, strict=True)
        matrices = [(t, p) for t, p in places if t.role is Role.WEIGHT and len(t.shape) > 1]
        if any(place.axis is not None for _, place in matrices):
            self.split.add(name)
        elif matrices:
            self.kept[name] = node.op
        for tensor, place in matrices:
            if place.axis is not None and place.length is not None:
                held, size = place.length * self.group.degree, tensor.shape[place.axis]
                if held.is_Integer and size.is_Integer and held != size:
                    self.copied[name] = _more(int(held), int(size), self.group.degree)
        op = plain(node.op)
        if isinstance(op, Linear) and growth(operands[0], node.outputs[0], op) >= 1:
            self.widening.add(name)


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

    @cached_property
    def ahead(self) -> Ahead:
        return Ahead(self.whole, not self.path)

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
        """Where an input, or what regions hand on, lies: positions in parts if they are split."""
        c = self.group.context
        if c == 1 or self.group.decoding or q not in tensor.shape:
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
            self.ahead,
            self._producer(node),
            self.group.spread,
            self._tokens(operands[0]) if operands else WHOLE,
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
            op = stored_as(op, SharedNorm(plain(op)))
        self.walk.note(qualified, node, operands, ruled)
        (first, *_), (place, *_) = node.outputs, ruled.results
        if qualified in self.walk.ends and place.axis is not None and not place.tokens:
            # What follows needs all of it: gathered here.
            part = f"{first.name}_part"
            self._add(part, op, inputs, (part,), node.origin)
            self.places[part] = place
            gather = AllGather(self.group.hops, place.axis, first.shape[place.axis])
            self._add(first.name, gather, (part,), (first.name,), node.origin)
            self.places[first.name] = WHOLE
            return
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
        for tensor in node.outputs:
            # What layers keep for others lies where they keep it.
            kept = tensor.role is not Role.ACTIVATION
            local = self.local[tensor.name]
            place = _part_of(tensor, local) if kept else self._between(tensor.name)
            self.places[tensor.name] = place

    def _producer(self, node: Node) -> Op | None:
        """What makes the first operand of a node, in whatever format it is stored for it."""
        maker = self.whole.producer.get(node.inputs[0]) if node.inputs else None
        if maker is not None and isinstance(maker.op, QuantizeTo):
            return self._producer(maker)
        return None if maker is None else plain(maker.op)

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

    def _travelling(self, tensor: Tensor) -> tuple[Expr, ...]:
        """Bytes of rows that a device sends on each level, for tokens of its own and handed on."""
        spread, experts = self.group.spread, self.experts
        assert spread is not None
        assert experts is not None
        tokens = tensor.shape[0] * tensor.shape[1] / self.group.degree
        row = tensor.shape[-1] * tensor.dtype.bytes_per_element
        return tuple(tokens * sends * row for sends in experts.sends)

    @cached_property
    def experts(self) -> Share | None:
        """How the experts of this level are shared among devices, if it has any."""
        spread = self.group.spread
        for node in self.whole.nodes:
            if spread is not None and isinstance(node.op, ExpertLinear):
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
        origin = Origin(made_by=self.group.made_by)
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


def _lies(place: Place) -> tuple[int | None, Expr | None, bool, bool]:
    return place.axis, place.length, place.partial, place.away


__all__ = ["Group", "ReduceScatter", "shard", "unfused"]
