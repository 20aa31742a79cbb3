"""Tables on a terminal: colour and width where there is one, plain text in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from costgraph.export.table import (
    HEAD,
    breakdown_cells,
    breakdown_text,
    is_numeric,
    plain_table,
    title,
    totals_lines,
)
from costgraph.quoting import visible

if TYPE_CHECKING:
    from rich.console import Console

    from costgraph.breakdown import Breakdown

_BOUND_STYLE = {"memory": "cyan", "compute": "magenta", "none": "dim"}


def print_breakdown(table: Breakdown) -> None:
    """Print a breakdown to standard output."""
    if not sys.stdout.isatty():
        print(breakdown_text(table))
        return
    styles = [_BOUND_STYLE.get(row.bound, "") for row in table.rows]
    _print_rich(HEAD, breakdown_cells(table), title(table), styles)
    for line in (*table.said.lines(), *totals_lines(table)):
        print(line)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> None:
    """Print any table to standard output."""
    if sys.stdout.isatty():
        _print_rich(head, rows, caption, [""] * len(rows))
        return
    if caption:
        print(visible(caption) + "\n")
    print(plain_table(head, rows))


def console(errors: bool = False) -> Console:
    """Rich's console on standard output or on standard error.

    Its colours are escape codes, so it writes past what escapes them in the output of
    the command line (:mod:`costgraph.cli.screen`): texts must be made visible first.
    """
    from rich.console import Console

    stream = sys.stderr if errors else sys.stdout
    return Console(file=getattr(stream, "inner", stream))


def _print_rich(
    head: Sequence[str], rows: Sequence[Sequence[str]], caption: str, styles: Sequence[str]
) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(visible(caption)) if caption else None, title_justify="left")
    for index, name in enumerate(head):
        table.add_column(
            Text(visible(name)), justify="right" if is_numeric([r[index] for r in rows]) else "left"
        )
    for cells, style in zip(rows, styles, strict=True):
        table.add_row(*(Text(visible(c)) for c in cells), style=style or None)
    console().print(table)
