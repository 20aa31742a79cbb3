"""Tables on a terminal: colour and width where there is one, plain text in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from costgraph.quoting import visible
from costgraph.showing.export.fitting import cards, fitted, left_out
from costgraph.showing.export.table import (
    breakdown_cells,
    breakdown_head,
    breakdown_text,
    is_numeric,
    plain_table,
    title,
    totals_lines,
)

if TYPE_CHECKING:
    from rich.console import Console

    from costgraph.compiling.steps import Breakdown

_BOUND_STYLE = {"memory": "cyan", "compute": "magenta", "link": "yellow", "none": "dim"}


#: Columns of a breakdown that may be left out, the first ones first.
_LESS = ("fit", "FLOP/s", "kind", "FLOP/B", "count", "FLOP", "bytes", "share")


def width() -> int | None:
    """Characters of a line of the terminal; None where the output is no terminal."""
    if not sys.stdout.isatty():
        return None
    from shutil import get_terminal_size

    return get_terminal_size().columns


def print_breakdown(table: Breakdown) -> None:
    """Print a breakdown to standard output."""
    if width() is None:
        print(breakdown_text(table))
        return
    styles = [_BOUND_STYLE.get(row.bound, "") for row in table.rows]
    _print_rich(breakdown_head(table), breakdown_cells(table), title(table), styles, _LESS)
    for line in (*totals_lines(table), *table.setting.foot()):
        print(line)


def print_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: str = "",
    optional: Sequence[str] = (),
    lines: int | None = None,
) -> None:
    """Print any table to standard output; ``optional`` columns give way to a narrow one.

    ``lines`` is how long they are where the output is no terminal; without it as they need.
    """
    if width() is not None:
        _print_rich(head, rows, [caption] if caption else [], [""] * len(rows), optional)
        return
    if caption:
        print(visible(caption) + "\n")
    print(plain_table(head, rows, lines))


def console(errors: bool = False, wide: int | None = None) -> Console:
    """Rich's console on standard output or on standard error, ``wide`` characters wide.

    Its colours are escape codes, so it writes past what escapes them in the output of
    the command line (:mod:`costgraph.cli.output`): texts must be made visible first.
    """
    from rich.console import Console

    stream = sys.stderr if errors else sys.stdout
    return Console(file=getattr(stream, "inner", stream), width=wide)


def _print_rich(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: Sequence[str],
    styles: Sequence[str],
    optional: Sequence[str],
) -> None:
    from rich.table import Table
    from rich.text import Text

    # Colours are escape codes: nothing else in what rich prints may be one.
    head, rows = [visible(c) for c in head], [[visible(c) for c in r] for r in rows]
    right = {name: is_numeric([r[i] for r in rows]) for i, name in enumerate(head)}
    # Between columns rich draws a line with a space on either side, and one at each end.
    kept, cells, dropped = fitted(head, rows, (width() or 80) - 4, 3, optional)
    names = [name for name in head if name not in dropped]
    shown = "\n".join(map(visible, caption))
    table = Table(title=Text(shown) if shown else None, title_justify="left")
    total = 1
    for index, name in enumerate(names):
        texts = [kept[index], *(row[index] for row in cells)]
        wide = max(len(line) for text in texts for line in text.split("\n"))
        table.add_column(
            Text(kept[index]),
            justify="right" if right[name] else "left",
            width=wide,
            no_wrap=True,
        )
        total += wide + 3
    for row, style in zip(cells, styles, strict=True):
        table.add_row(*(Text(c) for c in row), style=style or None)
    room = width() or 80
    if total > room:  # rich would cut it
        for line in caption:
            print(visible(line))
        print(cards(names, cells, room))
    else:
        console(wide=room).print(table)
    if dropped:
        print(left_out(dropped))
