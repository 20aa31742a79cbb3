"""Values from the command line, and remarks to whoever runs it."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any

from costgraph.errors import InputError, clip
from costgraph.quoting import visible

#: Commas between items; one before a number or in parentheses belongs to a size.
_SEPARATOR = re.compile(r",(?![^()]*\))")


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
    add_dims(command)


def add_dims(command: argparse.ArgumentParser) -> None:
    """Adds ``--dims``, for models that are exported graphs."""
    command.add_argument(
        "--dims",
        action="append",
        default=[],
        metavar="NAME=X[,NAME=X]",
        help="dimensions of an .onnx or .pt2 file: a symbol, a number or a size such as T+1",
    )


def reading(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those options of :func:`add_reading` that are given, as a compile takes them.

    Raises:
        InputError: an item of ``--dims`` is no NAME=X, or names a dimension again.
    """
    found = {name: getattr(arguments, name) for name, _, _ in _READING}
    return {
        **{name: value for name, value in found.items() if value is not None},
        **dims_of(arguments),
    }


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


def dims_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What ``--dims`` states, as a compile takes it.

    Raises:
        InputError: an item is no NAME=X, or names a dimension again.
    """
    found: dict[str, str] = {}
    for item in (part for text in arguments.dims for part in _SEPARATOR.split(text)):
        name, equals, value = (part.strip() for part in item.rpartition("="))
        if not (equals and name and value):
            raise InputError(f"--dims: {clip(item)} is not NAME=X, such as past=T or seq=128")
        if name in found:
            raise InputError(f"--dims: {clip(name)} is given twice")
        found[name] = value
    return {"dims": found} if found else {}
