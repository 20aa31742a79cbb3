"""Values from the command line, and remarks to whoever runs it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from costgraph.errors import InputError, clip

if TYPE_CHECKING:
    from fractions import Fraction


def whole(text: str) -> int:
    """A positive whole number of at most 1e12 from the command line."""
    from costgraph.number import MOST

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


def remark(notes: tuple[str, ...]) -> None:
    """Remarks on the input, beside the output that programs read."""
    for note in notes:
        print(f"costgraph: note: {note}", file=sys.stderr)


def add_fidelity(command: argparse.ArgumentParser) -> None:
    """Adds ``--fidelity``."""
    command.add_argument(
        "--fidelity",
        default="ideal",
        help="ideal: the roofline, a lower bound (default); calibrated: fitted on measured "
        "timings; low, median, high: its error bands",
    )
