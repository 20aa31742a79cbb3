"""Layers that are treated each in its own way, and layers that go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TypeVar

from sympy import Integer

from costgraph.errors import PipelineError
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.regions import Repeat
from costgraph.passes.precision.layers import in_order

K = TypeVar("K")


def depth_of(graph: Graph, who: str) -> int:
    """How many layers a graph has.

    Raises:
        PipelineError: they are no plain chain, or their number is no number.
    """
    _, layers = in_order(graph, who)
    counts = [region.op.count for region in layers if isinstance(region.op, Repeat)]
    if not all(count.is_Integer for count in counts):
        raise PipelineError(f"{who}: layers can be told apart only where their count is a number")
    return sum(map(int, counts))


def by_layer(
    graph: Graph, who: str, keys: Sequence[K | None], made: Callable[[Graph, K, str], Graph]
) -> Graph:
    """The graph with each layer rewritten by its key and region's name; layers with None go.

    Layers in a row with equal keys stay one region. Where a layer goes, the next one takes
    what it took.

    Raises:
        PipelineError: layers are no plain chain.
    """
    flat, layers = in_order(graph, who)
    nodes: list[Node] = []
    instead: dict[str, str] = {}
    start = 0
    for node in flat.nodes:
        node = replace(node, inputs=tuple(instead.get(i, i) for i in node.inputs))
        region = node.op
        if not isinstance(region, Repeat) or node.name not in {n.name for n in layers}:
            nodes.append(node)
            continue
        own = keys[start : start + int(region.count)]
        start += int(region.count)
        runs = [(key, len(list(run))) for key, run in groupby(own)]
        kept = [(key, count) for key, count in runs if key is not None]
        if not kept:
            instead[node.outputs[0].name] = node.inputs[0]
            continue
        state = node.inputs[0]
        for place, (key, count) in enumerate(kept):
            final = place == len(kept) - 1
            suffix = "" if len(kept) == 1 else f".{place}"
            output = node.outputs[0] if final else node.outputs[0].renamed(f"{node.name}{suffix}")
            op = replace(region, body=made(region.body, key, node.name), count=Integer(count))
            inputs = (state, *node.inputs[1:])
            origin = node.origin if op == region else Origin((node.name,), who)
            nodes.append(Node(f"{node.name}{suffix}", op, inputs, (output,), origin, node.unit))
            state = output.name
    outputs = tuple(instead.get(o, o) for o in flat.outputs)
    return replace(flat, nodes=tuple(nodes), outputs=outputs)
