"""Tables: breakdowns and summaries as text and HTML. All text is escaped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from itertools import zip_longest
from typing import TYPE_CHECKING

from costgraph.quoting import visible
from costgraph.showing.export.fitting import cards, fitted, left_out

if TYPE_CHECKING:
    from costgraph.compiling.steps import Breakdown, OpRow
    from costgraph.ir.graph import Graph
    from costgraph.setting import Setting

_SI = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
HEAD = ("op", "kind", "count", "FLOP", "bytes", "FLOP/B", "FLOP/s", "time", "share", "bound")
#: Further columns, where devices exchange data or units share a graph.
WIRE, UNIT = "wire", "unit"
#: Which calibrated parameters an operation takes.
FIT = "fit"


def si(value: float, digits: int = 4) -> str:
    """A count with an SI prefix: ``68.72G``."""
    for scale, prefix in _SI:
        if abs(value) >= scale:
            return f"{value / scale:.{digits}g}{prefix}"
    return f"{value:.{digits}g}"


def seconds(value: float) -> str:
    """A time: ``443.8 µs``."""
    if value < 0:
        return f"-{seconds(-value)}"
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= scale:
            return f"{value / scale:.4g} {unit}"
    return f"{value / 1e-9:.4g} ns" if value else "0"


def value_text(value: float, unit: str) -> str:
    """A value of a metric with its unit: ``443.8 µs``, ``80G byte``."""
    return seconds(value) if unit == "s" else f"{si(value)} {unit}"


def value_lines(
    setting: Setting, name: str, value: float, unit: str, warning: str = ""
) -> list[str]:
    """A metric's value at a point, what it is about and what it rests on."""
    told = f"{name} = {value_text(float(value), unit)}"
    return [*setting.lines(warning=warning), told, *setting.foot()]


def breakdown_head(table: Breakdown) -> tuple[str, ...]:
    """The columns of a breakdown."""
    more = (
        (WIRE, any(r.links for r in table)),
        (UNIT, any(r.unit for r in table)),
        (FIT, any(r.fit for r in table)),
    )
    return (*HEAD, *(name for name, is_there in more if is_there))


def breakdown_cells(table: Breakdown) -> list[tuple[str, ...]]:
    """The rows of a breakdown as text, operations that cost nothing last in place."""
    head, total = breakdown_head(table), table.totals["seconds"] or 1.0
    more: tuple[tuple[str, Callable[[OpRow], str]], ...] = (
        (WIRE, lambda row: " ".join(f"{k} {si(v)}" for k, v in row.links.items()) or "–"),
        (UNIT, lambda row: row.unit or "–"),
        (FIT, lambda row: row.fit or "–"),
    )
    shown = [of for name, of in more if name in head]
    return [
        (
            row.name,
            row.kind,
            f"{row.count:g}" if isinstance(row.count, float) else str(row.count),
            si(row.flops),
            si(row.bytes),
            "–" if row.intensity is None else f"{row.intensity:.4g}",
            "–" if row.performance is None else si(row.performance),
            seconds(row.seconds),
            f"{100 * row.count * row.seconds / total:.1f}%",
            row.bound,
            *(of(row) for of in shown),
        )
        for row in table.rows
    ]


def title(table: Breakdown) -> list[str]:
    """What the table is, and a warning where there is one."""
    bindings = ", ".join(f"{k}={v}" for k, v in table.bindings.items())
    return table.setting.lines(f"{table.phase} ({bindings})", warning=table.fit.warning)


def totals_lines(table: Breakdown) -> list[str]:
    """Totals over all executions, as lines of text."""
    t = table.totals
    resting = f", {si(t['resident_bytes'])}B of it resting" if t["resident_bytes"] else ""
    wire = f"   wire {si(t['wire_bytes'])}B" if t["wire_bytes"] else ""
    busy = seconds(t["busy_seconds"])
    apart = f" (rows one after another: {busy})" if table.overlaps else ""
    return [
        f"time {seconds(t['seconds'])}{apart}   FLOP {si(t['flops'])}   "
        f"bytes {si(t['bytes'])}{wire}",
        f"memory {si(t['memory_bytes'])}B = weights {si(t['weight_bytes'])}B + KV "
        f"{si(t['kv_bytes'])}B + activations {si(t['activation_bytes'])}B{resting}   "
        f"parameters {si(t['parameters'])}",
        *table.about,
    ]


