"""Tables in a given width: words and figures stay whole, columns give way with a note.

A cell may be broken at a space, and behind ``+``, ``,`` or ``|`` before a letter; nowhere
else, so that what is to be typed or read as a number is never cut. Where that is not enough,
columns are left out, and the caller says which.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

#: A number keeps its unit.
_BREAK = re.compile(r"(?<=\s)(?<!\d\s)(?=\S)|(?<=\d\s)(?=[^\sA-Za-zµ])|(?<=[+,|])(?=[A-Za-z])")


def wrapped(text: str, width: int) -> str:
    """The text in lines of at most ``width`` characters, words left whole."""
    lines: list[str] = []
    line = ""
    for piece in _BREAK.split(text):
        if line and len(line + piece.rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += piece
    return "\n".join([*lines, line.rstrip()])


def least(text: str) -> int:
    """The width of the longest part that must stay whole."""
    return max(len(piece.rstrip()) for piece in _BREAK.split(text))


def fitted(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    room: int,
    gap: int,
    optional: Sequence[str] = (),
) -> tuple[list[str], list[list[str]], list[str]]:
    """A table's headings and rows for a width, and the headings of columns left out.

    Args:
        head, rows: texts.
        room: characters of a line.
        gap: characters between two columns.
        optional: headings that may be left out, the first ones first.
    """
    kept = list(range(len(head)))
    dropped: list[str] = []
    leasts = [max(least(head[i]), *(least(r[i]) for r in rows), 1) for i in kept] if rows else []
    for name in optional:
        if not rows or sum(leasts[i] + gap for i in kept) - gap <= room:
            break
        if name in head:
            kept.remove(list(head).index(name))
            dropped.append(name)
    widths = _widths(head, rows, kept, leasts, room - gap * (len(kept) - 1)) if rows else {}
    return (
        [wrapped(head[i], widths.get(i, len(head[i]))) for i in kept],
        [[wrapped(r[i], widths[i]) for i in kept] for r in rows],
        dropped,
    )


def _widths(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    kept: Sequence[int],
    leasts: Sequence[int],
    room: int,
) -> dict[int, int]:
    """What each column gets: at least its longest word, the rest where cells are tallest."""
    wished = {i: max(len(head[i]), *(len(r[i]) for r in rows)) for i in kept}
    widths = {i: leasts[i] for i in kept}
    left = room - sum(widths.values())

    def tallest(i: int) -> int:
        return max(wrapped(cells[i], widths[i]).count("\n") for cells in (head, *rows))

    heights = {i: tallest(i) for i in kept if wished[i] > widths[i]}
    while left > 0 and heights:
        i = max(heights, key=lambda i: (heights[i], wished[i] - widths[i]))
        widths[i] += 1
        left -= 1
        if widths[i] == wished[i]:
            del heights[i]
        else:
            heights[i] = tallest(i)
    return widths


def cards(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """A table that no line has room for: a block a row, a line a cell, broken at words anew."""
    lines = []
    for row in rows:
        for index, (name, cell) in enumerate(zip(head, row, strict=True)):
            whole = " ".join(cell.split("\n"))
            text = f"{name}: {whole}" if name else whole
            first, *rest = wrapped(text, max(width - 4, 1)).split("\n")  # as far as the rest
            lines += ["  " * bool(index) + first, *("    " + part for part in rest)]
    return "\n".join(lines)


def left_out(dropped: Sequence[str]) -> str:
    """A sentence on columns that had no room."""
    return f"(no room for {', '.join(dropped)}: widen the terminal, or --json)" if dropped else ""
