"""Figures to zoom in and to point at: Altair charts of the numbers that the figures draw.

A chart is Vega-Lite, JSON that holds its data: notebooks show it, ``chart.save("x.html")`` writes
a page, ``chart.to_dict()`` gives it to any other tool. Needs the extra ``altair``, a twelfth of
the size of plotly, whose charts hold no program of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

from costgraph.compiling.breakdown import break_down
from costgraph.compiling.compiled import Compiled
from costgraph.errors import InputError
from costgraph.ir.workload import shown
from costgraph.number import Number
from costgraph.showing.plot import fronts
from costgraph.showing.plot.comparisons import METRICS, title_of
from costgraph.showing.plot.curves import (
    Subject,
    fixed_of,
    head_of,
    mostly,
    regimes_between,
    told,
    told_of_ends,
    traced,
)
from costgraph.showing.plot.rooflines import dtypes_used, roofs_of
from costgraph.showing.plot.style import BOUND, METRIC, PALETTE, axis_title, axis_unit, titled

if find_spec("altair") is None:
    raise InputError("charts to zoom in need altair: pip install 'costgraph[altair]'")

import altair

if TYPE_CHECKING:
    from costgraph.asking.compared import Column, Comparison

#: Numbers with SI prefixes, as Vega writes them.
_SI = "~s"
#: Marks at the ends of an axis lie inside it.
_LOG = altair.Scale(type="log", nice=False, padding=8)
Rows = Sequence[Mapping[str, Any]]
#: Charts on top of one another, as Altair types them.
Layers: TypeAlias = "altair.LayerChart | altair.FacetChart"


def curve(
    subjects: Subject | Mapping[str, Subject],
    over: str,
    lower: float,
    upper: float,
    *,
    metric: str = "tpot",
    log: bool = True,
    title: str = "",
    **values: Any,
) -> Layers:
    """One metric along a symbol; arguments as of :func:`costgraph.plot.curve`.

    With one formula, pointing at the line names the resource with the largest share of the
    time. Names of the legend are clicked to see one line alone.
    """
    found = traced(subjects, over, lower, upper, metric, log, values)
    formulas = list(found.formulas.values())
    first = formulas[0]
    rows = [
        {"name": _text(name), "x": x, "y": y}
        for name, line in found.lines.items()
        for x, y in zip(found.at, line, strict=True)
    ]
    if len(formulas) == 1:
        bounds = _bounds(first, over, lower, upper, found.values)
        rows = [{**row, "mostly": bounds(row["x"])} for row in rows]
    full = [
        {"name": _text(name), "x": last, "why": _text(fit.full)}
        for name, (last, fit) in found.ends.items()
        if fit.full and last is not None
    ]
    kind = "log" if log else "linear"
    pick = altair.selection_point(fields=["name"], bind="legend")
    colour = _colour("name", found.formulas, legend=len(formulas) > 1)
    seen = altair.condition(pick, altair.value(1), altair.value(0.15))
    places = _chart(rows).encode(
        x=_axis("x", f"{axis_title(over)}{_in(axis_unit(over))}", kind),
        y=_axis("y", f"{METRIC.get(first.name, first.name)}{_in(first.unit)}", kind),
        color=colour,
    )
    lines = places.mark_line().encode(opacity=seen).add_params(pick)
    tips = {"name": "", "x": over, "y": first.name, "mostly": "mostly"}
    points = places.mark_point(opacity=0, size=80).encode(tooltip=_tips(rows, tips))
    ends = (
        _chart(full)
        .mark_rule(strokeDash=[6, 4], size=2)
        .encode(x="x:Q", color=colour,
                tooltip=_tips(full, {"name": "", "x": over, "why": "memory"}))
    )  # fmt: skip
    asked = {**found.values, over: found.at}
    warning = "; ".join(told_of_ends(found, over))
    about = head_of(formulas, asked, title, told(found.values), warning=warning)
    return altair.layer(lines, points, ends).properties(title=_title(about)).interactive()


def pareto(
    choices: Sequence[Compiled], batches: Sequence[int], *, title: str = "", **values: int
) -> Layers:
    """Throughput over the time per token; arguments as of :func:`costgraph.plot.pareto`."""
    at = fronts.asked(choices, batches, values)
    drawn = fronts.lines_of(choices, batches, at)
    front = fronts.front_of(drawn)
    rows = [
        {"name": _text(name), "x": seconds, "y": rate, "batch": batch, "fits": fits}
        for name, line in drawn
        for seconds, rate, batch, fits in line
    ]
    x = _axis("x", "time per output token (s)", "log")
    y = _axis("y", "throughput (token/s)", "log")
    tips = {"name": "", "batch": "B", "x": "time per token", "y": "token/s", "fits": "fits"}
    pick = altair.selection_point(fields=["name"], bind="legend")
    seen = altair.condition(pick, altair.value(1), altair.value(0.15))
    colour = _colour("name", [name for name, _ in drawn])
    line = _chart(rows).mark_line().encode(x=x, y=y, color=colour, order="batch:Q", opacity=seen)
    points = (
        _chart(rows)
        .mark_point(size=60)
        .encode(x=x, y=y, color=colour, opacity=seen, tooltip=_tips(rows, tips),
                shape=altair.Shape("fits:N", title="fits into memory"))
        .add_params(pick)
    )  # fmt: skip
    broad = (
        _chart([{"x": seconds, "y": rate} for seconds, rate in front])
        .mark_line(color="#BBBBBB", size=7, opacity=0.6)
        .encode(x=x, y=y)
    )
    about = fronts.about(choices, at, title, front)
    return altair.layer(broad, line, points).properties(title=_title(about)).interactive()


def comparison(table: Comparison) -> altair.HConcatChart:
    """Metrics of every column of :func:`costgraph.compare`, a panel each."""
    columns = [(f"{i + 1}  {_text(_called(table, c))}", c) for i, c in enumerate(table.columns)]
    panels = []
    for metric, unit in METRICS:
        rows = [
            {
                "column": name,
                "model": _text(c.model),
                "hardware": _text(c.hardware),
                "value": getattr(c, metric),
                "fits": c.fits,
                "speedup": c.speedup,
            }
            for name, c in columns
            if getattr(c, metric) is not None
        ]
        if not rows:
            continue
        title = "peak memory" if metric == "memory" else metric
        tips = {"column": "", "model": "model", "hardware": "on", "value": title,
                "speedup": "speed-up", "fits": "fits into memory"}  # fmt: skip
        panels.append(
            _chart(rows)
            .mark_bar(strokeWidth=2)
            .encode(
                x=altair.X("column:N", title=None, axis=altair.Axis(labelLimit=240)),
                y=_axis("value", f"{title}{_in(unit)}", "linear"),
                color=_colour("column", [name for name, _ in columns], legend=False),
                fillOpacity=altair.condition("datum.fits", altair.value(1), altair.value(0.15)),
                stroke=_colour("column", [name for name, _ in columns], legend=False),
                tooltip=_tips(rows, tips),
            )
            .properties(width=max(60, 36 * len(columns)))
        )
    return altair.hconcat(*panels).properties(title=_title(title_of(table)))


def _called(table: Comparison, column: Column) -> str:
    """A column's pipeline, with what else tells it from others."""
    parts = [column.model] if len(table.models) > 1 else []
    parts += [column.hardware] if len(table.devices) > 1 else []
    return ": ".join([*parts, column.passes])


