"""Choosing operations and layers by name, and cutting regions into layer ranges."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from sympy import Expr, Integer, Mul

from costgraph.errors import InputError, PipelineError, clip
from costgraph.ir.graph import Graph, Node
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Tensor
from costgraph.ops.conv import Conv
from costgraph.ops.fused import Fused

_ITEM = re.compile(r"([A-Za-z][A-Za-z0-9_.]*)(?::(\d{1,6})(?:-(\d{1,6}))?)?\Z")
ZERO = Integer(0)
#: In front of a layer range: every name.
ALL = "all"


@dataclass(frozen=True)
class Keep:
    """A name (or part of one), and the layers in which it is meant (all if None)."""

    name: str
    layers: tuple[int, int] | None = None

    def holds(self, name: str, layer: tuple[Expr, Expr] | None) -> bool:
        """True when ``name`` in the layers ``(start, count)`` is meant.

        Ranges are cut along the layers of every item, so the first one decides.
        """
        if self.name != ALL and self.name not in name:
            return False
        if self.layers is None:
            return True
        if layer is None or not layer[0].is_number:
            return False
        return bool(self.layers[0] <= layer[0] and layer[0] <= self.layers[1])


def parse_keep(text: str) -> tuple[Keep, ...]:
    """Items of ``A|B:3|C:0-3``; ``none`` is the empty list.

    Raises:
        InputError: an item is malformed.
    """
    if text == "none":
        return ()
    found = []
    for item in text.split("|"):
        match = _ITEM.match(item)
        if match is None:
            raise InputError(f"keep: {clip(item)} is not NAME, NAME:3 or NAME:0-3")
        name, start, end = match.groups()
        layers = None if start is None else (int(start), int(end or start))
        if layers is not None and layers[0] > layers[1]:
            raise InputError(f"keep: {clip(item)} ends before it starts")
        found.append(Keep(name, layers))
    return tuple(found)


def segments(
    regions: Sequence[tuple[str, Expr]], first: Expr, last: Expr, keep: Iterable[Keep]
) -> dict[str, list[tuple[Expr, Expr, bool]]]:
    """Layer ranges of each region: (first layer, layers, stays wide).

    The ``first`` and the ``last`` layers of all stay wide; layer numbers of the keep list cut
    as well. Counts add up to the region's.

    Raises:
        InputError: more layers are named than there are, or layers are numbered
            in a region of symbolic count.
    """
    numbered = sorted({e for k in keep if k.layers for e in (k.layers[0], k.layers[1] + 1)})
    total: Expr = sum((count for _, count in regions), ZERO)
    if numbered and not total.is_Integer:
        raise InputError("keep: layers can be numbered only where their count is a number")
    if numbered and numbered[-1] > total:
        raise InputError(f"keep: layer {numbered[-1] - 1} is past the last one, {total - 1}")
    if (total - first - last).is_negative:
        raise InputError(f"first and last name {first + last} layers; there are {total}")
    found: dict[str, list[tuple[Expr, Expr, bool]]] = {}
    offset: Expr = ZERO
    for name, count in regions:
        head, tail = first, last
        if len(regions) > 1:
            head = _overlap(first - offset, count)
            tail = _overlap(last - (total - offset - count), count)
        inner = (Integer(n) - offset for n in numbered) if numbered else ()
        cuts = [ZERO, head, *sorted(c for c in inner if head < c < count - tail)]
        cuts += [count - tail, count]
        parts = []
        for start, end in pairwise(cuts):
            if end == start:
                continue
            wide = (head != 0 and start == 0) or (tail != 0 and start == count - tail)
            parts.append((offset + start, end - start, wide))
        found[name] = parts
        offset += count
    return found


def _overlap(layers: Expr, count: Expr) -> Expr:
    """How many of ``count`` layers are among the next ``layers``, which may be none."""
    if count.is_Integer and layers.is_Integer:
        return max(ZERO, min(layers, count))
    if layers.is_nonpositive:
        return ZERO
    if not layers.is_Integer:
        raise InputError("first, last: several kinds of layers whose count is no number")
    return layers


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


def in_order(graph: Graph, who: str) -> tuple[Graph, tuple[Node, ...]]:
    """The graph with its layers as regions, one after the other, and these regions.

    Patterns are written out, gathered layers put in their places. ``who`` needs it, for
    the message.

    Raises:
        PipelineError: where a layer stands is not known, or layers are no plain chain.
    """
    try:
        flat = written_out(graph) if patterned(graph) else graph
    except InputError as error:
        raise PipelineError(f"{who}: {error}") from None
    found = [(n, n.op) for n in flat.nodes if isinstance(n.op, Repeat) and n.op.rounds != "other"]
    if not found:
        raise PipelineError(f"{who}: {graph.name!r} has no repeated layers")
    for node, region in found:
        if not region.presence.is_full:
            raise PipelineError(f"{who}: tokens leave the layers of {graph.name!r} early already")
        if region.shared_instances is not None or not region.carried == len(node.outputs) == 1:
            raise PipelineError(
                f"{who}: layers of {node.name!r} share weights or hand on more than one result"
            )
        if region.parts or region.gathered:
            raise PipelineError(f"{who}: layers of {node.name!r} each take or give a part")
    for (before, _), (after, _) in pairwise(found):
        if after.inputs[0] != before.outputs[0].name:
            raise PipelineError(
                f"{who}: something stands between {before.name!r} and {after.name!r}"
            )
    return flat, tuple(node for node, _ in found)


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
