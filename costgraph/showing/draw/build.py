"""From graphs and programs to scenes: one vertex an operation, one cluster a region."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from sympy import Expr, Integer

from costgraph.compiling.breakdown import OpRow
from costgraph.ir.graph import Graph, Node, describe
from costgraph.ir.program import Program
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Tensor
from costgraph.ops.fused import Fused
from costgraph.showing.draw.scene import Carrier, Cluster, Link, Scene, Vertex, clean, joined

ONE = Integer(1)
_FEW = 3


def carrier(tensor: Tensor) -> Carrier:
    """A tensor as texts."""
    shape = ", ".join(_dimension(d) for d in tensor.shape)
    return Carrier(clean(tensor.name), shape, clean(tensor.dtype, 60), tensor.role.value)


@lru_cache(maxsize=4096)
def _dimension(size: Expr) -> str:
    return clean(size, 60)  # printing an expression is slow, and few differ


def graph_scene(
    graph: Graph, title: str = "", subtitle: str = "", rows: Sequence[OpRow] | None = None
) -> Scene:
    """Every operation of ``graph``; repeated regions are clusters.

    Args:
        graph: a step graph.
        title, subtitle: head lines; the title is the graph's name by default.
        rows: numbers of a step, one row per operation in execution order.
    """
    found = _Parts(iter(rows) if rows is not None else None)
    makers = _fill(found, graph, "", "", ONE, {})
    for name in graph.outputs:
        tensor = graph.tensors[name]
        end = f"result:{name}"
        found.vertices.append(
            Vertex(clean(end), clean(name), "result", lines=(str(carrier(tensor)),))
        )
        found.links.append(Link(makers[name], clean(end), (carrier(tensor),)))
    total = sum(v.seconds or 0.0 for v in found.vertices)
    vertices = tuple(
        v if v.seconds is None or not total else replace(v, share=v.seconds / total)
        for v in found.vertices
    )
    return Scene(
        clean(title or graph.name),
        clean(subtitle),
        tuple(found.clusters),
        vertices,
        joined(found.links),
    )


@dataclass
class _Parts:
    """What the walk over a graph collects."""

    rows: Iterator[OpRow] | None

    def __post_init__(self) -> None:
        self.clusters: list[Cluster] = []
        self.vertices: list[Vertex] = []
        self.links: list[Link] = []


def _fill(
    found: _Parts, graph: Graph, prefix: str, cluster: str, count: Expr, outside: dict[str, str]
) -> dict[str, str]:
    """Adds a graph's vertices and links; returns the maker of each of its tensors."""
    makers = dict(outside)
    for tensor in graph.sources:
        if tensor.name not in outside:
            makers[tensor.name] = name = clean(f"{prefix}{tensor.name}")
            found.vertices.append(_source(tensor, name, cluster, count))
    for node in graph.nodes:
        name = clean(f"{prefix}{node.name}")
        if isinstance(node.op, Repeat):
            makers.update(_region(found, graph, node, node.op, name, cluster, count, makers))
            continue
        found.vertices.append(_operation(found, graph, node, name, cluster, count))
        for operand in node.inputs:
            found.links.append(Link(makers[operand], name, (carrier(graph.tensors[operand]),)))
        makers.update((t.name, name) for t in node.outputs)
    return makers


def _region(
    found: _Parts,
    graph: Graph,
    node: Node,
    region: Repeat,
    name: str,
    cluster: str,
    count: Expr,
    makers: dict[str, str],
) -> dict[str, str]:
    partly = "" if region.presence.is_full else ", run in part"
    title = f"{clean(node.name)} × {clean(region.count, 60)}{partly}"
    found.clusters.append(Cluster(name, title, cluster))
    feeds = {
        inner.name: makers[given]
        for inner, given in zip(region.body.inputs, node.inputs, strict=True)
    }
    inside = _fill(found, region.body, f"{name}/", name, count * region.count, feeds)
    if region.count != 1:
        for index in range(region.carried):
            entry = region.body.inputs[index]
            result = inside[region.body.outputs[index]]
            for user in _users(region.body, entry.name):
                end = clean(f"{name}/{user}")
                found.links.append(Link(result, end, (carrier(entry),), carried=True))
    return {
        t.name: inside[result] for t, result in zip(node.outputs, region.body.outputs, strict=True)
    }


def _users(graph: Graph, tensor: str) -> Iterator[str]:
    """Names of the operations that use a tensor; of a region, those inside it."""
    for node in graph.consumers[tensor]:
        if not isinstance(node.op, Repeat):
            yield node.name
            continue
        for inner, given in zip(node.op.body.inputs, node.inputs, strict=True):
            if given == tensor:
                yield from (f"{node.name}/{n}" for n in _users(node.op.body, inner.name))


def _source(tensor: Tensor, name: str, cluster: str, count: Expr) -> Vertex:
    shown = carrier(tensor)
    return Vertex(
        name,
        shown.name,
        "source",
        shown.role,
        cluster,
        (str(shown),),
        clean(count),
        signature=f"source {shown.role} {shown}",
    )


def _operation(
    found: _Parts, graph: Graph, node: Node, name: str, cluster: str, count: Expr
) -> Vertex:
    row = next(found.rows, None) if found.rows is not None else None
    operands = "; ".join(f"{t.role.value} {carrier(t)}" for t in graph.operands(node))
    results = "; ".join(str(carrier(t)) for t in node.outputs)
    attributes = describe(node.op)
    inside = node.op.body.nodes if isinstance(node.op, Fused) else ()
    kind = clean(node.op.kind, 80)
    return Vertex(
        name,
        clean(node.name),
        kind,
        cluster=cluster,
        lines=(f"{kind} of {len(inside)}" if inside else kind,),
        count=clean(count),
        bound="" if row is None else row.bound,
        seconds=None if row is None else row.seconds * float(row.count),
        made_by=clean(node.origin.made_by),
        origin=tuple(clean(o) for o in node.origin.nodes),
        signature=f"{kind} {attributes} {[n.op.kind for n in inside]} ({operands}) -> {results}",
    )


def program_scene(program: Program, title: str = "", subtitle: str = "") -> Scene:
    """One vertex a phase: what its symbols stand for and how often it steps."""
    vertices, links = [], []
    names = [clean(p.name) for p in program.phases]
    stepping = [clean(p.name) for p in program.phases if p.span is not None]
    for phase in program.phases:
        lines = [clean(", ".join(f"{s} = {e}" for s, e in phase.bindings if s != e), 80)]
        if phase.span is not None:
            span = phase.span
            lines.append(clean(f"for {span.symbol} = {span.lower} … {span.upper}", 80))
            if phase.weight != 1:
                lines.append(_shortly("steps per value", phase.weight))
        if phase.tokens != 1:
            lines.append(_shortly("tokens per step", phase.tokens))
        lines.append(f"graph {clean(phase.graph.name, 60)}")
        vertices.append(
            Vertex(clean(phase.name), clean(phase.name), "phase", lines=tuple(filter(None, lines)))
        )
    for before, after in itertools.pairwise(names):
        links.append(Link(before, after, text="then"))
    if stepping:
        links.append(Link(stepping[-1], stepping[0], carried=True, text="next step"))
    return Scene(clean(title or program.name), clean(subtitle), (), tuple(vertices), tuple(links))


def _shortly(what: str, value: Expr) -> str:
    if value.is_Rational and not value.is_Integer:
        return f"{what}: {float(value):.4g}"
    return f"{what}: {clean(value, 60)}"
