"""Layers of several kinds: a list of kinds, one per layer, as repeated regions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from sympy import Expr, Integer

from costgraph.models.blocks.stack import Period, Repeatable, Segment


def period_of(kinds: Sequence[str]) -> int:
    """The shortest period of a list; its length if it recurs less than twice."""
    for period in range(1, len(kinds) // 2 + 1):
        if all(kinds[i] == kinds[i - period] for i in range(period, len(kinds))):
            return period
    return len(kinds)


def arranged(
    d: Expr,
    kinds: Sequence[str],
    layers: Mapping[str, Repeatable],
    count: Expr | None = None,
) -> tuple[Segment, ...]:
    """Segments for a model whose layer ``i`` is ``layers[kinds[i]]``.

    Equal layers throughout are one segment. A pattern that recurs is a
    :class:`Period` repeated as often, and what is left over follows in runs;
    without one, runs of equal layers follow one another.

    Args:
        d: hidden size.
        kinds: one name per layer.
        layers: a layer per name.
        count: the number of layers where it is symbolic.
    """
    total = Integer(len(kinds)) if count is None else count
    period = period_of(kinds)
    if period == 1:
        return (Segment("layers", layers[kinds[0]], total),)
    if period == len(kinds):
        return _runs(kinds, layers, "")
    left = len(kinds) % period
    times = (total - left) / period
    body = Period(d, _runs(kinds[:period], layers, ""))
    return (Segment("layers", body, times), *_runs(kinds[len(kinds) - left :], layers, "last_"))


def _runs(
    kinds: Sequence[str], layers: Mapping[str, Repeatable], prefix: str
) -> tuple[Segment, ...]:
    """Runs of equal layers, named by their kind; later runs of a kind are numbered."""
    made: list[Segment] = []
    seen: dict[str, int] = {}
    for kind, group in groupby(kinds):
        seen[kind] = seen.get(kind, 0) + 1
        name = prefix + kind + (f"_{seen[kind]}" if seen[kind] > 1 else "")
        made.append(Segment(name, layers[kind], Integer(len(list(group)))))
    return tuple(made)


def gathered(layers: Iterable[tuple[str, Repeatable]]) -> tuple[Segment, ...]:
    """One segment per kind of layer, in order of first appearance.

    Times, traffic and memory do not depend on where equal layers stand; passes that cut
    between layers find their places.
    """
    places: dict[str, list[int]] = {}
    kinds: dict[str, Repeatable] = {}
    for index, (name, layer) in enumerate(layers):
        places.setdefault(name, []).append(index)
        kinds[name] = layer
    several = len(places) > 1
    return tuple(
        Segment(name, kinds[name], Integer(len(at)), tuple(at) if several else ())
        for name, at in places.items()
    )


def runs(layers: Iterable[tuple[str, Repeatable]]) -> tuple[Segment, ...]:
    """A segment per run of equal neighbours, in the model's order."""
    found: list[Segment] = []
    for index, (_, members) in enumerate(groupby(layers, key=lambda pair: pair[0])):
        run = list(members)
        name, layer = run[0]
        found.append(Segment(f"{name}_{index}", layer, Integer(len(run))))
    return tuple(found)
