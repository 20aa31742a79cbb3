"""The subnet of least cost within a size, exactly, where layers are alike and costs add up.

Each layer keeps some heads and some of its feed-forward width. What a layer costs is what
its heads cost and what its width costs; sizes are linear in both. So the least cost for
every total of heads, and of width, is a shortest path over layers, and the best pair of
totals within the size is the answer: no other subnet of the space is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Space:
    """All subnets: depths, and what each layer may keep.

    Attributes:
        depths: numbers of layers.
        heads, ffn: choices of a layer; costs of what neither changes are the heads'.
        fixed_cost, fixed_size: of what is no layer.
        layer_size: parameters of a layer that neither changes.
    """

    depths: tuple[int, ...]
    heads: Choices
    ffn: Choices
    fixed_cost: float
    fixed_size: int
    layer_size: int

    @property
    def entries(self) -> int:
        """Entries of the larger table that :func:`least` fills in."""
        deepest = max(self.depths)
        return deepest * deepest * max(*self.heads.units, *self.ffn.units)


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
        deepest = max(space.depths)
        self._heads = _totals(space.heads, deepest)
        self._ffn = _totals(space.ffn, deepest)

    def least(self, low: int, high: int) -> Subnet | None:
        """As :func:`least`."""
        space, best, found = self.space, np.inf, None
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
                if cost < best * (1 - 1e-12):
                    best, found = cost, (depth, int(units), start + place)
        if found is None:
            return None
        depth, a, m = found
        size = space.fixed_size + depth * space.layer_size
        return Subnet(
            _path(space.heads, self._heads[1], depth, a),
            _path(space.ffn, self._ffn[1], depth, m),
            size + a * space.heads.size + m * space.ffn.size,
            best + space.fixed_cost,
        )

    def front(self, budgets: Sequence[int], spend: float) -> list[Subnet]:
        """The best subnet of each budget that has one, those left out that a larger one beats."""
        found = (self.least(int(b * spend), b) for b in sorted(budgets, reverse=True))
        kept: list[Subnet] = []
        for subnet in found:
            if subnet is not None and (not kept or subnet.cost < kept[-1].cost):
                kept.append(subnet)
        return kept


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
    """Units of each layer on the way to a total, the largest first."""
    found = []
    for layer in range(depth, 0, -1):
        units = choices.units[int(last[layer, total])]
        found.append(units)
        total -= units
    return tuple(sorted(found, reverse=True))
