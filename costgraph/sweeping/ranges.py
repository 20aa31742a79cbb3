"""Values of a sweep from text: ``1,2,4``, ``1:100:10``, ``1:1024:x2``.

Items are joined by commas. An item is a number, ``a:b`` (every whole step from
``a`` to ``b``), ``a:b:s`` (steps of ``s``) or ``a:b:xF`` (each the ``F``-fold of
the one before). ``b`` belongs to the range if a step lands on it.
"""

from __future__ import annotations

import re
from fractions import Fraction

from costgraph.errors import InputError, clip

_NUMBER = re.compile(r"[0-9]{1,13}(?:\.[0-9]{1,12})?\Z")
_FORMS = "write values as 1,2,4, or a range a:b, a:b:step or a:b:xfactor"

#: Most values of one symbol.
MOST = 10_000_000
#: Largest value of one symbol.
LARGEST = 10**12


def parse_values(text: str, where: str, whole: bool = True) -> list[int | float]:
    """The values that ``text`` lists, in order.

    Args:
        text: see the module.
        where: what is being read, for messages.
        whole: only whole numbers are allowed.

    Returns:
        Whole values as ``int``, others as ``float``.

    Raises:
        InputError: the text does not parse, a value is not positive, beyond
            1e12 or given twice, or there are too many values.
    """
    found: list[Fraction] = []
    for item in text.split(","):
        found += _item(item.strip(), where, whole, MOST - len(found))
    values = [int(v) if v.denominator == 1 else float(v) for v in found]
    seen: set[int | float] = set()
    for value in values:
        if value in seen:
            raise InputError(f"{where}: {value:g} is given twice in {clip(text)}")
        seen.add(value)
    return values


def _item(text: str, where: str, whole: bool, room: int) -> list[Fraction]:
    parts = [p.strip() for p in text.split(":")]
    if len(parts) > 3:
        raise InputError(f"{where}: {clip(text)} has too many ':'; {_FORMS}")
    first = _number(parts[0], text, where, whole)
    if len(parts) == 1:
        values = [first]
    else:
        last = _number(parts[1], text, where, whole)
        if last < first:
            raise InputError(f"{where}: {clip(text)} ends before it starts")
        step = parts[2] if len(parts) == 3 else "1"
        if step.startswith("x"):
            values = _geometric(first, last, step[1:], text, where, whole)
        else:
            values = _arithmetic(first, last, step, text, where, whole, room)
    if len(values) > room:
        raise InputError(f"{where}: {clip(text)} makes more than {MOST} values")
    return values


def _arithmetic(
    first: Fraction, last: Fraction, step: str, text: str, where: str, whole: bool, room: int
) -> list[Fraction]:
    by = _number(step, text, where, whole)
    count = int((last - first) / by) + 1
    if count > room:
        raise InputError(f"{where}: {clip(text)} makes more than {MOST} values")
    return [first + i * by for i in range(count)]


def _geometric(
    first: Fraction, last: Fraction, factor: str, text: str, where: str, whole: bool
) -> list[Fraction]:
    by = _number(factor, text, where, whole)
    if by < Fraction(101, 100):
        raise InputError(f"{where}: the factor in {clip(text)} must be at least 1.01")
    values = []
    while first <= last:
        values.append(first)
        first *= by
    return values


def _number(part: str, text: str, where: str, whole: bool) -> Fraction:
    inside = "" if part == text else f" in {clip(text)}"
    if not part.isascii() or not _NUMBER.match(part):
        shown = "an empty value" if not part else clip(part)
        raise InputError(f"{where}: {shown}{inside} is not a positive number; {_FORMS}")
    value = Fraction(part)
    if whole and value.denominator != 1:
        raise InputError(f"{where}: {clip(part)}{inside} is not a whole number")
    if not 0 < value <= LARGEST:
        raise InputError(f"{where}: {clip(part)}{inside} is not above 0 and at most 1e12")
    return value
