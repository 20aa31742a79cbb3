"""Draft and target at the same time: one graph of both, on one device or on two."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.hardware.links import Hop
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.op import same
from costgraph.ir.regions import Body, Parallel, Repeat
from costgraph.ir.tensor import Tensor
from costgraph.ops.collectives import Send
from costgraph.rewriting.binding import prefixed
from costgraph.symbols import B

ONE = Integer(1)
#: The unit of a draft that has a device of its own, and what is between the two.
UNIT, WAY = "draft", "draft to target"


@dataclass(frozen=True)
class Apart:
    """A device of its own for the draft.

    Attributes:
        hop: the link to the target's.
        logits: of one drafted token; the target needs its distribution.
    """

    hop: Hop
    logits: Tensor

    def sent(self, count: Expr) -> Tensor:
        """The distributions of so many drafted tokens."""
        shape = (B, count, self.logits.shape[-1])
        return Tensor("distributions", shape, self.logits.dtype)


def at_once(target: Graph, draft: Graph, count: Expr, apart: Apart | None = None) -> Graph:
    """A graph in which ``count`` steps of the draft run beside one of the target.

    With a device of its own, the distributions of what is drafted go to the target
    meanwhile, and nothing is shared.
    """
    steps = drafted(prefixed(draft, "draft."), count)
    bodies = [("target", target, ""), ("draft", steps, UNIT if apart else "")]
    if apart is not None:
        bodies.append(("send", _sending(apart, count), WAY))
    return side_by_side(bodies)


def side_by_side(parts: list[tuple[str, Graph, str]]) -> Graph:
    """Graphs (name, graph, unit) as the bodies of one region; none needs another."""
    bodies: list[Body] = []
    sources: list[Tensor] = []
    outputs: list[Tensor] = []
    for name, graph, unit in parts:
        places = range(len(sources), len(sources) + len(graph.inputs))
        bodies.append(Body(name, graph, tuple(places), unit))
        sources.extend(graph.inputs)
        outputs.extend(graph.tensors[o] for o in graph.outputs)
    operands = tuple(t.name for t in sources)
    origin = Origin((), "speculative")
    region = Node("at_once", Parallel(tuple(bodies)), operands, tuple(outputs), origin)
    results = tuple(t.name for t in outputs)
    return Graph(parts[0][1].name, tuple(sources), (region,), results)


def elsewhere(graph: Graph) -> Graph:
    """The graph of a draft on its own device."""
    return side_by_side([("draft", prefixed(graph, "draft."), UNIT)])


def drafted(step: Graph, count: Expr) -> Graph:
    """``count`` runs of a draft step, one after the other, on one set of weights and caches."""
    first, result = step.inputs[0], step.tensors[step.outputs[0]]
    alike = len(first.shape) == len(result.shape) and all(
        same(a, b) for a, b in zip(first.shape, result.shape, strict=True)
    )
    region = Repeat(step, count, 1 if alike else 0, shared_instances=ONE, rounds="other")
    operands = tuple(t.name for t in step.inputs)
    outputs = tuple(s.named(o) for s, o in zip(
        region.infer(step.inputs), (f"{o}s" for o in step.outputs), strict=True
    ))  # fmt: skip
    node = Node("draft.steps", region, operands, outputs, Origin((), "speculative"))
    return Graph(f"{step.name}-steps", step.inputs, (node,), tuple(t.name for t in outputs))


def _sending(apart: Apart, count: Expr) -> Graph:
    given = apart.sent(count)
    made = given.renamed("distributions_sent")
    node = Node(made.name, Send((apart.hop,)), (given.name,), (made,), Origin((), "speculative"))
    return Graph("send", (given,), (node,), (made.name,))
