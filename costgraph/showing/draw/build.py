"""From graphs and programs to scenes: one vertex an operation, one cluster a region."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from sympy import Expr, Integer

from costgraph.compiling.steps import OpRow
from costgraph.counting.count import Row
from costgraph.ir.graph import Graph, Node, describe
from costgraph.ir.program import Program
from costgraph.ir.regions import Region, Repeat
from costgraph.ir.tensor import Tensor, level_of
from costgraph.ops.collectives import Exchange
from costgraph.ops.fused import Fused
from costgraph.progress import counted as progressing
from costgraph.showing.draw.scene import Carrier, Cluster, Link, Scene, Vertex, clean, joined
from costgraph.symbols import MEANINGS
from costgraph.units import format_quantity

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
    graph: Graph,
    title: str = "",
    subtitle: str = "",
    rows: Sequence[OpRow] | None = None,
    seconds: float | None = None,
    counted: Sequence[Row] | None = None,
) -> Scene:
    """Every operation of ``graph``; regions, bodies that run at once and units are clusters.

    Args:
        graph: a step graph.
        title, subtitle: head lines; the title is the graph's name by default.
        rows: numbers of a step, one row per operation in execution order.
        seconds: time of the step, of which each operation has a share; by default all
            operations take it together.
        counted: exact costs, one row per operation in execution order.
    """
    found = _Parts(
        iter(rows) if rows is not None else None, iter(counted) if counted is not None else None
    )
    makers = _fill(found, graph, _At(), {})
    for name in graph.outputs:
        tensor = graph.tensors[name]
        end = f"result:{name}"
        found.vertices.append(
            Vertex(clean(end), clean(name), "result", lines=(str(carrier(tensor)),))
        )
        found.links.append(Link(makers[name], clean(end), (carrier(tensor),)))
    total = seconds or sum(v.seconds or 0.0 for v in found.vertices)
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
    counted: Iterator[Row] | None

    def __post_init__(self) -> None:
        self.clusters: list[Cluster] = []
        self.vertices: list[Vertex] = []
        self.links: list[Link] = []


@dataclass(frozen=True)
class _At:
    """Where a graph stands: its path, the cluster around it, how often and on what it runs."""

    prefix: str = ""
    cluster: str = ""
    count: Expr = ONE
    unit: str = ""


def _fill(found: _Parts, graph: Graph, at: _At, outside: dict[str, str]) -> dict[str, str]:
    """Adds a graph's vertices and links; returns the maker of each of its tensors."""
    makers = dict(outside)
    frames = _frames(found, graph, at)
    for tensor in graph.sources:
        if tensor.name not in outside:
            makers[tensor.name] = name = clean(f"{at.prefix}{tensor.name}")
            units = {n.unit for n in graph.consumers[tensor.name]}
            frame = frames.get(units.pop(), at.cluster) if len(units) == 1 else at.cluster
            found.vertices.append(_source(tensor, name, frame, at.count))
    for node in progressing(graph.nodes, "operations drawn"):
        name = clean(f"{at.prefix}{node.name}")
        here = replace(at, cluster=frames.get(node.unit, at.cluster), unit=node.unit or at.unit)
        if isinstance(node.op, Region):
            makers.update(_region(found, node, node.op, name, here, makers))
            continue
        labelled = node.unit not in frames and here.unit != at.unit
        found.vertices.append(_operation(found, graph, node, name, here, labelled))
        for operand in node.inputs:
            found.links.append(Link(makers[operand], name, (carrier(graph.tensors[operand]),)))
        makers.update((t.name, name) for t in node.outputs)
    return makers


def _frames(found: _Parts, graph: Graph, at: _At) -> dict[str, str]:
    """A cluster for each unit that runs operations of the graph; what passes on has none."""
    busy = dict.fromkeys(n.unit for n in graph.nodes if n.unit and not isinstance(n.op, Exchange))
    frames = {unit: clean(f"{at.prefix}unit:{unit}") for unit in busy}
    for unit, frame in frames.items():
        found.clusters.append(Cluster(frame, _runner(unit), at.cluster, is_place=True))
    return frames


def _runner(unit: str) -> str:
    """A unit, in words: what computes in a level of memory by that."""
    level = level_of(unit)
    return clean(f"computed in {level}" if level else unit)


def _region(
    found: _Parts, node: Node, region: Region, name: str, at: _At, makers: dict[str, str]
) -> dict[str, str]:
    repeats = isinstance(region, Repeat)
    partly = "" if region.taking_part.is_full else ", run in part"
    many = f" × {clean(region.times, 60)}" if repeats else f": {len(region.graphs)} at once"
    title = f"{clean(node.name)}{many}{partly}"
    found.clusters.append(Cluster(name, title, at.cluster, is_place=not repeats))
    results: list[str] = []
    parts = zip(region.labels, region.units, region.graphs, region.takes, strict=True)
    for label, unit, graph, takes in parts:
        path = clean(f"{name}/{label}") if label else name
        if label:
            on = f" on {_runner(unit)}" if unit else ""
            title = clean(label) if label == unit else f"{clean(label)}{on}"
            found.clusters.append(Cluster(path, title, name, is_place=True, is_body=True))
        feeds = {
            inner.name: makers[node.inputs[i]] for inner, i in zip(graph.inputs, takes, strict=True)
        }
        there = _At(f"{path}/", path, at.count * region.times, unit or at.unit)
        inside = _fill(found, graph, there, feeds)
        if isinstance(region, Repeat) and region.count != 1:
            _carry(found, region, name, inside)
        results.extend(inside[result] for result in graph.outputs)
    return {t.name: maker for t, maker in zip(node.outputs, results, strict=True)}


