"""Tables: breakdowns and summaries as text and HTML. All text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from costgraph.quoting import visible

if TYPE_CHECKING:
    from costgraph.breakdown import Breakdown
    from costgraph.graph import Graph

_SI = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
HEAD = ("op", "kind", "count", "FLOP", "bytes", "FLOP/B", "FLOP/s", "time", "share", "bound")


def si(value: float, digits: int = 4) -> str:
    """A count with an SI prefix: ``68.72G``."""
    for scale, prefix in _SI:
        if abs(value) >= scale:
            return f"{value / scale:.{digits}g}{prefix}"
    return f"{value:.{digits}g}"


def seconds(value: float) -> str:
    """A time: ``443.8 µs``."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= scale:
            return f"{value / scale:.4g} {unit}"
    return f"{value / 1e-9:.4g} ns" if value else "0"


def breakdown_cells(table: Breakdown) -> list[tuple[str, ...]]:
    """The rows of a breakdown as text, operations that cost nothing last in place."""
    total = table.totals["seconds"] or 1.0
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
        )
        for row in table.rows
    ]


def title(table: Breakdown) -> str:
    """One line saying what the table is."""
    bindings = ", ".join(f"{k}={v}" for k, v in table.bindings.items())
    passes = f", passes {table.passes}" if table.passes else ""
    return (
        f"{table.model} on {table.hardware}, {table.phase} ({bindings}), "
        f"accounting {table.accounting}{passes}"
    )


def totals_lines(table: Breakdown) -> list[str]:
    """Totals over all executions, as lines of text."""
    t = table.totals
    resting = f", {si(t['resident_bytes'])}B of it resting" if t["resident_bytes"] else ""
    return [
        f"time {seconds(t['seconds'])}   FLOP {si(t['flops'])}   bytes {si(t['bytes'])}",
        f"memory {si(t['memory_bytes'])}B = weights {si(t['weight_bytes'])}B + KV "
        f"{si(t['kv_bytes'])}B + activations {si(t['activation_bytes'])}B{resting}   "
        f"parameters {si(t['parameters'])}",
    ]


def is_numeric(column: Sequence[str]) -> bool:
    """True for a column of figures, which is set to the right."""
    return bool(column) and all(c[:1].isdigit() or c[:1] in "–-" for c in column)


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: figures to the right, text to the left; each cell in one line."""
    head, rows = [visible(c) for c in head], [[visible(c) for c in r] for r in rows]
    widths = [max(len(r[i]) for r in (head, *rows)) for i in range(len(head))]
    right = [is_numeric([r[i] for r in rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        parts = [
            c.rjust(w) if to_right else c.ljust(w)
            for c, w, to_right in zip(cells, widths, right, strict=True)
        ]
        return "  ".join(parts).rstrip()

    return "\n".join([line(head), line(["-" * w for w in widths]), *map(line, rows)])


def breakdown_text(table: Breakdown) -> str:
    """A breakdown as plain text."""
    body = plain_table(HEAD, breakdown_cells(table))
    said = [*table.said.lines(), ""] if table.said.lines() else []
    return "\n".join([title(table), "", body, "", *said, *totals_lines(table)])


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A plain HTML table; every cell escaped."""
    top = "".join(f"<th>{escape(c)}</th>" for c in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in r) + "</tr>" for r in rows)
    label = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{label}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def breakdown_html(table: Breakdown) -> str:
    """A breakdown as HTML for notebooks."""
    lines = (*totals_lines(table), *(line.strip() for line in table.said.lines()))
    foot = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return html_table(HEAD, breakdown_cells(table), title(table)) + foot


def graph_html(graph: Graph) -> str:
    """A graph's operations as HTML for notebooks."""
    from costgraph.count import rows

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
