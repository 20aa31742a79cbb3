"""The graph as a networkx DiGraph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sympy import Integer

from costgraph.ir.graph import Graph, describe
from costgraph.ir.regions import Repeat

if TYPE_CHECKING:
    import networkx


def to_networkx(graph: Graph, nested: bool = False) -> networkx.DiGraph[str]:
    """``graph`` as a ``networkx.DiGraph``.

    Nodes are operations and sources. Node attributes of operations: ``kind``,
    ``op`` (the operation), ``count`` (executions per step), ``attributes``,
    ``flops``, ``bytes`` (exact expressions of one execution), ``cost`` (the cost
    vector), ``shapes`` and ``dtypes`` of the results, ``origin``; of sources:
    ``kind='source'``, ``role``, ``shape``, ``dtype``, ``bytes``. Edges carry
    ``tensors``: one entry per tensor with ``name``, ``shape``, ``dtype``,
    ``role``, ``bytes`` and ``operands`` (positions), because a DiGraph joins
    parallel edges.

    Args:
        graph: the graph.
        nested: keep a repeated region as one node, with its ``body`` as a
            DiGraph of its own. By default regions are opened: their nodes are
            called ``region/node``, ``count`` tells how often they run, and the
            edge that feeds one round to the next is left out (it would close a
            cycle); it is listed in the graph attribute ``carried``.
    """
    import networkx

    dag: networkx.DiGraph[str] = networkx.DiGraph(name=graph.name)
    carried: list[tuple[str, str]] = []
    _fill(dag, graph, "", Integer(1), {}, nested, carried)
    dag.graph["carried"] = carried
    dag.graph["outputs"] = graph.outputs
    return dag


def _fill(
    dag: networkx.DiGraph[str],
    graph: Graph,
    prefix: str,
    count: Any,
    outside: dict[str, str],
    nested: bool,
    carried: list[tuple[str, str]],
) -> dict[str, str]:
    """Adds the nodes of ``graph``; returns the maker of each of its tensors."""
    maker: dict[str, str] = {}
    for tensor in graph.sources:
        if tensor.name in outside:
            maker[tensor.name] = outside[tensor.name]
            continue
        name = f"{prefix}{tensor.name}"
        maker[tensor.name] = name
        dag.add_node(
            name,
            kind="source",
            role=tensor.role.value,
            shape=tensor.shape,
            dtype=str(tensor.dtype),
            bytes=tensor.bytes,
            count=count,
        )
    for node in graph.nodes:
        name = f"{prefix}{node.name}"
        if isinstance(node.op, Repeat) and not nested:
            region = node.op
            feeds = {
                inner.name: maker[given]
                for inner, given in zip(region.body.inputs, node.inputs, strict=True)
            }
            inside = _fill(
                dag, region.body, f"{name}/", count * region.count, feeds, nested, carried
            )
            for tensor, result in zip(node.outputs, region.body.outputs, strict=True):
                maker[tensor.name] = inside[result]
            for index in range(region.carried):
                entry = region.body.inputs[index].name
                for user in region.body.consumers[entry]:
                    carried.append((inside[region.body.outputs[index]], f"{name}/{user.name}"))
            continue
        cost = node.op.cost(graph.operands(node), node.outputs)
        dag.add_node(
            name,
            kind=node.op.kind,
            op=node.op,
            count=count,
            attributes=describe(node.op),
            flops=cost.total_flops,
            bytes=cost.total_bytes,
            cost=cost,
            shapes=tuple(t.shape for t in node.outputs),
            dtypes=tuple(str(t.dtype) for t in node.outputs),
            origin=node.origin,
        )
        if isinstance(node.op, Repeat):
            dag.nodes[name]["body"] = to_networkx(node.op.body, nested=True)
        for tensor in node.outputs:
            maker[tensor.name] = name
        for position, operand in enumerate(node.inputs):
            _edge(dag, maker[operand], name, graph, operand, position)
    return maker


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
