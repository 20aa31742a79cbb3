"""Labels beside points that cover neither each other nor the points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.path import Path
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

#: Directions tried in this order, in degrees.
_DIRECTIONS = (0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200, 70, 110, 250, 290)
#: Pixels that text may stand beside its place, as its glyphs are set on whole ones.
_ROUNDING = 1.0
_RADII = (0.9, 1.8, 3.0, 4.5, 6.5, 9.0, 12.0)


@dataclass(frozen=True)
class Point:
    """A point in data coordinates with the text beside it and its marker's radius in points."""

    x: float
    y: float
    text: str
    radius: float = 2.0
    directions: tuple[int, ...] = _DIRECTIONS


def line_boxes(line: Line2D) -> list[Bbox]:
    """Small boxes along a drawn line, as broad as it, for labels to keep off; none for marks."""
    if line.get_linestyle() in ("None", "none", "", " "):
        return []
    return _boxes_along(line, line.get_transform().transform(line.get_xydata()))


def arrow_boxes(text: Text) -> list[Bbox]:
    """The same along the arrow of an annotation, which may be a curve; none for other texts."""
    arrow = text.arrow_patch if isinstance(text, Annotation) else None
    if arrow is None:
        return []
    bent = arrow.get_transform().transform_path(arrow.get_path())
    return [
        box for part in bent.to_polygons(closed_only=False) for box in _boxes_along(arrow, part)
    ]


def _boxes_along(drawn: Line2D | Patch, places: Any, step: float = 6.0) -> list[Bbox]:
    figure = drawn.get_figure()
    assert figure is not None
    half = max(2.0, drawn.get_linewidth() * figure.dpi / 72 / 2)
    found = []
    for (ax, ay), (bx, by) in pairwise(places):
        if not all(map(math.isfinite, (ax, ay, bx, by))):
            continue  # a gap
        parts = max(1, int(math.dist((ax, ay), (bx, by)) / step))
        for k in range(parts + 1):
            px, py = ax + (bx - ax) * k / parts, ay + (by - ay) * k / parts
            found.append(Bbox.from_bounds(px - half, py - half, 2 * half, 2 * half))
    return found


def place_labels(axes: Axes, points: Sequence[Point], size: float | None = None) -> list[Any]:
    """Put a text beside each point, the first ones first, where nothing is covered.

    For each label places on rings around its point are tried, near ones first;
    the first free place inside the axes wins, else the place with the least
    overlap. No label lies on a line, an arrow or the legend of the axes where there is another
    place for it. Labels away from their point get a thin line, which runs behind no other label.

    Args:
        axes: with its final limits, and all that takes room from it drawn.
        points: with labels, the most important first. Empty texts are obstacles.
        size: font size in points; by default that of the axes.
    """
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    for _ in range(2):  # a legend has its room only once the layout has seen it placed
        figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    scale = figure.dpi / 72
    inside = axes.get_window_extent(renderer)
    taken = [box for line in axes.lines for box in line_boxes(line)]
    taken += [box for text in axes.texts for box in arrow_boxes(text)]
    legend = axes.get_legend()
    if legend is not None:
        taken.append(legend.get_window_extent())
    centres = [axes.transData.transform((p.x, p.y)) for p in points]
    for point, (cx, cy) in zip(points, centres, strict=True):
        reach = point.radius * scale
        taken.append(Bbox.from_bounds(cx - reach, cy - reach, 2 * reach, 2 * reach))
    made: list[Text] = []
    named: list[Bbox] = []
    for point, (cx, cy) in zip(points, centres, strict=True):
        if not point.text:
            continue
        options: dict[str, Any] = {} if size is None else {"fontsize": size}
        text = axes.text(point.x, point.y, point.text, zorder=6, **options)
        text.set_in_layout(False)  # the axes must stay where the labels were placed
        text.set_bbox({"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.4})
        box = text.get_window_extent(renderer)
        wide, high = box.width, box.height
        best: tuple[float, Bbox, tuple[float, float] | None] | None = None
        line = high / max(1, point.text.count("\n") + 1)
        for ring in _RADII:
            for degrees in point.directions:
                angle = math.radians(degrees)
                gap = point.radius * scale + ring * line * 0.45
                x = cx + math.cos(angle) * (gap + wide / 2)
                y = cy + math.sin(angle) * (gap + high / 2)
                here = Bbox.from_bounds(x - wide / 2, y - high / 2, wide, high).padded(_ROUNDING)
                cost = sum(_overlap(here, other) for other in taken)
                cost += 4 * (here.width * here.height - _overlap(here, inside))
                led = _leader((float(cx), float(cy)), here, point.radius * scale + 1.3 * line)
                cost += sum(_crossed((cx, cy), led, other) for other in named)
                if best is None or cost < best[0] - 1e-9:
                    best = (cost, here, led)
            if best is not None and best[0] < 1e-6:
                break
        assert best is not None
        _, found, end = best
        taken.append(found)
        named.append(found)
        middle = ((found.x0 + found.x1) / 2, (found.y0 + found.y1) / 2)
        place = axes.transData.inverted().transform(middle)
        text.set_position((float(place[0]), float(place[1])))
        text.set_horizontalalignment("center")
        text.set_verticalalignment("center")
        if end is not None:
            there = axes.transData.inverted().transform(end)
            (drawn,) = axes.plot(
                [point.x, there[0]], [point.y, there[1]],
                color="#777777", linewidth=0.5, zorder=2, scalex=False, scaley=False,
            )  # fmt: skip
            taken += line_boxes(drawn)
        made.append(text)
    return made


def _leader(centre: tuple[float, float], text: Bbox, least: float) -> tuple[float, float] | None:
    """Where a line from a point to its text ends; None where that is less than ``least`` away."""
    (cx, cy), (x, y) = centre, ((text.x0 + text.x1) / 2, (text.y0 + text.y1) / 2)
    wide, high = text.width - 2 * _ROUNDING, text.height - 2 * _ROUNDING
    away = (max(abs(x - cx) - wide / 2, 0.0), max(abs(y - cy) - high / 2, 0.0))
    if math.hypot(*away) <= least:
        return None
    return (
        x - math.copysign(wide / 2, x - cx) if away[0] else cx,
        y - math.copysign(high / 2, y - cy) if away[1] else y,
    )


def _crossed(start: tuple[float, float], end: tuple[float, float] | None, text: Bbox) -> float:
    """What a line behind a text costs: less than text on text, more than a place farther off."""
    if end is None or not Path([start, end]).intersects_bbox(text, filled=False):
        return 0.0
    return float(8 * text.height)


def _overlap(a: Bbox, b: Bbox) -> float:
    wide = min(a.x1, b.x1) - max(a.x0, b.x0)
    high = min(a.y1, b.y1) - max(a.y0, b.y0)
    return wide * high if wide > 0 and high > 0 else 0.0
