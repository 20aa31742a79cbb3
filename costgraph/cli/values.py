"""Values from the command line, and remarks to whoever runs it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from costgraph.errors import InputError, clip
from costgraph.quoting import visible

if TYPE_CHECKING:
    from fractions import Fraction


def several(text: str) -> str:
    """What is wrong with a text that gives more than the one value asked for; else empty."""
    if ":" not in text and "," not in text:
        return ""
    return f"{clip(text)} gives several; give one value; sweep takes several"


def whole(text: str) -> int:
    """A positive whole number of at most 1e12 from the command line."""
    from costgraph.number import MOST

    if said := several(text):
        raise argparse.ArgumentTypeError(said)
    value = _read(text)
    if value.denominator != 1 or value <= 0:
        raise argparse.ArgumentTypeError(f"{clip(text)} is not a positive whole number")
    if value > MOST:
        raise argparse.ArgumentTypeError(f"{clip(text)} is not from 1 to 1e12")
    return int(value)


def real(text: str) -> float:
    """A number from the command line."""
    return float(_read(text))


def _read(text: str) -> Fraction:
    from costgraph.number import parse_number

    try:
        return parse_number(text, "")
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix(": ")) from None


def remark(notes: Iterable[str]) -> None:
    """Remarks on the input, beside the output that programs read."""
    for note in notes:
        print(f"costgraph: note: {visible(note)}", file=sys.stderr)
