"""The graph: operations in topological order, tensors by name, regions that repeat.

A :class:`Graph` is immutable. Its nodes are kept in an order in which every
tensor is produced before it is used, so walking the tuple is walking the DAG;
:meth:`Graph.to_networkx` gives the same DAG as a ``networkx.DiGraph``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from sympy import Expr, Integer

from costgraph.cost import Access, Cost, Work
from costgraph.errors import MissingRuleError, VerifyError
from costgraph.ops.base import Op, Spec, Tensors
from costgraph.presence import EVERYONE, Presence
from costgraph.tensor import Role, Tensor

if TYPE_CHECKING:
    import networkx

ONE = Integer(1)


@dataclass(frozen=True)
class Origin:
    """Where a node came from: the nodes it replaces, and the pass that made it."""

    nodes: tuple[str, ...] = ()
    made_by: str = "import"


@dataclass(frozen=True)
class Node:
    """One operation in a graph. ``origin`` takes no part in equality."""

    name: str
    op: Op
    inputs: tuple[str, ...]
    outputs: tuple[Tensor, ...]
    origin: Origin = field(default=Origin(), compare=False)

    @property
    def output(self) -> str:
        """Name of the only result."""
        if len(self.outputs) != 1:
            raise VerifyError(f"node {self.name!r} has {len(self.outputs)} results, not one")
        return self.outputs[0].name


@dataclass(frozen=True)
class Graph:
    """A DAG of operations.

    Attributes:
        name: what the graph computes.
        sources: tensors that no node makes: inputs, weights, caches.
        nodes: operations, producers before consumers.
        outputs: names of the results.
    """

    name: str
    sources: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """Every tensor by name."""
        found = {t.name: t for t in self.sources}
        for node in self.nodes:
            for t in node.outputs:
                found[t.name] = t
        return found

    @cached_property
    def producer(self) -> Mapping[str, Node]:
        """The node that makes each tensor (sources have none)."""
        return {t.name: n for n in self.nodes for t in n.outputs}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that use each tensor, in order, each once."""
        found: dict[str, list[Node]] = {name: [] for name in self.tensors}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found[name].append(node)
        return {name: tuple(users) for name, users in found.items()}

    def node(self, name: str) -> Node:
        """The node called ``name``.

        Raises:
            KeyError: there is none.
        """
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> Mapping[str, Node]:
        return {n.name: n for n in self.nodes}

    def operands(self, node: Node) -> tuple[Tensor, ...]:
        """The tensors that ``node`` takes, in operand order."""
        return tuple(self.tensors[name] for name in node.inputs)

    @cached_property
    def inputs(self) -> tuple[Tensor, ...]:
        """Sources handed in on every execution: activations and indices."""
        return tuple(t for t in self.sources if t.role is Role.ACTIVATION)

    @cached_property
    def persistent(self) -> tuple[Tensor, ...]:
        """Sources that stay in memory between executions: weights, caches, states."""
        return tuple(t for t in self.sources if t.role is not Role.ACTIVATION)

    def weights(self) -> Iterator[tuple[Tensor, Expr]]:
        """Weight tensors with their multiplicity, regions included."""
        for tensor in self.sources:
            if tensor.role is Role.WEIGHT:
                yield tensor, ONE
        for node in self.nodes:
            if isinstance(node.op, Repeat):
                for tensor, count in node.op.body.weights():
                    yield tensor, count * node.op.weight_sets

    def with_nodes(self, nodes: Iterable[Node]) -> Graph:
        """The same graph with other nodes; sources no longer used are dropped."""
        kept = tuple(nodes)
        used = {name for n in kept for name in n.inputs} | set(self.outputs)
        sources = tuple(t for t in self.sources if t.name in used or t.role is Role.ACTIVATION)
        return replace(self, nodes=kept, sources=sources)

    def to_networkx(self, nested: bool = False) -> networkx.DiGraph[str]:
        """The DAG as a ``networkx.DiGraph``; see :mod:`costgraph.export.dag`."""
        from costgraph.export.dag import to_networkx

        return to_networkx(self, nested=nested)

    def __repr__(self) -> str:
        return f"<Graph {self.name}: {len(self.nodes)} nodes, {len(self.sources)} sources>"

    def _repr_html_(self) -> str:
        from costgraph.export.table import graph_html

        return graph_html(self)

    def __str__(self) -> str:
        return f"{self.name}: {len(self.nodes)} nodes"