def is_numeric(column: Sequence[str]) -> bool:
    """True for a column of figures, which is set to the right."""
    return bool(column) and all(c[:1].isdigit() or c[:1] in "–-" for c in column)


def plain_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int | None = None,
    optional: Sequence[str] = (),
) -> str:
    """Aligned columns: figures to the right, text to the left.

    Args:
        head, rows: texts; what cannot be printed is escaped.
        width: characters of a line; without one lines are as long as they need, and
            each cell is one line.
        optional: columns that may be left out for it, see :mod:`.fitting`.
    """
    head, rows = [visible(c) for c in head], [[visible(c) for c in r] for r in rows]
    right = [is_numeric([r[i] for r in rows]) for i in range(len(head))]
    names, note = head, ""
    if width is not None:
        kept, rows, dropped = fitted(head, rows, width, 2, optional)
        right = [
            to_right for to_right, name in zip(right, head, strict=True) if name not in dropped
        ]
        names = [name for name in head if name not in dropped]
        head, note = kept, left_out(dropped)
    lines = [_lines(cells) for cells in (head, *rows)]
    widths = [max(len(line[i]) for cells in lines for line in cells) for i in range(len(head))]
    if width is not None and rows and sum(widths) + 2 * (len(widths) - 1) > width:
        told = cards(names, rows, width)
        return "\n".join([told, note] if note else [told])

    def line(cells: Sequence[str]) -> str:
        parts = [
            c.rjust(w) if to_right else c.ljust(w)
            for c, w, to_right in zip(cells, widths, right, strict=True)
        ]
        return "  ".join(parts).rstrip()

    shown = [line(part) for cells in lines for part in cells]
    shown.insert(len(lines[0]), line(["-" * w for w in widths]))
    return "\n".join([*shown, note] if note else shown)


def _lines(cells: Sequence[str]) -> list[tuple[str, ...]]:
    """The lines of a row whose cells may have several."""
    return list(zip_longest(*(c.split("\n") for c in cells), fillvalue=""))


def breakdown_text(table: Breakdown) -> str:
    """A breakdown as plain text."""
    body = plain_table(breakdown_head(table), breakdown_cells(table))
    return "\n".join([*title(table), "", body, "", *totals_lines(table), *table.setting.foot()])


def html_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", markup: bool = False
) -> str:
    """A plain HTML table: figures to the right, text to the left; every cell escaped.

    Args:
        head, rows: texts; with ``markup`` the cells of ``rows`` are HTML already.
        caption: a text, its lines kept.
    """
    shown = rows if markup else [[escape(c) for c in r] for r in rows]
    sides = ["right" if is_numeric([r[i] for r in rows]) else "left" for i in range(len(head))]
    # Notebooks set every column to the right unless the cells say otherwise.
    styles = [f' style="text-align:{side}"' for side in sides]
    top = "".join(
        f'<th scope="col"{style}>{escape(c)}</th>' for c, style in zip(head, styles, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(f"<td{s}>{c}</td>" for c, s in zip(r, styles, strict=True)) + "</tr>"
        for r in shown
    )
    lines = "<br/>".join(escape(line) for line in caption.split("\n"))
    label = f'<caption style="text-align:left">{lines}</caption>' if caption else ""
    return f"<table>{label}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def breakdown_html(table: Breakdown) -> str:
    """A breakdown as HTML for notebooks."""
    foot = foot_html([*totals_lines(table), *table.setting.foot()])
    return html_table(breakdown_head(table), breakdown_cells(table), "\n".join(title(table))) + foot


def foot_html(lines: Sequence[str]) -> str:
    """Lines under something, a paragraph each."""
    return "".join(f"<p>{escape(line.strip())}</p>" for line in lines)


def graph_html(graph: Graph) -> str:
    """A graph's operations as HTML for notebooks."""
    from costgraph.counting.count import rows

    head = ("op", "kind", "count", "result", "FLOP", "bytes")
    cells = [
        (
            row.name,
            row.kind,
            str(row.count),
            "; ".join(f"{t.dtype}[{', '.join(map(str, t.shape))}]" for t in row.node.outputs),
            str(row.cost.total_flops),
            str(row.cost.total_bytes),
        )
        for row in rows(graph)
    ]
    return html_table(head, cells, graph.name)
