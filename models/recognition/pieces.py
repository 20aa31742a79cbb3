"""Patterns inside a layer: activations, norms, rotary embedding, biases, gates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from costgraph.hardware.machine import Machine
from costgraph.ir.graph import Node
from costgraph.ir.op import Op, same, same_shape
from costgraph.ir.tensor import Role
from costgraph.ops import Activation, LayerNorm, Linear, Multiply, QuantLinear, RMSNorm
from costgraph.ops.arrays import Cast, Join
from costgraph.ops.maps import Map, Reduce
from costgraph.ops.rotary import RotaryPair
from costgraph.ops.views import Slice
from costgraph.rewriting.draft import Draft
from costgraph.rewriting.pipeline import Miss
from costgraph.rewriting.rewrite import Replacement

_PLAIN = {"multiply": "mul", "add": "add", "scale": "scale"}


def function(node: Node | None) -> str:
    """What a node computes element by element, or its kind."""
    if node is None:
        return ""
    if isinstance(node.op, (Map, Activation)):
        return node.op.function
    return _PLAIN.get(node.op.kind, node.op.kind)


def projects(node: Node | None) -> Linear | None:
    """A node's product by a weight matrix, narrow or not; those of experts are others."""
    op = None if node is None else node.op
    return op if isinstance(op, Linear) and type(op) in (Linear, QuantLinear) else None


def makes(graph: Draft, name: str, *functions: str) -> Node | None:
    """The node that makes a tensor, if it computes one of ``functions``."""
    node = graph.producer.get(name)
    return node if function(node) in functions else None


def under_casts(graph: Draft, name: str) -> tuple[str, tuple[Node, ...]]:
    """The tensor below conversions of format, and the conversions."""
    passed = []
    node = graph.producer.get(name)
    while node is not None and isinstance(node.op, Cast):
        passed.append(node)
        name = node.inputs[0]
        node = graph.producer.get(name)
    return name, tuple(passed)


def sole_user(graph: Draft, node: Node) -> Node | None:
    """The only consumer of a node with one result; None if it has several of either."""
    if len(node.outputs) != 1:
        return None
    users = graph.consumers[node.output]
    return users[0] if len(users) == 1 and node.output not in graph.outputs else None


def only_inside(graph: Draft, nodes: Iterable[Node], last: Node) -> bool:
    """True if what ``nodes`` make, ``last`` apart, is used among them alone."""
    listed = {n.name: n for n in nodes}
    for node in listed.values():
        if node.name == last.name:
            continue
        for tensor in node.outputs:
            if tensor.name in graph.outputs:
                return False
            if any(u.name not in listed for u in graph.consumers[tensor.name]):
                return False
    return True


def named_after(graph: Draft, nodes: Iterable[Node], last: Node) -> str:
    """A name for what replaces ``nodes``: their common module if it is free."""
    listed = list(nodes)
    parts = [n.name.split(".") for n in listed]
    common = []
    for column in zip(*(p[:-1] for p in parts), strict=False):
        if len(set(column)) > 1:
            break
        common.append(column[0])
    name = ".".join(common)
    mine = {n.name for n in listed}
    # The module is theirs if nothing else of it stands in the graph.
    alone = all(n.name in mine or n.op.is_view for n in graph.inside(name))
    free = name in mine or graph.node(name) is None
    return name if name and alone and free else last.name


def replaced(graph: Draft, nodes: Iterable[Node], last: Node, op: Op, *inputs: str) -> Replacement:
    """``nodes`` as the single operation ``op`` with the results of ``last``."""
    chain = tuple({n.name: n for n in nodes}.values())
    tensors = tuple(graph.tensors[i] for i in inputs)
    specs = op.infer(tensors)
    outputs = tuple(s.named(t.name) for s, t in zip(specs, last.outputs, strict=True))
    return Replacement(chain, Node(named_after(graph, chain, last), op, tuple(inputs), outputs))


def fits(graph: Draft, op: Op, last: Node, *inputs: str) -> bool:
    """True if ``op`` makes what ``last`` makes: the same shape and format."""
    spec = op.infer(tuple(graph.tensors[i] for i in inputs))[0]
    made = last.outputs[0]
    return spec.dtype == made.dtype and same_shape(spec.shape, made.shape)


# --- activations


