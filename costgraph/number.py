"""Numbers from outside: one grammar, and limits that hold before anything is expanded.

Every text that may be a number is read here: options of the command line, of passes,
ranges, budgets and quantities of device files. A number is written ``16``, ``0.8``,
``1e6``, ``2.5e-3`` or ``1/3``. It has at most 60 characters, an exponent has at most
three digits, and its size lies between 1e-24 and 1e24 or it is zero: ``1e9999999999``
is refused for its text, before a thousand million digits are written out. Numbers of
Python take the same limits through :func:`bounded`.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

from costgraph.errors import InputError, clip

#: Nothing that people count, measure or pay for is beyond this.
LARGEST = 10**24
#: Batches, tokens, and other symbols that are varied.
MOST = 10**12
#: Where evaluation stops: products of numbers up to here still fit a double.
BEYOND = 10**60

_LONGEST = 60
_SUCH = ", such as 2048, 0.5, 1e6 or 1/3"
_PLAIN = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_NUMBER = re.compile(rf"[+-]?{_PLAIN}(?:[eE][+-]?[0-9]{{1,3}}|/{_PLAIN})?\Z")


def is_number(text: str) -> bool:
    """Whether a text is written as a number."""
    return len(text) <= _LONGEST and _NUMBER.match(text) is not None


def parse_number(text: str, where: str, what: str = "a number" + _SUCH) -> Fraction:
    """The exact value of a text.

    Args:
        text: a number in the grammar above.
        where: what is being read, for messages.
        what: what was expected, for messages.

    Raises:
        InputError: it is no number, divides by zero, or is beyond the limits.
    """
    text = text.strip()
    if len(text) > _LONGEST and text[:1].isdigit():
        raise InputError(f"{where}: {clip(text)} is too long for a number")
    if not is_number(text):
        raise InputError(f"{where}: {clip(text)} is not {what}")
    top, _, bottom = text.partition("/")
    below = Fraction(bottom) if bottom else Fraction(1)
    if below == 0:
        raise InputError(f"{where}: {clip(text)} divides by zero")
    return _sized(Fraction(top) / below, where, text)


def positive(text: str, where: str, what: str = "a positive number" + _SUCH) -> Fraction:
    """:func:`parse_number` of what must be above zero."""
    value = parse_number(text, where, what)
    if value <= 0:
        raise InputError(f"{where} must be positive, not {clip(text)}")
    return value


def bounded(value: Any, where: str, most: int = LARGEST) -> Fraction:
    """A number of Python (``int``, ``float``, ``Fraction``, of NumPy or sympy) exactly.

    Args:
        value: what may be a number.
        where: what is being read, for messages.
        most: the limit of its size, and one over it the least.

    Raises:
        InputError: it is no finite real number, or is beyond the limits.
    """
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # NumPy's scalars
        value = value.item()
    if getattr(value, "is_Rational", False):
        value = Fraction(int(value.p), int(value.q))
    elif getattr(value, "is_Float", False):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, Fraction)):
        raise InputError(f"{where}: {clip(value)} is not a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where}: {value} is not a finite number")
    return _sized(Fraction(value), where, value, most)


def is_count(value: Any) -> bool:
    """Whether a number of Python is a count: whole, and from one to :data:`MOST`."""
    try:
        number = bounded(value, "a count")
    except InputError:
        return False
    return number.denominator == 1 and 0 < number <= MOST


def _sized(value: Fraction, where: str, given: object, most: int = LARGEST) -> Fraction:
    if value != 0 and not Fraction(1, most) <= abs(value) <= most:
        power = len(str(most)) - 1
        side = f"beyond 1e{power}" if abs(value) > most else f"closer to zero than 1e-{power}"
        raise InputError(f"{where}: {clip(given)} is {side}")
    return value
