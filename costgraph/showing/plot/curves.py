"""A metric along one symbol, with its regimes shaded and its crossovers marked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from sympy import oo

from costgraph.compiling.compiled import Compiled
from costgraph.compiling.fits import Fit
from costgraph.errors import InputError, clip, independent
from costgraph.formula import Formula
from costgraph.formula.bounds import bound_shares
from costgraph.formula.regimes import Crossover
from costgraph.formula.signs import UndecidedError
from costgraph.ir.metrics import check_metric
from costgraph.ir.workload import shown, workload
from costgraph.setting import Setting
from costgraph.showing.plot.style import (
    FULL,
    LINES,
    METRIC,
    PALETTE,
    axis_title,
    axis_unit,
    decades,
    font_size,
    head,
    log_ticks,
    new_figure,
    number,
    plain,
    powers_of_two,
    shades,
    short,
    styled,
    titled,
    unit_axis,
)
from costgraph.symbols import symbol

_WHOLE = ("S", "N")
_POINTS = 240


def sample(over: str, lower: float, upper: float, log: bool, points: int = _POINTS) -> list[float]:
    """Values of a symbol for drawing; whole ones where only these have a meaning."""
    steps = [i / (points - 1) for i in range(points)]
    if log:
        found = [lower * (upper / lower) ** s for s in steps]
    else:
        found = [lower + (upper - lower) * s for s in steps]
    if over in _WHOLE:
        return [float(v) for v in sorted({max(1, round(v)) for v in found})]
    return found


def check_range(over: str, lower: float, upper: float) -> None:
    """Raises InputError unless ``0 < lower < upper``."""
    if not (math.isfinite(lower) and math.isfinite(upper) and 0 < lower < upper):
        raise InputError(f"{over}: the range {clip(lower)} … {clip(upper)} must rise from above 0")


def evaluated(
    formula: Formula, over: str, at: Sequence[float], values: Mapping[str, Any]
) -> list[float]:
    """The formula at each value of the symbol."""
    wanted = {s.name for s in formula.symbols}
    fixed = {k: v for k, v in values.items() if k in wanted and k != over}
    depends(formula, over)
    whole = over in _WHOLE
    return [float(formula.evaluate(**fixed, **{over: int(v) if whole else v})) for v in at]


Subject: TypeAlias = "Formula | Compiled"


def formula_of(subject: Subject, metric: str) -> Formula:
    """The formula to draw: one given, or a metric of a compiled model."""
    if isinstance(subject, Formula):
        return subject
    check_metric(metric)
    found: Formula = getattr(subject, metric)
    return found


def values_for(
    subjects: Iterable[Subject],
    formulas: Iterable[Formula],
    values: Mapping[str, Any],
    over: Sequence[str],
) -> dict[str, Any]:
    """Numbers for all symbols but ``over``; a device kept symbolic takes its figures."""
    figures: dict[str, Any] = {}
    for subject in subjects:
        machine = getattr(subject, "bound", None)
        if machine is not None:
            figures |= {s.name: float(v) for s, v in machine.bindings().items()}
    found = workload(formulas, values, {**figures, "B": 1}, free=over)
    return {k: v for k, v in found.items() if k not in over}


def told(values: Mapping[str, Any]) -> str:
    """Values of sizes, as titles tell them; rates are the device's."""
    return shown({k: v for k, v in values.items() if not is_rate(k) and k != "M"})


@dataclass(frozen=True)
class Traced:
    """Metrics along a symbol as numbers.

    Attributes:
        formulas: by name.
        values: numbers of the other symbols.
        at: values of the symbol.
        lines: the metric at each, by name.
        ends: by name the last value that fits into memory, None without any, and why; of
            formulas alone nothing is known.
    """

    formulas: Mapping[str, Formula]
    values: dict[str, Any]
    at: list[float]
    lines: Mapping[str, list[float]]
    ends: Mapping[str, tuple[float | None, Fit]]


