"""Search results as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from costgraph.ir.metrics import PER_DEVICE, RANKED
from costgraph.showing.export.table import plain_table, seconds, si

if TYPE_CHECKING:
    from costgraph.asking.searching import SearchResult
    from costgraph.asking.searching.front import FrontPoint


def value_text(metric: str, value: float) -> str:
    """A metric's value with its unit, as in tables."""
    unit = RANKED[metric].unit
    if unit == "s":
        return seconds(value)
    return si(value) + {"byte": "B", "FLOP": "FLOP"}.get(unit, "")


#: Columns that may be left out where there is little room, the first ones first.
_LESS = ("ttft", "latency", "tpot", "stopped by")


def about(result: SearchResult) -> list[str]:
    """What was asked, in lines."""
    from costgraph.asking.searching import direction

    symbols = ", ".join(f"{n}={v:g}" for n, v in result.symbols.items())
    limits = ", ".join(_limit(m, v) for m, v in result.limits.items()) or "none"
    low, high = result.batches
    return [
        *result.setting.lines(symbols, without=("hardware", "passes")),
        f"{direction(result.objective)} {result.objective}, B from {low} to {high}",
        f"limits: {limits}",
        *([] if result.tpot_of is None else [f"tpot: {result.tpot_of}"]),
    ]


def candidates(result: SearchResult) -> tuple[list[str], list[list[str]]]:
    """The headings, and one row of text per candidate, the best first."""
    known = {m for c in result.candidates for m in c.values} | {result.objective, *result.limits}
    wished = [result.objective, *result.limits, "ttft", "tpot", "latency", "throughput"]
    many = any(c.values.get(PER_DEVICE) != c.values.get("throughput") for c in result.candidates)
    wished += [PER_DEVICE] if many else []
    metrics = [m for m in dict.fromkeys(wished) if m in known]
    head = ["hardware", "passes", "B", *(_head(m) for m in metrics), "stopped by"]
    rows = [
        [
            c.hardware,
            c.passes,
            "–" if c.batch is None else str(c.batch),
            *(value_text(m, c.values[m]) if m in c.values else "–" for m in metrics),
            "; ".join(c.binding) + ("" if c.exact != "all batches tried" else " (all tried)"),
        ]
        for c in result.candidates
    ]
    return head, rows


def search_text(result: SearchResult, width: int | None = None) -> str:
    """A search as plain text: ranked candidates, then the front.

    Tables fit a line of ``width`` characters, if one is given.
    """
    head, rows = candidates(result)
    less = [_head(name) for name in _LESS if name not in (result.objective, *result.limits)]
    lines = [*about(result), "", plain_table(head, rows, width, less)]
    if result.best is None:
        lines += ["", "no candidate keeps the limits"]
    if result.pareto is not None:
        lines += ["", f"Pareto front of {result.pareto[0]} and {result.pareto[1]}", ""]
        lines.append(_front(result.front, result.pareto, width))
    foot = result.setting.foot()
    return "\n".join([*lines, *(["", *foot] if foot else [])])


def _head(metric: str) -> str:
    return "per device" if metric == PER_DEVICE else metric


def _limit(metric: str, value: float | str) -> str:
    if isinstance(value, str):
        return f"{metric} within the {value}'s capacity"
    sign = "≥" if RANKED[metric].larger_is_better else "≤"
    return f"{metric} {sign} {value_text(metric, value)}"


def _front(points: tuple[FrontPoint, ...], metrics: tuple[str, str], width: int | None) -> str:
    """Neighbouring batches of one candidate in one line."""
    groups: list[list[FrontPoint]] = []
    for point in points:
        last = groups[-1][-1] if groups else None
        same = last is not None and (last.hardware, last.passes) == (point.hardware, point.passes)
        if last is not None and same and abs(point.batch - last.batch) == 1:
            groups[-1].append(point)
        else:
            groups.append([point])
    rows = []
    for group in groups:
        first, last = group[0], group[-1]
        one = len(group) == 1
        rows.append(
            [
                first.hardware,
                first.passes,
                str(first.batch) if one else f"{first.batch} … {last.batch}",
                *(
                    value_text(m, a) if one else f"{value_text(m, a)} … {value_text(m, b)}"
                    for m, a, b in zip(metrics, first.values, last.values, strict=True)
                ),
            ]
        )
    head = ["hardware", "passes", "B", *metrics]
    return plain_table(head, rows, width) if rows else "(empty)"
