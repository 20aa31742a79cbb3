"""The look of all figures: sizes, colours that colour-blind readers tell apart, units, saving."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from costgraph.errors import InputError, clip, nearest
from costgraph.files.writing import suffix_of, write_whole
from costgraph.setting import Setting
from costgraph.units import format_quantity

SUFFIXES = (".svg", ".pdf", ".png")
#: Dots an inch of pictures in notebooks, and of files.
SCREEN, PRINT = 160, 300

#: Okabe and Ito's palette (jfly.uni-koeln.de/color), without yellow, which is too light for lines.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (3, 1)), (0, (1, 2)))
HATCHES = ("", "//", "..", "\\\\", "xx", "++", "oo", "--")
#: Colour, hatch and marker of what bounds an operation.
BOUND = {
    "memory": ("#0072B2", "", "o"),
    "compute": ("#D55E00", "//", "s"),
    "link": ("#009E73", "++", "D"),
    "latency": ("#CC79A7", "..", "^"),
    "none": ("#999999", "", "x"),
}
#: What marks the end of the memory.
FULL = "#B3261E"
#: Light fills with a hatch for areas, by what bounds there.
SHADE = {
    "memory": ("#CFE5F2", ""),
    "tensor": ("#F9DCC8", "///"),
    "vector": ("#CDEBDF", "..."),
    "special": ("#F3DCE8", "\\\\\\"),
    "link": ("#F5ECC2", "xxx"),
}
_MORE_SHADES = (("#E2E2E2", "---"), ("#D9D4EC", "+++"), ("#E9F2C6", "ooo"))
#: Fills and hatches of areas that stand for nothing in particular.
AREAS = (*SHADE.values(), *_MORE_SHADES)
#: Inches and font size.
WIDTHS = {"column": ((3.3, 2.45), 7.0), "slide": ((10.0, 5.625), 13.0)}
#: The least height of the axes in a figure of the usual size, as a share of it.
_LEAST_AXES = 0.45
_P = ParamSpec("_P")


def shades(resources: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Fill and hatch of each resource (``memory``, ``tensor:bf16`` …), the same in all figures."""
    found: dict[str, tuple[str, str]] = {}
    more = iter(_MORE_SHADES * (1 + len(resources)))
    for resource in resources:
        usual = SHADE.get(resource.split(":")[0])
        taken = usual is None or usual in found.values()
        found[resource] = next(more) if usual is None or taken else usual
    return found


@contextmanager
def look(width: str) -> Iterator[None]:
    """matplotlib's settings for one width, restored afterwards.

    Raises:
        InputError: there is no such width.
    """
    if width not in WIDTHS:
        raise InputError(f"unknown width {clip(width)}{nearest(width, WIDTHS)}")
    size, font = WIDTHS[width]
    scale = font / 7.0
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "figure.figsize": size,
                "font.size": font,
                "axes.titlesize": font,
                "axes.labelsize": font,
                "legend.fontsize": font * 0.86,
                "xtick.labelsize": font * 0.9,
                "ytick.labelsize": font * 0.9,
                "axes.linewidth": 0.5 * scale,
                "lines.linewidth": 1.0 * scale,
                "lines.markersize": 3.2 * scale,
                "hatch.linewidth": 0.4 * scale,
                "patch.linewidth": 0.5 * scale,
                "grid.linewidth": 0.35 * scale,
                "xtick.major.width": 0.5 * scale,
                "ytick.major.width": 0.5 * scale,
                "xtick.minor.width": 0.3 * scale,
                "ytick.minor.width": 0.3 * scale,
                "xtick.major.size": 2.5 * scale,
                "ytick.major.size": 2.5 * scale,
                "legend.frameon": True,
                "legend.framealpha": 0.9,
                "legend.edgecolor": "#CCCCCC",
                "legend.handlelength": 1.8,
                "legend.labelspacing": 0.3,
                "legend.borderpad": 0.35,
                "axes.titlelocation": "left",
                "axes.spines.top": False,
                "axes.spines.right": False,
            }
        )
        yield


