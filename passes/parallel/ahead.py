"""What becomes of a tensor further on: how its last axis is cut, who shares its heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sympy import Expr, Integer, Mul, oo

from costgraph import ops
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Op
from costgraph.ir.tensor import Tensor
from costgraph.ops.attention import KVAppend
from costgraph.ops.flash import FlashAttention
from costgraph.ops.latent import SplitFlash, SplitScores
from costgraph.ops.linear import Linear
from costgraph.ops.quant import QuantizeTo, plain
from costgraph.ops.recurrent import GatedDelta
from costgraph.ops.scan import StateSpaceDual
from costgraph.ops.tokens import Sample, Split
from costgraph.ops.views import Beside, Reshape, Slice, Transpose
from costgraph.passes.parallel.places import group_part, part

ONE = Integer(1)


@dataclass(frozen=True)
class Piece:
    """A stretch of a flat axis: ``heads`` times ``width`` elements.

    Attributes:
        heads: what is divided among devices; the width itself where there are no heads.
        width: elements of each.
        shared: several query heads (of attention, of a scan) use one of them, so several
            devices may hold the same one.
    """

    heads: Expr
    width: Expr = ONE
    shared: bool = False

    def part(self, degree: Expr, what: str) -> Expr:
        """Heads on one device; a single one is not divided."""
        if self.heads == 1:
            return ONE
        divide = group_part if self.shared else part
        return divide(self.heads, degree, what)


#: Operands, by place, of which several query heads use one head.
SHARED: Mapping[type[Op], tuple[int, ...]] = {
    ops.AttentionScores: (1,),
    SplitScores: (2, 3),
    ops.AttentionValues: (1,),
    FlashAttention: (1, 2),
    SplitFlash: (2, 3, 4),
    StateSpaceDual: (2, 3),
    GatedDelta: (0, 1),
}


def shares_heads(op: Op, index: int) -> bool:
    """Whether several query heads use one head of an operand."""
    found = next((SHARED[cls] for cls in type(plain(op)).__mro__ if cls in SHARED), ())
    return index in found


@dataclass(frozen=True)
class Ahead:
    """A graph, asked what uses its tensors.

    Attributes:
        graph: the graph.
        outermost: it is no region of another one.
    """

    graph: Graph
    outermost: bool

    def users(self, name: str) -> tuple[Op, ...]:
        """The operations that take a tensor, in whatever format it is stored for them."""
        return tuple(plain(node.op) for node in self._takers(name))

    def _takers(self, name: str) -> Iterator[Node]:
        for node in self.graph.consumers[name]:
            if isinstance(node.op, QuantizeTo):
                yield from self._takers(node.outputs[0].name)
            else:
                yield node

    def pieces(self, name: str) -> tuple[Piece, ...]:
        """What the last axis of a tensor, or its last two, are cut into later on."""
        tensor = self.graph.tensors[name]
        for user in self.graph.consumers[name]:
            if isinstance(user.op, Split) and user.inputs[0] == name:
                if tensor.shape[:-1] != user.outputs[0].shape[: len(tensor.shape) - 1]:
                    continue
                return tuple(
                    piece
                    for shape, result in zip(user.op.parts, user.outputs, strict=True)
                    for piece in self._of_part(shape, result.name)
                )
            if _keeps_shape(user, name, tensor):
                return self.pieces(user.outputs[0].name)
            if isinstance(user.op, Reshape) and _unfolds(tensor, user.outputs[0]):
                result = user.outputs[0]
                heads, *width = result.shape[len(tensor.shape) - 1 :]
                return (Piece(heads, Mul(*width), self.is_shared(result.name)),)
        return (Piece(tensor.shape[-1]),)

    def _of_part(self, shape: tuple[Expr, ...], name: str) -> tuple[Piece, ...]:
        if len(shape) == 1:
            return self.pieces(name)
        return (Piece(shape[0], Mul(*shape[1:]), self.is_shared(name)),)

    def is_shared(self, name: str) -> bool:
        """Whether several query heads use one head of a tensor, wherever it ends up."""
        tensor = self.graph.tensors[name]
        for user in self.graph.consumers[name]:
            if any(shares_heads(user.op, i) for i, x in enumerate(user.inputs) if x == name):
                return True
            goes_on = isinstance(user.op, (KVAppend, Reshape, Transpose))
            if (goes_on or _keeps_shape(user, name, tensor)) and self.is_shared(
                user.outputs[0].name
            ):
                return True
        return False

    def is_logits(self, name: str) -> bool:
        """Whether a tensor is chosen from, or is what the graph makes: no product uses it."""
        if name in self.graph.outputs:
            return self.outermost
        tensor, users = self.graph.tensors[name], self.graph.consumers[name]
        return bool(users) and all(
            isinstance(u.op, Sample)
            # Logits of one cluster of the vocabulary, beside those of others.
            or (isinstance(u.op, Beside | Slice) and self.is_logits(u.outputs[0].name))
            or (_keeps_shape(u, name, tensor) and self.is_logits(u.outputs[0].name))
            for u in users
        )

    def is_widened(self, name: str) -> bool:
        """Whether some product makes more elements than it takes of a tensor."""
        tensor = self.graph.tensors[name]
        return any(
            isinstance(op, Linear) and growth(tensor, u.outputs[0], op) > 1
            for u in self._takers(name)
            for op in (plain(u.op),)
        )


def growth(x: Tensor, result: Tensor, op: Linear) -> Expr:
    """Elements that a product makes per element that it sums over; infinite for symbols."""
    first = len(x.shape) - op.contract
    ratio: Expr = Mul(*result.shape[first:]) / Mul(*x.shape[first:])
    return ratio if ratio.is_number else oo


def _keeps_shape(user: Node, name: str, tensor: Tensor) -> bool:
    """Whether an operation makes a result of its first operand's shape, or adds to it."""
    first = user.inputs[0] == name or (isinstance(user.op, ops.Add) and name in user.inputs)
    return first and user.outputs[0].shape == tensor.shape


def _unfolds(flat: Tensor, result: Tensor) -> bool:
    """Whether a view cuts the last axis into several."""
    kept = len(flat.shape) - 1
    return flat.shape[:-1] == result.shape[:kept] and len(result.shape) > len(flat.shape)
