"""Patterns around attention: products of rows and heads, grouped heads, layouts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Mul

from costgraph.hardware.machine import Machine
from costgraph.ir.graph import Node
from costgraph.ir.op import same
from costgraph.ir.tensor import Role
from costgraph.models.recognition.pieces import only_inside, projects, sole_user
from costgraph.ops import AttentionScores, AttentionValues, Linear
from costgraph.ops.matmul import MatMul
from costgraph.ops.rotary import RotaryPair
from costgraph.ops.views import Expand, Reshape, Transpose
from costgraph.rewriting.draft import Draft
from costgraph.rewriting.pipeline import Miss
from costgraph.rewriting.rewrite import Replacement

#: Heads and positions exchanged.
SWAP = (0, 2, 1, 3)


@dataclass(frozen=True)
class TurnedTwice:
    """Two batch axes made one, the last two axes exchanged, and the batch axes back."""

    name: str = "turned"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Match at the second reshape."""
        if not isinstance(node.op, Reshape) or len(node.op.shape) != 4:
            return None
        turn = graph.producer.get(node.inputs[0])
        if turn is None or not isinstance(turn.op, Transpose) or turn.op.axes != (0, 2, 1):
            return None
        flat = graph.producer.get(turn.inputs[0])
        if flat is None or not isinstance(flat.op, Reshape):
            return None
        x = graph.operands(flat)[0]
        if len(x.shape) != 4 or not only_inside(graph, (turn, node), node):
            return None
        a, b, c, d = x.shape
        if not all(same(m, n) for m, n in zip((a, b, d, c), node.op.shape, strict=True)):
            return None
        new = Node(node.name, Transpose((0, 1, 3, 2)), (x.name,), node.outputs)
        return Replacement((turn, node), new)


@dataclass(frozen=True)
class FlatProduct:
    """A projection of rows that were made one axis before it and are several again after it."""

    name: str = "rows"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Match at the projection."""
        projection = projects(node)
        if projection is None or projection.split or projection.contract != 1:
            return None
        before, after = graph.producer.get(node.inputs[0]), sole_user(graph, node)
        if before is None or after is None:
            return None
        if not isinstance(before.op, Reshape) or not isinstance(after.op, Reshape):
            return None
        x = graph.operands(before)[0]
        lead, tail = x.shape[:-1], after.op.shape[len(x.shape) - 1 :]
        fits = (
            same(x.shape[-1], graph.operands(node)[0].shape[-1])
            and len(after.op.shape) > len(lead)
            and all(same(a, b) for a, b in zip(lead, after.op.shape, strict=False))
            and same(Mul(*tail), node.outputs[0].shape[-1])
        )
        if not fits:
            return None
        op = replace(projection, split=tail if len(tail) > 1 else ())
        new = Node(node.name, op, (x.name, *node.inputs[1:]), after.outputs)
        return Replacement((node, after), new)


@dataclass(frozen=True)
class WeightMatrix:
    """A batched product by one weight matrix, repeated for every sequence, is a projection."""

    name: str = "weight"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Match at the product."""
        if not isinstance(node.op, MatMul):
            return None
        wide = graph.producer.get(node.inputs[1])
        turned = wide
        if wide is not None and isinstance(wide.op, Expand):
            turned = graph.producer.get(wide.inputs[0])
        if turned is None or not isinstance(turned.op, Transpose) or turned.op.axes != (1, 0):
            return None
        weight = graph.operands(turned)[0]
        if weight.role is not Role.WEIGHT or weight.name in graph.producer:
            return None
        x = graph.operands(node)[0]
        if len(x.shape) != len(node.outputs[0].shape):
            return None
        name = node.name
        module = name.rpartition(".")[0]
        # The product stands for its module, as a projection does elsewhere.
        if module and graph.node(module) is None and weight.name == (f"{module}.weight"):
            name = module
        new = Node(name, Linear(), (x.name, weight.name), node.outputs)
        return Replacement((node,), new)


