"""Values from the command line, and remarks to whoever runs it."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from costgraph.errors import clip


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
        print(f"costgraph: note: {note}", file=sys.stderr)


#: Options of :func:`add_reading`, with what they say.
_READING = (
    ("weights", "FORMAT", "of weights, instead of the configured one: bf16, fp32, fp8, int4 …"),
    ("activations", "FORMAT", "of activations"),
    ("kv", "FORMAT", "of caches"),
    ("quantization", "refuse|ignore", "narrow checkpoints are refused, or counted in 16 bit"),
    ("reserve", "SIZE", "memory that driver and framework keep: '2 GB' or 10%% (nothing)"),
)


def add_reading(command: argparse.ArgumentParser) -> None:
    """Adds how a configuration is read, and how much of a device's memory it gets."""
    for name, metavar, text in _READING:
        command.add_argument(f"--{name}", metavar=metavar, help=text)


def reading(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those options of :func:`add_reading` that are given, as a compile takes them."""
    found = {name: getattr(arguments, name) for name, _, _ in _READING}
    return {name: value for name, value in found.items() if value is not None}


def reading_apart(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same as sweeps and searches take them: importer options on their own."""
    found = reading(arguments)
    return {"reserve": found.pop("reserve", None), "options": found}


def add_fidelity(command: argparse.ArgumentParser) -> None:
    """Adds ``--fidelity``."""
    command.add_argument(
        "--fidelity",
        default="ideal",
        help="ideal: the roofline, a lower bound (default); calibrated: fitted on measured "
        "timings; low, median, high: its error bands",
    )
