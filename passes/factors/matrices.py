"""Choosing matrices of products by name and layer, and putting others in or beside their place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sympy import Expr

from costgraph.errors import InputError, clip, nearest
from costgraph.ir.dtypes import DType
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.op import Op
from costgraph.ir.program import Program
from costgraph.ir.regions import Region
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.experts import ExpertLinear
from costgraph.ops.linear import Linear
from costgraph.ops.quant import QuantExpertLinear, QuantLinear
from costgraph.passes.precision.layers import ALL, Keep, cut, parse_keep
from costgraph.rewriting.layers import Range, fresh
from costgraph.rewriting.pipeline import Miss

#: What ``all`` leaves out: matrices that are tables as well, or choose experts.
SPARED = parse_keep("lm_head|embed|positions|router")
#: Products of one matrix each, or of one per expert.
PLAIN: tuple[type[Op], ...] = (Linear, QuantLinear)
EXPERTS: tuple[type[Op], ...] = (ExpertLinear, QuantExpertLinear)


@dataclass(frozen=True)
class Product:
    """A product with a weight, where it stands.

    Attributes:
        graph: the graph that it is in.
        node, op: the product.
        x, weight: its operands.
        users: all uses of the weight in the program: (operation, kind), each once.
        taken: names of the graph that are in use.
        weights: names of all weights that the program had.
    """

    graph: Graph
    node: Node
    op: Linear
    x: Tensor
    weight: Tensor
    users: tuple[tuple[str, str], ...]
    taken: set[str]
    weights: Collection[str]

    @property
    def of_experts(self) -> bool:
        """Whether each expert has a matrix of its own."""
        return isinstance(self.op, ExpertLinear)

    @property
    def sizes(self) -> tuple[Expr, Expr]:
        """(oc, ic): the rows and columns of the matrix."""
        return self.weight.shape[-2], self.weight.shape[-1]

    def matrix(self, name: str, oc: Expr, ic: Expr) -> Tensor:
        """A weight ``(oc, ic)``, one per expert where the product has that, named after it.

        The name is new to the program, and the same in all graphs that have the product.
        """
        stem = self.weight.name.removesuffix(".weight")
        label = fresh(f"{stem}{name}.weight", set(self.weights))
        return replace(self.weight, name=label, shape=(*self._lead, oc, ic))

    @property
    def _lead(self) -> tuple[Expr, ...]:
        return self.weight.shape[:-2]

    def made(self, name: str, op: Op, operands: Sequence[Tensor], made_by: str) -> Node:
        """A node ``name`` (or like it, where that is taken) with one result of that name."""
        label = fresh(name, self.taken)
        (spec,) = op.infer(operands)
        inputs = tuple(t.name for t in operands)
        return Node(label, op, inputs, (spec.named(label),), Origin((self.node.name,), made_by))


@dataclass(frozen=True)
class Change:
    """What stands in the place of a product, in order, and the weights that this needs."""

    nodes: tuple[Node, ...]
    weights: tuple[Tensor, ...]


#: What becomes of a product that was chosen, or why nothing does.
Rewrite = Callable[[Product], Change | str]
#: The first layer and the number of layers that a graph stands for, where they are told apart.
Layer = tuple[Expr, Expr] | None


def parse_on(text: str) -> tuple[Keep, ...]:
    """Items of ``A|B:3|all:0-3``.

    Raises:
        InputError: an item is malformed.
    """
    if not isinstance(text, str):
        raise InputError(f"on must be a word, not {clip(text)}")
    return parse_keep(text, "on")


def is_wide(format: DType) -> bool:
    """Whether numbers are stored one by one in 16 bit or more."""
    return format.is_float and not format.grouped and bool(format.bits >= 16)


def stores_more(k: Expr, m: Expr, n: Expr) -> str:
    """What to say of two factors with ``k`` columns that store more than a matrix ``m × n``."""
    if (k * (m + n) > m * n) != True:  # noqa: E712
        return ""
    return f"{k} columns store more than the matrix: less than it below {m * n / (m + n)}"


@dataclass
class _Found:
    hits: dict[str, None] = field(default_factory=dict)
    misses: dict[Miss, None] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)


def rewrite_products(
    program: Program, who: str, on: Sequence[Keep], rewrite: Rewrite
) -> tuple[Program, tuple[str, ...], tuple[Miss, ...]]:
    """The program with every chosen product rewritten: with hits, and with reasons for the rest.

    A product is chosen by a part of its name or of its weight's, in the layers that are
    given; ``all`` are those that :data:`SPARED` does not name.

    Raises:
        InputError: layers are numbered where their numbers are not known.
    """
    users: dict[str, dict[tuple[str, str], None]] = {}
    for graph in _graphs(program):
        for inner in graph.walk():
            for node in inner.nodes:
                for tensor in inner.operands(node):
                    if tensor.role is Role.WEIGHT:
                        users.setdefault(tensor.name, {})[node.name, node.op.kind] = None
    found = _Found()

    def one(graph: Graph, layer: Layer, ranges: Mapping[str, Range]) -> Graph:
        taken = {n.name for n in graph.nodes} | set(graph.tensors)
        sources = dict.fromkeys(graph.sources)
        nodes: list[Node] = []
        for node in graph.nodes:
            op = node.op
            if isinstance(op, Region):
                part = ranges.get(node.name)
                inside = layer if part is None else part.layers
                bodies = [one(g, inside, {}) for g in op.graphs]
                nodes.append(replace(node, op=op.with_graphs(bodies)))
                continue
            if type(op) not in (*PLAIN, *EXPERTS):
                nodes.append(node)
                continue
            assert isinstance(op, Linear)
            x, weight = graph.operands(node)[:2]
            found.names.add(node.name)
            if not _chosen(on, (node.name, weight.name), layer):
                nodes.append(node)
                continue
            made: Change | str = "its matrix is computed"
            if weight.role is Role.WEIGHT and weight in sources:
                uses = tuple(users[weight.name])
                made = rewrite(Product(graph, node, op, x, weight, uses, taken, users))
            if isinstance(made, str):
                found.misses[Miss(who, node.name, made)] = None
                nodes.append(node)
                continue
            found.hits[node.name] = None
            sources |= dict.fromkeys(made.weights)
            nodes.extend(made.nodes)
        used = {i for n in nodes for i in n.inputs} | set(graph.outputs)
        kept = (t for t in sources if t.name in used or t.role is Role.ACTIVATION)
        return replace(graph, sources=tuple(kept), nodes=tuple(nodes))

    def top(graph: Graph) -> Graph:
        parts, ranges = cut(graph, who, on, option="on")
        return one(parts, None, ranges)

    made = program.rewritten(top)
    for item in on:
        if item.name != ALL and not any(item.name in name for name in found.names):
            text = f"no product is called {item.name!r}{nearest(item.name, sorted(found.names))}"
            found.misses[Miss(who, program.name, text)] = None
    return (made if found.hits else program), tuple(found.hits), tuple(found.misses)


def _graphs(program: Program) -> Iterator[Graph]:
    for phase in program.phases:
        yield phase.graph
        yield from (r.graph for r in phase.resident)


def _chosen(on: Sequence[Keep], names: tuple[str, ...], layer: Layer) -> bool:
    spared = any(k.name in name for k in SPARED for name in names)
    return any(
        k.holds(name, layer) and not (k.name == ALL and spared) for k in on for name in names
    )
