"""Pictures of servers: requests and steps over time, and the front of speed against use."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("matplotlib")

import itertools

from costgraph.asking.serving import Request, Simulated, Wanted
from costgraph.asking.serving.served import Served, Span
from costgraph.showing import plot


def seen(servers: int) -> Simulated:
    """Eighty requests that come a tenth of a second apart; server 0 only reads prompts."""
    served = tuple(
        Served(Request(n / 10, 9, 9), 0, 9, n / 10 + 0.2, n / 10 + 0.3, n / 10 + 2.0)
        for n in range(80)
    )
    spans = tuple(Span(i, n / 4, 0.2, 1, 3 * (i > 0), 9) for i in range(servers) for n in range(40))
    return Simulated(served, 10.0, 5.0, 40, servers, 1.0, spans=spans)


def test_no_row_of_a_request_touches_the_next() -> None:
    above, _ = plot.timeline(seen(2)).axes
    boxes = [p.get_extents() for c in above.collections for p in c.get_paths()]
    assert len(boxes) == 3 * 80
    for box in boxes:
        row = round((box.y0 + box.y1) / 2)
        assert row - 0.5 < box.y0 < box.y1 < row + 0.5


@pytest.mark.parametrize("servers", [2, 30])
def test_servers_of_prompts_are_seen_and_names_have_room(servers: int) -> None:
    figure = plot.timeline(seen(servers))
    _, below = figure.axes
    strips = [p for p in below.patches if p.get_y() == 0 and p.get_width()]
    assert strips
    assert all(p.get_height() >= 0.5 for p in strips)
    figure.canvas.draw()
    names = [t for t in below.get_yticklabels() if t.get_text()]
    assert names[0].get_text() == "server 0, prompts"
    boxes = [t.get_window_extent() for t in names]
    assert all(not a.overlaps(b) for a, b in itertools.pairwise(boxes))


@pytest.mark.parametrize("width", ["slide", "column"])
def test_a_front_has_the_limit_the_best_plan_and_what_it_rests_on(width: str) -> None:
    wanted = Wanted(rate=20, ttft=0.5, tpot=0.02, prompt=300, generate=64, devices=1)
    found = wanted.plans("llama-3.2-1b", ["h100"], "fuse")
    figure = plot.served_front(found, width=width)
    (axes,) = figure.axes
    lines: list[Any] = axes.get_lines()
    drawn = sum(len(x.get_xdata()) for x in lines if x.get_linestyle() == "None")
    assert drawn == len(found.front) + 1
    star = next(x for x in lines if x.get_marker() == "*")
    assert star.get_xdata()[0] == pytest.approx(1 / found.best.tpot)
    assert star.get_ydata()[0] == pytest.approx(20 * 64 / found.best.devices)
    title = " ".join(axes.get_title(loc="left").split())
    for said in ("20 requests/s", "ttft ≤ 500 ms", "fidelity ideal", *found.setting.said()):
        assert " ".join(said.split())[:60] in title
