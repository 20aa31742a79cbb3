"""What each pass of a pipeline adds to the latency, and what leaving it out costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from costgraph.errors import InputError, clip
from costgraph.ir.workload import shown
from costgraph.showing.plot.style import (
    PALETTE,
    font_size,
    head,
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

    from costgraph.asking.compared import Comparison, Effect

KINDS = ("waterfall", "ablation")
#: Panels of one figure, and their letters beside those of a figure of one.
MOST, _SMALL = 6, 0.72


@styled
def waterfall(comparison: Comparison, index: int = 0, *, width: str = "slide") -> Figure:
    """From the unmodified model to a pipeline: what each pass adds to the latency.

    Args:
        comparison: the result of :func:`costgraph.compare`.
        index: which of its pipelines.
        width: ``column`` or ``slide``.
    """
    return _one(comparison, "waterfall", index, width)


@styled
def ablation(comparison: Comparison, index: int = 0, *, width: str = "slide") -> Figure:
    """A pipeline, and what leaving out each of its passes adds to the latency.

    Arguments as of :func:`waterfall`.
    """
    return _one(comparison, "ablation", index, width)


@styled
def effects(comparison: Comparison, kind: str = "waterfall", *, width: str = "slide") -> Figure:
    """A waterfall, or an ablation, of every pipeline that has passes, a panel each.

    Args:
        comparison: the result of :func:`costgraph.compare`.
        kind: ``waterfall`` or ``ablation``.
        width: ``column`` or ``slide``.

    Raises:
        InputError: no pipeline has passes, or there are more than :data:`MOST`.
    """
    if kind not in KINDS:
        raise InputError(f"effects are of kind {' or '.join(KINDS)}, not {clip(kind)}")
    chosen = [i for i, steps in enumerate(comparison.waterfalls) if steps]
    if len(chosen) == 1:
        return _one(comparison, kind, chosen[0], width)
    if not 0 < len(chosen) <= MOST:
        raise InputError(
            f"{len(chosen)} pipelines have passes: a {kind} is drawn of one to {MOST} of them"
        )
    narrow = width == "column"
    across = 1 if narrow else 2
    rows = -(-len(chosen) // across)
    figure, panels = new_figure(across, rows)
    wide, high = figure.get_size_inches()
    figure.set_size_inches(wide, high * (0.3 + (0.62 if narrow else 0.55) * rows))
    for axes, index in zip(panels, chosen, strict=False):
        what = _panel(axes, comparison, kind, index, width, _SMALL)
        column = comparison.columns[index]
        places = (comparison.devices, comparison.models)
        named = (column.hardware, column.model)
        where = [name for name, all_of in zip(named, places, strict=True) if len(all_of) > 1]
        told = plain(": ".join([*where, f"{column.passes}, {what}"]))
        axes.set_title(
            head_text("column" if narrow or across > 1 else width, told),
            fontsize=font_size(axes) * 0.85,
        )
        top = axes.get_ylim()[1]
        axes.set_ylim(0, top * 1.04)
    for axes in panels[len(chosen) :]:
        axes.set_axis_off()
    lines = titled(comparison.setting, "", shown(comparison.bindings), without=("passes",))
    full = [f"{c.passes} on {c.hardware}" for c in comparison.columns if not c.fits]
    if full:
        lines.append(plain(f"⚠ does not fit into memory: {'; '.join(full)}", 400))
    figure.suptitle(head_text(width, *lines), x=0.01, ha="left", fontsize=font_size(panels[0]))
    return figure


def _one(comparison: Comparison, kind: str, index: int, width: str) -> Figure:
    if not 0 <= index < len(comparison.waterfalls):
        raise InputError(f"there is no pipeline {clip(index)} in the comparison")
    figure, (axes,) = new_figure()
    what = _panel(axes, comparison, kind, index, width)
    setting = replace(comparison.setting, hardware=comparison.columns[index].hardware)
    warning = "; ".join(_too_large(comparison, index, kind))
    values = shown(comparison.bindings)
    lines = titled(setting, "", values, what, warning=warning, without=("passes",))
    head(axes, width, *lines)
    return figure


def _panel(
    axes: Axes, comparison: Comparison, kind: str, index: int, width: str, scale: float = 1.0
) -> str:
    """Draws one pipeline, with letters of ``scale``; what is said of it."""
    falls = _known(comparison.waterfalls[index], kind)
    start, result = falls[0][0] - falls[0][1], falls[-1][0]
    passes = [_spec(s.name, width) for s in comparison.waterfalls[index]]
    if kind == "waterfall":
        bars = [(latency - change, latency) for latency, change in falls]
        names = ["no passes", *passes, "result"]
        ends: list[float | None] = [start, *([None] * len(bars)), result]
        what = f"{start / result:.2f}× the speed without passes"
    else:
        without = _known(comparison.ablations[index], kind)
        bars = [(result, latency) for latency, _ in without]
        names = ["all passes", *(f"without\n{name}" for name in passes)]
        ends = [result, *([None] * len(bars))]
        what = "what leaving out each pass costs"
    _bars(axes, bars, ends, kind == "ablation", scale)
    axes.set_xticks(range(len(names)), names, fontsize=font_size(axes) * scale)
    axes.set_ylabel("latency of a request")
    unit_axis(axes, "y", "s")
    axes.grid(True, axis="y", color="#E3E3E3", zorder=0)
    return what


def _known(steps: Sequence[Effect], kind: str) -> list[tuple[float, float]]:
    """Latency and change of each pass."""
    if not steps:
        raise InputError(f"a{'n' if kind[0] == 'a' else ''} {kind} needs a pipeline with at least "
                         "one pass")  # fmt: skip
    found = [(s.latency, s.change) for s in steps if s.latency is not None and s.change is not None]
    if len(found) < len(steps):
        why = next(s.refused for s in steps if s.refused)
        raise InputError(f"no {kind}, for a part of the pipeline is refused: {why}")
    return found


def _bars(
    axes: Axes,
    bars: Sequence[tuple[float, float]],
    ends: Sequence[float | None],
    apart: bool,
    scale: float,
) -> None:
    """Whole bars where an end is given, and changes from one value to another between.

    ``apart``: each change is from the same value, not from that of the bar before it.
    """
    changes = iter(bars)
    top = max(*(x for pair in bars for x in pair), *(x for x in ends if x is not None))
    before: float | None = None
    for place, end in enumerate(ends):
        if end is not None:
            colour = PALETTE[6] if place == 0 and not apart else PALETTE[0]
            _bar(axes, place, 0.0, end, colour, "")
            high, text, level = end, _rounded(end), end
        else:
            start, now = next(changes)
            better = now <= start
            colour, hatch = (PALETTE[2], "//") if better else (PALETTE[1], "xx")
            _bar(axes, place, min(start, now), abs(now - start), colour, hatch)
            high, level = max(start, now), start if apart else now
            text = f"{'−' if now < start else '+'}{_rounded(abs(now - start))}"
        if before is not None:
            axes.plot([place - 1.36, place + 0.36], [before] * 2,
                      color="#777777", linewidth=0.6, zorder=2)  # fmt: skip
        before = level
        axes.annotate(
            text, (place, high), xytext=(0, 2), textcoords="offset points", ha="center",
            va="bottom", zorder=5, fontsize=font_size(axes) * scale,
        )  # fmt: skip
    axes.set_ylim(0, top * 1.12)


def _too_large(comparison: Comparison, index: int, kind: str) -> list[str]:
    """Which of the ends does not fit: without passes, if known and drawn, and with them."""
    mine = comparison.columns[index]
    said = []
    for column, compiled in zip(comparison.columns, comparison.compiled, strict=True):
        warning = compiled.fit(**comparison.bindings).full
        if column.hardware != mine.hardware or not warning:
            continue
        if column is mine:
            said.append(f"the result {warning}")
        elif column.passes == "none" and kind == "waterfall":
            said.append(f"without passes it {warning}")
    return said


def _bar(axes: Axes, place: int, low: float, height: float, colour: str, hatch: str) -> None:
    axes.bar(place, height, bottom=low, color=colour, hatch=hatch, edgecolor="white",
             width=0.72, zorder=3, linewidth=0.4)  # fmt: skip
    # A change too small to see is still a line of its colour.
    axes.plot([place - 0.36, place + 0.36], [low, low], color=colour, zorder=2.5)


def _rounded(seconds: float) -> str:
    return number(float(f"{seconds:.3g}"), "s")


def _spec(text: str, width: str) -> str:
    """A pass in lines of a tick label."""
    from costgraph.showing.draw.dot import wrapped

    return "\n".join(wrapped(plain(text).replace("{", " {"), 10 if width == "column" else 16))
