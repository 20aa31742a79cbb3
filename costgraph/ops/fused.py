"""Several operations run as one kernel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from sympy import Expr, Max

from costgraph.hardware.links import Messages
from costgraph.ir.cost import Access, Direction, Work
from costgraph.ir.op import Op, Spec, Tensors, merged, require, require_same
from costgraph.ir.regions import Region

if TYPE_CHECKING:
    from costgraph.ir.graph import Graph, Node


@dataclass(frozen=True)
class Fused(Op):
    """``body`` executed without writing its intermediates to memory.

    Operands are the body's sources in their order, results its outputs. Work is
    the sum of the work inside, times ``recompute`` for nodes named there; only
    boundary tensors move, each read at most once.

    Attributes:
        body: the operations, as a graph.
        recompute: (node, factor) for work that is repeated per output tile.
    """

    kind: ClassVar[str] = "fused"
    body: Graph
    recompute: tuple[tuple[str, Expr], ...] = ()

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == len(self.body.sources), self, "operands do not match the body")
        for given, wanted in zip(inputs, self.body.sources, strict=True):
            require(
                len(given.shape) == len(wanted.shape)
                and given.dtype == wanted.dtype
                and given.role is wanted.role,
                self,
                "{} is given for {}",
                given,
                wanted,
            )
            for a, b in zip(given.shape, wanted.shape, strict=True):
                require_same(self, a, b, "shapes of {} and {}", given, wanted)
        results = (self.body.tensors[name] for name in self.body.outputs)
        return tuple(Spec(t.shape, t.dtype, t.role, t.stored) for t in results)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        factors: dict[str, Any] = dict(self.recompute)
        parts = []
        for node in self.body.nodes:
            inner = node.op.work(self.body.operands(node), node.outputs)
            factor = factors.get(node.name, 1)
            parts.append({key: value * factor for key, value in inner.items()})
        return merged(*parts)

    def messages(self, inputs: Tensors, outputs: Tensors) -> Mapping[str, Messages]:
        found: dict[str, Messages] = {}
        for node in self.body.nodes:
            for link, given in node.op.messages(self.body.operands(node), node.outputs).items():
                found[link] = found[link] + given if link in found else given
        return found

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        """What the operations inside access of the body's sources and outputs."""
        boundary = {t.name for t in self.body.sources} | set(self.body.outputs)
        found: dict[tuple[str, Direction], Access] = {}
        for node in self.body.nodes:
            for key, access in self._own(node).items():
                made_here = access.tensor in self.body.producer
                if access.tensor not in boundary or (
                    made_here and access.direction is Direction.READ
                ):
                    continue
                known = found.get(key)
                if known is None or known.bytes == access.bytes:
                    found[key] = access
                else:  # one kernel reads an operand once: the larger need covers both
                    larger = Max(known.bytes, access.bytes)
                    found[key] = replace(access, bytes=larger)
        return (*found.values(), *self._materialised_views(found))

    def _own(self, node: Node) -> dict[tuple[str, Direction], Access]:
        """What one operation accesses of each tensor: parts that it tells apart add up."""
        found: dict[tuple[str, Direction], Access] = {}
        for access in node.op.accesses(self.body.operands(node), node.outputs):
            key = access.tensor, access.direction
            known = found.get(key)
            more = access.bytes if known is None else known.bytes + access.bytes
            found[key] = replace(access, bytes=more)
        return found

    def _materialised_views(self, found: dict[tuple[str, Direction], Access]) -> tuple[Access, ...]:
        """Writes of outputs that a view makes: the view's memory is written after all."""
        missing = []
        for name in self.body.outputs:
            node = self.body.producer.get(name)
            if node is not None and node.op.is_view and (name, Direction.WRITE) not in found:
                tensor = self.body.tensors[name]
                missing.append(Access(name, tensor.role, Direction.WRITE, tensor.bytes))
        return tuple(missing)


def operations(graph: Graph) -> Iterator[tuple[Op, Tensors]]:
    """Operations of a graph with their operands, those inside regions and kernels too."""
    for inner in graph.walk():
        for node in inner.nodes:
            if isinstance(node.op, Fused):
                yield from operations(node.op.body)
            elif not isinstance(node.op, Region):
                yield node.op, inner.operands(node)
