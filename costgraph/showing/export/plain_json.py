"""One way to JSON, for everything that is printed or written as such."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any


def json_text(value: Any, indent: int = 2) -> str:
    """A value as JSON that every reader takes.

    Whole numbers stay whole, other exact numbers become the nearest double,
    expressions their exact text, and what is not finite ``null``.
    """
    return json.dumps(plain_value(value), indent=indent, ensure_ascii=False, allow_nan=False)


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    print(json_text(value))


def plain_value(value: Any) -> Any:
    """A value made of what JSON has, exact where JSON can be."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain_value(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(v) for v in value]
    if getattr(value, "free_symbols", None):
        return str(value)
    if isinstance(value, int) or getattr(value, "is_Integer", False):
        return int(value)
    if isinstance(value, Fraction) and value.denominator == 1:
        return value.numerator
    number = float(value)
    return number if math.isfinite(number) else None
