"""The graph as a networkx DiGraph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sympy import Expr, Integer

from costgraph.ir.graph import Graph, Node, describe
from costgraph.ir.regions import Region, Repeat

if TYPE_CHECKING:
    import networkx


def to_networkx(graph: Graph, nested: bool = False) -> networkx.DiGraph[str]:
    """``graph`` as a ``networkx.DiGraph``.

    Nodes are operations and sources. Node attributes of operations: ``kind``,
    ``op`` (the operation), ``count`` (executions per step), ``unit`` (who runs it; empty
    for the device itself), ``attributes``, ``flops``, ``bytes`` (exact expressions of one
    execution), ``links`` (messages of one execution by link, each with ``steps`` and
    ``bytes`` on the wire), ``cost`` (the cost vector), ``shapes`` and ``dtypes`` of the
    results, ``origin``; of sources: ``kind='source'``, ``role``, ``shape``, ``dtype``,
    ``bytes``. Edges carry
    ``tensors``: one entry per tensor with ``name``, ``shape``, ``dtype``,
    ``role``, ``bytes`` and ``operands`` (positions), because a DiGraph joins
    parallel edges.

    Args:
        graph: the graph.
        nested: keep a region as one node; what it runs are DiGraphs of their own:
            ``body`` of what repeats, ``bodies`` (by name) of what runs at once, with their
            ``units``. By default regions are opened: their nodes are
            called ``region/node`` or ``region/body/node``, ``count`` tells how often they
            run, and the edge that feeds one round to the next is left out (it would close a
            cycle); it is listed in the graph attribute ``carried``. Bodies that run at once
            are listed in ``parallel``: names of bodies by the path of their region.
    """
    import networkx

    dag: networkx.DiGraph[str] = networkx.DiGraph(name=graph.name)
    dag.graph |= {"carried": [], "parallel": {}}
    _fill(dag, graph, _At(nested=nested), {})
    dag.graph["outputs"] = graph.outputs
    return dag


@dataclass(frozen=True)
class _At:
    """Where a graph stands: its path, how often it runs and on what."""

    prefix: str = ""
    count: Expr = Integer(1)
    unit: str = ""
    nested: bool = False


def _fill(
    dag: networkx.DiGraph[str], graph: Graph, at: _At, outside: dict[str, str]
) -> dict[str, str]:
    """Adds the nodes of ``graph``; returns the maker of each of its tensors."""
    maker: dict[str, str] = {}
    for tensor in graph.sources:
        if tensor.name in outside:
            maker[tensor.name] = outside[tensor.name]
            continue
        name = f"{at.prefix}{tensor.name}"
        maker[tensor.name] = name
        dag.add_node(
            name,
            kind="source",
            role=tensor.role.value,
            shape=tensor.shape,
            dtype=str(tensor.dtype),
            bytes=tensor.bytes,
            count=at.count,
        )
    for node in graph.nodes:
        here = replace(at, unit=node.unit or at.unit)
        if isinstance(node.op, Region) and not at.nested:
            maker.update(_opened(dag, node, node.op, here, maker))
            continue
        name = f"{at.prefix}{node.name}"
        cost = node.op.cost(graph.operands(node), node.outputs)
        dag.add_node(
            name,
            kind=node.op.kind,
            op=node.op,
            count=at.count,
            unit=here.unit,
            attributes=describe(node.op),
            flops=cost.total_flops,
            bytes=cost.total_bytes,
            links={k: {"steps": m.steps, "bytes": m.wire} for k, m in cost.links.items()},
            cost=cost,
            shapes=tuple(t.shape for t in node.outputs),
            dtypes=tuple(str(t.dtype) for t in node.outputs),
            origin=node.origin,
        )
        if isinstance(node.op, Repeat):
            dag.nodes[name]["body"] = to_networkx(node.op.body, nested=True)
        elif isinstance(node.op, Region):
            parts = dict(zip(node.op.labels, node.op.graphs, strict=True))
            dag.nodes[name]["bodies"] = {k: to_networkx(g, nested=True) for k, g in parts.items()}
            dag.nodes[name]["units"] = dict(zip(parts, node.op.units, strict=True))
        for tensor in node.outputs:
            maker[tensor.name] = name
        for position, operand in enumerate(node.inputs):
            _edge(dag, maker[operand], name, graph, operand, position)
    return maker


def _opened(
    dag: networkx.DiGraph[str], node: Node, region: Region, at: _At, maker: dict[str, str]
) -> dict[str, str]:
    """Adds what a region runs; returns the maker of each of its results."""
    name = f"{at.prefix}{node.name}"
    results: list[str] = []
    if not isinstance(region, Repeat):
        dag.graph["parallel"][name] = region.labels
    for label, unit, graph, takes in zip(
        region.labels, region.units, region.graphs, region.takes, strict=True
    ):
        path = f"{name}/{label}/" if label else f"{name}/"
        there = _At(path, at.count * region.times, unit or at.unit)
        feeds = {
            inner.name: maker[node.inputs[i]] for inner, i in zip(graph.inputs, takes, strict=True)
        }
        inside = _fill(dag, graph, there, feeds)
        results.extend(inside[result] for result in graph.outputs)
        for index in range(region.carried if isinstance(region, Repeat) else 0):
            for user in graph.consumers[graph.inputs[index].name]:
                dag.graph["carried"].append((inside[graph.outputs[index]], f"{path}{user.name}"))
    return {t.name: made for t, made in zip(node.outputs, results, strict=True)}


def _edge(
    dag: networkx.DiGraph[str], start: str, end: str, graph: Graph, operand: str, position: int
) -> None:
    tensor = graph.tensors[operand]
    if not dag.has_edge(start, end):
        dag.add_edge(start, end, tensors=[])
    known: list[dict[str, Any]] = dag.edges[start, end]["tensors"]
    for entry in known:
        if entry["name"] == operand:
            entry["operands"] = (*entry["operands"], position)
            return
    known.append(
        {
            "name": operand,
            "shape": tensor.shape,
            "dtype": str(tensor.dtype),
            "role": tensor.role.value,
            "bytes": tensor.bytes,
            "operands": (position,),
        }
    )
