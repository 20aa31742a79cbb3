"""Which of several pipelines is best: over two symbols, and against the size of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from costgraph.compiling.compiled import Compiled
from costgraph.errors import InputError
from costgraph.formula import Formula
from costgraph.formula.limits import domain_of
from costgraph.ir.metrics import METRICS
from costgraph.showing.plot.curves import (
    check_range,
    depends,
    formula_of,
    head_of,
    told,
    values_for,
)
from costgraph.showing.plot.labels import Point, place_labels
from costgraph.showing.plot.maps import fullness, name_areas
from costgraph.showing.plot.style import (
    AREAS,
    MARKERS,
    METRIC,
    PALETTE,
    axis_title,
    axis_unit,
    decades,
    head,
    log_ticks,
    new_figure,
    plain,
    powers_of_two,
    styled,
    unit_axis,
)
from costgraph.symbols import symbol

Grid = NDArray[np.float64]
_STEPS = 241
#: What areas are called; the legend says which pipelines they are.
LETTERS = "ABCDEFG"
#: Pipelines that can be told apart.
MOST = len(LETTERS)


@styled
def choice_map(
    choices: Mapping[str, Compiled],
    x: str,
    y: str,
    /,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    *,
    metric: str = "tpot",
    width: str = "slide",
    title: str = "",
    **values: Any,
) -> Figure:
    """Areas of a plane of two symbols by the pipeline with the best value there.

    A pipeline takes part where it fits into the memory of its device; where none does,
    the plane stays white. Areas come from a grid.

    Args:
        choices: one model through several pipelines, by what each is called.
        x, y: the symbols on the axes.
        x_range, y_range: their ranges.
        metric: a time of one step, or a rate or amount made of it.
        width, title: as for other figures.
        values: numbers for the other symbols.

    Raises:
        InputError: fewer than two pipelines, or more than can be told apart.
    """
    check_range(x, *x_range)
    check_range(y, *y_range)
    if x == y:
        raise InputError(f"a map needs two symbols, not {x} twice")
    if not 2 <= len(choices) <= MOST:
        raise InputError(f"a map of choices takes 2 to {MOST} pipelines, not {len(choices)}")
    formulas = [formula_of(c, metric) for c in choices.values()]
    for name in (x, y):
        depends(formulas[0], name)
    fixed = values_for(choices.values(), formulas, values, (x, y))
    xs, ys = np.geomspace(*x_range, _STEPS), np.geomspace(*y_range, _STEPS)
    grid = np.meshgrid(xs, ys)
    sign = -1.0 if METRICS[metric].larger_is_better else 1.0
    values_ = [sign * _values(f, (x, y), grid, fixed) for f in formulas]
    shares = [fullness(c, (x, y), grid, fixed) for c in choices.values()]
    least = np.minimum.reduce(shares)
    # Where none fits, areas go on below what is laid over them: edges stay smooth.
    scores = [
        np.where((share <= 1) | (least > 1), value, np.inf)
        for value, share in zip(values_, shares, strict=True)
    ]
    winner = np.argmin(scores, axis=0)
    nobody = least > 1
    figure, (axes,) = new_figure()
    axes.set_xscale("log")
    axes.set_yscale("log")
    handles: list[Any] = []
    areas: list[tuple[str, Grid]] = []
    looks = dict(zip(choices, AREAS, strict=False))
    for index, name in enumerate(choices):
        letter = LETTERS[index]
        inside = ((winner == index) & ~nobody).astype(float)
        if not inside.any():
            handles.append(Patch(facecolor="white", edgecolor="#999999",
                                 label=plain(f"{letter}  {name}: nowhere the best")))  # fmt: skip
            continue
        colour, hatch = looks[name]
        filled = axes.contourf(
            xs, ys, _lead(scores, index), levels=[0.0, 3.0], colors=[colour], hatches=[hatch],
            zorder=1,
        )  # fmt: skip
        filled.set_edgecolor("#FFFFFF")
        handles.append(Patch(facecolor=colour, edgecolor="#999999", hatch=hatch,
                             label=plain(f"{letter}  {name}")))  # fmt: skip
        areas.append((letter, inside))
        axes.contour(
            xs, ys, _lead(scores, index), levels=[0.0], colors="#333333", linewidths=0.8, zorder=2
        )
    if nobody.any():
        axes.contourf(xs, ys, least, levels=[1.0, np.inf], colors="white", zorder=3)
        axes.contour(xs, ys, least, levels=[1.0], colors="#333333", linewidths=0.8, zorder=3)
        handles.append(Patch(facecolor="white", edgecolor="#333333", label="none fits in memory"))
        areas.append(("none fits", nobody.astype(float)))
    name_areas(axes, xs, ys, areas)
    axes.set_xlim(*x_range)
    axes.set_ylim(*y_range)
    for which, name, span in (("x", x, x_range), ("y", y, y_range)):
        if axis_unit(name) == "":
            log_ticks(axes, which, powers_of_two(*span, 8 if width == "column" else 12))
        else:
            decades(axes, which, width)
        unit_axis(axes, which, axis_unit(name))
    axes.set_xlabel(axis_title(x))
    axes.set_ylabel(axis_title(y))
    best = "most" if sign < 0 else "least"
    what = f"pipeline of {best} {METRIC.get(metric, metric)}"
    head(axes, width, *head_of(formulas, {**fixed, x: xs, y: ys}, title, what, told(fixed)))
    figure.legend(handles=handles, loc="outside lower center", ncols=1 if width == "column" else 2)
    return figure


@styled
def sizes(
    choices: Sequence[Compiled],
    *,
    metric: str = "tpot",
    width: str = "slide",
    title: str = "",
    **values: Any,
) -> Figure:
    """A metric over the parameters of the model, a point for each pipeline.

    The broad grey line joins those that no other one beats: none has at least as many
    parameters and a better value.

    Args:
        choices: a model through pipelines that change how many parameters it has.
        metric: on the vertical axis.
        width, title: as for other figures.
        values: numbers for all symbols.
    """
    if not choices:
        raise InputError("sizes need at least one pipeline")
    formulas = [formula_of(c, metric) for c in choices]
    fixed = values_for(choices, formulas, values, ())
    sign = 1.0 if METRICS[metric].larger_is_better else -1.0
    points = []
    for compiled, formula in zip(choices, formulas, strict=True):
        wanted = {s.name for s in formula.symbols}
        size = compiled.parameters.xreplace(dict(compiled.program.dims))
        if not size.is_number:
            raise InputError(f"{compiled.program.name} has {size} parameters: no number")
        value = float(formula.evaluate(**{k: v for k, v in fixed.items() if k in wanted}))
        points.append((float(size), value))
    figure, (axes,) = new_figure()
    front: list[tuple[float, float]] = []
    for size, value in sorted(points, key=lambda p: (-p[0], -sign * p[1])):
        if not front or sign * value > sign * front[-1][1]:
            front.append((size, value))
    axes.plot([p[0] for p in front], [p[1] for p in front], color="#BBBBBB", linewidth=4.5,
              solid_capstyle="round", zorder=1, gid="front")  # fmt: skip
    handles = []
    for index, (compiled, (size, value)) in enumerate(zip(choices, points, strict=True)):
        colour, marker = PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]
        name = ",".join(p.spec() for p in compiled.passes) or "no passes"
        name += f", parameters {compiled.parameters_on}" if compiled.parameters_on else ""
        (line,) = axes.plot([size], [value], color=colour, marker=marker, linestyle="", zorder=3,
                            label=plain(name, 90))  # fmt: skip
        handles.append(line)
    axes.margins(0.08)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("parameters")
    axes.set_ylabel(METRIC.get(metric, metric))
    unit_axis(axes, "y", formulas[0].unit)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e9:g}B")
    axes.grid(True, color="#EBEBEB", zorder=0)
    whole = points[0]
    labels = [Point(x, y, f"{x / whole[0]:.0%}", 2.5) for x, y in points]
    head(axes, width, *head_of(formulas, fixed, title, METRIC.get(metric, metric), told(fixed)))
    figure.legend(handles=handles, loc="outside lower center", ncols=1)
    place_labels(axes, labels)  # in the axes' final place
    return figure


def _values(
    formula: Formula, names: tuple[str, str], grid: Sequence[Grid], values: Mapping[str, Any]
) -> Grid:
    """The formula on the grid; infinite beyond its limits."""
    wanted = {s.name for s in formula.symbols}
    fixed = {k: v for k, v in values.items() if k in wanted}
    points, inside = list(grid), np.ones_like(grid[0], dtype=bool)
    for place, name in enumerate(names):
        low, high = domain_of(formula, symbol(name))
        inside &= points[place] >= float(low)
        points[place] = np.maximum(points[place], float(low))
        if high is not None and high.is_number:
            inside &= points[place] <= float(high)
            points[place] = np.minimum(points[place], float(high))
    found = formula.evaluate(**fixed, **dict(zip(names, points, strict=True)))
    return np.where(inside, found, np.inf)


def _lead(scores: Sequence[Grid], index: int) -> Grid:
    """By what share of its own value a pipeline is better than the best other one."""
    own = scores[index]
    other = np.min([s for i, s in enumerate(scores) if i != index], axis=0)
    with np.errstate(invalid="ignore"):
        lead = (other - own) / np.abs(own)
    lead = np.where(np.isinf(own), -1.0, lead)
    # Of equal ones the first is meant; infinite leads are as good as large ones.
    return np.clip(np.where(lead == 0.0, 1e-9, lead), -1.0, 2.0)
