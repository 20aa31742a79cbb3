"""Layers as a graph holds them: patterns written out, regions cut, rows that share scales."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from sympy import Expr, Integer, Mul

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
    """True if layers of the graph's regions do not follow one another as they stand.

    Either a region repeats several layers at once, or layers of several kinds are gathered.
    """
    return any(_is_pattern(n) or _places(n) for n in graph.nodes)


def _is_pattern(node: Node) -> bool:
    """True for a region whose rounds are several layers."""
    return isinstance(node.op, Repeat) and any(
        isinstance(n.op, Repeat) and n.op.rounds == "layers" for n in node.op.body.nodes
    )


def _places(node: Node) -> tuple[int, ...]:
    return node.op.places if isinstance(node.op, Repeat) else ()


def written_out(graph: Graph) -> Graph:
    """The graph with its layers as runs in their order, so that they can be numbered.

    Raises:
        InputError: a pattern recurs a symbolic number of times, or holds more than
            regions; something else uses what gathered layers hand on.
    """
    nodes: list[Node] = []
    for gathers, group in groupby(graph.nodes, key=lambda n: bool(_places(n))):
        if gathers:
            nodes.extend(_in_place(graph, tuple(group)))
            continue
        for node in group:
            nodes.extend(_recurring(node) if _is_pattern(node) else (node,))
    return replace(graph, nodes=tuple(nodes))


def _in_place(graph: Graph, kinds: tuple[Node, ...]) -> Iterator[Node]:
    """Regions of one kind each as runs of layers in the order in which they stand."""
    for before, after in pairwise(kinds):
        given = before.outputs[0].name
        alone = len(before.outputs) == 1 and graph.consumers[given] == (after,)
        if not alone or after.inputs[0] != given:
            raise InputError(
                f"layers cannot be numbered in {graph.name!r}: more than the next layer uses "
                f"what {before.name!r} hands on"
            )
    order = sorted((place, node.name) for node in kinds for place in _places(node))
    named = {node.name: node for node in kinds}
    runs = [(name, len(list(group))) for name, group in groupby(name for _, name in order)]
    state, seen = kinds[0].inputs[0], Counter[str]()
    for index, (name, count) in enumerate(runs):
        node, number = named[name], seen[name]
        seen[name] += 1
        assert isinstance(node.op, Repeat)
        final = index == len(runs) - 1
        (result,) = kinds[-1].outputs if final else node.outputs
        result = result if final else result.renamed(f"{name}.{number}")
        op = replace(node.op, count=Integer(count), places=())
        inputs = (state, *node.inputs[1:])
        yield replace(node, name=f"{name}.{number}", op=op, inputs=inputs, outputs=(result,))
        state = result.name


def _recurring(node: Node) -> Iterator[Node]:
    """A region that repeats several layers at once as these layers, one after another."""
    region = node.op
    assert isinstance(region, Repeat)
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
            names.update(zip((t.name for t in inner.outputs), (t.name for t in made), strict=True))
            label = f"{node.name}.{index}.{inner.name}"
            yield replace(inner, name=label, inputs=inputs, outputs=made)
        carried = zip((t.name for t in body.inputs), body.outputs, strict=False)
        names.update({old: names[new] for old, new in carried})


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
