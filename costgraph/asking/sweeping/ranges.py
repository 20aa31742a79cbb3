"""Values of a sweep from text: ``1,2,4``, ``1:100:10``, ``1:1024:x2``.

Items are joined by commas. An item is a number, ``a:b`` (every whole step from
``a`` to ``b``), ``a:b:s`` (steps of ``s``) or ``a:b:xF`` (each the ``F``-fold of
the one before). ``b`` belongs to the range if a step lands on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from costgraph.errors import InputError, clip
from costgraph.number import MOST, positive

_FORMS = "write values as 1,2,4, or a range a:b, a:b:step or a:b:xfactor"

#: Most values of one symbol.
MOST_VALUES = 10_000_000


def parse_values(
    text: str, where: str, whole: bool = True, symbol: str = ""
) -> Sequence[int | float]:
    """The values that ``text`` lists, in order.

    Args:
        text: see the module.
        where: what is being read, for messages.
        whole: only whole numbers are allowed.
        symbol: the name of one of a pass that they are values of, if they are.

    Returns:
        Whole values as ``int``, others as ``float``; one range of whole steps as a
        ``range``, which takes no memory.

    Raises:
        InputError: the text does not parse, a value is not positive, beyond
            1e12 or given twice, or there are too many values.
    """
    items = text.split(",")
    if len(items) == 1:
        return _item(text.strip(), where, whole, MOST_VALUES, symbol)
    found: list[int | float] = []
    for item in items:
        found += _item(item.strip(), where, whole, MOST_VALUES - len(found), symbol)
    if len(set(found)) < len(found):
        seen: set[int | float] = set()
        twice = next(v for v in found if v in seen or seen.add(v))  # type: ignore[func-returns-value]
        raise InputError(f"{where}: {twice:g} is given twice in {clip(text)}")
    return found


def _item(text: str, where: str, whole: bool, room: int, symbol: str) -> Sequence[int | float]:
    parts = [p.strip() for p in text.split(":")]
    if len(parts) > 3:
        raise InputError(f"{where}: {clip(text)} has too many ':'; {_FORMS}")
    first = _number(parts[0], text, where, whole, symbol)
    if len(parts) == 1:
        return _fitting([_shortest(first.numerator, first.denominator)], where, text, room)
    last = _number(parts[1], text, where, whole)
    if last < first:
        raise InputError(f"{where}: {clip(text)} ends before it starts")
    step = parts[2] if len(parts) == 3 else "1"
    if step.startswith("x"):
        return _fitting(_geometric(first, last, step[1:], text, where, whole), where, text, room)
    by = _number(step, text, where, whole)
    count = int((last - first) / by) + 1
    if count > room:
        raise InputError(f"{where}: {clip(text)} makes more than {MOST_VALUES} values")
    if first.denominator == by.denominator == 1:
        return range(int(first), int(first) + count * int(by), int(by))
    below = first.denominator * by.denominator
    start, pace = int(first * below), int(by * below)
    return [_shortest(start + i * pace, below) for i in range(count)]


def _fitting(values: list[int | float], where: str, text: str, room: int) -> list[int | float]:
    if len(values) > room:
        raise InputError(f"{where}: {clip(text)} makes more than {MOST_VALUES} values")
    return values


def _shortest(top: int, bottom: int) -> int | float:
    """A quotient as an int where it is whole, else as the nearest float."""
    return top // bottom if top % bottom == 0 else top / bottom


def _geometric(
    first: Fraction, last: Fraction, factor: str, text: str, where: str, whole: bool
) -> list[int | float]:
    by = _number(factor, text, where, whole)
    if by < Fraction(101, 100):
        raise InputError(f"{where}: the factor in {clip(text)} must be at least 1.01")
    if first == 0:
        raise InputError(f"{where}: {clip(text)} multiplies from 0 and stays there: write 0,a:b:xf")
    values: list[int | float] = []
    top, bottom = first.numerator, first.denominator
    while top * last.denominator <= last.numerator * bottom:
        values.append(_shortest(top, bottom))
        top, bottom = top * by.numerator, bottom * by.denominator
    return values


def _number(part: str, text: str, where: str, whole: bool, symbol: str = "") -> Fraction:
    inside = "" if part == text else f" in {clip(text)}"
    if not part:
        raise InputError(f"{where}: an empty value{inside}; {_FORMS}")
    value = positive(part, where, f"a positive number{inside}; {_FORMS}", symbol)
    if whole and value.denominator != 1:
        raise InputError(f"{where}: {clip(part)}{inside} is not a whole number")
    if value > MOST:
        raise InputError(f"{where}: {clip(part)}{inside} is beyond 1e12")
    return value