def _carry(found: _Parts, region: Repeat, name: str, inside: Mapping[str, str]) -> None:
    """Links from what a round hands on to what takes it in the next."""
    for index in range(region.carried):
        entry = region.body.inputs[index]
        result = inside[region.body.outputs[index]]
        for user in _users(region.body, entry.name):
            end = clean(f"{name}/{user}")
            found.links.append(Link(result, end, (carrier(entry),), carried=True))


def _users(graph: Graph, tensor: str) -> Iterator[str]:
    """Names of the operations that use a tensor; of a region, those inside it."""
    for node in graph.consumers[tensor]:
        if not isinstance(node.op, Region):
            yield node.name
            continue
        for label, inner, takes in zip(node.op.labels, node.op.graphs, node.op.takes, strict=True):
            path = f"{node.name}/{label}" if label else node.name
            for entry, i in zip(inner.inputs, takes, strict=True):
                if node.inputs[i] == tensor:
                    yield from (f"{path}/{n}" for n in _users(inner, entry.name))


def _source(tensor: Tensor, name: str, cluster: str, count: Expr) -> Vertex:
    shown = carrier(tensor)
    where = () if tensor.spread is None else tuple(map(clean, tensor.spread.told))
    return Vertex(
        name,
        shown.name,
        "source",
        shown.role,
        cluster,
        (str(shown), *where),
        clean(count),
        signature=f"source {shown.role} {shown} {', '.join(where)}".rstrip(),
    )


def _operation(
    found: _Parts, graph: Graph, node: Node, name: str, at: _At, labelled: bool
) -> Vertex:
    """One operation; ``labelled`` if no frame says what runs it."""
    row = next(found.rows, None) if found.rows is not None else None
    exact = next(found.counted, None) if found.counted is not None else None
    operands = "; ".join(f"{t.role.value} {carrier(t)}" for t in graph.operands(node))
    results = "; ".join(str(carrier(t)) for t in node.outputs)
    attributes = describe(node.op)
    inside = node.op.body.nodes if isinstance(node.op, Fused) else ()
    kind = clean(node.op.kind, 80)
    link = _sent(graph, node, row)
    lines = [f"{kind} of {len(inside)}" if inside else kind]
    told = dict.fromkeys(line for n in inside or (node,) for line in n.op.told.split("; "))
    lines += [clean(line) for line in told if line]
    lines += [_runner(at.unit)] if labelled else []
    return Vertex(
        name,
        clean(node.name),
        kind,
        cluster=at.cluster,
        lines=(*lines, *filter(None, link.split("; "))),
        count=clean(at.count),
        unit=clean(at.unit),
        link=link,
        bound="" if row is None else row.bound,
        seconds=None if row is None else row.seconds * float(row.count),
        flops=None if row is None else row.flops * row.count,
        bytes=None if row is None else row.bytes * row.count,
        made_by=clean(node.origin.made_by),
        origin=tuple(clean(o) for o in node.origin.nodes),
        signature=f"{kind} {attributes} {[n.op.kind for n in inside]} ({operands}) -> {results}",
        counted=() if exact is None else (exact,),
    )


def _sent(graph: Graph, node: Node, row: OpRow | None) -> str:
    """What an operation sends over links: bytes of one execution, and among how many."""
    inside = node.op.body.nodes if isinstance(node.op, Fused) else (node,)
    hops = [hop for n in inside if isinstance(n.op, Exchange) for hop in n.op.hops]
    if not hops:
        return ""
    sent: Mapping[str, object]
    if row is not None:
        sent = {link: format_quantity(float(size), "B") for link, size in row.links.items()}
    else:
        links = node.op.cost(graph.operands(node), node.outputs).links
        sent = {link: f"{clean(m.wire, 60)} byte" for link, m in links.items()}
    ranks = {hop.link: clean(hop.ranks, 30) for hop in hops}
    return "; ".join(f"{clean(name, 40)} of {ranks[name]}: {size}" for name, size in sent.items())


#: What symbols of a graph stand for, which a phase has other values for.
_BOUND = {"q": "positions per step", "T": "context", "S": "prompt", "B": "batch"}


def meanings(graphs: Iterable[Graph], *told: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """What the symbols of graphs' shapes and counts stand for, beside the well-known ones.

    Args:
        graphs: step graphs; those of their regions are looked at, too.
        told: what is known of further symbols; the rest are sizes that the model names so.
    """
    names = {
        symbol.name
        for graph in graphs
        for inner in graph.walk()
        for size in {
            *(d for t in inner.tensors.values() for d in t.shape),
            *(n.op.times for n in inner.nodes if isinstance(n.op, Region)),
        }
        for symbol in size.free_symbols
    }
    known = dict.fromkeys(sorted(names - MEANINGS.keys()), "a size that the model names so")
    return tuple({**known, **dict(told)}.items())


def program_scene(program: Program, title: str = "", subtitle: str = "") -> Scene:
    """One vertex a phase: what its symbols stand for and how often it steps."""
    vertices, links = [], []
    names = [clean(p.name) for p in program.phases]
    stepping = [clean(p.name) for p in program.phases if p.span is not None]
    for phase in program.phases:
        lines = [
            clean(f"{_BOUND.get(s.name, s.name)}: {e}", 80) for s, e in phase.bindings if s != e
        ]
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
