"""Acceptances as they were measured: numbers in the pipeline, or a small file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from sympy import Expr

from costgraph.errors import PipelineError, clip
from costgraph.files.outside import json_value, label_of, read_text
from costgraph.passes.decoding.acceptance import Measured, Positions
from costgraph.rewriting.pipeline import Option, checked, number

#: Largest file, and most depths and ranks.
MOST_BYTES, MOST_DEPTHS, MOST_RANKS = 1 << 20, 64, 256
_NUMBERS = re.compile(r"[0-9.,;/eE+\- ]+\Z")
_PROBABILITY = Option("probability", "", symbolic=False)
_PERCENT = Option("number", "", minimum=0)


def shares(text: str) -> Measured:
    """Shares by depth and rank: ``0.7,0.1;0.6,0.1``, or the path of a file.

    Depths are divided by semicolons, ranks by commas. A CSV file has a row a depth; a JSON
    file a list of lists, or of numbers where there is one candidate a depth.

    Raises:
        PipelineError: it is no such table.
    """
    if _NUMBERS.match(text) and any(map(str.isdigit, text)):
        rows = [part.split(",") for part in text.split(";")]
        return _table("acceptance", ([cell.strip() for cell in row] for row in rows))
    shown = f"acceptance: {label_of(text)}"
    content = read_text(text, MOST_BYTES, "acceptances", PipelineError)
    if text.lower().removesuffix(".gz").endswith(".json"):
        found = json_value(content, shown, PipelineError)
        if not isinstance(found, list):
            raise PipelineError(f"{shown}: not a list of shares by depth")
        return _table(shown, (row if isinstance(row, list) else [row] for row in found))
    lines = csv.reader(io.StringIO(content))
    try:
        return _table(shown, ([c.strip() for c in row if c.strip()] for row in lines if any(row)))
    except csv.Error as error:
        raise PipelineError(f"{shown}: not readable as CSV: {error}") from None


def percents(text: str) -> Positions:
    """Acceptance per position, in percent: ``p80|p70|p60``.

    Raises:
        PipelineError: a part is no number up to 100.
    """
    parts = (p.removeprefix("p") for p in text.split("|"))
    values = [number("alphas", _PERCENT, p) / 100 for p in parts]
    for value in values:
        if value.is_number and value > 1:
            raise PipelineError(f"alphas: {value * 100} percent is beyond 100")
    return Positions(tuple(values))


def _table(where: str, rows: Iterable[Sequence[Any]]) -> Measured:
    found: list[tuple[Expr, ...]] = []
    for row in rows:
        if len(found) == MOST_DEPTHS or len(row) > MOST_RANKS:
            raise PipelineError(
                f"{where}: at most {MOST_DEPTHS} depths of {MOST_RANKS} candidates each"
            )
        found.append(tuple(_share(f"{where}: depth {len(found) + 1}", cell) for cell in row))
    return Measured(tuple(found))


def _share(where: str, cell: Any) -> Expr:
    if isinstance(cell, bool) or not isinstance(cell, (str, int, float)):
        raise PipelineError(f"{where}: {clip(str(cell))} is no share")
    if isinstance(cell, str):
        return number(where, _PROBABILITY, cell)
    return checked(where, _PROBABILITY, cell)
