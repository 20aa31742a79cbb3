"""Layers as a graph holds them: patterns written out, regions cut, rows that share scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sympy import Expr, Mul

from costgraph.errors import InputError
from costgraph.ir.graph import Graph, Node, Origin
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Tensor
from costgraph.ops.conv import Conv
from costgraph.ops.fused import Fused


@dataclass(frozen=True)
class Range:
    """The layers that a region stands for: the first one, how many, and whether they stay wide."""

    start: Expr
    count: Expr
    wide: bool

    @property
    def layers(self) -> tuple[Expr, Expr]:
        """The first layer and the number of layers, as :meth:`Keep.holds` takes them."""
        return self.start, self.count


def divided(
    graph: Graph, cuts: Mapping[str, Sequence[tuple[Expr, Expr, bool]]], who: str
) -> tuple[Graph, dict[str, Range]]:
    """The graph with its regions cut into ranges of layers, and what each then stands for.

    ``cuts`` has, by the name of a region, its ranges: first layer, layers, stays wide.

    Raises:
        InputError: ``who`` cannot cut a region of this graph.
    """
    ranges: dict[str, Range] = {}
    nodes: list[Node] = []
    taken = {n.name for n in graph.nodes} | set(graph.tensors)
    for node in graph.nodes:
        region = node.op
        if not isinstance(region, Repeat) or node.name not in cuts:
            nodes.append(node)
            continue
        parts = cuts[node.name]
        whole = region.shared_instances is None and not region.parts
        if len(parts) > 1 and not (whole and region.carried == len(node.outputs)):
            raise InputError(
                f"{who}: region {node.name!r} cannot be cut into layers: its rounds "
                "share weights, take parts or have results besides the ones they carry"
            )
        made = _pieces(node, region, [count for _, count, _ in parts], who, taken)
        nodes.extend(made)
        ranges.update((n.name, Range(*part)) for n, part in zip(made, parts, strict=True))
    return replace(graph, nodes=tuple(nodes)), ranges


def _pieces(
    node: Node, region: Repeat, counts: Sequence[Expr], who: str, taken: set[str]
) -> list[Node]:
    """A region as several in a row, each of some of its rounds."""
    if len(counts) == 1:
        return [node]
    found: list[Node] = []
    state = node.inputs
    for index, count in enumerate(counts):
        final = index == len(counts) - 1
        name = fresh(f"{node.name}_{index}", taken)
        outputs = tuple(
            t if final else t.renamed(fresh(f"{t.name}_{index}_out", taken)) for t in node.outputs
        )
        op = replace(region, count=count)
        found.append(Node(name, op, state, outputs, Origin((node.name,), who)))
        state = (*(t.name for t in outputs), *node.inputs[region.carried :])
    return found


def fresh(name: str, taken: set[str]) -> str:
    """``name``, or with a number behind it where it is taken; it is taken from then on."""
    made, index = name, 2
    while made in taken:
        made, index = f"{name}{index}", index + 1
    taken.add(made)
    return made


def patterned(graph: Graph) -> bool:
    """True if a region of the graph repeats several layers at once."""
    return any(
        isinstance(n.op, Repeat) and any(isinstance(m.op, Repeat) for m in n.op.body.nodes)
        for n in graph.nodes
    )


def written_out(graph: Graph) -> Graph:
    """The graph with repeated patterns as runs of layers, so that layers can be numbered.

    Raises:
        InputError: a pattern recurs a symbolic number of times, or holds more than
            regions.
    """
    nodes: list[Node] = []
    for node in graph.nodes:
        region = node.op
        if not isinstance(region, Repeat) or not patterned(replace(graph, nodes=(node,))):
            nodes.append(node)
            continue
        body = region.body
        simple = (
            region.count.is_Integer
            and region.carried == len(node.outputs) == len(body.outputs)
            and region.shared_instances is None
            and region.presence.is_full
            and not region.parts
            and not body.persistent
            and all(isinstance(n.op, Repeat) for n in body.nodes)
        )
        if not simple:
            raise InputError(
                f"layers cannot be numbered in {node.name!r}: its pattern is not a plain one "
                "that recurs a number of times"
            )
        names = dict(zip((t.name for t in body.inputs), node.inputs, strict=True))
        last = int(region.count) - 1
        for index in range(last + 1):
            for inner in body.nodes:
                inputs = tuple(names[i] for i in inner.inputs)
                ends = index == last and inner is body.nodes[-1]
                made = (
                    node.outputs
                    if ends
                    else tuple(t.renamed(f"{node.name}.{index}.{t.name}") for t in inner.outputs)
                )
                names.update(
                    zip((t.name for t in inner.outputs), (t.name for t in made), strict=True)
                )
                label = f"{node.name}.{index}.{inner.name}"
                nodes.append(replace(inner, name=label, inputs=inputs, outputs=made))
            carried = zip((t.name for t in body.inputs), body.outputs, strict=False)
            names.update({old: names[new] for old, new in carried})
    return replace(graph, nodes=tuple(nodes))


def row_of(graph: Graph, tensor: Tensor) -> Expr:
    """Elements of ``tensor`` that one result contracts over: what shares scales.

    The last dimension; for the kernel of a convolution all but the first.
    """
    return Mul(*tensor.shape[1:]) if _is_kernel(graph, tensor.name) else tensor.shape[-1]


def _is_kernel(graph: Graph, name: str) -> bool:
    """True when only convolutions use a tensor, as their kernel; fused ones are opened."""
    users = graph.consumers[name]
    return bool(users) and all(
        _is_kernel(u.op.body, name)
        if isinstance(u.op, Fused)
        else isinstance(u.op, Conv) and u.inputs[1] == name
        for u in users
    )
