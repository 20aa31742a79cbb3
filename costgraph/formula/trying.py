"""Where a function of numbers keeps within a budget, found by trying them.

What asks here has no closed form, and may fall, rise, or do one after the other. A short
range is tried whole. Of a long one the first numbers are tried, then four in each octave;
between two of them the budget is taken to be passed once at the most, and at a turn of the
tried values the turning point itself is looked for. What rests on that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from costgraph.errors import InputError

#: Largest whole number that is tried.
LARGEST = 2**60
#: Numbers tried one by one: a range of no more is tried whole.
EACH = 512
#: Of a longer range, this many at its beginning, then as many in each octave.
FIRST, OCTAVE = 64, 4

#: A number and its excess.
Point: TypeAlias = tuple[int, float]


@dataclass(frozen=True)
class Tried:
    """What trying found.

    Attributes:
        within: (first, last) numbers of each range within the budget, in order; the last is
            None where it has no end up to :data:`LARGEST`.
        count: numbers tried to find these ranges, without those that narrow their ends.
        last: the greatest of them.
        complete: these are all numbers there are.
    """

    within: tuple[tuple[int, int | None], ...]
    count: int
    last: int
    complete: bool


def tried(excess: Callable[[int], float], start: int, last: int | None) -> Tried:
    """The ranges in which ``excess`` is at most zero.

    Args:
        excess: by how much a number exceeds the budget.
        start, last: the first and the last number; None where there is none.

    Raises:
        InputError: a number has no value before any range has an end.
    """
    complete = last is not None and last - start < EACH
    points: list[Point] = []
    stopped: InputError | None = None
    for n in _numbers(start, LARGEST if last is None else last, complete):
        try:
            points.append((n, excess(n)))
        except InputError as error:  # too long a sum, or beyond every double
            stopped = error
            break
    if not points:
        raise stopped or InputError("no whole number to try")
    count, greatest = len(points), points[-1][0]
    if not complete:
        points = _turned(points, excess)
    found: list[tuple[int, int | None]] = []
    begin = points[0][0] if points[0][1] <= 0 else None
    for (a, above), (b, below) in pairwise(points):
        if (above <= 0) == (below <= 0):
            continue
        low, high = _narrowed(excess, a, b, above <= 0)
        if begin is None:
            begin = high
        else:
            found.append((begin, low))
            begin = None
    if stopped is not None and (begin is not None or not found):
        raise stopped
    if begin is not None:
        found.append((begin, last))
    return Tried(tuple(found), count, greatest, complete)


@dataclass(frozen=True)
class TriedReal:
    """What trying real numbers found: as :class:`Tried`, ends within a relative 1e-15."""

    within: tuple[tuple[float, float | None], ...]
    count: int
    last: float


def tried_real(excess: Callable[[float], float], start: float, last: float | None) -> TriedReal:
    """The ranges of a real number in which ``excess`` is at most zero.

    Between two ends numbers are tried at equal distances, without an end in equal ratios.

    Raises:
        InputError: a number has no value.
    """
    if last is None:
        numbers = [start + 2 ** (k / OCTAVE) for k in range(-40 * OCTAVE, 40 * OCTAVE + 1)]
    else:
        numbers = [start + (last - start) * k / EACH for k in range(1, EACH + 1)]
    points = [(x, excess(x) <= 0) for x in numbers]
    found: list[tuple[float, float | None]] = []
    begin = start if points[0][1] else None
    for (low, inside), (high, next_inside) in pairwise(points):
        if inside == next_inside:
            continue
        a, b = low, high
        while a < (middle := (a + b) / 2) < b and b - a > 1e-15 * b:
            a, b = (middle, b) if (excess(middle) <= 0) == inside else (a, middle)
        if begin is None:
            begin = b
        else:
            found.append((begin, a))
            begin = None
    if begin is not None:
        found.append((begin, last))
    return TriedReal(tuple(found), len(numbers), numbers[-1])


def _numbers(start: int, last: int, complete: bool) -> Iterator[int]:
    """What is tried, in order, both ends included."""
    n = start
    while n < last:
        yield n
        n = n + 1 if complete or n < start + FIRST else max(n + 1, int(n * 2 ** (1 / OCTAVE)))
    yield last


def _turned(points: list[Point], excess: Callable[[int], float]) -> list[Point]:
    """The points, and turning points beside them that lie on the other side of the budget.

    Only turns are looked at whose neighbours differ by as much as the budget is away.
    """
    more: list[Point] = []
    for (a, before), (_, value), (b, after) in zip(points, points[1:], points[2:], strict=False):
        side = 1 if value > 0 else -1  # above the budget the least is looked for
        drops = side * (before - value), side * (after - value)
        if b - a == 2 or min(drops) < 0 or not abs(value) <= 2 * max(drops):
            continue
        at = _least(excess, a, b, side)
        turn = excess(at)
        if (turn <= 0) != (value <= 0):
            more.append((at, turn))
    return sorted({*points, *more})


def _least(excess: Callable[[int], float], low: int, high: int, side: int) -> int:
    """Where a function that turns once is least, or greatest with a ``side`` of −1."""
    while high - low > 2:
        third = (high - low) // 3
        a, b = low + third, high - third
        low, high = (low, b) if side * excess(a) <= side * excess(b) else (a, high)
    return min(range(low, high + 1), key=lambda n: side * excess(n))


def _narrowed(excess: Callable[[int], float], low: int, high: int, first: bool) -> tuple[int, int]:
    """Neighbours between two numbers at which the budget is passed."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if (excess(middle) <= 0) == first else (low, middle)
    return low, high