def roofline(
    compiled: Compiled, phase: str = "decode", *, dtypes: Sequence[str] = (), **values: Number
) -> Layers:
    """Operations of one step under the roofs; arguments as of :func:`costgraph.plot.roofline`.

    Roofs are those of the device's own memory.

    Raises:
        InputError: no operation does any FLOP.
    """
    table = break_down(compiled, phase, {"B": 1, **values})
    machine = compiled.bound or compiled.machine
    total = float(table.totals["seconds"])
    rows: list[dict[str, Any]] = [
        {
            "name": _text(row.name),
            "x": float(row.intensity or 0),
            "y": float(row.performance or 0),
            "bound": row.bound,
            "share": row.seconds * float(row.count) / total,
        }
        for row in table
        if row.flops and row.seconds and row.intensity
    ]
    if not rows:
        raise InputError(f"{phase}: no operation does any FLOP; there is nothing to draw")
    roofs = roofs_of(machine, [*dtypes_used(compiled, phase), *dtypes])
    low = min(row["x"] for row in rows) / 3
    high = max(*(row["x"] for row in rows), *(2 * roof.ridge for roof in roofs)) * 3
    lines = [
        {"roof": roof.name, "x": x, "y": min(roof.peak, roof.bandwidth * x)}
        for roof in roofs
        for x in (low, roof.ridge, high)
    ]
    x = _axis("x", "arithmetic intensity (FLOP/byte)", "log")
    y = _axis("y", "achieved rate (FLOP/s)", "log")
    over = (
        _chart(lines)
        .mark_line(color="#555555")
        .encode(x=x, y=y, strokeDash=altair.StrokeDash("roof:N", title="roof"),
                tooltip=_tips(lines, {"roof": "", "x": "FLOP/byte", "y": "FLOP/s"}))
    )  # fmt: skip
    bounds = [b for b in BOUND if any(row["bound"] == b for row in rows)]
    looks = altair.Scale(domain=bounds, range=[BOUND[b][0] for b in bounds])
    tips = {"name": "", "x": "FLOP/byte", "y": "FLOP/s", "share": "share", "bound": "bound"}
    points = (
        _chart(rows)
        .mark_point(filled=True, opacity=0.8)
        .encode(x=x, y=y, size=altair.Size("share:Q", title="share of the step"),
                color=altair.Color("bound:N", scale=looks, title="bound by"),
                tooltip=_tips(rows, tips))
    )  # fmt: skip
    about = titled(table.setting, "", phase, shown(dict(values)), warning=table.fit.warning)
    return altair.layer(over, points).properties(title=_title(about)).interactive()


