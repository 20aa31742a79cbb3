"""Operations on the roofline: achieved rate over arithmetic intensity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from costgraph.compiling.breakdown import break_down, own_of
from costgraph.compiling.compiled import Compiled
from costgraph.compiling.steps import Breakdown, OpRow
from costgraph.errors import InputError, clip, nearest
from costgraph.formula.formula import exact
from costgraph.hardware.machine import WIDENING, Engine, Machine
from costgraph.hardware.systems import link_to
from costgraph.ir.tensor import MEMORY
from costgraph.ir.workload import shown as told
from costgraph.number import Number
from costgraph.showing.export.explanation import resource_text
from costgraph.showing.plot.labels import Point, place_labels
from costgraph.showing.plot.style import (
    BOUND,
    LINES,
    PALETTE,
    font_size,
    head,
    new_figure,
    number,
    plain,
    short,
    styled,
    titled,
    unit_axis,
)
from costgraph.symbols import symbol

Place = tuple[float, float]
#: Resources that a title names.
MOST_WAITS = 4


@dataclass(frozen=True)
class Roof:
    """A ceiling: a peak rate and a bandwidth, with the name of each."""

    name: str
    peak: float
    bandwidth: float
    memory: str = "memory"

    @property
    def ridge(self) -> float:
        """Intensity in FLOP/byte at which the two meet."""
        return self.peak / self.bandwidth


def roofs_of(machine: Machine, dtypes: Sequence[str]) -> tuple[Roof, ...]:
    """The roofs of tensor work in ``dtypes``; equal ones are one.

    Raises:
        InputError: a compute type is unknown.
    """
    known = {*WIDENING, *(kind for _, kind in machine.peaks)}
    for dtype in dtypes:
        if dtype not in known:
            raise InputError(f"unknown compute type {clip(dtype)}{nearest(dtype, known)}")
    bandwidth = float(machine.memory.bandwidth)
    by_peak: dict[float, list[str]] = {}
    for dtype in dict.fromkeys(dtypes):
        engine, kind = machine.resolve(Engine.TENSOR, dtype)
        peak = float(machine.peaks[engine, kind])
        shown = kind if engine is Engine.TENSOR else f"{engine.value} {kind}"
        names = by_peak.setdefault(peak, [])
        if shown not in names:
            names.append(shown)
    return tuple(Roof(", ".join(names), peak, bandwidth) for peak, names in sorted(by_peak.items()))


def far_roofs(machine: Machine, level: str, dtypes: Sequence[str]) -> tuple[Roof, ...]:
    """The roofs of work on what lies in a farther level of memory.

    Of the device, which reads as fast as the level is read and as its link brings it; and of
    what computes in the level, if something does.
    """
    tier, peak = machine.tier(level), roofs_of(machine, dtypes)[-1]
    link = link_to(machine, level)
    found = []
    if tier.bandwidth is not None:
        found.append(Roof(f"{peak.name} from {level}", peak.peak, float(tier.bandwidth), level))
    if link:
        rate = float(machine.links[link].bandwidth)
        found.append(Roof(f"{peak.name} over {link}", peak.peak, rate, link))
    if tier.peaks and tier.bandwidth is not None:
        own = roofs_of(machine.inside(level), dtypes)
        found.extend(replace(r, name=f"{r.name} inside {level}", memory=level) for r in own)
    return tuple(found)


def crossing(compiled: Compiled, phase: str, **values: Number) -> dict[str, float]:
    """Bytes that one step reads in each farther level of memory, or writes there."""
    bound = compiled.program.phase(phase)
    at = {symbol(name): exact(value) for name, value in values.items()}
    found: dict[str, float] = {}
    for row in compiled.rows[phase]:
        for (level, *_), size in row.cost.bytes.items():
            if level != MEMORY:
                amount = float(bound.bind(row.count * size).xreplace(at))
                found[level] = found.get(level, 0.0) + amount
    return found


def dtypes_used(compiled: Compiled, phase: str) -> list[str]:
    """Compute types of the tensor work in a phase."""
    found = {
        dtype
        for row in compiled.rows[phase]
        for engine, dtype in row.cost.flops
        if engine is Engine.TENSOR
    }
    return sorted(found)


@styled
def roofline(
    compiled: Compiled,
    phase: str = "decode",
    *,
    after: Compiled | None = None,
    dtypes: Sequence[str] = (),
    width: str = "slide",
    **values: Number,
) -> Figure:
    """The operations of one step under the roofs of their compute types.

    Marker area grows with the share of the step's time; marker shape and colour
    tell what bounds the operation. Operations without FLOPs have no place here;
    the title says how much of the time they take, or what the step waits for where operations
    run at the same time: shares are then of what each takes by itself. Where something is kept
    in farther levels of memory, their roofs are drawn as well, and stars stand for the step as
    a whole over the bytes that it reads, or writes, there.

    Args:
        compiled: the model on its machine.
        phase: whose step.
        after: the same model through further passes; hollow markers are before,
            filled ones after, and arrows lead from one to the other.
        dtypes: further compute types whose roof is drawn.
        width: ``column`` or ``slide``.
        values: ``B`` and ``T`` or ``S``, and symbols of passes.
    """
    machine = compiled.bound or compiled.machine
    last = compiled if after is None else after
    # What only the passes of one of both depend on (a share) is given to that one.
    shown = break_down(last, phase, {"B": 1, **values})
    its = own_of(compiled, phase, values)
    first = shown if after is None else break_down(compiled, phase, {"B": 1, **its})
    wanted = [*dtypes_used(compiled, phase), *dtypes]
    if after is not None:
        wanted += dtypes_used(after, phase)
    figure, (axes,) = new_figure()
    away = crossing(last, phase, **values)
    far = tuple(r for level in sorted(away) for r in far_roofs(machine, level, wanted))
    own = roofs_of(machine, wanted)
    roofs = (*own, *far)
    places = [r for table in (first, shown) for r in table if r.flops and r.seconds]
    if not places:
        raise InputError(f"{phase}: no operation does any FLOP; there is nothing to draw")
    x = [float(r.intensity or 1) for r in places]
    steps = _whole_steps(shown, away)
    x += [place[0] for _, place in steps]
    draw_roofs(axes, roofs, min(x) / 3, max(max(x) * 3, *(r.ridge * 6 for r in roofs)))
    low = min(float(r.performance or 1) for r in places)
    axes.set_ylim(low / 4, own[-1].peak * 6)
    marks = []
    if after is not None:
        scatter(axes, first, hollow=True)
        _arrows(axes, after, first, shown)
        marks = [Point(*_at(r), "", 3.0) for r in first if r.flops and r.seconds]
    labelled = scatter(axes, shown, hollow=False, least=0.01 if width == "column" else 0.0)
    for text, place in steps:
        axes.scatter([place[0]], [place[1]], marker="*", s=90, color="#222222", zorder=5)
        labelled.append(Point(*place, text, 4.0))
    area = "area: own time" if shown.overlaps else "area: share of time"
    bound_legend(axes, shown, area, {} if after is None else {"before the passes": True})
    size = {} if width == "slide" else {"size": 6.0}
    points = [*ridge_points(axes, roofs), *labelled, *marks]
    about = titled(shown.setting, "", phase, told(values), warning=shown.fit.warning)
    head(axes, width, *about, _rest(shown))  # before the labels: it takes room from the axes
    place_labels(axes, points, **size)
    return figure


def _rest(table: Breakdown) -> str:
    """What the marks do not say: time without FLOP, or what a step waits for of all at once."""
    if table.overlaps:
        parts = [f"{resource_text(r)} {100 * s:.0f}%" for r, s in table.waits.items() if s >= 0.005]
        more = ", …" if len(parts) > MOST_WAITS else ""
        waits = ", ".join(parts[:MOST_WAITS])
        return f"operations run at the same time; what the step waits for: {waits}{more}"
    silent = sum(r.seconds * float(r.count) for r in table if not r.flops)
    rest = 100 * silent / table.totals["seconds"]
    return f"{rest:.1f}% of the time: operations without FLOPs" if rest >= 0.05 else ""


def _whole_steps(table: Breakdown, away: Mapping[str, float]) -> list[tuple[str, Place]]:
    """A step as a whole, by its work per byte that it reads in each farther level."""
    flops, seconds = float(table.totals["flops"]), float(table.totals["seconds"])
    return [
        (f"the step, by bytes of {level}", (flops / size, flops / seconds))
        for level, size in away.items()
        if size and flops and seconds
    ]


def draw_roofs(axes: Axes, roofs: Sequence[Roof], left: float, right: float) -> None:
    """The ceilings on logarithmic axes with units."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    for index, roof in enumerate(roofs):
        style = LINES[index % len(LINES)]
        axes.plot(
            [left, roof.ridge, right],
            [left * roof.bandwidth, roof.peak, roof.peak],
            color="#222222",
            linestyle=style,
            zorder=1.5,
            gid=f"roof-{index}",
        )
    axes.set_xlabel("arithmetic intensity (FLOP/byte)")
    axes.set_ylabel("achieved rate")
    unit_axis(axes, "x", "")
    unit_axis(axes, "y", "FLOP/s")
    axes.grid(True, which="major", color="#E3E3E3", zorder=0)


