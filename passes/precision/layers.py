"""Choosing operations and layers by name, and cutting regions into layer ranges."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sympy import Expr, Integer

from costgraph.errors import InputError, PipelineError, clip
from costgraph.ir.graph import Graph, Node
from costgraph.ir.regions import Repeat
from costgraph.rewriting.layers import Range, divided, patterned, written_out

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


def parse_keep(text: str, option: str = "keep") -> tuple[Keep, ...]:
    """Items of ``A|B:3|C:0-3``; ``none`` is the empty list. ``option`` is what it is called.

    Raises:
        InputError: an item is malformed.
    """
    if text == "none":
        return ()
    found = []
    for item in text.split("|"):
        match = _ITEM.match(item)
        if match is None:
            raise InputError(f"{option}: {clip(item)} is not NAME, NAME:3 or NAME:0-3")
        name, start, end = match.groups()
        layers = None if start is None else (int(start), int(end or start))
        if layers is not None and layers[0] > layers[1]:
            raise InputError(f"{option}: {clip(item)} ends before it starts")
        found.append(Keep(name, layers))
    return tuple(found)


def segments(
    regions: Sequence[tuple[str, Expr]],
    first: Expr,
    last: Expr,
    keep: Iterable[Keep],
    option: str = "keep",
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
        raise InputError(f"{option}: layers can be numbered only where their count is a number")
    if numbered and numbered[-1] > total:
        raise InputError(f"{option}: layer {numbered[-1] - 1} is past the last one, {total - 1}")
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


def cut(
    graph: Graph,
    who: str,
    keep: Iterable[Keep],
    first: Expr = ZERO,
    last: Expr = ZERO,
    option: str = "keep",
) -> tuple[Graph, dict[str, Range]]:
    """The graph with its regions cut where layers are told apart, and what each then stands for.

    Patterns are written out. Nothing is cut, and no range is known, where neither
    ``first`` and ``last`` nor ``keep``, which the user knows as ``option``, number layers.

    Raises:
        InputError: ``who`` cannot number or cut the layers of this graph.
    """
    listed = tuple(keep)
    if first == 0 and last == 0 and not any(k.layers for k in listed):
        return graph, {}
    if patterned(graph):
        graph = written_out(graph)
    regions = []
    for node in graph.nodes:
        if isinstance(node.op, Repeat) and node.op.rounds != "other":
            regions.append((node.name, node.op.count))
    if not regions:
        return graph, {}
    return divided(graph, segments(regions, first, last, listed, option), who)


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
