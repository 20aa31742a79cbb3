"""Stretches of a sequence that repeat with a period."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """``copies`` alike parts in a row, each of ``period`` places, from ``start`` on."""

    start: int
    period: int
    copies: int


def runs_of(size: int, period: int, alike: Callable[[int, int], bool]) -> list[Run]:
    """The runs of one period in a sequence of ``size`` places, from left to right.

    Args:
        size: places in the sequence.
        period: distance between a place and its twin.
        alike: given the start of a run and a place, whether the place and its twin agree.
    """
    found: list[Run] = []
    start = 0
    while start + 2 * period <= size:
        length = 0
        while start + length + period < size and alike(start, start + length):
            length += 1
        copies = length // period + 1
        if copies > 1:
            found.append(Run(start, period, copies))
            start += copies * period
        else:
            start += length + 1
    return found