def ridge_points(axes: Axes, roofs: Sequence[Roof]) -> list[Point]:
    """Marks the ridges; returns a label for each with the roof's name and rate."""
    found = []
    for roof in roofs:
        axes.plot([roof.ridge], [roof.peak], marker="|", color="#222222", zorder=3)
        text = f"{plain(roof.name)} {number(roof.peak, 'FLOP/s')}, ridge {roof.ridge:.1f}"
        found.append(Point(roof.ridge, roof.peak, text, 2.0, (135, 170, 180, 90, 160, 120)))
    return found


def _at(row: object) -> Place:
    return float(row.intensity), float(row.performance)  # type: ignore[attr-defined]


def scatter(axes: Axes, table: Breakdown, hollow: bool, least: float = 0.0) -> list[Point]:
    """Markers for operations that do FLOPs; returns their labels, largest share first.

    Operations with less than ``least`` of the time have a marker but no text.
    """
    total = float(table.totals["seconds"])
    groups: dict[tuple[int, int, str], list[tuple[str, float, Place]]] = {}
    for row in table:
        if row.flops and row.seconds:
            place = _at(row)
            # Markers that would cover each other are one marker with several names.
            key = (round(math.log10(place[0]) * 8), round(math.log10(place[1]) * 8), row.bound)
            share = row.seconds * float(row.count) / total
            groups.setdefault(key, []).append((row.name, share, place))
    font = font_size(axes)
    points = []
    for (_, _, bound), members in groups.items():
        share = sum(m[1] for m in members)
        members.sort(key=lambda m: -m[1])
        x, y = members[0][2]
        colour, _, marker = BOUND.get(bound, BOUND["none"])
        area = (font * 0.55) ** 2 + (font * 2.6) ** 2 * share
        axes.scatter(
            [x], [y], s=area, marker=marker, zorder=4, linewidths=0.8 * font / 7,
            facecolors="none" if hollow else colour, edgecolors=colour if hollow else "white",
            alpha=0.55 if hollow else 0.85,
        )  # fmt: skip
        text = _named(members, share) if share >= least else ""
        points.append((share, Point(x, y, text, math.sqrt(area) / 2)))
    return [p for _, p in sorted(points, key=lambda item: -item[0])]