@dataclass(frozen=True)
class Batched:
    """A product of matrices whose two batch axes were made one: over two axes again."""

    name: str = "batched"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Match at the view behind the product."""
        if not isinstance(node.op, Reshape) or len(node.op.shape) != 4:
            return None
        product = graph.producer.get(node.inputs[0])
        if product is None or not isinstance(product.op, MatMul):
            return None
        if len(product.outputs[0].shape) != 3 or not only_inside(graph, (product, node), node):
            return None
        lead = node.op.shape[:2]
        if not all(same(a, b) for a, b in zip(node.op.shape[2:], product.outputs[0].shape[1:],
                                              strict=True)):  # fmt: skip
            return None
        operands: list[str] = []
        also: list[Node] = []
        for place, tensor in enumerate(graph.operands(product)):
            flat = graph.producer.get(tensor.name)
            shape = (*lead, *tensor.shape[1:])
            if flat is not None and isinstance(flat.op, Reshape):
                base = graph.operands(flat)[0]
                if len(base.shape) == 4 and all(
                    same(a, b) for a, b in zip(base.shape, shape, strict=True)
                ):
                    operands.append(base.name)
                    continue
            result = replace(tensor, name=f"{node.name}.operand_{place}", shape=shape)
            also.append(Node(result.name, Reshape(shape), (tensor.name,), (result,)))
            operands.append(result.name)
        new = Node(product.name, MatMul(), tuple(operands), node.outputs)
        return Replacement((product, node), new, tuple(also))


@dataclass(frozen=True)
class Grouped:
    """Keys and values repeated for the query heads that share them: they are read once."""

    name: str = "grouped"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Match at the exchange of heads and positions in front of attention."""
        if not isinstance(node.op, Transpose) or node.op.axes != SWAP:
            return None
        users = graph.consumers[node.output]
        uses_heads = all(
            isinstance(u.op, (AttentionScores, AttentionValues))
            and u.inputs[1] == node.output
            and u.inputs[0] != node.output
            for u in users
        )
        if not users or not uses_heads or node.output in graph.outputs:
            return None
        flat = graph.producer.get(node.inputs[0])
        wide = None if flat is None else graph.producer.get(flat.inputs[0])
        if flat is None or wide is None or not isinstance(flat.op, Reshape):
            return None
        if not isinstance(wide.op, Expand) or len(wide.op.shape) != 5:
            return None
        narrow = graph.operands(wide)[0]
        b, heads, group, length, size = wide.op.shape
        expected = (b, heads, 1, length, size)
        repeats = len(narrow.shape) == 5 and all(
            same(m, n * 1) if n != 1 else m == 1
            for m, n in zip(narrow.shape, expected, strict=True)
        )
        merged = (b, heads * group, length, size)
        if not repeats or not all(same(m, n) for m, n in zip(flat.op.shape, merged, strict=True)):
            return Miss(self.name, node.name, "heads are repeated in an unknown order")
        first = graph.producer.get(narrow.name)
        chain = [wide, flat, node]
        if not only_inside(graph, chain, node):
            return Miss(self.name, node.name, "the repeated heads are needed elsewhere")
        # The axis of one goes: (B, Hk, 1, T, dh) as (B, T, Hk, dh).
        start = narrow.name
        also: tuple[Node, ...] = ()
        shape = (b, heads, length, size)
        if first is not None and isinstance(first.op, Reshape):
            base = graph.operands(first)[0]
            if len(base.shape) == 4 and all(
                same(m, n) for m, n in zip(base.shape, shape, strict=True)
            ):
                start = base.name
        if start == narrow.name:
            tensor = replace(narrow, name=f"{node.name}.heads", shape=shape)
            also = (Node(tensor.name, Reshape(shape), (start,), (tensor,)),)
            start = tensor.name
        result = replace(node.outputs[0], shape=(b, length, heads, size))
        return Replacement(
            tuple(chain), Node(node.name, Transpose(SWAP), (start,), (result,)), also
        )


@dataclass(frozen=True)
class RopeLayout:
    """Rotation between two exchanges of heads and positions: neither is needed."""

    name: str = "rope-layout"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Match at the second exchange."""
        if not isinstance(node.op, Transpose) or node.op.axes != SWAP:
            return None
        rope = graph.producer.get(node.inputs[0])
        if rope is None or not isinstance(rope.op, RotaryPair) or rope.op.axis != 2:
            return None
        before = graph.producer.get(rope.inputs[0])
        if before is None or not isinstance(before.op, Transpose) or before.op.axes != SWAP:
            return None
        if not only_inside(graph, (rope, node), node):
            return Miss(self.name, node.name, "the rotated operand is needed elsewhere")
        new = Node(rope.name, RotaryPair(1), (before.inputs[0], *rope.inputs[1:]), node.outputs)
        return Replacement((rope, node), new)


@dataclass(frozen=True)
class HeadsIn:
    """A projection whose result is cut into heads makes heads."""

    name: str = "heads"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Match at the projection."""
        projection = projects(node)
        if projection is None or projection.split or projection.contract != 1:
            return None
        cut = sole_user(graph, node)
        if cut is None or not isinstance(cut.op, Reshape):
            return None
        lead = node.outputs[0].shape[:-1]
        shape = cut.op.shape
        fits = len(shape) == len(lead) + 2 and all(
            same(a, b) for a, b in zip(lead, shape, strict=False)
        )
        if not fits:
            return None
        op = replace(projection, split=shape[len(lead) :])
        return Replacement((node, cut), Node(node.name, op, node.inputs, cut.outputs))


@dataclass(frozen=True)
class HeadsOut:
    """A projection of joined heads takes them as they are."""

    name: str = "joined-heads"

    def match(self, graph: Draft, node: Node, machine: Machine) -> Replacement | Miss | None:
        """Match at the projection."""
        projection = projects(node)
        if projection is None or projection.contract != 1:
            return None
        joined = graph.producer.get(node.inputs[0])
        if joined is None or not isinstance(joined.op, Reshape):
            return None
        x, flat = graph.operands(joined)[0], joined.outputs[0]
        tail = len(x.shape) - len(flat.shape) + 1
        if tail < 2 or not same(Mul(*x.shape[-tail:]), flat.shape[-1]):
            return None
        if not all(same(a, b) for a, b in zip(x.shape[:-tail], flat.shape[:-1], strict=True)):
            return None
        if not only_inside(graph, (joined, node), node):
            return None
        op = replace(projection, contract=tail)
        return Replacement(
            (joined, node), Node(node.name, op, (x.name, *node.inputs[1:]), node.outputs)
        )
