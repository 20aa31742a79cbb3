"""Operations that choose rows, added to a layer in its formats, and attention that takes them."""

from __future__ import annotations

from dataclasses import replace

from sympy import Expr

from costgraph.errors import PipelineError
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Op
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.blocks.style import Maker, Style
from costgraph.ops import Alibi, AttentionScores, AttentionValues, Linear, SoftCap, Softmax
from costgraph.ops.attention import ScoreCap
from costgraph.ops.pattern import Pattern
from costgraph.ops.quant import QuantizeTo
from costgraph.passes.context.seeing import behind, seeing
from costgraph.symbols import B


class Added(Maker):
    """Nodes and sources that are added to a graph, in its formats.

    Weights and vectors have the format of activations, ``like`` which they multiply; caches
    that of the graph's.
    """

    def __init__(self, graph: Graph, like: Tensor | None = None) -> None:
        kept = next(t.dtype for t in graph.sources if t.role is Role.KV)
        acts = kept if like is None else like.dtype
        super().__init__(graph.name, Style(weights=acts, acts=acts, kv=kept))
        self._tensors.update(graph.tensors)

    @property
    def nodes(self) -> list[Node]:
        """Nodes added so far, in order."""
        return list(self._nodes.values())

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """Sources added so far."""
        return tuple(self._sources.values())

    def add_many(self, name: str, op: Op, *inputs: str) -> tuple[str, ...]:
        if name in self._tensors:
            raise PipelineError(f"{name} is in the model already: rows are chosen once")
        return super().add_many(name, op, *inputs)

    def heads(self, name: str, x: Tensor, heads: Expr, width: Expr) -> str:
        """A projection to heads: ``x (B, q, d)`` to ``(B, q, heads, width)``."""
        return self.linear(name, x.name, heads * width, x.shape[-1], split=(heads, width))

    def rows(self, name: str, length: Expr, heads: Expr, width: Expr) -> str:
        """A cache of ``length`` rows: ``(B, length, heads, width)``."""
        return self.source(Tensor(name, (B, length, heads, width), self.style.kv, Role.KV))


def projected_from(graph: Graph, node: Node | None) -> Tensor | None:
    """What the projection reads that leads to a node, before it is narrowed for it.

    The projection is the node itself, or the nearest behind it.
    """
    found = () if node is None else (node, *behind(graph, node))
    projection = next((n for n in found if isinstance(n.op, Linear)), None)
    if projection is None:
        return None
    name = projection.inputs[0]
    narrowed = graph.producer.get(name)
    if narrowed is not None and isinstance(narrowed.op, QuantizeTo):
        name = narrowed.inputs[0]
    return graph.tensors[name]


def attending(node: Node, pattern: Pattern, index: str) -> Node:
    """The node under a pattern of chosen rows, given the index of them where it attends."""
    if isinstance(node.op, SoftCap) and len(node.outputs[0].shape) == 4:
        return replace(node, op=ScoreCap(pattern))
    op = seeing(node.op, pattern)
    if op is node.op or not isinstance(op, (AttentionScores, AttentionValues, Softmax, Alibi)):
        return node
    if not isinstance(op, (Softmax, Alibi)) and op.pattern.indexed:
        return replace(node, op=op, inputs=(*node.inputs, index))
    return replace(node, op=op)


def choosing(graph: Graph, node: Node, added: Added, pattern: Pattern, index: str) -> Graph:
    """The layer with what is added in front of attention, which then attends chosen rows alone.

    Args:
        graph: the layer.
        node: its scores.
        added: what chooses rows.
        pattern: the rows that are attended.
        index: which rows those are.
    """
    place = graph.nodes.index(node)
    nodes = (*graph.nodes[:place], *added.nodes, *graph.nodes[place:])
    chosen = tuple(attending(n, pattern, index) for n in nodes)
    return replace(graph, sources=(*graph.sources, *added.sources), nodes=chosen)


def renamed(node: Node, old: str, new: str) -> Node:
    """The node reading ``new`` where it read ``old``."""
    return replace(node, inputs=tuple(new if i == old else i for i in node.inputs))
