"""Charts to zoom in have the numbers of the figures, say what they rest on, and run no text."""

from __future__ import annotations

import sys

import pytest

import costgraph as cg
from costgraph.errors import InputError

pytest.importorskip("matplotlib")
pytest.importorskip("altair")


@pytest.fixture(scope="module")
def pair() -> tuple[cg.Compiled, cg.Compiled]:
    return cg.compile("gpt2", "h100"), cg.compile("gpt2", "h100", "fuse", fidelity="calibrated")


def rows(chart, key: str) -> list[dict]:
    """The data of a chart in which each row has a key."""
    made = chart.to_dict()  # valid: checked against the schema of Vega-Lite
    return next(d for d in made["datasets"].values() if d and key in d[0])


def said(chart) -> str:
    title = chart.to_dict()["title"]
    return " ".join([title["text"], *title["subtitle"]])


def test_a_curve_is_that_of_the_figure_and_names_what_bounds_it(pair):
    asked = ("T", 16, 1024)
    figure = cg.plot.curve(pair[0], *asked, B=2)
    chart = cg.plot.live.curve(pair[0], *asked, B=2)
    (line,) = [x for x in figure.axes[0].lines if x.get_gid() == "curve-0"]
    assert [(r["x"], r["y"]) for r in rows(chart, "mostly")] == list(
        zip(*line.get_data(), strict=True)
    )
    assert {r["mostly"] for r in rows(chart, "mostly")} == {"memory"}
    assert "gpt2 on h100" in said(chart)
    assert "fidelity ideal" in said(chart)
    both = cg.plot.live.curve({"none": pair[0], "both": pair[1]}, *asked, B=2)
    assert {r["name"] for r in rows(both, "x")} == {"none", "both"}
    full = cg.plot.live.curve(pair[0], *asked, B=4000)
    assert "beyond T=" in said(full)
    assert rows(full, "why")[0]["x"] < 1024


def test_a_front_is_that_of_the_figure_and_tells_what_fits(pair):
    chart = cg.plot.live.pareto(pair[:1], [1, 8, 100_000], T=512)
    found = rows(chart, "batch")
    assert [r["fits"] for r in found] == [True, True, False]
    assert [r["x"] for r in found] == [
        pytest.approx(pair[0].tpot.evaluate(B=r["batch"], T=512)) for r in found
    ]
    front = next(d for d in chart.to_dict()["datasets"].values() if set(d[0]) == {"x", "y"})
    assert {(r["x"], r["y"]) for r in front} == {(r["x"], r["y"]) for r in found[:2]}


def test_bars_are_the_columns_of_a_comparison():
    table = cg.compare("gpt2", ["h100", "a100"], ["", "fuse"], S=64, N=8)
    chart = cg.plot.live.comparison(table)
    for panel, metric in zip(
        chart.to_dict()["hconcat"], ("ttft", "tpot", "latency", "memory"), strict=True
    ):
        data = chart.to_dict()["datasets"][panel["data"]["name"]]
        assert [r["value"] for r in data] == [getattr(c, metric) for c in table.columns]
        assert len({r["column"] for r in data}) == 4
    assert "mean of the decode steps" in said(chart)


def test_operations_stand_under_their_roof(pair):
    chart = cg.plot.live.roofline(pair[1], "prefill", S=512)
    table = pair[1].breakdown("prefill", B=1, S=512)
    found = {r["name"]: r for r in rows(chart, "bound")}
    for row in table:
        if row.flops and row.seconds:
            assert found[row.name]["x"] == pytest.approx(row.flops / row.bytes)
            assert found[row.name]["bound"] == row.bound
    peak = max(float(p) for p in pair[1].machine.peaks.values())
    assert 0 < max(r["y"] for r in rows(chart, "roof")) <= peak
    assert "fidelity calibrated" in said(chart)
    with pytest.raises(InputError, match="no value for T"):
        cg.plot.live.roofline(pair[1], "decode")


def test_names_from_outside_end_no_script(pair):
    hostile = "</script><script>alert(1)</script>$x$"
    page = cg.plot.live.curve({hostile: pair[0]}, "T", 16, 64, B=1, title=hostile).to_html()
    assert "alert(1)" in page
    assert "<script>alert" not in page


def test_without_altair_one_line_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "costgraph.showing.plot.live", raising=False)
    monkeypatch.delattr(cg.plot, "live", raising=False)
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(InputError, match=r"need altair: pip install 'costgraph\[altair\]'"):
        cg.plot.live
