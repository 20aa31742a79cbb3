"""Numbers from outside: one grammar of texts, one reading of values, and limits of both.

Every text that may be a number is read here: options of the command line, of passes,
ranges, budgets and quantities of device files. A number is written ``16``, ``0.8``,
``1e6``, ``2.5e-3`` or ``1/3``. It has at most 60 characters, an exponent has at most
three digits, and its size lies between 1e-24 and 1e24 or it is zero: ``1e9999999999``
is refused for its text, before a thousand million digits are written out.

Values of Python, NumPy and sympy, ``Fraction`` and ``Decimal`` mean the same everywhere.
NumPy's whole numbers wrap around in silence and its floats round what they meet; past
this module there are only ``int``, ``float`` and ``Fraction``.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Collection, Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeAlias

from costgraph.errors import InputError, clip

Number: TypeAlias = "int | float | Fraction"

#: Types that are taken as they are.
PLAIN = frozenset({int, float, Fraction})

#: Nothing that people count, measure or pay for is beyond this.
LARGEST = 10**24
#: Batches, tokens and other counts, and symbols that are varied, are at most this.
MOST = 10**12
#: Where evaluation stops: products of numbers up to here still fit a double.
BEYOND = 10**60

_LONGEST = 60
#: Decimal digits before or after the point that a ``Decimal`` may have.
_DIGITS = 400
_SUCH = ", such as 2048, 0.5, 1e6 or 1/3"
_PLAIN = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_VAST = re.compile(rf"[+-]?{_PLAIN}[eE]([+-]?)[0-9]{{4,}}\Z")
_NUMBER = re.compile(rf"[+-]?{_PLAIN}(?:[eE][+-]?[0-9]{{1,3}}|/{_PLAIN})?\Z")


def is_number(text: str) -> bool:
    """Whether a text is written as a number."""
    return len(text) <= _LONGEST and _NUMBER.match(text) is not None


def refuse_vast(text: str, where: str) -> None:
    """Refuses what is written as a number with an exponent of more than three digits.

    Raises:
        InputError: saying on which side it is beyond the limits.
    """
    vast = _VAST.match(text)
    if vast is not None:
        raise InputError(f"{where}: {clip(text)} is too {'small' if vast[1] == '-' else 'large'}")


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
    refuse_vast(text, where)
    if not is_number(text):
        raise InputError(f"{where}: {clip(text)} is not {what}")
    top, _, bottom = text.partition("/")
    below = Fraction(bottom) if bottom else Fraction(1)
    if below == 0:
        raise InputError(f"{where}: {clip(text)} divides by zero")
    return _sized(Fraction(top) / below, where, text)


def positive(
    text: str, where: str, what: str = "a positive number" + _SUCH, symbol: str = ""
) -> Fraction:
    """:func:`parse_number` of what must be above zero.

    What a ``symbol`` of a pass stands for may be zero here: whoever knows the pass says
    whether it may be, see :func:`for_zero`.
    """
    value = parse_number(text, where, what)
    if value < 0 or (value == 0 and not symbol):
        raise InputError(f"{where} must be positive, not {clip(text)}")
    return value


def for_zero(symbol: str, value: Any, sizes: Collection[str] = ()) -> str:
    """What is said behind the refusal of a zero for a symbol: what would be right.

    Shares may be zero where a formula over the symbol holds there (:attr:`Option.zero
    <costgraph.rewriting.pipeline.Option>`); other symbols are positive.

    Args:
        symbol: its name.
        value: what was given; only of a zero something is said.
        sizes: names of those that no pass brings, of which nothing is said.
    """
    if value != 0 or symbol in sizes:
        return ""
    return f"; where a pass takes 0, write 0 in the pass in place of {symbol}"


def number(value: Any, where: str) -> Number:
    """The number that a caller means; not a truth value, a text or an array of several.

    Args:
        value: Python's, NumPy's (scalars and arrays without dimensions) or sympy's
            number, a ``Fraction`` or a ``Decimal``.
        where: what is being read, for messages.

    Raises:
        InputError: it is no real number, or is not finite.
    """
    kind = type(value)
    if kind not in PLAIN:
        value = _plain(value, where)
    if type(value) is float and not math.isfinite(value):
        raise InputError(f"{where}: {value} is not a finite number")
    found: Number = value
    return found


def _plain(value: Any, where: str) -> Number:
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # NumPy's, PyTorch's
        value = value.item()
    if getattr(value, "is_Rational", False):
        return int(value) if value.q == 1 else Fraction(int(value.p), int(value.q))
    if getattr(value, "is_number", False) and value.is_real:  # sympy's floats and roots
        return float(value)
    if isinstance(value, bool):
        raise InputError(f"{where}: {value} is a truth value, not a number")
    if isinstance(value, Decimal):
        if not value.is_finite() or abs(value.adjusted()) > _DIGITS:
            raise InputError(f"{where}: {clip(value)} is not a finite number of sane size")
        value = Fraction(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Rational):
        exact = Fraction(int(value.numerator), int(value.denominator))
        return int(exact) if exact.denominator == 1 else exact
    if isinstance(value, numbers.Real):
        return float(value)
    raise InputError(f"{where}: {clip(value)} is not a number")


def is_array(value: object) -> bool:
    """Whether a value is several numbers: a list, a range or an array with dimensions."""
    return isinstance(value, (list, tuple, range)) or (
        hasattr(value, "__array__") and getattr(value, "ndim", 0) > 0
    )


def whole(value: Any, where: str, most: int = MOST) -> int:
    """A whole number from one to ``most``, whatever its type.

    Raises:
        InputError: it is none.
    """
    found = number(value, where)
    if found != int(found) or not 0 < found <= most:
        raise InputError(
            f"{where} must be a whole number from 1 to {_power(most)}, not {clip(value)}"
        )
    return int(found)


def wholes(values: Iterable[Any], where: str, most: int = MOST) -> tuple[int, ...]:
    """:func:`whole` of several."""
    return tuple(whole(value, where, most) for value in values)


def bounded(value: Any, where: str, most: int = LARGEST) -> Fraction:
    """:func:`number`, exactly, and of bounded size.

    Args:
        value: what may be a number.
        where: what is being read, for messages.
        most: the limit of its size, and one over it the least.

    Raises:
        InputError: it is no finite real number, or is beyond the limits.
    """
    return _sized(Fraction(number(value, where)), where, value, most)


def _sized(value: Fraction, where: str, given: object, most: int = LARGEST) -> Fraction:
    if value != 0 and not Fraction(1, most) <= abs(value) <= most:
        power = len(str(most)) - 1
        side = f"beyond 1e{power}" if abs(value) > most else f"closer to zero than 1e-{power}"
        raise InputError(f"{where}: {clip(given)} is {side}")
    return value


def _power(value: int) -> str:
    """``1e12`` for powers of ten, else the number."""
    text = str(value)
    return f"1e{len(text) - 1}" if len(text) > 6 and text.strip("0") == "1" else text
