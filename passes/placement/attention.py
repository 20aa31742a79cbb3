"""Operations of a layer by what they are part of, and moving them to another unit."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.op import Op
from costgraph.ir.tensor import MEMORY, Role, inside
from costgraph.ops import AttentionScores, AttentionValues, KVAppend, SplitScores
from costgraph.ops.flash import FlashAttention
from costgraph.ops.latent import SplitFlash
from costgraph.ops.transfer import Carry

#: Where attention begins and where it ends.
SCORES: tuple[type[Op], ...] = (AttentionScores, SplitScores, FlashAttention, SplitFlash)
VALUES: tuple[type[Op], ...] = (AttentionValues, FlashAttention, SplitFlash)


def attention(graph: Graph) -> tuple[str, ...]:
    """The nodes of attention over caches: scores to values, and what extends the caches."""
    appends = {n.name for n in graph.nodes if isinstance(n.op, KVAppend)}
    begins = [n.name for n in graph.nodes if isinstance(n.op, SCORES)]
    ends = {n.name for n in graph.nodes if isinstance(n.op, VALUES)}
    if not appends or not begins:
        return ()
    between = between_nodes(graph, begins, ends)
    return tuple(n.name for n in graph.nodes if n.name in between | appends)


def between_nodes(graph: Graph, begins: Iterable[str], ends: Collection[str]) -> set[str]:
    """Nodes on a way from one of ``begins`` to one of ``ends``, both included."""
    after, made = set(begins), set[str]()
    for node in graph.nodes:
        if node.name in after or any(i in made for i in node.inputs):
            after.add(node.name)
            made.update(t.name for t in node.outputs)
    before, wanted = set[str](), set[str]()
    for node in reversed(graph.nodes):
        if node.name in ends or any(t.name in wanted for t in node.outputs):
            before.add(node.name)
            wanted.update(node.inputs)
    return after & before


def moved(graph: Graph, names: Collection[str], level: str, made_by: str) -> Graph:
    """``graph`` with nodes run by what computes in a level of memory.

    What they take of others, and what others take of them, is carried over the link; each
    tensor once. Weights and caches that they read lie where they run.
    """
    own = set(names)
    made_there = {t.name for n in graph.nodes if n.name in own for t in n.outputs}
    carried: dict[tuple[str, bool], str] = {}
    nodes: list[Node] = []
    origin = Origin(tuple(names), made_by)

    def carry(name: str, back: bool) -> str:
        key = (name, back)
        if key not in carried:
            carried[key] = f"{name}.{'back' if back else level}"
            x = graph.tensors[name]
            made = replace(x.renamed(carried[key]), spread=None, level=MEMORY)
            nodes.append(Node(made.name, Carry(level, back), (name,), (made,), origin))
        return carried[key]

    for node in graph.nodes:
        here = node.name in own
        inputs = []
        for name in node.inputs:
            tensor, there = graph.tensors[name], name in made_there
            stays = tensor.role is not Role.ACTIVATION and name not in graph.producer
            inputs.append(name if here == there or stays else carry(name, there))
        unit = inside(level) if here else node.unit
        nodes.append(replace(node, inputs=tuple(inputs), unit=unit))
    outputs = tuple(carry(o, True) if o in made_there else o for o in graph.outputs)
    return replace(graph, nodes=tuple(nodes), outputs=outputs)
