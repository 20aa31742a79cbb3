"""Which resource takes the most time, over two symbols at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from sympy import Expr, Poly, Symbol, lambdify

from costgraph.compiling.capacity import filled
from costgraph.compiling.compiled import Compiled
from costgraph.errors import InputError, unbound
from costgraph.formula import Formula
from costgraph.formula.formula import exact
from costgraph.formula.terms import Term
from costgraph.showing.plot.curves import (
    Subject,
    check_range,
    depends,
    formula_of,
    head_of,
    told,
    values_for,
)
from costgraph.showing.plot.style import (
    FULL,
    LINES,
    METRIC,
    axis_title,
    axis_unit,
    decades,
    head,
    log_ticks,
    new_figure,
    plain,
    powers_of_two,
    shades,
    short,
    styled,
    unit_axis,
)
from costgraph.symbols import symbol

Grid = NDArray[np.float64]
_STEPS = 161
_CURVES = 4


@styled
def regime_map(
    subject: Subject,
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
    """Areas of a plane of two symbols by the resource with the largest share of the time.

    The areas come from evaluating every arm on a grid. The lines on top are
    exact: along each the two arms of one term are equal, solved for ``y`` (or
    ``x``); those of the terms that take the most time are drawn. Where a compiled
    model no longer fits into its device's memory, a dashed line says so.

    Args:
        subject: a compiled model, or a time without sums over contexts (``ttft``,
            ``tpot``).
        x, y: the symbols on the axes.
        x_range, y_range: their ranges.
        metric: which one of a compiled model.
        width, title: as for other figures.
        values: numbers for the other symbols.
    """
    check_range(x, *x_range)
    check_range(y, *y_range)
    if x == y:
        raise InputError(f"a map needs two symbols, not {x} twice")
    formula = formula_of(subject, metric)
    for name in (x, y):
        depends(formula, name)
    fixed = values_for((subject,), (formula,), values, (x, y))
    bound = _bound(formula, x, y, fixed)
    xs, ys = np.geomspace(*x_range, _STEPS), np.geomspace(*y_range, _STEPS)
    grid_x, grid_y = np.meshgrid(xs, ys)
    totals: dict[str, Grid] = {}
    weights: list[tuple[float, Term]] = []
    symbols = (symbol(x), symbol(y))
    whole = np.zeros_like(grid_x)
    each: list[tuple[Term, Grid]] = []
    for term in bound.terms:
        arms = [on_grid(a.expr, symbols, grid_x, grid_y) for a in term.arms]
        value = np.maximum.reduce(arms)
        if term.norm is not None:  # over the largest arm: powers of seconds underflow
            p = float(term.norm)
            value = value * np.add.reduce([(arm / value) ** p for arm in arms]) ** (1 / p)
        size = value * on_grid(term.count, symbols, grid_x, grid_y)
        largest = np.argmax(arms, axis=0)
        for index, arm in enumerate(term.arms):
            part = np.where(largest == index, size, 0.0)
            totals[arm.resource] = totals.get(arm.resource, np.zeros_like(whole)) + part
        whole += size
        each.append((term, size))
    for term, size in each:
        if len(term.arms) > 1:
            weights.append((float(np.max(size / whole)), term))
    names = sorted(totals, key=lambda n: (-float(np.sum(totals[n] / whole)), n))
    winner = np.argmax([totals[n] for n in names], axis=0)
    figure, (axes,) = new_figure()
    axes.set_xscale("log")
    axes.set_yscale("log")
    handles: list[Any] = []
    looks = shades(names)
    areas: list[tuple[str, Grid]] = []
    for index, name in enumerate(names):
        inside = (winner == index).astype(float)
        if not inside.any():
            continue
        others = [totals[n] for n in names if n != name] or [np.zeros_like(whole)]
        lead = (totals[name] - np.maximum.reduce(others)) / whole
        colour, hatch = looks[name]
        filled = axes.contourf(
            xs, ys, lead, levels=[0.0, 2.0], colors=[colour], hatches=[hatch], zorder=1
        )
        filled.set_edgecolor("#FFFFFF")
        handles.append(
            Patch(
                facecolor=colour, edgecolor="#999999", hatch=hatch,
                label=f"mostly {plain(name)}",
            )
        )  # fmt: skip
        areas.append((name.split(":")[0], inside))
        if 0 < inside.sum() < inside.size:
            axes.contour(xs, ys, lead, levels=[0.0], colors="#333333", linewidths=0.8, zorder=2)
    handles += _exact_lines(axes, weights, symbols, x_range, y_range)
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
    warning = ""
    if not isinstance(subject, Formula):
        first = {**fixed, x: float(xs[0]), y: float(ys[0])}
        full = fullness(subject, (x, y), (grid_x, grid_y), fixed)
        warning, end = _memory_end(axes, subject, first, (xs, ys), full)
        handles += end
    name_areas(axes, xs, ys, areas)
    what, asked = METRIC.get(formula.name, formula.name), {**fixed, x: xs, y: ys}
    head(axes, width, *head_of((formula,), asked, title, what, told(fixed), warning=warning))
    figure.legend(handles=handles, loc="outside lower center", ncols=1 if width == "column" else 2)
    return figure


def fullness(
    compiled: Compiled, names: tuple[str, str], grid: Sequence[Grid], values: Mapping[str, Any]
) -> Grid:
    """The share of the fullest memory that is needed on a grid; zero where that is not known."""
    parts = filled(compiled, {k: exact(v) for k, v in values.items()}, names)
    if not parts:
        return np.zeros_like(grid[0])
    symbols = (symbol(names[0]), symbol(names[1]))
    return np.asarray(np.maximum.reduce([on_grid(e, symbols, grid[0], grid[1]) for e in parts]))


def _memory_end(
    axes: Axes, compiled: Compiled, first: Mapping[str, Any], grid: tuple[Grid, Grid], share: Grid
) -> tuple[str, list[Line2D]]:
    """A sentence and a line where the memory is full on the grid, whose first corner is given."""
    if share.max() <= 1:
        return "", []
    if share.min() > 1:
        return compiled.fit(**first).full, []
    axes.contour(
        *grid, share, levels=[1.0], colors=FULL, linestyles="--", linewidths=1.5, zorder=4.5
    )
    return f"beyond the dashed red line it does not fit {compiled.machine.name}", [
        Line2D([], [], color=FULL, linestyle="--", label="memory full")
    ]


def _bound(formula: Formula, x: str, y: str, values: Mapping[str, Any]) -> Formula:
    names = {s.name for s in formula.symbols}
    if formula.unit != "s" or any(t.span is not None for t in formula.terms):
        raise InputError(f"{formula.name} has no map: use a time of one step (ttft, tpot)")
    fixed = {k: v for k, v in values.items() if k in names - {x, y}}
    missing = sorted(names - {x, y} - set(fixed))
    if missing:
        raise unbound(formula.name, missing, formula.meanings)
    return formula.bind(**fixed)


def on_grid(expr: Expr, symbols: tuple[Symbol, Symbol], x: Grid, y: Grid) -> Grid:
    value = lambdify(symbols, expr, "numpy")(x, y)
    return np.broadcast_to(np.asarray(value, dtype=np.float64), x.shape)


def name_areas(axes: Axes, xs: Grid, ys: Grid, areas: Sequence[tuple[str, Grid]]) -> None:
    """Each area's name well inside it: at the point farthest from its edge and from all lines.

    Args:
        axes: with all lines drawn, on logarithmic scales.
        xs, ys: the grid.
        areas: names, and grids of 1 inside and 0 outside.
    """
    free = ~_crossed(axes, xs, ys)
    for name, inside in areas:
        margin = np.pad(inside * free, 1)
        depth = np.zeros_like(inside)
        while margin.any():
            depth += margin[1:-1, 1:-1]
            core = margin.copy()
            core[1:-1, 1:-1] = np.minimum.reduce(
                [margin[1:-1, 1:-1], margin[:-2, 1:-1], margin[2:, 1:-1], margin[1:-1, :-2],
                 margin[1:-1, 2:]]
            )  # fmt: skip
            margin = core
        row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
        if depth[row, column] < 5:
            continue
        axes.text(
            xs[column], ys[row], plain(name), ha="center", va="center", weight="bold", zorder=5,
            bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 1.5},
        )  # fmt: skip


def _crossed(axes: Axes, xs: Grid, ys: Grid) -> NDArray[np.bool_]:
    """Where on a grid of even steps on logarithmic scales lines run."""
    paths = [np.asarray(line.get_xydata()) for line in axes.lines]
    for drawn in axes.collections:
        if isinstance(drawn, ContourSet) and not drawn.filled:
            parts = (x for p in drawn.get_paths() for x in p.to_polygons(closed_only=False))
            paths += map(np.asarray, parts)
    found = np.zeros((len(ys), len(xs)), dtype=bool)
    for path in paths:
        # In steps of the grid, and with further points between those of the path.
        places = [
            (np.log(path[:, i]) - np.log(grid[0])) / np.log(grid[-1] / grid[0]) * (len(grid) - 1)
            for i, grid in enumerate((xs, ys))
        ]
        between = np.linspace(0, len(path) - 1, 4 * len(path) + 4 * max(found.shape))
        column, row = (np.interp(between, np.arange(len(path)), p) for p in places)
        seen = np.isfinite(column) & np.isfinite(row)
        column, row = np.rint(column[seen]).astype(int), np.rint(row[seen]).astype(int)
        inside = (column >= 0) & (column < len(xs)) & (row >= 0) & (row < len(ys))
        found[row[inside], column[inside]] = True
    return found


def boundary(term: Term, x: Symbol, y: Symbol) -> tuple[Symbol, Expr] | None:
    """Where the two arms of a term are equal: a symbol and what it equals, in closed form.

    Solved for ``y``, else for ``x``; None where the difference is linear in neither.
    """
    if len(term.arms) != 2:
        return None
    difference = term.arms[0].expr - term.arms[1].expr
    for unknown in (y, x):
        if unknown not in difference.free_symbols or not difference.is_polynomial(unknown):
            continue
        poly = Poly(difference, unknown)
        if poly.degree() == 1:
            slope, constant = poly.all_coeffs()
            return unknown, -constant / slope
    return None


def _exact_lines(
    axes: Axes,
    weights: Sequence[tuple[float, Term]],
    symbols: tuple[Symbol, Symbol],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
) -> list[Line2D]:
    x, y = symbols
    handles: list[Line2D] = []
    for _, term in sorted(weights, key=lambda w: (-w[0], w[1].ops)):
        solved = boundary(term, x, y)
        if solved is None or len(handles) == _CURVES:
            continue
        unknown, expr = solved
        known, span, other = (x, x_range, y_range) if unknown == y else (y, y_range, x_range)
        free = np.geomspace(*span, 400)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.asarray(lambdify(known, expr, "numpy")(free), dtype=np.float64)
        value = np.broadcast_to(value, free.shape)
        seen = (value >= other[0]) & (value <= other[1])
        if not seen.any():
            continue
        value = np.where(seen, value, np.nan)
        style = LINES[(len(handles) + 1) % len(LINES)]
        names = ", ".join(plain(short(op)) for op in term.ops[:2])
        names += f" +{len(term.ops) - 2}" if len(term.ops) > 2 else ""
        sides = " = ".join(plain(a.resource.split(":")[0]) for a in term.arms)
        label = f"{names}: {sides}"
        places = (free, value) if unknown == y else (value, free)
        (line,) = axes.plot(*places, color="#000000", linestyle=style, zorder=4, label=label)
        line.set_gid(f"boundary-{len(handles)}")
        handles.append(line)
    return handles
