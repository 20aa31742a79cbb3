"""Pareto fronts over every whole batch of several candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from costgraph.formula.batch import Bound, Line, Range, allowed

#: Values that agree to so many digits count as equal: the rest is rounding.
DIGITS = 12


@dataclass(frozen=True)
class FrontPoint:
    """A batch of a candidate that no other point beats in both metrics.

    Attributes:
        hardware, passes, batch: what it is.
        values: the two metrics.
    """

    hardware: str
    passes: str
    batch: int
    values: tuple[float, float]


@dataclass(frozen=True)
class Cloud:
    """Every allowed batch of one candidate with both metrics."""

    hardware: str
    passes: str
    batches: npt.NDArray[np.int64]
    first: npt.NDArray[np.float64]
    second: npt.NDArray[np.float64]


def cloud_of(
    hardware: str, passes: str, lines: tuple[Line, Line], bounds: Sequence[Bound], batches: Range
) -> Cloud:
    """The allowed batches of a candidate.

    Raises:
        InputError: there are too many to try.
    """
    found = allowed(bounds, batches)
    if not found.size:
        empty = np.empty(0)
        return Cloud(hardware, passes, found, empty, empty)
    ends = (int(found[0]), int(found[-1]))
    first, second = (line.over(ends)[found - ends[0]] for line in lines)
    return Cloud(hardware, passes, found, first, second)


def front_of(clouds: Sequence[Cloud], larger: tuple[bool, bool]) -> tuple[FrontPoint, ...]:
    """The points that no other point beats, ordered by the first metric, best first.

    A point is beaten by one that is at least as good in both metrics and better
    in one; of points that are equal in both, the first is kept.
    """
    if not clouds:
        return ()
    x = np.concatenate([c.first for c in clouds])
    y = np.concatenate([c.second for c in clouds])
    owner = np.concatenate([np.full(c.batches.size, i) for i, c in enumerate(clouds)])
    batch = np.concatenate([c.batches for c in clouds])
    keys = [_rounded(-v if up else v) for v, up in zip((x, y), larger, strict=True)]
    order = np.lexsort((np.arange(x.size), keys[1], keys[0]))
    least = np.minimum.accumulate(keys[1][order]) if x.size else keys[1]
    is_new = np.ones(x.size, dtype=bool)
    is_new[1:] = keys[1][order][1:] < least[:-1]
    return tuple(
        FrontPoint(
            clouds[owner[i]].hardware,
            clouds[owner[i]].passes,
            int(batch[i]),
            (float(x[i]), float(y[i])),
        )
        for i in order[is_new]
    )


def _rounded(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values to :data:`DIGITS` significant digits."""
    size = np.abs(values)
    power = np.floor(np.log10(np.where(size > 0, size, 1.0)))
    scale = 10.0 ** (DIGITS - 1 - power)
    result: npt.NDArray[np.float64] = np.round(values * scale) / scale
    return result
