"""Attention between all positions of a sequence: from scratch, or with what is cached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from costgraph.errors import PipelineError
from costgraph.ir.graph import Graph, Node
from costgraph.ir.regions import Region
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops import AttentionScores, AttentionValues, KVAppend
from costgraph.ops.pattern import FULL
from costgraph.rewriting.rewrite import live, rebuild
from costgraph.symbols import T, q


def every(graph: Graph, f: Callable[[Graph], Graph]) -> Graph:
    """``f`` applied to the graphs of all regions, then to the graph; results inferred anew."""
    return rebuild(_every(graph, f))


def _every(graph: Graph, f: Callable[[Graph], Graph]) -> Graph:
    nodes = []
    for node in graph.nodes:
        if isinstance(node.op, Region):
            inner = [_every(g, f) for g in node.op.graphs]
            node = replace(node, op=node.op.with_graphs(inner))
        nodes.append(node)
    return f(replace(graph, nodes=tuple(nodes)))


def cached(graph: Graph) -> Graph:
    """The graph with keys and values of positions that a step leaves out in a cache.

    A step works on ``q`` of ``T`` positions and attends all of them; its own rows take the
    places of older ones.

    Raises:
        PipelineError: nothing attends in both directions.
    """
    if not any(_attends(n) for inner in graph.walk() for n in inner.nodes):
        raise PipelineError(f"{graph.name} has no attention in both directions to cache")
    return every(graph, _cached)


def _attends(node: Node) -> bool:
    return isinstance(node.op, AttentionScores | AttentionValues) and node.op.pattern == FULL


def _cached(graph: Graph) -> Graph:
    nodes: list[Node] = []
    sources = list(graph.sources)
    for node in graph.nodes:
        if _attends(node):
            name = node.inputs[1]
            part = "k" if isinstance(node.op, AttentionScores) else "v"
            new = graph.tensors[name]
            batch, _, *rest = new.shape
            cache = Tensor(f"{part}_cache", (batch, T - q, *rest), new.dtype, Role.KV)
            append = KVAppend()
            (spec,) = append.infer((cache, new))
            kept = spec.named(f"{part}_append")
            sources.append(cache)
            nodes.append(Node(kept.name, append, (cache.name, name), (kept,)))
            node = replace(node, inputs=(node.inputs[0], kept.name))
        nodes.append(node)
    return replace(graph, sources=tuple(sources), nodes=tuple(nodes))


def uncached(graph: Graph) -> Graph:
    """The graph of a pass over all positions at once, which keeps no keys and values."""
    return every(graph, _uncached)


def _uncached(graph: Graph) -> Graph:
    given: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        if type(node.op) is KVAppend:
            given[node.output] = node.inputs[1]
            continue
        nodes.append(replace(node, inputs=tuple(given.get(i, i) for i in node.inputs)))
    return live(replace(graph, nodes=tuple(nodes)))
