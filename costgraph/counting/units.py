"""Parts of graphs by the unit that runs them: what each of several devices holds and does."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from costgraph.ir.graph import Graph, Node
from costgraph.ir.program import Phase
from costgraph.ir.regions import Body, Parallel, Region, Repeat
from costgraph.ir.tensor import Tensor, level_of
from costgraph.ops.arrays import Fill


def owner(unit: str) -> str:
    """A unit, or the device for what computes in one of its levels of memory."""
    return "" if level_of(unit) else unit


def unit_phases(phase: Phase) -> dict[str, Phase]:
    """The phase as each unit that runs a part of its graph sees it, by the unit's name."""
    units = _holders(phase.graph)
    if len(units) < 2:
        return dict.fromkeys(units or ("",), phase)
    return {
        unit: replace(
            phase,
            graph=_of_unit(phase.graph, unit),
            resident=tuple(replace(r, graph=_of_unit(r.graph, unit)) for r in phase.resident),
        )
        for unit in units
    }


def _holders(graph: Graph) -> tuple[str, ...]:
    """The units that run a graph, without those that only pass something on."""
    units = dict.fromkeys(u for node in graph.nodes for u in _runners(node))
    if len(units) < 2:
        return tuple(units)
    return tuple(u for u in units if _computes(graph, u))


def _runners(node: Node) -> tuple[str, ...]:
    """The units that run a node: of bodies and of layers those of what is in them."""
    if not isinstance(node.op, Region):
        return (owner(node.unit),)
    found: dict[str, None] = {}
    for unit, graph in zip(node.op.units, node.op.graphs, strict=True):
        runs_on = owner(unit or node.unit)
        inner = (u or runs_on for n in graph.nodes for u in _runners(n))
        found |= dict.fromkeys(inner) or {runs_on: None}
    return tuple(found)


def _computes(graph: Graph, unit: str) -> bool:
    part = _of_unit(graph, unit)
    return any(node.op.kind != "send" for inner in part.walk() for node in inner.nodes)


def _of_unit(graph: Graph, unit: str) -> Graph:
    """What a unit has of a graph: all of it where one unit runs it."""
    nodes = [made for node in graph.nodes if (made := _only(node, unit)) is not None]
    return graph if tuple(nodes) == graph.nodes else graph.part(nodes)


def _only(node: Node, unit: str) -> Node | None:
    """What a unit has of a node: of bodies that run at once, its own."""
    runners = _runners(node)
    if unit not in runners:
        return None
    if set(runners) == {unit}:
        return node
    if isinstance(node.op, Repeat):
        return _rounds_of(node, node.op, unit)
    assert isinstance(node.op, Parallel)
    runners = tuple(owner(body.unit or node.unit) for body in node.op.bodies)
    bodies: list[Body] = []
    outputs: list[Tensor] = []
    results = iter(node.outputs)
    for body, runner in zip(node.op.bodies, runners, strict=True):
        made = list(islice(results, len(body.graph.outputs)))
        if runner == unit:
            bodies.append(body)
            outputs.extend(made)
    taken = sorted({place for body in bodies for place in body.takes})
    own = (replace(b, takes=tuple(taken.index(p) for p in b.takes)) for b in bodies)
    op = replace(node.op, bodies=tuple(own))
    return replace(node, op=op, inputs=tuple(node.inputs[p] for p in taken), outputs=tuple(outputs))


def _rounds_of(node: Node, region: Repeat, unit: str) -> Node:
    """What a unit has of layers that several units share.

    What others make and it needs arrives in its memory; rounds hand on what it reads or makes.
    """
    body = region.body
    own = [made for n in body.nodes if (made := _only(n, unit)) is not None]
    made_here = {t.name for n in own for t in n.outputs}
    reads = {name for n in own for name in n.inputs}
    given = [t.name for t in body.inputs]
    if region.carried:
        pairs = zip(given, body.outputs, strict=True)
        kept = [i for i, (a, b) in enumerate(pairs) if a in reads or b in made_here]
        takes, gives = kept, kept
    else:
        takes = [i for i, name in enumerate(given) if name in reads]
        gives = [i for i, name in enumerate(body.outputs) if name in made_here]
    outputs = tuple(body.outputs[i] for i in gives)
    there = made_here | {t.name for t in body.sources}
    away = dict.fromkeys(n for n in (*reads, *outputs) if n not in there)
    arrived = [_arrived(body.tensors[name], unit) for name in away]
    persistent = (t for t in body.persistent if t.name in reads)
    sources = (*(body.inputs[i] for i in takes), *persistent)
    op = replace(
        region,
        body=Graph(body.name, sources, (*arrived, *own), outputs),
        carried=len(takes) if region.carried else 0,
    )
    inputs = tuple(node.inputs[i] for i in takes)
    return replace(node, op=op, inputs=inputs, outputs=tuple(node.outputs[i] for i in gives))


def _arrived(tensor: Tensor, unit: str) -> Node:
    """A tensor that another unit sent: its room in memory."""
    return Node(tensor.name, Fill(tensor.shape, tensor.dtype), (), (tensor,), unit=unit)
