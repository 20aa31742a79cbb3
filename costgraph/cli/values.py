"""Values from the command line, and remarks to whoever runs it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from costgraph.errors import clip
from costgraph.quoting import visible

if TYPE_CHECKING:
    pass


def whole(text: str) -> int:
    """A positive whole number of at most 12 digits from the command line."""
    if not text.isascii() or not text.isdigit() or len(text) > 13:
        raise argparse.ArgumentTypeError(f"{clip(text)} is not a positive whole number")
    value = int(text)
    if not 0 < value <= 10**12:
        raise argparse.ArgumentTypeError(f"{clip(text)} is not from 1 to 1e12")
    return value


def remark(notes: tuple[str, ...]) -> None:
    """Remarks on the input, beside the output that programs read."""
    for note in notes:
        print(f"costgraph: note: {visible(note)}", file=sys.stderr)


def add_fidelity(command: argparse.ArgumentParser) -> None:
    """Adds ``--fidelity``."""
    command.add_argument(
        "--fidelity",
        default="ideal",
        help="ideal: the roofline, a lower bound (default); calibrated: fitted on measured "
        "timings; low, median, high: its error bands",
    )