def traced(
    subjects: Subject | Mapping[str, Subject],
    over: str,
    lower: float,
    upper: float,
    metric: str,
    log: bool,
    given: Mapping[str, Any],
) -> Traced:
    """The numbers of :func:`curve`, whose arguments these are.

    Raises:
        InputError: there is nothing to draw, or it does not go together.
    """
    check_range(over, lower, upper)
    chosen = dict(subjects) if isinstance(subjects, Mapping) else {"": subjects}
    if not chosen:
        raise InputError("nothing to draw: no formula is given")
    formulas = {name: formula_of(subject, metric) for name, subject in chosen.items()}
    first = next(iter(formulas.values()))
    for formula in formulas.values():
        if formula.unit != first.unit:
            raise InputError(f"{formula.unit} and {first.unit} do not share an axis")
        depends(formula, over)
    values = values_for(chosen.values(), formulas.values(), given, (over,))
    at = sample(over, lower, upper, log)
    lines = {name: evaluated(formula, over, at, values) for name, formula in formulas.items()}
    ends = {
        name: _memory_end(subject, over, at, values)
        for name, subject in chosen.items()
        if not isinstance(subject, Formula)
    }
    return Traced(formulas, values, at, lines, ends)


@styled
def curve(
    subjects: Subject | Mapping[str, Subject],
    over: str,
    lower: float,
    upper: float,
    *,
    metric: str = "tpot",
    log: bool = True,
    width: str = "slide",
    title: str = "",
    **values: Any,
) -> Figure:
    """One metric of one or several pipelines along a symbol.

    With one formula its regimes are shaded by the resource that takes the
    largest share of the time, and each crossover is a thin line, labelled where
    the operations that cross take at least 3 % of the time. Where a compiled model
    no longer fits into its device's memory, a dashed line says so.

    Args:
        subjects: compiled models, or formulas of one unit; several by what the legend
            calls them.
        over: the symbol on the horizontal axis.
        lower, upper: its range.
        metric: which one of compiled models.
        log: logarithmic axes.
        width: ``column`` or ``slide``.
        title: head line, by default what the curve is about.
        values: numbers for the other symbols.
    """
    found = traced(subjects, over, lower, upper, metric, log, values)
    formulas, values, at = found.formulas, found.values, found.at
    first = next(iter(formulas.values()))
    figure, (axes,) = new_figure()
    highest, lowest = 0.0, math.inf
    for index, (name, y) in enumerate(found.lines.items()):
        # Later lines are thinner, so that lines that coincide all show.
        wide = matplotlib.rcParams["lines.linewidth"] * max(
            0.7, 1 + 0.35 * (len(formulas) - 1 - index)
        )
        highest, lowest = max(highest, *y), min(lowest, *y)
        axes.plot(
            at, y, color=PALETTE[index % len(PALETTE)], linestyle=LINES[index % len(LINES)],
            label=plain(name), zorder=3, gid=f"curve-{index}", linewidth=wide,
        )  # fmt: skip
    axes.set_xlim(lower, upper)
    if log:
        axes.set_xscale("log")
        axes.set_yscale("log")
        if axis_unit(over) == "":
            log_ticks(axes, "x", powers_of_two(lower, upper, 8 if width == "column" else 14))
        else:
            decades(axes, "x", width)
        decades(axes, "y")
    else:
        axes.set_ylim(0, highest * 1.08)
    unit_axis(axes, "x", axis_unit(over))
    unit_axis(axes, "y", {"byte": "B"}.get(first.unit, first.unit))
    axes.set_xlabel(axis_title(over))
    axes.set_ylabel(METRIC.get(first.name, plain(first.name)))
    axes.grid(True, which="major", color="#E3E3E3", zorder=0)
    handles: Sequence[Artist] = axes.get_legend_handles_labels()[0] if len(formulas) > 1 else []
    note = ""
    if len(formulas) == 1:
        shades, note = _shade(axes, first, over, lower, upper, values, width)
        handles = shades
    if handles:
        axes.legend(handles=handles, loc="best")
    _mark_ends(axes, found.ends, list(formulas))
    warning = "; ".join(told_of_ends(found, over))
    asked = {**values, over: at}
    lines = head_of(list(formulas.values()), asked, title, told(values), warning=warning)
    head(axes, width, *lines, note)
    return figure


def depends(formula: Formula, over: str) -> None:
    """Refuses a symbol that a formula does not have."""
    names = {s.name for s in formula.symbols}
    if over not in names:
        raise independent(formula.name, over, names)


