"""The subnet of least cost within a size, exactly, where layers are alike and costs add up.

Each layer keeps some heads and some of its feed-forward width. What a layer costs is what
its heads cost and what its width costs; sizes are linear in both. So the least cost for
every total of heads, and of width, is a shortest path over layers, and the best pair of
totals within the size is the answer: no other subnet of the space is better. A cost that
only the widest layer decides (live activations) is a peak: each is tried with the choices
that stay below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Costs = npt.NDArray[np.float64]
#: Largest table of totals that is filled in.
MOST = 50_000_000


@dataclass(frozen=True)
class Choices:
    """What a layer may keep of one kind.

    Attributes:
        units: how many units each choice keeps.
        costs: what a layer's part costs with each.
        size: parameters of one unit.
    """

    units: tuple[int, ...]
    costs: tuple[float, ...]
    size: int

    def up_to(self, most: int) -> Choices:
        """The choices that keep at most so many units."""
        pairs = [p for p in zip(self.units, self.costs, strict=True) if p[0] <= most]
        return replace(self, units=tuple(u for u, _ in pairs), costs=tuple(c for _, c in pairs))


@dataclass(frozen=True)
class Peak:
    """A cost beside the sum over layers, where no layer keeps more units than these."""

    cost: float
    heads: int
    ffn: int


@dataclass(frozen=True)
class Space:
    """All subnets: depths, and what each layer may keep.

    Attributes:
        depths: numbers of layers.
        heads, ffn: choices of a layer; costs of what neither changes are the heads'.
        fixed_cost, fixed_size: of what is no layer.
        layer_size: parameters of a layer that neither changes.
        peaks: costs of the widest layer, from low to high; none where there is no such cost.
    """

    depths: tuple[int, ...]
    heads: Choices
    ffn: Choices
    fixed_cost: float
    fixed_size: int
    layer_size: int
    peaks: tuple[Peak, ...] = ()

    @property
    def entries(self) -> int:
        """Entries of the larger table that :func:`least` fills in."""
        deepest = max(self.depths)
        return deepest * deepest * max(*self.heads.units, *self.ffn.units) * (len(self.peaks) or 1)


@dataclass(frozen=True)
class Subnet:
    """Units that each layer keeps, parameters, and cost; ends of the lists are alike."""

    heads: tuple[int, ...]
    ffn: tuple[int, ...]
    size: int
    cost: float

    @property
    def depth(self) -> int:
        """Layers that stay."""
        return len(self.heads)


def least(space: Space, low: int, high: int) -> Subnet | None:
    """The subnet of least cost of ``low`` to ``high`` parameters; of equal ones the largest.

    None if there is none of such a size.
    """
    return Tables(space).least(low, high)


class Tables:
    """Least costs for every total of heads and of width, by depth."""

    def __init__(self, space: Space) -> None:
        self.space = space
        whole = Peak(0.0, max(space.heads.units), max(space.ffn.units))
        self._below = [_Below(space, peak) for peak in space.peaks or (whole,)]

    def least(self, low: int, high: int) -> Subnet | None:
        """As :func:`least`."""
        found = [s for s in (below.least(low, high) for below in self._below) if s is not None]
        return min(found, key=lambda s: s.cost, default=None)

    def front(self, budgets: Sequence[int], spend: float) -> list[Subnet]:
        """The best subnet of each budget that has one, without those that a larger one beats."""
        found = (self.least(int(b * spend), b) for b in sorted(budgets, reverse=True))
        kept: list[Subnet] = []
        for subnet in found:
            if subnet is not None and (not kept or subnet.cost < kept[-1].cost):
                kept.append(subnet)
        return kept


class _Below:
    """The tables of choices that stay below a peak."""

    def __init__(self, space: Space, peak: Peak) -> None:
        self.space, self.peak = space, peak
        self.heads, self.ffn = space.heads.up_to(peak.heads), space.ffn.up_to(peak.ffn)
        if self.heads.units and self.ffn.units:
            self._heads = _totals(self.heads, max(space.depths))
            self._ffn = _totals(self.ffn, max(space.depths))

    def least(self, low: int, high: int) -> Subnet | None:
        """The subnet of least cost below the peak; None if none has such a size."""
        space, best, found = self.space, np.inf, None
        if not (self.heads.units and self.ffn.units):
            return None
        for depth in space.depths:
            rest = space.fixed_size + depth * space.layer_size
            heads, ffn = self._heads[0][depth], self._ffn[0][depth]
            for units in np.flatnonzero(np.isfinite(heads)):
                left = rest + int(units) * space.heads.size
                start = max(0, -((left - low) // space.ffn.size))
                end = (high - left) // space.ffn.size + 1
                window = ffn[start:end] if end > start else ffn[:0]
                if not window.size:
                    continue
                # The last of the least: of equal cost the largest.
                place = window.size - 1 - int(np.argmin(window[::-1]))
                cost = float(heads[units] + window[place])
                if cost < best and not np.isclose(cost, best, rtol=1e-12, atol=0):
                    best, found = cost, (depth, int(units), start + place)
        if found is None:
            return None
        depth, a, m = found
        size = space.fixed_size + depth * space.layer_size
        return Subnet(
            _path(self.heads, self._heads[1], depth, a),
            _path(self.ffn, self._ffn[1], depth, m),
            size + a * space.heads.size + m * space.ffn.size,
            best + space.fixed_cost + self.peak.cost,
        )


def _totals(choices: Choices, depth: int) -> tuple[Costs, npt.NDArray[np.int64]]:
    """Least cost, and the last choice on the way to it, by layers and total units."""
    most = depth * max(choices.units)
    costs = np.full((depth + 1, most + 1), np.inf)
    last = np.full((depth + 1, most + 1), -1, dtype=np.int64)
    costs[0, 0] = 0.0
    for layer in range(1, depth + 1):
        before, now = costs[layer - 1], costs[layer]
        for index, (units, cost) in enumerate(zip(choices.units, choices.costs, strict=True)):
            moved = before[: most + 1 - units] + cost
            better = moved < now[units:]
            now[units:][better] = moved[better]
            last[layer, units:][better] = index
    return costs, last


def _path(choices: Choices, last: npt.NDArray[np.int64], depth: int, total: int) -> tuple[int, ...]:
    """Units of each layer on the way to a total; the widest last, where no input is live."""
    found = []
    for layer in range(depth, 0, -1):
        units = choices.units[int(last[layer, total])]
        found.append(units)
        total -= units
    return tuple(sorted(found))
