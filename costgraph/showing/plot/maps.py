"""Which resource takes the most time, over two symbols at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
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
        name_area(axes, xs, ys, inside, name.split(":")[0])
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
        warning, end = _memory_end(axes, subject, symbols, fixed, (xs, ys, grid_x, grid_y))
        handles += end
    what, asked = METRIC.get(formula.name, formula.name), {**fixed, x: xs, y: ys}
    head(axes, width, *head_of((formula,), asked, title, what, told(fixed), warning=warning))
    figure.legend(handles=handles, loc="outside lower center", ncols=1 if width == "column" else 2)
    return figure


def _memory_end(
    axes: Axes,
    compiled: Compiled,
    symbols: tuple[Symbol, Symbol],
    values: Mapping[str, Any],
    grid: tuple[Grid, Grid, Grid, Grid],
) -> tuple[str, list[Line2D]]:
    """A sentence and a line where the memory is full on the grid."""
    names = tuple(s.name for s in symbols)
    parts = filled(compiled, {k: exact(v) for k, v in values.items()}, names)
    if not parts:
        return "", []
    xs, ys, grid_x, grid_y = grid
    share = np.maximum.reduce([on_grid(e, symbols, grid_x, grid_y) for e in parts])
    if share.max() <= 1:
        return "", []
    if share.min() > 1:
        first = {names[0]: float(xs[0]), names[1]: float(ys[0])}
        return compiled.fit(**values, **first).full, []
    axes.contour(
        xs, ys, share, levels=[1.0], colors=FULL, linestyles="--", linewidths=1.5, zorder=4.5
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


def name_area(axes: Axes, xs: Grid, ys: Grid, inside: Grid, name: str) -> None:
    """The resource's name well inside its area: at the point farthest from its edge."""
    margin = np.pad(inside, 1)
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
        return
    axes.text(
        xs[column], ys[row], plain(name), ha="center", va="center", weight="bold", zorder=5,
        bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 1.5},
    )  # fmt: skip


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