def head_of(
    formulas: Sequence[Formula], at: Mapping[str, Any], title: str, *what: str, warning: str = ""
) -> list[str]:
    """Lines over a figure of formulas at sizes, of which arrays are drawn from end to end."""
    settings = [f.setting.warned(f.beyond(**at)) for f in formulas if f.setting is not None]
    if not settings:
        return [plain(title or what[0])]
    without = ("passes",) if len({s.passes for s in settings}) > 1 else ()
    return titled(Setting.shared(settings), title, *what, warning=warning, without=without)


def _memory_end(
    compiled: Compiled, over: str, at: Sequence[float], values: Mapping[str, Any]
) -> tuple[float | None, Fit]:
    """The last of the rising values of a symbol that fits, None without any, and why."""
    if compiled.fit(**{**values, over: at[-1]}).fits is not False:
        return at[-1], compiled.fit(**{**values, over: at[-1]})
    low, high = -1, len(at) - 1  # what is beyond stays beyond: memory grows with every size
    while high - low > 1:
        middle = (low + high) // 2
        if compiled.fit(**{**values, over: at[middle]}).fits is False:
            high = middle
        else:
            low = middle
    beyond = compiled.fit(**{**values, over: at[high]})
    return (None if low < 0 else at[low]), beyond


def told_of_ends(found: Traced, over: str) -> list[str]:
    """What is said where the memory is full, a sentence for each name."""
    said = []
    for name, (last, beyond) in found.ends.items():
        of = f"{name}: " if len(found.lines) > 1 else ""
        if beyond.full and last is None:
            said.append(f"{of}{beyond.full}")
        elif beyond.full and last is not None:
            end = f"{last:.4g}" if axis_unit(over) else f"{math.floor(last)}"
            said.append(f"{of}beyond {over}={end} it does not fit {beyond.hardware}")
    return said


def _mark_ends(
    axes: Axes, ends: Mapping[str, tuple[float | None, Fit]], names: Sequence[str]
) -> None:
    """Marks where the memory is full."""
    several = len(names) > 1
    for name, (last, beyond) in ends.items():
        if beyond.full and last is not None:
            axes.axvline(
                last, color=PALETTE[names.index(name) % len(PALETTE)] if several else FULL,
                linestyle="--", zorder=2.5, gid="memory-full",
            )  # fmt: skip


def is_rate(over: str) -> bool:
    """True for the bandwidth and the peaks: times are polynomials in their inverse."""
    return over == "BW" or over.startswith("F_")


def regimes_between(
    formula: Formula, over: str, lower: float, upper: float, values: Mapping[str, Any]
) -> tuple[list[tuple[float, float]], list[Crossover]]:
    """The formula's regimes inside a range, and its crossovers there.

    A rate is replaced by its inverse first: times are polynomials in that.

    Raises:
        InputError: the regimes are not decided (sums over contexts, symbols without value).
    """
    wanted = {s.name for s in formula.symbols} - {over}
    fixed = {k: v for k, v in values.items() if k in wanted}
    if is_rate(over):
        inverse = symbol("inverse_rate")
        turned = formula.substitute({symbol(over): 1 / inverse})
        spans, crossings = regimes_between(turned, inverse.name, 1 / upper, 1 / lower, fixed)
        return (
            [(1 / end, 1 / start) for start, end in reversed(spans)],
            [Crossover(c.ops, 1 / c.value, c.above, c.below) for c in reversed(crossings)],
        )
    spans = []
    for piece in formula.regimes(over, **fixed):
        start = max(lower, float(piece.lower))
        end = upper if piece.upper == oo else min(upper, float(piece.upper))
        if start < end:
            spans.append((start, end))
    crossings = [c for c in formula.crossover(over, **fixed) if lower < float(c.value) < upper]
    return spans, crossings


