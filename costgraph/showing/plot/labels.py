"""Labels beside points that cover neither each other nor the points."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
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
_RADII = (0.9, 1.8, 3.0, 4.5, 6.5, 9.0, 12.0, 15.5, 19.5)
#: How often labels that are in the way of one another look for other places.
_ROUNDS = 4
#: What is less than this is no overlap, in square pixels.
_NOTHING = 1e-6


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


def _boxes_along(drawn: Line2D | Patch, places: Any) -> list[Bbox]:
    figure = drawn.get_figure()
    assert figure is not None
    return _boxes(places, max(2.0, drawn.get_linewidth() * figure.dpi / 72 / 2))


def _boxes(places: Any, half: float, step: float = 6.0) -> list[Bbox]:
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
    overlap. Labels that are then in the way of one another look again, beside all others.
    No label lies on a line, an arrow or the legend of the axes where there is another
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
    options: dict[str, Any] = {} if size is None else {"fontsize": size}
    made: list[Text] = []
    labels = []
    for point in points:
        cx, cy = map(float, axes.transData.transform((point.x, point.y)))
        reach = point.radius * scale
        taken.append(Bbox.from_bounds(cx - reach, cy - reach, 2 * reach, 2 * reach))
        if point.text:
            text = axes.text(point.x, point.y, point.text, zorder=6, **options)
            text.set_in_layout(False)  # the axes must stay where the labels were placed
            text.set_bbox({"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.4})
            box = text.get_window_extent(renderer)
            labels.append(_Label(point, (cx, cy), reach, box.width, box.height))
            made.append(text)
    for text, label, place in zip(made, labels, _settled(labels, taken, inside), strict=True):
        _put(axes, text, label, place)
    return made


@dataclass(frozen=True)
class _Place:
    """Where a text stands, and where the line from its point to it ends, if it has one."""

    box: Bbox
    end: tuple[float, float] | None


@dataclass(frozen=True)
class _Label:
    """A point with its marker's radius and the size of the text beside it, in pixels."""

    point: Point
    centre: tuple[float, float]
    reach: float
    wide: float
    high: float

    def rings(self, again: bool) -> Iterator[list[_Place]]:
        """Places to try, near ones first; ``again`` for what was in the way of others."""
        (cx, cy), wide, high = self.centre, self.wide / 2, self.high / 2
        line = self.high / (self.point.text.count("\n") + 1)
        for ring in _RADII:
            gap = self.reach + ring * line * 0.45
            degrees = (*self.point.directions, *(range(0, 360, 10) if again else ()))
            turned = [(math.cos(a), math.sin(a)) for a in map(math.radians, degrees)]
            middles = [(x * (gap + wide), y * (gap + high)) for x, y in turned]
            if again:  # also above and below with an end of the text at the point, or near it
                shifts = (-1.1, -0.9, -0.5, 0.5, 0.9, 1.1)
                middles += [(x * wide, y * (gap + high)) for x in shifts for y in (-1, 1)]
            found = []
            for x, y in middles:
                box = Bbox.from_bounds(cx + x - wide, cy + y - high, self.wide, self.high)
                box = box.padded(_ROUNDING)
                found.append(_Place(box, _leader(self.centre, box, self.reach + 1.3 * line)))
            yield found

    def line_to(self, place: _Place) -> list[tuple[float, float]]:
        """The ends of the line to a place; none where it has no line."""
        return [] if place.end is None else [self.centre, place.end]


def _settled(labels: Sequence[_Label], taken: Sequence[Bbox], inside: Bbox) -> list[_Place]:
    """A place for each label: the first ones first, then again where some are in the way."""
    fixed = np.array([box.extents for box in taken]).reshape(-1, 4)
    places: dict[int, _Place] = {}
    for _ in range(_ROUNDS):
        before = dict(places)
        for index, label in enumerate(labels):
            others = [(labels[i], p) for i, p in places.items() if i != index]
            places[index] = _best(label, _Rest(fixed, others, inside), places.get(index))
        if places == before:
            break
    return [places[i] for i in range(len(labels))]


class _Rest:
    """What a label has to keep off, and how much it costs where it does not."""

    def __init__(self, fixed: Any, others: Sequence[tuple[_Label, _Place]], inside: Bbox) -> None:
        """``fixed`` are boxes of what stays; ``others`` the other labels; ``inside`` the axes."""
        self.names = [place.box for _, place in others]
        self.lines = [label.line_to(place) for label, place in others]
        boxes = [*self.names, *(b for line in self.lines for b in _boxes(line, 2.0))]
        self.taken = np.vstack([fixed, *(box.extents for box in boxes)])
        self.inside = np.array([inside.extents])

    def cost(self, label: _Label, place: _Place) -> float:
        """Square pixels that are covered, those outside and lines behind names counted more."""
        box = place.box
        cost = _overlap(box, self.taken)
        cost += 4 * (box.width * box.height - _overlap(box, self.inside))
        cost += sum(_crossed(label.line_to(place), other) for other in self.names)
        return cost + sum(_crossed(line, box) for line in self.lines)


def _best(label: _Label, rest: _Rest, here: _Place | None) -> _Place:
    """The nearest place that costs nothing, else the cheapest; ``here`` where that is as good."""
    best = None if here is None else (rest.cost(label, here), here)
    for places in label.rings(again=here is not None):
        if best is not None and best[0] < _NOTHING:
            break
        for place in places:
            cost = rest.cost(label, place)
            if best is None or cost < best[0] - 1e-9:
                best = (cost, place)
    assert best is not None
    return best[1]


def _put(axes: Axes, text: Text, label: _Label, place: _Place) -> None:
    """Moves a text to its place, with the line to it."""
    to_data, box = axes.transData.inverted(), place.box
    x, y = to_data.transform(((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2))
    text.set_position((float(x), float(y)))
    text.set_horizontalalignment("center")
    text.set_verticalalignment("center")
    if place.end is not None:
        there = to_data.transform(place.end)
        axes.plot(
            [label.point.x, there[0]], [label.point.y, there[1]],
            color="#777777", linewidth=0.5, zorder=2, scalex=False, scaley=False,
        )  # fmt: skip


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


def _crossed(line: Sequence[tuple[float, float]], text: Bbox) -> float:
    """What a line behind a text costs: less than text on text, more than a place farther off."""
    if not line or not Path(line).intersects_bbox(text, filled=False):
        return 0.0
    return float(8 * text.height)


def _overlap(box: Bbox, others: Any) -> float:
    """The area of a box on others, which are rows of left, lower, right and upper edges."""
    wide = np.minimum(box.x1, others[:, 2]) - np.maximum(box.x0, others[:, 0])
    high = np.minimum(box.y1, others[:, 3]) - np.maximum(box.y0, others[:, 1])
    return float((np.maximum(wide, 0.0) * np.maximum(high, 0.0)).sum())
