"""Numbers as callers give them, made Python's own at the one place where they enter.

Python's, NumPy's and sympy's numbers, ``Fraction`` and ``Decimal`` mean the same
everywhere. NumPy's whole numbers wrap around in silence and its floats round what
they meet; past this module there are only ``int``, ``float`` and ``Fraction``.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeAlias

from costgraph.errors import InputError, clip

Number: TypeAlias = "int | float | Fraction"

#: Types that are taken as they are.
PLAIN = frozenset({int, float, Fraction})
#: Batches, tokens and other counts are at most this.
MOST = 10**12
#: Decimal digits before or after the point that an exact number may have.
_DIGITS = 400


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


def _power(value: int) -> str:
    """``1e12`` for powers of ten, else the number."""
    text = str(value)
    return f"1e{len(text) - 1}" if len(text) > 6 and text.strip("0") == "1" else text