@dataclass(frozen=True)
class Silu:
    """``x · sigmoid(x)``."""

    name: str = "silu"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Match at the product."""
        if function(node) != "mul" or len(node.inputs) != 2:
            return None
        for x, y in (node.inputs, node.inputs[::-1]):
            gate = makes(graph, y, "sigmoid")
            if gate is None:
                continue
            kind, base = "silu", gate.inputs[0]
            chain = [gate, node]
            scaled = makes(graph, base, "scale")
            if scaled is not None and scaled.inputs[0] == x:
                kind, base = "quick_gelu", x
                chain.insert(0, scaled)
            if base == x and only_inside(graph, chain, node):
                return replaced(graph, chain, node, Activation(kind), x)
        return None


@dataclass(frozen=True)
class Gelu:
    """``x/2 · (1 + erf(x/√2))`` and its approximation by tanh, in any order of factors."""

    name: str = "gelu"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Match at the last product."""
        if function(node) not in ("mul", "scale"):
            return None
        chain: list[Node] = []
        leaves = list(_factors(graph, node, chain))
        shifted = [leaf for leaf in leaves if makes(graph, leaf, "add_constant")]
        if len(leaves) != 2 or len(shifted) != 1:
            return None
        (x,) = (leaf for leaf in leaves if leaf != shifted[0])
        shift = graph.producer[shifted[0]]
        bent = makes(graph, shift.inputs[0], "erf", "tanh")
        if bent is None or not any(function(n) == "scale" for n in chain):
            return None
        chain.extend((shift, bent))
        inner = _polynomial(graph, bent.inputs[0], x, chain)
        cubic = any(function(n) in ("cube", "pow_constant") for n in inner)
        if not inner or cubic != (function(bent) == "tanh"):
            return None
        chain.extend(inner)
        if not only_inside(graph, chain, node):
            return None
        kind = "gelu_tanh" if cubic else "gelu"
        return replaced(graph, chain, node, Activation(kind), x)


def _factors(graph: Draft, node: Node, chain: list[Node]) -> Iterator[str]:
    """Factors of a product, constants apart; the products pass into ``chain``."""
    chain.append(node)
    for name in node.inputs:
        inner = makes(graph, name, "mul", "scale")
        users = graph.consumers[name]
        if inner is not None and len(users) == 1 and len(chain) < 5:
            yield from _factors(graph, inner, chain)
        else:
            yield name


def _polynomial(graph: Draft, name: str, x: str, known: list[Node]) -> list[Node]:
    """Nodes between ``x`` and ``name``, if there are few and nothing else enters."""
    found: dict[str, Node] = {}
    open_ = [name]
    while open_:
        at = open_.pop()
        if at == x:
            continue
        node = makes(graph, at, "scale", "add", "mul", "cube", "pow_constant", "square")
        if node is None or len(found) > 8:
            return []
        found[node.name] = node
        open_.extend(node.inputs)
    return list(found.values())


# --- norms


@dataclass(frozen=True)
class Norms:
    """Root-mean-square and layer normalisation written out, with detours over FP32."""

    name: str = "norm"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Match where the operand meets the reciprocal root."""
        found = _normalised(graph, node)
        if found is None:
            return None
        x, chain, is_layer = found
        last, weight, bias = _parameters(graph, node, chain, is_layer)
        below, casts = under_casts(graph, x)
        inputs = [w for w in (weight, bias) if w is not None]
        op: Op
        if is_layer:
            op = LayerNorm(bias=bias is not None, weight=weight is not None)
        else:
            op = RMSNorm(weight is not None)
        for start, extra in ((below, casts), (x, ())):
            nodes = (*extra, *chain)
            # A conversion that others use, too, stays for them.
            mine = tuple(
                n for n in nodes if not isinstance(n.op, Cast) or only_inside(graph, nodes, last)
            )
            if only_inside(graph, chain, last) and fits(graph, op, last, start, *inputs):
                inside = mine if only_inside(graph, mine, last) else tuple(chain)
                return replaced(graph, inside, last, op, start, *inputs)
        return Miss(self.name, node.name, "an intermediate is needed elsewhere")


def _normalised(graph: Draft, node: Node) -> tuple[str, list[Node], bool] | None:
    """(operand, nodes, is it a layer norm) of a normalisation that ends at ``node``."""
    kind = function(node)
    if kind not in ("mul", "div") or len(node.inputs) != 2:
        return None
    pairs = (node.inputs, node.inputs[::-1]) if kind == "mul" else (node.inputs,)
    for x, scale in pairs:
        chain: list[Node] = [node]
        root = makes(graph, scale, "rsqrt" if kind == "mul" else "sqrt")
        if root is None and kind == "mul":
            inverse = makes(graph, scale, "reciprocal", "constant_div")
            root = None if inverse is None else makes(graph, inverse.inputs[0], "sqrt")
            if inverse is not None:
                chain.append(inverse)
        if root is None:
            continue
        chain.append(root)
        shift = makes(graph, root.inputs[0], "add_constant")
        if shift is None:
            continue
        chain.append(shift)
        mean = _mean(graph, shift.inputs[0])
        if mean is None:
            continue
        chain.append(mean)
        square = makes(graph, mean.inputs[0], "square", "mul")
        if square is None or set(square.inputs) != {x}:
            continue
        chain.append(square)
        centred = makes(graph, x, "sub")
        if centred is not None:
            middle = _mean(graph, centred.inputs[1])
            if middle is not None and middle.inputs[0] == centred.inputs[0]:
                chain.extend((centred, middle))
                return centred.inputs[0], chain, True
        return x, chain, False
    return None


def _mean(graph: Draft, name: str) -> Node | None:
    node = graph.producer.get(name)
    if node is None or not isinstance(node.op, Reduce) or node.op.function != "mean":
        return None
    last = len(graph.operands(node)[0].shape) - 1
    return node if node.op.keep and node.op.axes == (last,) else None


def _parameters(
    graph: Draft, node: Node, chain: list[Node], is_layer: bool
) -> tuple[Node, str | None, str | None]:
    """The last node of a norm with its weight and bias; the nodes pass into ``chain``."""
    last, weight, bias = node, None, None
    at, passed = node, []
    while True:
        users = graph.consumers[at.output]
        if len(users) != 1 or at.output in graph.outputs:
            break
        (user,) = users
        if isinstance(user.op, Cast):
            passed.append(user)
            at = user
            continue
        others = [i for i in user.inputs if i != at.output]
        wanted = "mul" if weight is None else "add"
        if function(user) != wanted or len(others) != 1 or (wanted == "add" and not is_layer):
            break
        below, casts = under_casts(graph, others[0])
        vector = graph.tensors[below]
        if vector.role is not Role.WEIGHT or len(vector.shape) != 1:
            break
        if weight is None:
            weight = below
        else:
            bias = below
        chain.extend((*passed, *casts, user))
        passed = []
        last = at = user
        if bias is not None or not is_layer:
            break
    if weight is None and passed:  # a conversion back, without weight
        chain.extend(passed)
        last = passed[-1]
    return last, weight, bias


# --- rotary embedding


@dataclass(frozen=True)
class Rotary:
    """``x·cos + rotate_half(x)·sin``."""

    name: str = "rotary"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Match at the sum."""
        if function(node) != "add" or len(node.inputs) != 2:
            return None
        for first, second in (node.inputs, node.inputs[::-1]):
            plain, turned = (makes(graph, n, "mul") for n in (first, second))
            if plain is None or turned is None:
                continue
            for half, sin in (turned.inputs, turned.inputs[::-1]):
                rotated = _rotated_half(graph, half)
                if rotated is None:
                    continue
                x, inner = rotated
                if x not in plain.inputs:
                    continue
                (cos,) = [i for i in plain.inputs if i != x] or [x]
                chain = [*inner, plain, turned, node]
                if not only_inside(graph, chain, node):
                    return Miss(self.name, node.name, "an intermediate is needed elsewhere")
                return self._rotation(graph, chain, node, x, cos, sin)
        return None

    def _rotation(
        self, graph: Draft, chain: list[Node], node: Node, x: str, cos: str, sin: str
    ) -> Replacement | Miss:
        shape, table = graph.tensors[x].shape, graph.tensors[cos].shape
        if len(shape) != 4:
            return Miss(self.name, node.name, "its operand does not have four axes")
        padded = (None,) * (4 - len(table)) + table
        # Positions stand in the axis in which the tables differ.
        axes = [a for a in (1, 2) if padded[a] is not None and same(padded[a], shape[a])]
        if len(axes) != 1:
            return Miss(self.name, node.name, f"the tables {table} do not show the positions")
        return replaced(graph, chain, node, RotaryPair(axes[0]), x, cos, sin)


