"""Names of points and areas keep off what is drawn."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib")

import numpy as np
from matplotlib.path import Path

import costgraph as cg
from costgraph.showing import plot
from costgraph.showing.plot.labels import Point, arrow_boxes, line_boxes, place_labels
from costgraph.showing.plot.style import new_figure


def off_lines(axes) -> bool:
    """Whether no text of the axes covers a line, its own leader apart."""
    axes.get_figure().draw_without_rendering()
    lines = [box for line in axes.lines for box in line_boxes(line)]
    return not any(t.get_window_extent().overlaps(box) for t in axes.texts for box in lines)


@pytest.mark.parametrize("broad", [1.0, 8.0])
@pytest.mark.parametrize("slope", [0.0, 0.4, 3.0])
def test_labels_keep_off_lines_however_broad(slope, broad):
    _, (axes,) = new_figure()
    axes.plot([0, 10], [5, 5 + slope], linewidth=broad)
    axes.plot([0, 5, 10], [9, np.nan, 9])
    axes.set_ylim(0, 10)
    place_labels(axes, [Point(x, 5 + slope * x / 10, f"{x}0 %") for x in (1, 5, 9)])
    assert len(axes.texts) == 3
    assert off_lines(axes)


def test_labels_keep_off_arrows():
    """Those that lead from operations to what fusion made of them are curves."""
    made = [cg.compile("gpt2", "a6000", p) for p in ("", "fuse")]
    (axes,) = plot.roofline(made[0], "prefill", after=made[1], B=1, S=512).axes
    axes.get_figure().draw_without_rendering()
    arrows = [box for text in axes.texts for box in arrow_boxes(text)]
    labels = [t.get_window_extent() for t in axes.texts if t.get_text()]
    assert len(arrows) > 50
    assert len(labels) > 4
    assert not any(label.overlaps(box) for label in labels for box in arrows)


@pytest.mark.parametrize(
    ("high", "names", "apart"),
    [(0.6, 5, 0.1), (0.6, 8, 0.1), (0.6, 8, 0.3), (0.9, 8, 0.3), (1.15, 5, 0.5), (1.15, 8, 0.5)],
)
def test_lines_to_labels_run_behind_no_other_label(high, names, apart):
    """Points in a heap, also under an edge: some names stand far off, with a line to each."""
    _, (axes,) = new_figure()
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 1.25)
    before = len(axes.lines)
    text = "operation {}, long name"
    points = [Point(5 + apart * i, high, text.format(i), 4.0) for i in range(names)]
    made = place_labels(axes, points)
    leaders = axes.lines[before:]
    assert leaders
    axes.get_figure().draw_without_rendering()
    for line in leaders:
        ends = line.get_transform().transform(line.get_xydata())
        behind = [t for t in made if Path(ends).intersects_bbox(t.get_window_extent(), False)]
        # Each touches its own at most.
        assert len(behind) <= 1, [t.get_text() for t in behind]


def test_sizes_have_their_labels_beside_the_front():
    made = [cg.compile("gpt2", "a6000", p) for p in ("", "shrink{ffn=3/4}", "shrink{ffn=1/2}")]
    (axes,) = plot.sizes(made, B=1, T=512).axes
    assert {t.get_text() for t in axes.texts} >= {"100%"}
    assert off_lines(axes)


def test_names_of_areas_keep_off_lines_and_the_end_of_the_memory():
    compiled = cg.compile("llama-3-70b", "b200", "fuse")
    (axes,) = plot.regime_map(compiled, "B", "T", (1, 4096), (128, 131072)).axes
    assert [t.get_text() for t in axes.texts] == ["memory", "tensor"]
    assert off_lines(axes)
    (end,) = [c for c in axes.collections if c.get_zorder() == 4.5]
    line = np.concatenate([axes.transData.transform(p.vertices) for p in end.get_paths()])
    for text in axes.texts:
        box = text.get_window_extent()
        assert not any(box.contains(*place) for place in line)
