"""Keys that are cached before rotary embedding (KVQuant): rotated each time they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from sympy import Expr

from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ops.attention import KVAppend
from costgraph.ops.flash import FlashAttention
from costgraph.ops.latent import SplitFlash
from costgraph.rewriting.rewrite import live


def cached_keys(graph: Graph) -> Mapping[str, Expr | None]:
    """Caches of keys, with the FLOP per element of rotating them anew; None: no rotation.

    A key is what scores are made of, whatever its name.
    """
    found: dict[str, Expr | None] = {}
    for node in graph.nodes:
        if isinstance(node.op, KVAppend) and _is_key(graph, node.outputs[0].name):
            rotation = _rotation(graph, node)
            found[node.inputs[0]] = None if rotation is None else _flops(graph, rotation)
    return found


def unrotated(graph: Graph, chosen: Callable[[str], bool], made_by: str) -> Graph:
    """The graph with keys appended to the ``chosen`` caches as they are before rotation.

    Their rotation moves to where they are read: into the format's ``decode``, as if it
    were more of a conversion.
    """
    nodes: list[Node] = []
    keys = {n: work for n, work in cached_keys(graph).items() if chosen(n) and work is not None}
    sources = tuple(
        replace(t, dtype=replace(t.dtype, decode=t.dtype.decode + keys[t.name]))
        if t.name in keys
        else t
        for t in graph.sources
    )
    for node in graph.nodes:
        if isinstance(node.op, KVAppend) and node.inputs[0] in keys:
            rotation = _rotation(graph, node)
            if rotation is not None:
                inputs = (node.inputs[0], rotation.inputs[0])
                node = replace(node, inputs=inputs, origin=Origin((node.name,), made_by))
        nodes.append(node)
    made = replace(graph, sources=sources, nodes=tuple(nodes))
    kept = {n.name for n in live(made).nodes}
    # Only rotations went out of use; what else has no user stays as it was.
    return replace(made, nodes=tuple(n for n in nodes if n.name in kept or n.op.kind != "rope"))


def _is_key(graph: Graph, name: str) -> bool:
    for user in graph.consumers[name]:
        places = [i for i, n in enumerate(user.inputs) if n == name]
        if "qk-matmul" in user.op.kind:
            return True
        if isinstance(user.op, SplitFlash):
            return any(i in (2, 3) for i in places)
        if isinstance(user.op, FlashAttention):
            return 1 in places
        if user.op.is_view and any(_is_key(graph, t.name) for t in user.outputs):
            return True
    return False


def _rotation(graph: Graph, append: Node) -> Node | None:
    made = graph.producer.get(append.inputs[1])
    return made if made is not None and made.op.kind == "rope" else None


def _flops(graph: Graph, rotation: Node) -> Expr:
    work = rotation.op.work(graph.operands(rotation), rotation.outputs)
    (flops,) = work.values()
    return flops / rotation.outputs[0].numel
