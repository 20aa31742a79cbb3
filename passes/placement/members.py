"""Operations of a layer by what they are part of: attention, feed-forward, experts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType

from costgraph.ir.graph import Graph
from costgraph.ir.op import Op
from costgraph.ops import AttentionScores, AttentionValues, ExpertLinear, KVAppend, SplitScores
from costgraph.ops.flash import FlashAttention
from costgraph.ops.latent import SplitFlash
from costgraph.ops.quant import plain
from costgraph.passes.sparsity.widths import inner_products

#: Where attention begins and where it ends.
SCORES: tuple[type[Op], ...] = (AttentionScores, SplitScores, FlashAttention, SplitFlash)
VALUES: tuple[type[Op], ...] = (AttentionValues, FlashAttention, SplitFlash)


def attention(graph: Graph) -> tuple[str, ...]:
    """The nodes of attention over caches: scores to values, and what extends the caches."""
    appends = {n.name for n in graph.nodes if isinstance(n.op, KVAppend)}
    begins = [n.name for n in graph.nodes if isinstance(plain(n.op), SCORES)]
    ends = {n.name for n in graph.nodes if isinstance(plain(n.op), VALUES)}
    if not appends or not begins:
        return ()
    between = between_nodes(graph, begins, ends)
    return tuple(n.name for n in graph.nodes if n.name in between | appends)


def between_nodes(graph: Graph, begins: Iterable[str], ends: Collection[str]) -> set[str]:
    """Nodes on a way from the last of ``begins`` to the next of ``ends``, both included."""
    begins = set(begins)
    after, made = set(begins), set[str]()
    for node in graph.nodes:
        if node.name in after or any(i in made for i in node.inputs):
            after.add(node.name)
            if node.name not in ends:  # what follows is another one, if a layer has several
                made.update(t.name for t in node.outputs)
    before, wanted = set[str](), set[str]()
    for node in reversed(graph.nodes):
        if node.name in ends or any(t.name in wanted for t in node.outputs):
            before.add(node.name)
            if node.name not in begins:
                wanted.update(node.inputs)
    return after & before


def feed_forward(graph: Graph, experts: bool = False) -> tuple[str, ...]:
    """The nodes of feed-forward blocks, from first product to last; of ``experts`` instead."""
    inside = {name for block in blocks(graph, experts) for name in block}
    return tuple(n.name for n in graph.nodes if n.name in inside)


def blocks(graph: Graph, experts: bool = False) -> tuple[tuple[str, ...], ...]:
    """The nodes of each feed-forward block, its last product at the end."""
    own = {n.name for n in graph.nodes if isinstance(plain(n.op), ExpertLinear) == experts}
    makes, takes = (own.intersection(names) for names in inner_products(graph))
    found = []
    for end in (n.name for n in graph.nodes if n.name in takes):
        inside = between_nodes(graph, makes, {end})
        if inside:
            found.append(tuple(n.name for n in graph.nodes if n.name in inside))
    return tuple(found)


#: Operations that are placed together, by the name that options give them.
GROUPS: Mapping[str, Callable[[Graph], tuple[str, ...]]] = MappingProxyType(
    {
        "attention": attention,
        "ffn": feed_forward,
        "experts": lambda graph: feed_forward(graph, experts=True),
    }
)


def members(graph: Graph, what: str) -> tuple[str, ...]:
    """The nodes of a group of operations, or of one operation by its name."""
    if what in GROUPS:
        return GROUPS[what](graph)
    return tuple(n.name for n in graph.nodes if n.name == what)
