"""The routed experts of a layer as one block.

Timings of experts cover the whole block: the choice, the grouping of tokens, the
products grouped by expert, the activation, the weighted sum. A graph has an
operation for each. The block's floor stands once, with its first grouped
product; each grouped product takes the fitted arms for its own work and traffic;
the operations between and around them take the roofline's time and no floor. In
bands they share the errors of the block, which were measured on all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sympy import Expr, Mul

from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Op
from costgraph.ir.tensor import Tensor
from costgraph.ops.experts import Combine, ExpertLinear, Route
from costgraph.ops.fused import Fused
from costgraph.ops.quant import plain


@dataclass(frozen=True)
class Block:
    """Routed experts of a layer.

    Attributes:
        first: name of the node with the first grouped product.
        inner: width of an expert.
        hidden: width of a token.
        tokens: tokens that choose experts.
    """

    first: str
    inner: Expr
    hidden: Expr
    tokens: Expr


def block_of(graph: Graph, node: Node) -> Block:
    """The block of a node with a grouped product: those that share its experts' numbers."""
    numbers = _products(graph, node)[0][2]
    shared = [
        (other.name, operands)
        for other in graph.nodes
        for operands in _products(graph, other)
        if operands[2].name == numbers.name
    ]
    _, width, hidden = shared[0][1][1].shape
    for _, (x, weight, *_rest) in shared:
        if len(x.shape) == len(numbers.shape) + 1:  # a row per expert: the second product
            width = weight.shape[2]
    return Block(shared[0][0], width, hidden, Mul(*numbers.shape[:-1]))


def grouped_product(graph: Graph) -> Node | None:
    """The first node with a grouped product."""
    return next((n for n in graph.nodes if _products(graph, n)), None)


def around(graph: Graph, node: Node, product: Node) -> tuple[Node, Block] | None:
    """A block of experts that a node is part of: the product that is timed with it, and the block.

    Of a node without grouped products that is ``product``, the first of its graph. None of others.
    """
    if not _products(graph, node):
        if not is_member(graph, node):
            return None
        node = product
    return node, block_of(graph, node)


def is_member(graph: Graph, node: Node) -> bool:
    """True for a node without grouped products that belongs to a block of experts.

    These are the choice, the weighted sum, and what lies between the products.
    """
    ops = list(_ops(node))
    if any(isinstance(op, (Route, Combine)) for op in ops):
        return True
    return not _rows(graph).isdisjoint(node.inputs)


def _rows(graph: Graph) -> frozenset[str]:
    """Tensors with a row per token and chosen expert."""
    found: set[str] = set()
    for node in graph.nodes:
        grouped = bool(_products(graph, node))
        if grouped or found.intersection(node.inputs):
            ops = list(_ops(node))
            if not any(isinstance(op, Combine) for op in ops):
                found.update(t.name for t in node.outputs)
    return frozenset(found)


def _products(graph: Graph, node: Node) -> list[tuple[Tensor, ...]]:
    """Operands of the grouped products in a node."""
    op = plain(node.op)
    if isinstance(op, ExpertLinear):
        return [graph.operands(node)]
    if isinstance(op, Fused):
        return [p for n in op.body.nodes for p in _products(op.body, n)]
    return []


def _ops(node: Node) -> Iterator[Op]:
    op = plain(node.op)
    if isinstance(op, Fused):
        for inner in op.body.nodes:
            yield from _ops(inner)
    else:
        yield op