# --- what the charts share -------------------------------------------------------------------


def _text(text: object) -> str:
    """A text that a page may hold: Altair writes it into a script as it is."""
    from costgraph.showing.draw.scene import clean

    return clean(text, 4000).replace("<", "‹").replace(r"\$", "$")


def _title(lines: Iterable[str]) -> altair.TitleParams:
    first, *rest = map(_text, lines)
    return altair.TitleParams(text=first, subtitle=rest, anchor="start")


def _chart(rows: Rows) -> altair.Chart:
    return altair.Chart(altair.InlineData(values=list(rows)), width=560, height=340)


def _in(unit: str) -> str:
    return f" ({unit})" if unit else ""


def _axis(name: str, title: str, kind: str) -> Any:
    make: Any = altair.X if name == "x" else altair.Y
    scale = altair.Scale(type="linear", zero=True) if kind == "linear" else _LOG
    return make(f"{name}:Q", title=title, scale=scale, axis=altair.Axis(format=_SI))


def _colour(field: str, names: Iterable[str], legend: bool = True) -> altair.Color:
    domain = [_text(name) for name in names]
    looks = [PALETTE[i % len(PALETTE)] for i in range(len(domain))]
    scale = altair.Scale(domain=domain, range=looks)
    shown = altair.Legend(title=None, labelLimit=400) if legend else None
    return altair.Color(f"{field}:N", scale=scale, legend=shown)


def _tips(rows: Rows, names: Mapping[str, str]) -> list[altair.Tooltip]:
    """What is shown of the point that is pointed at."""
    there = rows[0] if rows else {}
    return [
        altair.Tooltip(
            f"{key}:{'Q' if type(there[key]) in (int, float) else 'N'}", title=title or key
        )
        for key, title in names.items()
        if there.get(key, "") != ""
    ]


def _bounds(formula: Any, over: str, lower: float, upper: float, values: Mapping[str, Any]) -> Any:
    """The resource with the largest share of the time, as a function of the symbol."""
    try:
        spans, _ = regimes_between(formula, over, lower, upper, values)
    except InputError:  # not decided, or of no closed form
        return lambda x: "not decided"
    fixed = fixed_of(formula, over, values)
    named = [(end, mostly(formula, over, (start, end), fixed)) for start, end in spans]
    return lambda x: next((name for end, name in named if x <= end), named[-1][1] if named else "")