def _named(members: Sequence[tuple[str, float, Place]], share: float) -> str:
    names = [plain(short(m[0])) for m in members]
    most = max(1, next((i for i in range(1, 4) if len(", ".join(names[:i])) > 30), 4) - 1)
    text = ", ".join(names[:most]) + (f" +{len(names) - most}" if len(names) > most else "")
    return f"{text} {100 * share:.0f}%" if share >= 0.005 else text


def _arrows(axes: Axes, after: Compiled, first: Breakdown, shown: Breakdown) -> None:
    """From each operation to the one that replaces it, where that moved."""
    before = {r.name: r for r in first if r.flops and r.seconds}
    total = float(first.totals["seconds"])
    origins: Mapping[str, tuple[str, ...]] = {
        row.name: row.node.origin.nodes or (row.name,) for row in after.rows[shown.phase]
    }
    for row in shown:
        if not (row.flops and row.seconds):
            continue
        for name in origins.get(row.name, (row.name,)):
            old = before.get(name)
            if old is None or old.seconds * float(old.count) < 0.002 * total:
                continue
            start, end = _at(old), _at(row)
            if math.dist([math.log(v) for v in start], [math.log(v) for v in end]) < 0.05:
                continue
            axes.annotate(
                "", end, xytext=start, zorder=3,
                arrowprops={"arrowstyle": "->", "color": "#555555", "lw": 0.7, "shrinkA": 3,
                            "shrinkB": 4, "connectionstyle": "arc3,rad=0.12"},
            )  # fmt: skip


def bound_legend(axes: Axes, rows: Iterable[OpRow], title: str, marks: Mapping[str, bool]) -> None:
    """What colours, areas and hollow marks say.

    Args:
        axes: where operations are drawn.
        rows: the operations.
        title: what areas are.
        marks: by what they stand for, whether they are hollow.
    """
    bound = {r.bound for r in rows if r.flops}
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=f"{b}-bound")
        for b, (colour, _, marker) in BOUND.items()
        if b in bound
    ]
    handles += [
        Line2D([], [], color=PALETTE[-1], marker="o", linestyle="", label=label,
               markerfacecolor="none" if hollow else PALETTE[-1])
        for label, hollow in marks.items()
    ]  # fmt: skip
    size = font_size(axes) * 0.8
    axes.legend(handles=handles, loc="lower right", title=title, title_fontsize=size)
