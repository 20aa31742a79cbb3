"""Arithmetic on values that are known while a graph is read: shapes and small constants.

Exporters compute shapes with ordinary operators. Values with few elements are
followed as exact numbers or expressions, so that such operators leave no trace.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sympy import Expr, Integer, Max, Min

from costgraph.ops.conv import whole_floor

#: Most elements that are followed.
MOST_KNOWN = 256
#: Largest whole number that is followed; beyond, it is an ordinary value.
_LARGEST = 10**18
Numbers = tuple[Any, ...]


def _whole(x: Any) -> bool:
    return isinstance(x, (int, Integer)) and not isinstance(x, bool)


def _divided(a: Any, b: Any) -> Any:
    if isinstance(a, float) or isinstance(b, float):
        return float(a) / float(b)
    quotient = Integer(a) / b if isinstance(a, int) else a / b
    if isinstance(quotient, Integer):
        return quotient
    if _whole(a) and _whole(b):  # truncation towards zero
        return Integer(int(a) // int(b)) if int(a) * int(b) > 0 else Integer(-(-int(a) // int(b)))
    return whole_floor(quotient)


def _compared(test: Callable[[Any], bool]) -> Callable[[Any, Any], Any]:
    def compare(a: Any, b: Any) -> Any:
        difference = a - b
        if isinstance(difference, Expr) and not difference.is_number:
            raise ValueError("undecided")
        return int(test(float(difference)))

    return compare


def _equal(a: Any, b: Any) -> Any:
    difference = a - b
    if isinstance(difference, Expr):
        difference = difference.expand()
        if difference.is_number:
            return int(difference == 0)
        if difference.is_positive or difference.is_negative:
            return 0
        # Shapes are compared with the marks 0 and -1, which no size equals.
        if any(_whole(x) and x <= 0 for x in (a, b)):
            return 0
        raise ValueError("undecided")
    return int(difference == 0)


def _power(a: Any, b: Any) -> Any:
    if isinstance(a, Expr) and not a.is_number:
        if _whole(b) and 0 <= int(b) <= 4:
            return a ** int(b)
        raise ValueError("undecided")
    made = float(a) ** float(b)
    if isinstance(made, complex):
        raise ValueError("undecided")
    if _whole(a) and _whole(b) and abs(made) < 2**50 and made == int(made):
        return Integer(int(made))
    return made


_TWO: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": _divided,
    "floor_div": _divided,
    "pow": _power,
    "mod": lambda a, b: a % b,
    "max": lambda a, b: Max(a, b) if isinstance(a - b, Expr) else max(a, b),
    "min": lambda a, b: Min(a, b) if isinstance(a - b, Expr) else min(a, b),
    "eq": _equal,
    "ne": lambda a, b: 1 - _equal(a, b),
    "lt": _compared(lambda d: d < 0),
    "le": _compared(lambda d: d <= 0),
    "gt": _compared(lambda d: d > 0),
    "ge": _compared(lambda d: d >= 0),
    "and": lambda a, b: int(bool(a) and bool(b)),
    "or": lambda a, b: int(bool(a) or bool(b)),
}
_ONE: dict[str, Callable[[Any], Any]] = {
    "neg": lambda a: -a,
    "not": lambda a: int(not a),
    "abs": abs,
    "sqrt": lambda a: math.sqrt(float(a)),
    "rsqrt": lambda a: 1 / math.sqrt(float(a)),
    "reciprocal": lambda a: 1 / float(a),
    "floor": lambda a: whole_floor(a) if isinstance(a, Expr) else math.floor(a),
    "ceil": lambda a: -whole_floor(-a) if isinstance(a, Expr) else math.ceil(a),
    "exp": lambda a: math.exp(float(a)),
    "log": lambda a: math.log(float(a)),
}


def computed(function: str, operands: Sequence[Numbers]) -> Numbers | None:
    """``function`` of known operands, single numbers repeated; None where it is not known."""
    size = max((len(o) for o in operands), default=0)
    if size > MOST_KNOWN or any(len(o) not in (1, size) for o in operands):
        return None
    columns = [o * size if len(o) == 1 else o for o in operands]
    try:
        if function == "where" and len(columns) == 3:
            return tuple(a if c else b for c, a, b in zip(*columns, strict=True))
        if len(columns) == 1 and function in _ONE:
            made = tuple(_ONE[function](a) for a in columns[0])
        elif len(columns) == 2 and function in _TWO:
            made = tuple(_TWO[function](a, b) for a, b in zip(*columns, strict=True))
        else:
            return None
    except (ValueError, TypeError, ArithmeticError, ZeroDivisionError):
        return None
    if any(_whole(x) and abs(int(x)) > _LARGEST for x in made):
        return None
    return made


def reordered(values: Numbers, shape: Sequence[int], axes: Sequence[int]) -> Numbers:
    """Known values of ``shape`` with their axes in another order."""
    return tuple(_array(values, shape).transpose(axes).ravel())


def stepped(
    values: Numbers, shape: Sequence[int], axis: int, start: int, stop: int | None, step: int
) -> tuple[Numbers, tuple[int, ...]]:
    """A slice of an axis of known values, as Python cuts it, and the shape of the result."""
    part = _array(values, shape)[(slice(None),) * axis + (slice(start, stop, step),)]
    return tuple(part.ravel()), part.shape


def _array(values: Numbers, shape: Sequence[int]) -> Any:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)