#: What the rounds of a region are: layers of the model, one after another; layers of one
#: kind, gathered from all over the model; no layers.
ROUNDS = ("layers", "gathered", "other")


@dataclass(frozen=True)
class Repeat(Op):
    """``body`` executed ``count`` times in sequence, results fed back as operands.

    The first ``carried`` results of the body become its first ``carried``
    operands in the next round. Weights and caches of the body are one set per
    round: the region holds ``instances`` sets (``count`` unless rounds share).
    ``shared_weights`` says how many sets of weights alone it holds where places
    share weights but not caches: a fraction inside another region. ``presence`` says
    which of a step's tokens take part. ``rounds`` says what the rounds are, one of
    :data:`ROUNDS`, to passes that number layers and cut between them.

    The last ``parts`` operands ``(count, …)`` hold a part ``(…)`` for each round; of the
    last ``gathered`` results those of all rounds are kept, ``(count, …)`` side by side.

    Cost: ``count`` times the expected cost of the body, kept in that form.
    """

    kind: ClassVar[str] = "repeat"
    body: Graph
    count: Expr
    carried: int = 1
    presence: Presence = EVERYONE
    shared_instances: Expr | None = None
    shared_weights: Expr | None = None
    rounds: str = "layers"
    parts: int = 0
    gathered: int = 0

    @property
    def instances(self) -> Expr:
        """How many sets of weights and caches the region holds."""
        return self.count if self.shared_instances is None else self.shared_instances

    @property
    def weight_sets(self) -> Expr:
        """How many sets of weights the region holds."""
        return self.instances if self.shared_weights is None else self.shared_weights

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        results = [self.body.tensors[name] for name in self.body.outputs]
        once = len(results) - self.gathered
        return tuple(
            Spec(t.shape, t.dtype, t.role, t.stored)
            if index < once
            else Spec((self.count, *t.shape), t.dtype, t.role)
            for index, t in enumerate(results)
        )

    def given(self, operands: Tensors) -> tuple[Tensor, ...]:
        """The operands as one round sees them: parts of those that come in parts."""
        whole = len(operands) - self.parts
        return (
            *operands[:whole],
            *(replace(t, shape=t.shape[1:]) for t in operands[whole:]),
        )

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return self.cost(inputs, outputs).flops

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        raise MissingRuleError("a repeated region is counted by its body, not as one access list")

    def cost(self, inputs: Tensors, outputs: Tensors) -> Cost:
        from costgraph.count import exact_cost

        return self.presence.expected(exact_cost(self.body)).scaled(self.count)