def fixed_of(formula: Formula, over: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a formula's other symbols."""
    wanted = {s.name for s in formula.symbols} - {over}
    return {k: v for k, v in values.items() if k in wanted}


def mostly(formula: Formula, over: str, span: tuple[float, float], fixed: Mapping[str, Any]) -> str:
    """The resource with the largest share of the time in the middle of a range."""
    middle = math.sqrt(span[0] * span[1])
    probe: float = max(1, round(middle)) if over in _WHOLE else middle
    shares = bound_shares(formula, {**fixed, over: probe})
    return max(sorted(shares), key=lambda r: shares[r])


def _shade(
    axes: Axes,
    formula: Formula,
    over: str,
    lower: float,
    upper: float,
    values: Mapping[str, Any],
    width: str,
) -> tuple[list[Patch], str]:
    """Shades regimes and marks crossovers; returns the legend and a note."""
    fixed = fixed_of(formula, over, values)
    try:
        spans, crossings = regimes_between(formula, over, lower, upper, values)
    except UndecidedError:
        return [], "regimes not shaded: their order is not decided"
    except InputError:
        return [], f"regimes not shaded: not piecewise polynomial in {over}"
    largest = [mostly(formula, over, span, fixed) for span in spans]
    looks = shades(list(dict.fromkeys(largest)))
    for index, ((start, end), resource) in enumerate(zip(spans, largest, strict=True)):
        colour, hatch = looks[resource]
        axes.axvspan(
            start, end, facecolor=colour, edgecolor="#FFFFFF", hatch=hatch, linewidth=0,
            zorder=0.5, gid=f"regime-{index}",
        )  # fmt: skip
    _mark(axes, formula, over, fixed, crossings, width)
    legend = [
        Patch(facecolor=c, edgecolor="#999999", hatch=h, label=f"mostly {r}")
        for r, (c, h) in looks.items()
    ]
    count = f"{len(spans)} regime{'s' if len(spans) != 1 else ''}"
    return legend, f"{count} in this range, shaded by the resource with the largest share"


def _mark(
    axes: Axes,
    formula: Formula,
    over: str,
    fixed: Mapping[str, Any],
    crossings: Sequence[Crossover],
    width: str,
) -> None:
    by_place: dict[float, list[Crossover]] = {}
    for crossing in crossings:
        by_place.setdefault(float(crossing.value), []).append(crossing)
    near = 0.075 if width == "column" else 0.04
    shown: list[tuple[float, float, float, list[Crossover]]] = []
    for place, group in sorted(by_place.items()):
        axes.axvline(place, color="#555555", linewidth=0.5, linestyle=(0, (4, 2)), zorder=2)
        share = _share(formula, over, place, fixed, {op for c in group for op in c.ops})
        spot = axes.transLimits.transform(axes.transScale.transform((place, 1.0)))[0]
        if share < 0.03:
            continue
        if shown and spot - shown[-1][0] < near:  # of lines close together the weightiest
            if share <= shown[-1][1]:
                continue
            shown.pop()
        shown.append((spot, share, place, group))
    for _, _, place, group in shown:
        _name(axes, formula, over, place, fixed, group, width)


def _name(
    axes: Axes,
    formula: Formula,
    over: str,
    place: float,
    fixed: Mapping[str, Any],
    group: Sequence[Crossover],
    width: str,
) -> None:
    """The label of a crossover, above or below the curve, wherever there is more room."""
    ops = [op for c in group for op in c.ops]
    shown = list(dict.fromkeys(plain(short(op.rsplit(".", 1)[-1])) for op in ops))
    names = shown[0] + (f" +{len(shown) - 1}" if len(shown) > 1 else "")
    value = number(place, axis_unit(over)) if axis_unit(over) else f"{place:.4g}"
    height = evaluated(formula, over, [place], fixed)[0]
    spot = axes.transLimits.transform(axes.transScale.transform((place, height)))[1]
    low = spot > 0.5
    text = f"{value}: {names}"
    if width != "column":
        text = f"{over}={text} → {group[0].above.split(':')[0]}"
    label = axes.annotate(
        text,
        (place, 0.02 if low else 0.98), xycoords=("data", "axes fraction"), xytext=(-2, 0),
        textcoords="offset points", rotation=90, ha="right", va="bottom" if low else "top",
        fontsize=font_size(axes) * 0.78, color="#333333", zorder=5,
        bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6},
    )  # fmt: skip
    label.set_in_layout(False)


def _share(
    formula: Formula, over: str, place: float, fixed: Mapping[str, Any], ops: set[str]
) -> float:
    from costgraph.formula.evaluate import compile_expr
    from costgraph.formula.runtime import norm

    symbols = formula.symbols
    given = [place if s.name == over else fixed[s.name] for s in symbols]
    mine = whole = 0.0
    for term in formula.terms:
        sizes = [float(compile_expr(a.expr, symbols)(*given)) for a in term.arms]
        size = max(sizes) if term.norm is None else norm(float(term.norm), *sizes)
        value = size * float(compile_expr(term.count, symbols)(*given))
        whole += value
        if ops & set(term.ops):
            mine += value
    return mine / whole if whole else 0.0
