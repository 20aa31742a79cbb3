"""A comparison as a picture: metrics as grouped bars, steps as stacks of operation kinds."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.patches import Patch

from costgraph.compiling.breakdown import symbols_of
from costgraph.errors import InputError
from costgraph.formula.limits import counts
from costgraph.ir.program import Phase
from costgraph.ir.workload import shown
from costgraph.showing.plot.bars import grouped_kinds, stack
from costgraph.showing.plot.style import (
    HATCHES,
    PALETTE,
    font_size,
    head_text,
    new_figure,
    number,
    plain,
    styled,
    titled,
    unit_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from costgraph.asking.compared import Column, Comparison
    from costgraph.compiling.steps import Breakdown

#: Columns and pipelines that can be told apart.
MOST, MOST_PIPELINES = 12, len(PALETTE)
#: Bars of a panel whose values stand upright: more have no room beside one another.
_LYING = 3
#: Metrics that are drawn, with the unit of their ticks.
METRICS = (("ttft", "s"), ("tpot", "s"), ("latency", "s"), ("memory", "B"))
#: Steps that are drawn, of programs with more.
_STEPS = 2


@styled
def comparison(table: Comparison, *, width: str = "slide") -> Figure:
    """Metrics of every column, grouped by device and model, and its steps by operation kind.

    Bars of what does not fit its device's memory are hollow.

    Args:
        table: the result of :func:`costgraph.compare`.
        width: ``column`` or ``slide``.

    Raises:
        InputError: there are more columns or pipelines than can be told apart.
    """
    columns = table.columns
    pipelines = list(dict.fromkeys(c.passes for c in columns))
    if len(columns) > MOST or len(pipelines) > MOST_PIPELINES:
        raise InputError(
            f"{len(columns)} columns of {len(pipelines)} pipelines are more than the {MOST} of "
            f"{MOST_PIPELINES} that can be told apart"
        )
    metrics = [(n, u) for n, u in METRICS if any(getattr(c, n) is not None for c in columns)]
    steps = list(_steps(table))
    stacks = [grouped_kinds(found) for _, found in steps]
    # A kind of operation has one colour in all panels.
    kinds = [k for k in dict.fromkeys(k for bars in stacks for k in bars) if k != "other"]
    count, narrow = len(metrics) + len(steps), width == "column"
    across = 2 if narrow or count == 4 else min(count, 3)
    rows = -(-count // across)
    figure, panels = new_figure(across, rows)
    wide, high = figure.get_size_inches()
    figure.set_size_inches(wide, high * (0.6 + 0.75 * rows if narrow else 0.42 + 0.4 * rows))
    names = [_place(table, c, 7 if narrow else 14) for c in columns]
    groups = list(dict.fromkeys(names))
    for axes, (metric, unit) in zip(panels, metrics, strict=False):
        _bars(axes, table, groups, names, pipelines, metric, unit)
        axes.set_ylabel("peak memory" if metric == "memory" else metric)
        unit_axis(axes, "y", unit)
    ticks = [f"{pipelines.index(c.passes) + 1}" for c in columns]
    if len(groups) > 1:  # what columns of a group share stands below one in their middle
        for group in groups:
            mine = [i for i, name in enumerate(names) if name == group]
            ticks[mine[(len(mine) - 1) // 2]] += f"\n{group}"
    for axes, (name, found), bars in zip(panels[len(metrics) :], steps, stacks, strict=False):
        one_by_one = any(t.overlaps for t in found)
        stack(axes, ticks, bars, kinds)
        _step(axes, name, one_by_one, 1 if narrow else 2)
    for axes in panels[count:]:
        axes.set_axis_off()
    hollow = [] if all(c.fits for c in columns) else ["hollow: does not fit into memory"]
    handles = [
        Patch(
            facecolor=PALETTE[i], hatch=HATCHES[i], edgecolor="white", label=plain(f"{i + 1}  {p}")
        )
        for i, p in enumerate(pipelines)
    ]
    handles += [Patch(facecolor="none", edgecolor="#555555", label=text) for text in hollow]
    drawn = {name.split()[0] for name, _ in steps}
    apart = {p.name for c in table.compiled for p in c.program.phases} - drawn
    if apart:
        text = f"steps that are not drawn: {', '.join(sorted(apart))}"
        handles.append(Patch(facecolor="none", edgecolor="none", label=text))
    figure.legend(
        handles=handles, loc="outside lower left", frameon=False,
        ncols=1 if narrow or max(map(len, pipelines)) > 36 else 2,
    )  # fmt: skip
    figure.suptitle(
        head_text(width, *title_of(table)), x=0.01, ha="left", fontsize=font_size(panels[0])
    )
    # Legends wider than their panel have room only once the layout has seen them placed.
    figure.draw_without_rendering()
    return figure


def title_of(table: Comparison) -> Iterator[str]:
    """What is compared, which steps the times per token are of, and what does not fit."""
    yield from titled(table.setting, "", shown(table.bindings), without=("passes",))
    if table.tpot_of is not None:
        yield f"tpot: {table.tpot_of}"
    full = [f"{c.passes} on {c.hardware}" for c in table.columns if not c.fits]
    if full:
        yield plain(f"⚠ does not fit into memory: {'; '.join(full)}", 400)


def _place(table: Comparison, column: Column, wide: int) -> str:
    """What a group of bars is called: the device and the model, where there are several."""
    parts = [column.model] if len(table.models) > 1 else []
    parts += [column.hardware] if len(table.devices) > 1 or not parts else []
    return "\n".join(line for p in parts for line in textwrap.wrap(plain(p), wide))


def _bars(
    axes: Axes,
    table: Comparison,
    groups: Sequence[str],
    names: Sequence[str],
    pipelines: Sequence[str],
    metric: str,
    unit: str,
) -> None:
    """A bar for each pipeline in each group, with its value above."""
    wide = 0.84 / len(pipelines)
    top, upright = 0.0, len(table.columns) > _LYING
    for column, name in zip(table.columns, names, strict=True):
        value = getattr(column, metric)
        if value is None:
            continue
        index = pipelines.index(column.passes)
        place = groups.index(name) - 0.42 + wide * (index + 0.5)
        style: dict[str, Any] = {"color": PALETTE[index], "edgecolor": "white"}
        if not column.fits:
            style = {"facecolor": "none", "edgecolor": PALETTE[index]}
        bar = axes.bar(place, value, width=wide * 0.92, hatch=HATCHES[index], zorder=3, **style)
        text = number(float(f"{value:.3g}"), unit)
        axes.bar_label(
            bar, [text], padding=2.5, fontsize=font_size(axes) * 0.72, rotation=90 * upright,
        )  # fmt: skip
        top = max(top, value)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(0, top * (1.45 if upright else 1.14) or 1)
    axes.grid(True, axis="y", color="#E3E3E3", zorder=0)


def _steps(table: Comparison) -> Iterator[tuple[str, list[Breakdown]]]:
    """The steps that every column has, in their order, the last ones where there are many."""
    first = table.compiled[0].program
    shared = [
        p for p in first.phases if all(p.name in _names(c.program.phases) for c in table.compiled)
    ]
    for phase in shared[-_STEPS:]:
        found, at = [], {**table.bindings}
        if phase.span is not None and table.context is not None:
            at["T"] = int(table.context)
        for compiled in table.compiled:
            wanted = {s.name for s in symbols_of(compiled, compiled.program.phase(phase.name))}
            given = {k: v for k, v in at.items() if k in wanted}
            parts = {k for k, v in given.items() if not isinstance(v, int)}
            if not wanted <= set(given) or any(counts(compiled.setting, k) for k in parts):
                break
            found.append(compiled.breakdown(phase.name, **given))
        else:
            told = f"{phase.name} step" + (f"\nat T={at['T']}" if "T" in at else "")
            yield told, found


def _names(phases: Sequence[Phase]) -> set[str]:
    return {p.name for p in phases}


def _step(axes: Axes, name: str, one_by_one: bool, across: int) -> None:
    """What the operations of a step take, one after another, by kind."""
    axes.tick_params(axis="x", labelrotation=0)
    axes.set_ylabel(f"{name}{', one by one' if one_by_one else ''}")
    unit_axis(axes, "y", "s")
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=across, frameon=False, columnspacing=0.8,
        handlelength=1.2, borderaxespad=0.1, fontsize=font_size(axes) * 0.75,
    )  # fmt: skip
