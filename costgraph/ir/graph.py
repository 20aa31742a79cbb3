"""The graph: operations in topological order, tensors by name, regions that repeat.

A :class:`Graph` is immutable. Its nodes are kept in an order in which every
tensor is produced before it is used, so walking the tuple is walking the DAG;
:meth:`Graph.to_networkx` gives the same DAG as a ``networkx.DiGraph``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from sympy import Add, Expr, Integer

from costgraph.errors import VerifyError
from costgraph.ir.cost import Cost, Direction, total
from costgraph.ir.op import Op
from costgraph.ir.regions import Region
from costgraph.ir.tensor import Role, Tensor
from costgraph.views import view, view_text

if TYPE_CHECKING:
    import networkx

ONE = Integer(1)
Found = TypeVar("Found")


@dataclass(frozen=True)
class Origin:
    """Where a node came from: the nodes it replaces, and the pass that made it.

    What a pass puts beside other nodes replaces none of them: ``nodes`` is empty.
    """

    nodes: tuple[str, ...] = ()
    made_by: str = "import"


@dataclass(frozen=True)
class Node:
    """One operation in a graph. ``origin`` takes no part in equality.

    ``unit`` names who runs it; empty for the unit that runs the graph.
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    outputs: tuple[Tensor, ...]
    origin: Origin = field(default=Origin(), compare=False)
    unit: str = ""

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

    def once(self, find: Callable[[Graph], Found]) -> Found:
        """What ``find`` says of the graph, which never changes: found once and kept with it."""
        known, name = vars(self), f"{find.__module__}.{find.__qualname__}"
        if name not in known:
            known[name] = find(self)
        found: Found = known[name]
        return found

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

    def moved(self, node: Node, tensor: str, direction: Direction) -> Expr:
        """Bytes of a tensor that ``node`` reads, or that it writes."""
        found = node.op.accesses(self.operands(node), node.outputs)
        return Add(*(a.bytes for a in found if a.tensor == tensor and a.direction is direction))

    @cached_property
    def inputs(self) -> tuple[Tensor, ...]:
        """Sources handed in on every execution: activations and indices."""
        return tuple(t for t in self.sources if t.role is Role.ACTIVATION)

    @cached_property
    def persistent(self) -> tuple[Tensor, ...]:
        """Sources that stay in memory between executions: weights, caches, states."""
        return tuple(t for t in self.sources if t.role is not Role.ACTIVATION)

    def walk(self) -> Iterator[Graph]:
        """The graph and all those of its regions, outer ones first."""
        yield self
        for node in self.nodes:
            if isinstance(node.op, Region):
                for inner in node.op.graphs:
                    yield from inner.walk()

    def weights(self) -> Iterator[tuple[Tensor, Expr]]:
        """Weight tensors with their multiplicity, regions included."""
        for tensor in self.sources:
            if tensor.role is Role.WEIGHT:
                yield tensor, ONE
        for node in self.nodes:
            if isinstance(node.op, Region):
                known: set[str] = set()
                for graph in node.op.graphs:
                    own = [(t, n) for t, n in graph.weights() if t.name not in known]
                    yield from ((t, n * node.op.weight_sets) for t, n in own)
                    if node.op.shares_weights:
                        known |= {t.name for t, _ in own}

    @cached_property
    def cost(self) -> Cost:
        """The exact cost vector, regions included with their counts."""
        return total(node.op.cost(self.operands(node), node.outputs) for node in self.nodes)

    def with_nodes(self, nodes: Iterable[Node]) -> Graph:
        """The same graph with other nodes; sources no longer used are dropped."""
        kept = tuple(nodes)
        used = {name for n in kept for name in n.inputs} | set(self.outputs)
        sources = tuple(t for t in self.sources if t.name in used or t.role is Role.ACTIVATION)
        return replace(self, nodes=kept, sources=sources)

    def part(self, nodes: Sequence[Node], name: str = "") -> Graph:
        """Nodes of the graph as one of their own: what they read of others are its inputs."""
        own = {n.name for n in nodes}
        inside = {t.name for n in nodes for t in n.outputs}
        read = dict.fromkeys(i for n in nodes for i in n.inputs if i not in inside)
        others = (n for n in self.nodes if n.name not in own)
        used = {i for n in others for i in n.inputs} | set(self.outputs)
        outputs = tuple(t.name for n in nodes for t in n.outputs if t.name in used)
        sources = tuple(self.tensors[i] for i in read)
        return Graph(name or self.name, sources, tuple(nodes), outputs)

    def to_networkx(self, nested: bool = False) -> networkx.DiGraph[str]:
        """The DAG as a ``networkx.DiGraph``; see :mod:`costgraph.showing.export.dag`."""
        dag: networkx.DiGraph[str] = view("graph_networkx")(self, nested=nested)
        return dag

    def __repr__(self) -> str:
        return f"<Graph {self.name}: {len(self.nodes)} nodes, {len(self.sources)} sources>"

    def _repr_html_(self) -> str:
        return view_text("graph_html", self)

    def __str__(self) -> str:
        return f"{self.name}: {len(self.nodes)} nodes"


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

    def has(self, name: str) -> bool:
        """True where a tensor is called so already."""
        return name in self._tensors

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


def describe(op: Op) -> dict[str, Any]:
    """An operation's attributes as plain values, for tables and exports."""
    fields = getattr(op, "__dataclass_fields__", {})
    return {name: getattr(op, name) for name in fields if name not in ("body", "bodies")}
