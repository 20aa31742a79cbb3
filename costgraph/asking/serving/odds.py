"""How many prompts a step has, as plain functions of numbers and arrays.

As :mod:`.forms`, printed for pages as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


def chances(limit: int, mean: float, last: int) -> Array:
    """How likely 0, 1, 2 … prompts join a step, if each place has one or not by itself; the last
    number stands for those above it."""
    if mean >= limit:
        return np.array([1.0 if j == last else 0.0 for j in range(last + 1)])
    share = mean / limit
    before = np.arange(0, max(last - 1, 0))
    ratios = np.maximum(limit - before, 1e-300) / (before + 1) * share / (1 - share)
    logs = np.cumsum(np.log(np.maximum(ratios, 1e-300)))
    start = limit * np.log(1 - share)
    found = np.exp(np.concatenate(([start], start + logs)))
    return np.concatenate((found, [max(1 - np.sum(found), 0.0)]))


def shares(limit: int, mean: float, each: Array) -> Array:
    """Of steps with ``each`` number of prompts, the last of them full, which share there is.

    One prompt beside decodes may cost next to nothing while weights are read; several do not. So
    a mean over how many there are is more than what the mean number takes. Prompts that find a
    step full run in later ones, which fill up.
    """
    odds = chances(limit, mean, len(each) - 1)
    runs = np.dot(odds, each)
    rest = each[-1] - runs
    late = max(mean - runs, 0.0) / rest if rest > 1e-9 else 0.0
    return np.concatenate(((1 - late) * odds[:-1], [(1 - late) * odds[-1] + late]))


def longest(part: Array, lanes: int) -> Array:
    """Shares of the most prompts in any step of a pipeline's groups, from those of one group's."""
    upto = np.cumsum(part) ** lanes
    most: Array = upto - np.concatenate(([0.0], upto[:-1]))
    return most if lanes > 1 else part