def styled(make: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """A figure function whose keyword ``width`` sets the look while it runs.

    Titles and legends that need many lines make the figure higher, not its axes flat.
    """

    @wraps(make)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with look(str(kwargs.get("width", "slide"))):
            figure = make(*args, **kwargs)
            _raise_axes(figure)
            return figure

    return wrapper


def _raise_axes(figure: Figure) -> None:
    """Makes a figure of the usual size as much higher as its only axes are too flat."""
    wide, high = figure.get_size_inches()
    if len(figure.axes) != 1 or high != matplotlib.rcParams["figure.figsize"][1]:
        return
    # What is around the axes is as high in any figure: it is seen where there is room for all.
    figure.set_size_inches(wide, 3 * high)
    _laid_out(figure)
    around = 3 * high * (1 - figure.axes[0].get_position().height)
    figure.set_size_inches(wide, max(high, around + _LEAST_AXES * high))
    _laid_out(figure)


def _laid_out(figure: Figure) -> None:
    """Places the axes as drawing does, and draws nothing."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


class Picture(Figure):
    """A figure that a notebook shows by itself, without any magic line or backend."""

    def _repr_png_(self) -> bytes:
        return to_bytes(self, "png")


def new_figure(columns: int = 1, rows: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure without any window or global registry, and its axes in reading order."""
    figure = Picture(layout="constrained")
    FigureCanvasAgg(figure)
    found = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, [axes for row in found for axes in row]


def plain(text: object, limit: int = 160) -> str:
    """A text that is shown as it is: no mathematics in it, no control characters."""
    from costgraph.showing.draw.scene import clean

    return clean(text, limit).replace("$", r"\$")


def font_size(axes: Axes) -> float:
    """Points of the axes' label font, which others are set in proportion to."""
    return float(axes.xaxis.label.get_fontsize())


def short(name: str) -> str:
    """The name of an operation; of a fused one its first and last part."""
    parts = name.split("+")
    return name if len(parts) < 3 else f"{parts[0]}+…+{parts[-1]}"


def number(value: float, unit: str = "") -> str:
    """A value with an SI prefix, as labels and ticks show it."""
    known = {"byte": "B", "token/s": "token/s", "tokens": ""}
    return format_quantity(value, known.get(unit, unit)).strip()


def unit_axis(axes: Axes, which: str, unit: str) -> None:
    """Tick labels with SI prefixes and the unit (``ms``, ``GB/s``, ``TFLOP/s``)."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, unit)))
    axis.set_minor_formatter(NullFormatter())


def _tick(value: float, unit: str) -> str:
    if unit in ("", "count", "tokens"):
        if 0 < abs(value) < 1 or abs(value) >= 1_000_000:
            return f"{value:g}"
        return f"{value:,.0f}" if value == int(value) else f"{value:g}"
    return number(float(f"{value:.6g}"), unit)


#: What the axis of a well-known symbol is called.
AXIS = {
    "B": "batch B (sequences)",
    "T": "context T (tokens)",
    "S": "prompt S (tokens)",
    "N": "generated N (tokens)",
    "BW": "memory bandwidth BW",
    "M": "memory capacity M",
}
METRIC = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "latency": "latency of a request",
    "throughput": "throughput",
    "memory": "peak memory",
    "flops": "work of a request",
    "bytes": "traffic of a request",
}


def axis_unit(symbol: str) -> str:
    """Unit of a symbol's ticks."""
    if symbol.partition("_")[0] == "BW":
        return "B/s"
    if symbol == "M":
        return "B"
    return "FLOP/s" if symbol.startswith("F_") else ""


def axis_title(symbol: str) -> str:
    """Title of a symbol's axis."""
    if symbol.startswith("F_"):
        return f"peak rate {symbol}"
    return AXIS.get(symbol, symbol)


def log_ticks(axes: Axes, which: str, values: list[float]) -> None:
    """Ticks at given values of a logarithmic axis, none between."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(values))
    axis.set_minor_locator(NullLocator())


def decades(axes: Axes, which: str, width: str = "slide") -> None:
    """Ticks of a logarithmic axis: 1, 2 and 5 where powers of ten alone would be few."""
    from matplotlib.ticker import LogLocator

    axis, (low, high) = (
        (axes.xaxis, axes.get_xlim()) if which == "x" else (axes.yaxis, axes.get_ylim())
    )
    span = high / max(low, 1e-300)
    subs: tuple[float, ...]
    subs = (1.0, 2.0, 3.0, 5.0, 7.0) if span < 12 else (1.0, 2.0, 5.0) if span < 400 else (1.0,)
    if which == "x" and width == "column":
        subs = (1.0, 3.0) if span < 100 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_formatter(NullFormatter())


def head(axes: Axes, width: str, *parts: str) -> None:
    """The title, in lines that fit the width."""
    axes.set_title(head_text(width, *parts))


def head_text(width: str, *parts: str) -> str:
    """Parts of a title in lines that fit the width."""
    most = 46 if width == "column" else 86
    return "\n".join(line for part in parts if part for line in textwrap.wrap(part, most))


def titled(setting: Setting, title: str, *more: str, warning: str = "", **about: Any) -> list[str]:
    """Lines of a title: what the figure is about, or a title of one's own with the conventions.

    Args:
        setting: what the figure is about.
        title: in place of it; the conventions are still said.
        more: what to say besides, such as values.
        warning: that something does not fit.
        about: see :meth:`Setting.text`.
    """
    told = ", ".join((title, *setting.conventions)) if title else setting.text(*more, **about)
    return [plain(told, 400), *(f"⚠ {plain(text, 400)}" for text in setting.said(warning))]


def powers_of_two(lower: float, upper: float, most: int = 8) -> list[float]:
    """Powers of two in a range, thinned to at most ``most``."""
    found = [2.0**k for k in range(61) if lower <= 2.0**k <= upper]
    step = -(-len(found) // most) if found else 1
    return found[::step]


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as ``.svg``, ``.pdf`` or ``.png``; equal figures give equal files.

    Raises:
        InputError: another suffix, or no place to write.
    """
    suffix = suffix_of(path, SUFFIXES, "figure")
    return write_whole(path, to_bytes(figure, suffix[1:], PRINT))


def to_bytes(figure: Figure, kind: str, dpi: float = SCREEN) -> bytes:
    """A figure as ``svg``, ``pdf`` or ``png``, which has ``dpi`` dots an inch."""
    stream = BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    settings: dict[Any, Any] = {
        "svg.hashsalt": "costgraph",
        "svg.fonttype": "path",
        "pdf.fonttype": 42,
    }
    with matplotlib.rc_context(settings):
        figure.savefig(stream, format=kind, dpi=dpi, metadata=metadata)
    return stream.getvalue()
