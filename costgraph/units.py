"""Quantities with units, read exactly: ``768 GB/s`` is 768·10⁹ byte/s.

Decimal prefixes mean powers of ten; ``KiB``, ``MiB``, ``GiB``, ``TiB`` powers of
1024. Bits are refused, because ``Gb/s`` is so often meant to be ``GB/s``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import SupportsFloat, TypeVar

from sympy import Integer, Rational

from costgraph.errors import InputError, clip, nearest
from costgraph.number import LARGEST, is_number, parse_number, refuse_vast

N = TypeVar("N", bound=SupportsFloat)

_DECIMAL = {"": 0, "k": 3, "K": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SMALL = {"m": -3, "u": -6, "µ": -6, "n": -9, "p": -12}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4}
_QUANTITY = re.compile(r"\s*([+-]?[0-9.](?:[0-9.]|[eE][+-]?(?=[0-9]))*)\s*(\S.*?)?\s*\Z")
_BITS = re.compile(r"[kKMGTPE]?i?(?:b|[Bb]it|[Bb]its)(?:/s|ps)?\Z")

#: Dimension to (base unit, accepted spellings of it).
DIMENSIONS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "rate": ("FLOP/s", ("FLOP/s", "FLOPS", "FLOPs/s", "OP/s", "OPS")),
        "bandwidth": ("B/s", ("B/s", "Bps")),
        "size": ("B", ("B",)),
        "power": ("W", ("W",)),
        "time": ("s", ("s",)),
        "frequency": ("Hz", ("Hz",)),
        "price": ("USD/h", ("USD/h",)),
        "energy per FLOP": ("J/FLOP", ("J/FLOP", "J/OP")),
        "energy per byte": ("J/B", ("J/B",)),
    }
)


def _units() -> dict[str, tuple[str, Rational]]:
    """Every spelling: unit text to (dimension, factor)."""
    table: dict[str, tuple[str, Rational]] = {}
    for dimension, (_, spellings) in DIMENSIONS.items():
        for spelling in spellings:
            bare = dimension == "price" or dimension.startswith("energy")
            prefixes = {"": 0} if bare else _DECIMAL
            for prefix, power in prefixes.items():
                table[prefix + spelling] = (dimension, Integer(10) ** power)
            if dimension in ("size", "bandwidth"):
                for prefix, power in _BINARY.items():
                    table[prefix + spelling] = (dimension, Integer(1024) ** power)
    for prefix, power in _SMALL.items():
        if prefix != "p":
            table[prefix + "s"] = ("time", Rational(10) ** power)
        for dimension in ("energy per FLOP", "energy per byte"):
            for spelling in DIMENSIONS[dimension][1]:
                table[prefix + spelling] = (dimension, Rational(10) ** power)
    return table


_JOULES = (("M", 6), ("k", 3), ("", 0), ("m", -3), ("µ", -6), ("n", -9), ("p", -12))
UNITS: Mapping[str, tuple[str, Rational]] = MappingProxyType(_units())
_BARE = ("W", "USD/h", "USD/token", "USD", "", "count")
_EXAMPLES = {
    "rate": "'154.8 TFLOP/s'",
    "bandwidth": "'768 GB/s'",
    "size": "'48 GB' or '100 KiB'",
    "power": "'300 W'",
    "time": "'5 us'",
    "frequency": "'1.8 GHz'",
    "price": "'2.5 USD/h'",
    "energy per FLOP": "'1.3 pJ/FLOP'",
    "energy per byte": "'31 pJ/B'",
}


def parse_quantity(text: object, dimension: str, where: str) -> Rational:
    """The exact value of ``text`` in the base unit of ``dimension``.

    Args:
        text: a number and a unit, such as ``"768 GB/s"``.
        dimension: a key of :data:`DIMENSIONS`.
        where: what is being read, for messages.

    Raises:
        InputError: not a text, no unit, an unknown or wrong unit, or a value
            that is not positive, finite and of sane size.
    """
    example = _EXAMPLES[dimension]
    if not isinstance(text, str):
        raise InputError(f"{where}: write a text with a unit, such as {example}, not {clip(text)}")
    match = _QUANTITY.match(text) if len(text) <= 80 else None
    if match is not None:
        refuse_vast(match[1], where)
    if match is None or not is_number(match[1]):
        raise InputError(f"{where}: {clip(text)} is not a number with a unit, such as {example}")
    number, unit = match.groups()
    if unit is None:
        raise InputError(f"{where}: {clip(text)} has no unit; write one behind it, as in {example}")
    if unit not in UNITS:
        if _BITS.match(unit):
            raise InputError(f"{where}: {clip(unit)} means bits; bytes are written {example}")
        spellings = [u for u, (d, _) in UNITS.items() if d == dimension]
        same = [u for u in spellings if u.lower() == unit.lower()]  # right but for its case
        hint = nearest(unit, same or spellings) or f"; write {example}"
        raise InputError(f"{where}: unknown unit {clip(unit)}{hint}")
    found, factor = UNITS[unit]
    if found != dimension:
        raise InputError(f"{where}: {clip(unit)} is a {found}; a {dimension} is written {example}")
    value = Rational(parse_number(number, where)) * factor
    if value <= 0:
        raise InputError(f"{where} must be positive, not {clip(text)}")
    if value > LARGEST:
        raise InputError(f"{where}: {clip(text)} is beyond any machine")
    return value


def format_quantity(value: float, unit: str, digits: int = 4) -> str:
    """A value in a base unit with an SI prefix: ``768 GB/s``, ``4.37 ms``.

    Four significant digits, if not told otherwise. Watts, prices and counts get no
    prefix, and only times and energies get prefixes below one. Zero, negative and
    non-finite values print too.
    """
    if value == 0 or not math.isfinite(value) or unit in _BARE:
        whole = 10 ** max(digits, 4) <= value < 10**9
        number = f"{value:.0f}" if whole else f"{value:.{digits}g}"
        return f"{number} {unit}".strip().removesuffix(" count")
    if value < 0:
        return f"-{format_quantity(-value, unit, digits)}"
    if unit in ("J", "J/FLOP", "J/B", "J/token"):
        for prefix, power in _JOULES:
            if float(f"{value:.{digits}g}") >= 10.0**power:
                return f"{value / 10.0**power:.{digits}g} {prefix}{unit}"
        return f"{value / 1e-12:.{digits}g} p{unit}"
    rounded = float(f"{value:.{digits}g}")  # so that 999.96 ms becomes 1 s, not 1000 ms
    if unit == "s":
        for power, prefix in ((0, ""), (-3, "m"), (-6, "µ")):
            if rounded >= float(f"1e{power}"):
                return f"{value / 10.0**power:.{digits}g} {prefix}s"
        return f"{value / 1e-9:.{digits}g} ns"
    for prefix, power in reversed(_DECIMAL.items()):
        if prefix not in ("K", "") and rounded >= 10**power:
            return f"{value / 10**power:.{digits}g} {prefix}{unit}"
    return f"{value:.{digits}g} {unit}"


def apart(
    values: Iterable[N], show: Callable[[N, int], str], digits: int, most: int = 17
) -> dict[N, str]:
    """Each value as text, with as many digits as tell it from its neighbours.

    Args:
        values: numbers, in any order.
        show: the text of a value with so many significant digits.
        digits: how many are enough where neighbours differ in them.
        most: never more: two values that no float tells apart look alike.
    """
    ordered = sorted(set(values), key=float)
    needed = dict.fromkeys(ordered, digits)
    for lower, upper in pairwise(ordered):
        differ = (n for n in range(digits, most) if show(lower, n) != show(upper, n))
        enough = next(differ, most)
        needed[lower], needed[upper] = max(needed[lower], enough), max(needed[upper], enough)
    return {value: show(value, needed[value]) for value in ordered}
