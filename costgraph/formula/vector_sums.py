"""Sums of smooth functions for many points at once, by the rule of :mod:`.quadrature`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from costgraph.formula.quadrature import DIRECT, rule, summed

if TYPE_CHECKING:
    from costgraph.formula.vector import Array

Index: TypeAlias = NDArray[np.intp]
#: Takes points by their places, and gives a function to values: of a ``t`` for each, or of rows
#: of them.
Summand: TypeAlias = Callable[[Index | slice], Callable[[NDArray[np.float64]], NDArray[np.float64]]]
#: Values that are computed together: they stay in the cache.
CHUNK = 1 << 14


class _Pieces(NamedTuple):
    """Pieces of ranges: whose, where each starts, and how many whole numbers it has."""

    points: Index
    start: NDArray[np.float64]
    n: NDArray[np.float64]

    def at(self, where: NDArray[np.bool_] | slice) -> _Pieces:
        return _Pieces(self.points[where], self.start[where], self.n[where])

    def chunks(self, size: int = CHUNK) -> Iterator[_Pieces]:
        for first in range(0, len(self.points), size):
            yield self.at(slice(first, first + size))


def sum_smooth(lower: Array, upper: Array, summand: Summand) -> Array:
    """``Σ f(t)`` for ``t = lower … upper`` at each point; zero for empty ranges."""
    total = np.zeros(len(lower))
    left = []
    for first in range(0, len(total), CHUNK // len(rule().nodes)):
        left += _first(
            total, slice(first, first + CHUNK // len(rule().nodes)), lower, upper, summand
        )
    _add(total, _joined(left), summand)
    return total


def _first(
    total: Array, part: slice, lower: Array, upper: Array, summand: Summand
) -> list[_Pieces]:
    """Sets the sums of the first pieces of neighbouring points; the pieces that are left.

    Most ranges are one piece: what they need lies side by side and is not gathered.
    """
    start, end = lower[part], upper[part]
    points = np.arange(part.start, part.start + len(start))
    n = np.minimum(end - start + 1, np.maximum(start, DIRECT))
    long = n > DIRECT
    rest = _doubling(points, start + np.maximum(n, 0), end)
    if not long.any():
        return [_Pieces(points, start, n).at(n > 0), rest]
    # Others are carried along: they are added up one by one after.
    found, settled = _by_rule(summand(part), start, np.maximum(n, 1))
    total[part] = np.where(settled & long, found, 0.0)
    pieces = _Pieces(points, start, n)
    return [pieces.at(~long & (n > 0)), _halved([pieces.at(long & ~settled)]), rest]


def _add(total: Array, pieces: _Pieces, summand: Summand) -> None:
    """Adds the sums of pieces to those of their points."""
    while len(pieces.points):
        short = pieces.n <= DIRECT
        for part in _opened(pieces.at(short)).chunks():
            np.add.at(total, part.points, summand(part.points)(part.start))
        left = []
        for part in pieces.at(~short).chunks(CHUNK // len(rule().nodes)):
            found, settled = _by_rule(summand(part.points), part.start, part.n)
            np.add.at(total, part.points[settled], found[settled])
            left.append(part.at(~settled))
        pieces = _halved(left)


def _doubling(points: Index, start: Array, end: Array) -> _Pieces:
    """The pieces of ranges that the rule takes first."""
    found = []
    left = start <= end
    while left.any():
        points, start, end = points[left], start[left], end[left]
        n = np.minimum(end - start + 1, np.maximum(start, DIRECT))
        found.append(_Pieces(points, start, n))
        start = start + n
        left = start <= end
    return _joined(found)


def _halved(pieces: list[_Pieces]) -> _Pieces:
    """Both halves of each piece."""
    points, start, n = _joined(pieces)
    half = np.floor(n / 2)
    return _joined([_Pieces(points, start, half), _Pieces(points, start + half, n - half)])


def _opened(pieces: _Pieces) -> _Pieces:
    """A piece for every whole number."""
    n = pieces.n.astype(np.intp)
    within = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
    return _Pieces(
        np.repeat(pieces.points, n), np.repeat(pieces.start, n) + within, np.ones(n.sum())
    )


def _joined(pieces: list[_Pieces]) -> _Pieces:
    if not pieces:
        return _Pieces(np.empty(0, np.intp), np.empty(0), np.empty(0))
    return _Pieces(*(np.concatenate(parts) for parts in zip(*pieces, strict=True)))


def _by_rule(
    f: Callable[[Array], Array], start: Array, n: Array
) -> tuple[Array, NDArray[np.bool_]]:
    """(sums of pieces, where they are smooth enough)."""
    known = rule()
    half, center = n / 2, start + (n - 1) / 2
    # A row for each node: one pass through the summand serves all.
    values = f(center + half * np.array(known.nodes)[:, None])
    total, rough = summed(np.array(known.weights) @ values, n)
    return total, ~rough
