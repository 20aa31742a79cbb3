"""Hadamard transforms around quantised products, as operations of the graph.

``both`` (QuIP#): what a narrow product takes and what it makes are transformed, with
random signs; products of one operand share its transform. ``online`` (QuaRot): rotations
of the residual stream are folded into weights, so only what comes out of something that
is not linear is transformed: the operand of a product behind an activation, attention's
result across heads, and queries and keys where they are cached narrow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sympy import Expr, Mul

from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.tensor import Tensor
from costgraph.ops.attention import KVAppend
from costgraph.ops.experts import ExpertLinear
from costgraph.ops.hadamard import Hadamard, core
from costgraph.ops.linear import Linear

NONE, BOTH, ONLINE = "none", "both", "online"
ROTATIONS = (NONE, BOTH, ONLINE)

_FOLDED = frozenset({"rms-norm", "layer-norm"})
_ATTENTION = frozenset({"sv-matmul", "flash-attention", "split-flash-attention"})
Report = Callable[[str, str], None]


def rotated(
    graph: Graph, how: str, narrow: Callable[[Node], bool], caches: bool, made_by: str, miss: Report
) -> Graph:
    """``graph`` with transforms around the products for which ``narrow`` holds.

    Args:
        graph: one graph; bodies of its regions are left alone.
        how: :data:`BOTH` or :data:`ONLINE`.
        narrow: which products are quantised.
        caches: caches are: with ``online`` queries and keys are transformed by head.
        made_by: the pass, for provenance.
        miss: told a node and why it is not transformed.
    """
    work = _Rotating(graph, made_by, miss, {n.name for n in graph.nodes} | set(graph.tensors))
    for node in graph.nodes:
        product = node.op
        if isinstance(product, Linear) and narrow(node):
            if isinstance(product, ExpertLinear):
                miss(node.name, "products of experts are not rotated")
                work.keep(node)
                continue
            op = work.before(node, how)
            if op is not None:
                x = work.transformed(node.inputs[0], op, node)
                node = replace(node, inputs=(x, *node.inputs[1:]))
            if how == BOTH:
                width = graph.tensors[node.inputs[1]].shape[0]
                work.turn_result(node, work.known(node, width, len(product.split) or 1, True))
                continue
        elif how == ONLINE and caches and _rotates_heads(graph, node):
            work.turn_result(node, Hadamard(node.outputs[0].shape[-1]))
            continue
        work.keep(node)
    return replace(graph, nodes=tuple(work.nodes))


@dataclass
class _Rotating:
    """The new nodes of a graph so far."""

    graph: Graph
    made_by: str
    miss: Report
    names: set[str]
    nodes: list[Node] = field(default_factory=list)
    made: dict[tuple[str, Hadamard], str] = field(default_factory=dict)

    def keep(self, node: Node) -> None:
        self.nodes.append(node)

    def before(self, node: Node, how: str) -> Hadamard | None:
        """The transform of what a product takes; None for none."""
        assert isinstance(node.op, Linear)
        x, dims = self.graph.tensors[node.inputs[0]], node.op.contract
        whole = Mul(*x.shape[-dims:])
        if how == BOTH:
            return self.known(node, whole, dims, True)
        source = self.graph.producer.get(x.name)
        while source is not None and source.op.is_view:
            source = self.graph.producer.get(source.inputs[0])
        if source is None or source.op.kind in _FOLDED:
            return None
        if source.op.kind in _ATTENTION:
            across = self.known(node, source.outputs[0].shape[2], 1, False)
            return across if across is None or dims == 1 else replace(across, along=(-2,))
        return self.known(node, whole, dims, False)

    def known(self, node: Node, size: Expr, dims: int, signs: bool) -> Hadamard | None:
        """A transform along the last ``dims`` dimensions, where there is a matrix for it."""
        if core(size) is not None:
            return Hadamard(size, tuple(range(-dims, 0)), signs)
        self.miss(node.name, f"not rotated: no Hadamard matrix of order {size} is known")
        return None

    def transformed(self, name: str, op: Hadamard, node: Node) -> str:
        """The transform of a tensor: one for all that take it."""
        if (name, op) not in self.made:
            label = self.fresh(f"{name}_hadamard")
            tensor = replace(self.graph.tensors[name], name=label)
            self.nodes.append(Node(label, op, (name,), (tensor,), Origin(made_by=self.made_by)))
            self.made[name, op] = label
        return self.made[name, op]

    def turn_result(self, node: Node, op: Hadamard | None) -> None:
        """``node``, and a transform of its only result under the result's name."""
        if op is None:
            self.keep(node)
            return
        (result,) = node.outputs
        before: Tensor = replace(result, name=self.fresh(f"{result.name}_rotated"))
        self.nodes.append(replace(node, outputs=(before,)))
        label = self.fresh(f"{node.name}_hadamard")
        self.nodes.append(Node(label, op, (before.name,), (result,), Origin(made_by=self.made_by)))

    def fresh(self, name: str) -> str:
        made, index = name, 2
        while made in self.names:
            made, index = f"{name}{index}", index + 1
        self.names.add(made)
        return made


def _rotates_heads(graph: Graph, node: Node) -> bool:
    """True for the last step of queries and keys before scores: where they get positions."""
    if node.op.kind != "rope" or core(node.outputs[0].shape[-1]) is None:
        return False
    users = graph.consumers[node.outputs[0].name]
    return any(isinstance(u.op, KVAppend) or "qk-matmul" in u.op.kind for u in users)
