"""Bars: time and memory by kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from costgraph.compiling.breakdown import break_down
from costgraph.compiling.capacity import room_of
from costgraph.compiling.compiled import Compiled
from costgraph.compiling.steps import Breakdown
from costgraph.errors import InputError, clip
from costgraph.ir.workload import shown
from costgraph.number import Number
from costgraph.showing.plot.style import (
    HATCHES,
    PALETTE,
    axis_title,
    font_size,
    head_text,
    new_figure,
    number,
    plain,
    styled,
    titled,
    unit_axis,
)

_KINDS = 6
_GREY = "#BBBBBB"
MEMORY = (
    ("weight_bytes", "weights"),
    ("kv_bytes", "KV cache"),
    ("activation_bytes", "activations"),
)


@styled
def breakdown(
    compiled: Compiled,
    over: str,
    points: Sequence[int],
    *,
    phase: str = "decode",
    width: str = "slide",
    title: str = "",
    **values: Number,
) -> Figure:
    """Time by operation kind and memory by use, a stack of bars for each point.

    Args:
        compiled: the model on its machine.
        over: ``B``, ``T`` or ``S``.
        points: its values.
        phase: whose step.
        width, title: as for other figures.
        values: numbers for the other symbols.
    """
    if not points:
        raise InputError("a breakdown needs at least one point")
    if over not in ("B", "T", "S"):
        raise InputError(f"a breakdown runs over B, T or S, not {clip(over)}")
    tables = [break_down(compiled, phase, {"B": 1, **values, over: p}) for p in points]
    sums = [float(t.totals["seconds"]) for t in tables]
    bars = grouped_kinds(tables)
    figure, (left, right) = new_figure(*((1, 2) if width == "column" else (2, 1)))
    if width == "column":
        figure.set_size_inches(3.3, 4.2)
    names = [f"{p:,}" for p in points]
    stack(left, names, bars)
    if any(t.overlaps for t in tables):
        # Bars are what operations take; where some run at once the step is shorter.
        left.set_ylabel(f"operations of a {phase} step, one after another")
        left.plot(range(len(sums)), sums, "k_", markersize=14, label="the step", zorder=5)
    else:
        left.set_ylabel(f"time of a {phase} step")
    unit_axis(left, "y", "s")
    uses = {name: [float(t.totals[key]) for t in tables] for key, name in MEMORY}
    stack(right, names, uses)
    right.set_ylabel("memory")
    unit_axis(right, "y", "B")
    capacity = room_of(compiled)
    if capacity is not None:
        _capacity(right, capacity)
    for axes in (left, right):
        axes.set_xlabel(axis_title(over))
        _legend_above(axes)
    full = next((p for p, t in zip(points, tables, strict=True) if t.fit.full), None)
    warning = ""
    if full is not None:
        all_of = full == points[0]
        warning = tables[0].fit.full if all_of else f"from {over}={full} on it does not fit"
    longest = max(zip(points, tables, strict=True), key=lambda found: found[0])[1]
    setting = compiled.setting.warned(longest.fit.beyond)
    lines = titled(setting, title, f"{phase} step", shown(values), warning=warning)
    figure.suptitle(head_text(width, *lines), x=0.01, ha="left", fontsize=font_size(left))
    return figure


def grouped_kinds(tables: Sequence[Breakdown], most: int = _KINDS) -> dict[str, list[float]]:
    """Seconds in each step by kind of operation, the largest first; small ones together."""
    kinds: dict[str, list[float]] = {}
    for index, table in enumerate(tables):
        for row in table:
            series = kinds.setdefault(row.kind, [0.0] * len(tables))
            series[index] += row.seconds * float(row.count)
    ranked = sorted(kinds, key=lambda k: (-max(kinds[k]), k))
    sums = [float(t.totals["seconds"]) for t in tables]
    large = [k for k in ranked if any(v > 0.01 * s for v, s in zip(kinds[k], sums, strict=True))]
    bars = {plain(k): kinds[k] for k in large[:most]}
    small = [k for k in ranked if k not in large[:most]]
    rest = [sum(kinds[k][i] for k in small) for i in range(len(tables))]
    if any(rest):
        bars["other"] = rest
    return bars


def _legend_above(axes: Axes) -> None:
    """A legend above the axes, so that it never hides a bar."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, frameon=False, columnspacing=0.9,
        handlelength=1.3, borderaxespad=0.1, reverse=False,
    )  # fmt: skip


def stack(
    axes: Axes,
    names: Sequence[str],
    series: dict[str, list[float]],
    among: Sequence[str] = (),
) -> None:
    """Stacked bars; each series has its colour and its hatch: its place ``among`` all names."""
    base = [0.0] * len(names)
    every = list(dict.fromkeys((*among, *series)))
    for name, values in series.items():
        index = every.index(name)
        colour = _GREY if name == "other" else PALETTE[index % len(PALETTE)]
        hatch = HATCHES[-1] if name == "other" else HATCHES[index % len(HATCHES)]
        axes.bar(
            range(len(names)), values, bottom=base, label=name, color=colour, edgecolor="white",
            hatch=hatch, width=0.72, zorder=3, linewidth=0.4,
        )  # fmt: skip
        base = [b + v for b, v in zip(base, values, strict=True)]
    axes.set_xticks(range(len(names)), names)
    if len(names) > 4 and sum(map(len, names)) > 30:
        axes.tick_params(axis="x", labelrotation=60)
    axes.grid(True, axis="y", color="#E3E3E3", zorder=0)
    axes.set_ylim(0, max(base) * 1.06 or 1)


def _capacity(axes: Axes, capacity: float) -> None:
    low, high = axes.get_ylim()
    if capacity > 3 * high:
        return
    axes.set_ylim(low, max(high, capacity * 1.1))
    axes.axhline(capacity, color="#B3261E", linestyle="--", zorder=4)
    axes.annotate(
        f"capacity {number(capacity, 'B')}", (0.01, capacity),
        xycoords=("axes fraction", "data"), xytext=(0, 1.5), textcoords="offset points",
        ha="left", va="bottom", color="#B3261E", zorder=5,
        bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.6},
    )  # fmt: skip


def grouped(
    axes: Axes,
    groups: Sequence[str],
    series: dict[str, list[float]],
    text: Any = None,
) -> None:
    """Bars side by side, a group for each name; ``text`` makes the label of a bar."""
    count = len(series)
    wide = 0.8 / count
    for index, (name, values) in enumerate(series.items()):
        places = [g - 0.4 + wide * (index + 0.5) for g in range(len(groups))]
        bars = axes.bar(
            places, values, width=wide * 0.94, label=name, color=PALETTE[index % len(PALETTE)],
            hatch=HATCHES[index % len(HATCHES)], edgecolor="white", zorder=3, linewidth=0.4,
        )  # fmt: skip
        if text is not None:
            axes.bar_label(bars, [text(v) for v in values], padding=1.5)
    axes.set_xticks(range(len(groups)), groups)
    axes.grid(True, axis="y", color="#E3E3E3", zorder=0)
