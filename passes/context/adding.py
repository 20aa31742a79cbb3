"""Operations that choose rows, added to a layer in its formats, and attention that takes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sympy import Expr

from costgraph.errors import PipelineError
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Op, Tensors
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops import Alibi, AttentionScores, AttentionValues, Linear, SoftCap, Softmax
from costgraph.ops.attention import ScoreCap
from costgraph.ops.pattern import Pattern
from costgraph.ops.quant import QuantizeTo
from costgraph.passes.context.seeing import behind, seeing


class Added:
    """Nodes and sources that are added to a graph, in its formats."""

    def __init__(self, graph: Graph) -> None:
        self.tensors = dict(graph.tensors)
        self.nodes: list[Node] = []
        self.sources: list[Tensor] = []
        self.cached = next(t.dtype for t in graph.sources if t.role is Role.KV)

    def add(self, name: str, op: Op, *inputs: str) -> str:
        if name in self.tensors:
            raise PipelineError(f"{name} is in the model already: rows are chosen once")
        operands: Tensors = tuple(self.tensors[i] for i in inputs)
        (spec,) = op.infer(operands)
        made = spec.named(name)
        self.tensors[name] = made
        self.nodes.append(Node(name, op, inputs, (made,)))
        return name

    def source(self, name: str, shape: Iterable[Expr], role: Role) -> str:
        dtype = self.cached if role is Role.KV else self.acts
        tensor = Tensor(name, tuple(shape), dtype, role)
        self.tensors[name] = tensor
        self.sources.append(tensor)
        return name

    def vectors(self, name: str, width: Expr) -> tuple[str, str]:
        weight, bias = (
            self.source(f"{name}.{part}", (width,), Role.WEIGHT) for part in ("weight", "bias")
        )
        return weight, bias

    def linear(self, name: str, x: Tensor, split: tuple[Expr, ...]) -> str:
        self.acts = x.dtype
        wide = split[0] if len(split) == 1 else split[0] * split[1]
        weight = self.source(f"{name}.weight", (wide, x.shape[-1]), Role.WEIGHT)
        return self.add(name, Linear(split=split if len(split) > 1 else ()), x.name, weight)


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