def _rotated_half(graph: Draft, name: str) -> tuple[str, list[Node]] | None:
    """The tensor whose halves are exchanged, the first one negated, and the nodes."""
    node = graph.producer.get(name)
    if node is None or not isinstance(node.op, Join) or len(node.inputs) != 2:
        return None
    if node.op.axis != len(node.outputs[0].shape) - 1:
        return None
    minus = makes(graph, node.inputs[0], "neg")
    if minus is None:
        return None
    back, front = graph.producer.get(minus.inputs[0]), graph.producer.get(node.inputs[1])
    if back is None or front is None:
        return None
    if not isinstance(back.op, Slice) or not isinstance(front.op, Slice):
        return None
    half = node.outputs[0].shape[-1] / 2
    fits_halves = (
        back.inputs == front.inputs
        and front.op.start == 0
        and same(back.op.start, half)
        and same(back.op.length, half)
        and same(front.op.length, half)
    )
    return (back.inputs[0], [back, front, minus, node]) if fits_halves else None


# --- products


@dataclass(frozen=True)
class Bias:
    """A vector added to a matrix product is its bias."""

    name: str = "bias"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Match at the addition."""
        if function(node) != "add" or len(node.inputs) != 2:
            return None
        for x, other in (node.inputs, node.inputs[::-1]):
            product = graph.producer.get(x)
            projection = projects(product)
            if product is None or projection is None or projection.bias:
                continue
            vector = graph.tensors[other]
            if vector.role is not Role.WEIGHT or len(vector.shape) != 1:
                continue
            if projection.split or not only_inside(graph, (product, node), node):
                continue
            op = replace(projection, bias=True)
            new = Node(product.name, op, (*product.inputs, other), node.outputs)
            return Replacement((product, node), new)
        return None


@dataclass(frozen=True)
class Gate:
    """The gate of a feed-forward block: the activated half comes first."""

    name: str = "gate"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Match at the product of two halves."""
        if not isinstance(node.op, Multiply) or len(node.inputs) != 2:
            return None
        first, second = (graph.producer.get(i) for i in node.inputs)
        if first is None or second is None or isinstance(first.op, Activation):
            return None
        if not isinstance(second.op, Activation) or not same(
            first.outputs[0].numel, second.outputs[0].numel
        ):
            return None
        return Replacement((node,), replace(node, inputs=node.inputs[::-1]))
