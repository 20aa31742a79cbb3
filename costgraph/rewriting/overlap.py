"""Making nodes of a graph run at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from costgraph.errors import VerifyError
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.regions import Body, Parallel
from costgraph.ir.tensor import Tensor


def side_by_side(
    graph: Graph,
    groups: Mapping[str, Iterable[str]],
    name: str = "overlap",
    units: Mapping[str, str] | None = None,
    made_by: str = "overlap",
) -> Graph:
    """``graph`` with groups of its nodes as the bodies of one parallel region.

    Args:
        graph: a graph.
        groups: names of nodes by the name of the body that they become.
        name: of the region's node.
        units: who runs each body, where it is not the unit that runs the graph.
        made_by: the pass that does it, for the region's origin.

    Raises:
        VerifyError: a group is empty, or a body needs what another one makes, perhaps by
            way of nodes in between, and would have to wait for it; the text says what.
    """
    owner = {node: body for body, nodes in groups.items() for node in nodes}
    members = [n for n in graph.nodes if n.name in owner]
    for body in groups:
        if not any(owner[n.name] == body for n in members):
            raise VerifyError(f"{graph.name}: body {body!r} of {name!r} has no nodes")
    _check_apart(graph, owner, name)
    bodies: list[Body] = []
    operands: dict[str, int] = {}
    outputs: list[Tensor] = []
    for body in groups:
        made = graph.part([n for n in members if owner[n.name] == body], body)
        takes = tuple(operands.setdefault(t.name, len(operands)) for t in made.inputs)
        bodies.append(Body(body, made, takes, (units or {}).get(body, "")))
        outputs.extend(graph.tensors[o] for o in made.outputs)
    origin = Origin(tuple(n.name for n in members), made_by)
    region = Node(name, Parallel(tuple(bodies)), tuple(operands), tuple(outputs), origin)
    # The region stands where all that it reads is made: nodes that do not need it go first.
    after = _needing(graph, {o.name for o in outputs}, owner)
    before = [n for n in graph.nodes if n.name not in owner and n.name not in after]
    behind = [n for n in graph.nodes if n.name in after]
    return graph.with_nodes((*before, region, *behind))


def _check_apart(graph: Graph, owner: Mapping[str, str], name: str) -> None:
    """Refuses bodies of which one has to wait for another."""
    roots: dict[str, set[str]] = {}
    for node in graph.nodes:
        found = set().union(*(roots.get(i, set()) for i in node.inputs))
        mine = owner.get(node.name)
        others = found - {mine}
        if mine is not None and others:
            raise VerifyError(
                f"{graph.name}: {name!r}: {node.name!r} of body {mine!r} needs what body "
                f"{min(others)!r} makes: they cannot run at once"
            )
        if mine is not None:
            found = found | {mine}
        for tensor in node.outputs:
            roots[tensor.name] = found


def _needing(graph: Graph, made: set[str], owner: Mapping[str, str]) -> set[str]:
    """Nodes that use any of the tensors, directly or by way of others."""
    reached, found = set(made), set()
    for node in graph.nodes:
        if node.name not in owner and any(i in reached for i in node.inputs):
            found.add(node.name)
            reached.update(t.name for t in node.outputs)
    return found