class Builder:
    """Builds a graph node by node; shapes are inferred, names are checked."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._sources: dict[str, Tensor] = {}
        self._tensors: dict[str, Tensor] = {}
        self._nodes: dict[str, Node] = {}

    def source(self, tensor: Tensor) -> str:
        """Declares an input, weight or cache; declaring the same again is harmless."""
        known = self._tensors.get(tensor.name)
        if known is None:
            self._sources[tensor.name] = self._tensors[tensor.name] = tensor
        elif known != tensor:
            raise VerifyError(f"two different tensors are called {tensor.name!r}")
        return tensor.name

    def add(self, name: str, op: Op, *inputs: str) -> str:
        """Adds a node and returns the name of its first result."""
        return self.add_many(name, op, *inputs)[0]

    def add_many(self, name: str, op: Op, *inputs: str) -> tuple[str, ...]:
        """Adds a node and returns the names of all its results.

        One result is called ``name``, several ``name.0``, ``name.1`` …
        """
        if name in self._nodes:
            raise VerifyError(f"two nodes are called {name!r}")
        try:
            operands = tuple(self._tensors[i] for i in inputs)
        except KeyError as missing:
            raise VerifyError(f"node {name!r} uses an unknown tensor {missing}") from None
        specs = op.infer(operands)
        names = (name,) if len(specs) == 1 else tuple(f"{name}.{i}" for i in range(len(specs)))
        outputs = tuple(s.named(n) for s, n in zip(specs, names, strict=True))
        node = Node(name, op, tuple(inputs), outputs)
        self._nodes[name] = node
        for tensor in outputs:
            if tensor.name in self._tensors:
                raise VerifyError(f"tensor {tensor.name!r} has two producers")
            self._tensors[tensor.name] = tensor
        return names

    def shape(self, name: str) -> tuple[Expr, ...]:
        """Shape of a tensor made so far."""
        return self._tensors[name].shape

    def tensor(self, name: str) -> Tensor:
        """A tensor made or declared so far."""
        return self._tensors[name]

    def build(self, *outputs: str) -> Graph:
        """The finished graph."""
        return Graph(
            self._name, tuple(self._sources.values()), tuple(self._nodes.values()), outputs
        )


def unrolled(graph: Graph) -> Graph:
    """The graph with every region of concrete count written out, for checking.

    Raises:
        VerifyError: a region's count is not a concrete number.
    """
    from costgraph.ops.views import Reshape, Slice, Stack

    sources = dict.fromkeys(graph.sources)
    nodes: list[Node] = []
    renames: dict[str, str] = {}
    tensors = graph.tensors

    def view(name: str, op: Op, *inputs: Tensor) -> Tensor:
        (spec,) = op.infer(inputs)
        made = spec.named(name)
        nodes.append(Node(name, op, tuple(t.name for t in inputs), (made,)))
        return made

    for node in graph.nodes:
        inputs = tuple(renames.get(i, i) for i in node.inputs)
        if not isinstance(node.op, Repeat):
            nodes.append(replace(node, inputs=inputs))
            continue
        region = node.op
        if not region.count.is_Integer:
            raise VerifyError(f"cannot write out {node.name!r}: its count is {region.count}")
        body = unrolled(region.body)
        state = list(inputs)
        whole = len(inputs) - region.parts
        kept: list[list[Tensor]] = [[] for _ in range(region.gathered)]
        for index in range(int(region.count)):
            prefix = f"{node.name}[{index}]."
            for place in range(whole, len(inputs)):
                stacked = tensors[node.inputs[place]].renamed(inputs[place])
                cut = view(f"{prefix}part_{place}", Slice(0, Integer(index), ONE), stacked)
                one = view(f"{prefix}round_{place}", Reshape(stacked.shape[1:]), cut)
                state[place] = one.name
            local = dict(zip((t.name for t in body.inputs), state, strict=True))

            def rename(name: str, to: str = prefix, at: dict[str, str] = local) -> str:
                return at.get(name, to + name)

            for tensor in body.persistent:
                shared = region.shared_instances == 1
                sources[tensor.renamed(tensor.name if shared else rename(tensor.name))] = None
                if shared:
                    local[tensor.name] = tensor.name
            for inner in body.nodes:
                nodes.append(
                    Node(
                        prefix + inner.name,
                        inner.op,
                        tuple(rename(i) for i in inner.inputs),
                        tuple(t.renamed(rename(t.name)) for t in inner.outputs),
                        inner.origin,
                    )
                )
            results = [rename(name) for name in body.outputs]
            state[: region.carried] = results[: region.carried]
            for found, name in zip(
                kept, body.outputs[len(results) - region.gathered :], strict=True
            ):
                found.append(body.tensors[name].renamed(rename(name)))
        once = len(node.outputs) - region.gathered
        for tensor, name in zip(node.outputs[:once], results[:once], strict=True):
            renames[tensor.name] = name
        for tensor, found in zip(node.outputs[once:], kept, strict=True):
            view(tensor.name, Stack(), *found)
    outputs = tuple(renames.get(o, o) for o in graph.outputs)
    return Graph(graph.name, tuple(sources), tuple(nodes), outputs)


def describe(op: Op) -> dict[str, Any]:
    """An operation's attributes as plain values, for tables and exports."""
    fields = getattr(op, "__dataclass_fields__", {})
    return {name: getattr(op, name) for name in fields if name != "body"}
