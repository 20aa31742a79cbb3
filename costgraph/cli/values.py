"""Values from the command line, and remarks to whoever runs it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from typing import Any

from costgraph.errors import clip
from costgraph.quoting import visible


def whole(text: str) -> int:
    """A positive whole number of at most 12 digits from the command line."""
    if not text.isascii() or not text.isdigit() or len(text) > 13:
        raise argparse.ArgumentTypeError(f"{clip(text)} is not a positive whole number")
    value = int(text)
    if not 0 < value <= 10**12:
        raise argparse.ArgumentTypeError(f"{clip(text)} is not from 1 to 1e12")
    return value


def print_json(value: Any, remarks: Iterable[str] = ()) -> None:
    """One JSON object on standard output; remarks go beside it as well, for who reads along."""
    remark(remarks)
    print(json.dumps(value, indent=2, ensure_ascii=False))


def remark(notes: Iterable[str]) -> None:
    """Remarks on the input, beside the output that programs read."""
    for note in notes:
        print(f"costgraph: note: {visible(note)}", file=sys.stderr)
