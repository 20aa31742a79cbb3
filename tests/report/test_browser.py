"""The live page in a browser: numbers equal Python's, everything works by keyboard, nothing leaks.

Needs the extra ``report-test`` and a Chromium on the path (or named by ``CHROMIUM``);
skipped otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

import costgraph as cg
from costgraph.showing.draw.render import can_render
from costgraph.showing.report import report
from tests.report.conftest import METRICS, Opened, close, expected

pytestmark = pytest.mark.slow
drawn = pytest.mark.skipif(not can_render("svg"), reason="nothing here draws SVG")

MODEL = "llama-3-8b"
DEVICES = ("h100", "a6000")
PIPELINES = (
    "",
    "fuse",
    "fuse,quantize{weights=int4,bits=b}",
    "fuse,speculative{draft=llama-3.2-1b,gamma=4,alpha=a}",
)


@pytest.fixture(scope="module")
def html() -> str:
    return report(MODEL, DEVICES, PIPELINES).html


POINTS = (
    {"B": 1, "S": 1024, "N": 256, "T": 2048, "b": 4, "a": 0.7},
    {"B": 37, "S": 3001, "N": 65, "T": 7777, "b": 3, "a": 0.85},
    {"B": 512, "S": 16, "N": 1, "T": 33, "b": 2.5, "a": 0.5},
)


@pytest.mark.parametrize("device", [0, 1])
def test_every_metric_of_every_pipeline_equals_pythons(
    device: int, html: str, opening: Callable[..., Opened]
) -> None:
    page = opening(html)
    page.page.select_option("#device", str(device))
    compiled = [cg.compile(MODEL, DEVICES[device], passes) for passes in PIPELINES]
    checked = 0
    for point in POINTS:
        for name, value in point.items():
            page.set(name, value)
        for index, one in enumerate(compiled):
            page.page.check(f"#show-{index}")
            page.settle()
            for metric in METRICS:
                wanted = expected(one, metric, point)
                if wanted is None:
                    continue
                assert close(page.card(metric), wanted), (point, index, metric)
                checked += 1
            assert close(page.table(index, "latency"), expected(one, "latency", point) or 0)
    assert checked >= len(POINTS) * len(PIPELINES) * 9
    page.clean()


def test_figures_of_the_device_move_the_numbers(html: str, opening: Callable[..., Opened]) -> None:
    page = opening(html)
    before = page.card("ttft")
    page.set("BW", 1234.5, "figure")
    page.set("F_bf16", 321, "figure")
    page.set("F_vector_fp32", 7, "figure")
    point: dict[str, float] = {"B": 1, "S": 1024, "N": 256, "T": 2048}
    rates = {"BW": 1234.5e9, "F_bf16": 321e12, "F_vector_fp32": 7e12}
    compiled = cg.compile(MODEL, "h100", symbolic_hardware=True)
    assert compiled.bound is not None
    stated = {s.name: float(v) for s, v in compiled.bound.bindings().items()}
    for metric in METRICS[:4]:
        wanted = expected(compiled, metric, {**stated, **point, **rates})
        assert wanted is not None
        assert close(page.card(metric), wanted)
    page.page.click("#reset")
    page.settle()
    assert page.card("ttft") == before
    page.clean()


def test_rows_equal_the_breakdown(html: str, opening: Callable[..., Opened]) -> None:
    page = opening(html)
    page.set("B", 8)
    page.set("T", 5000)
    table = cg.compile(MODEL, "h100").breakdown("decode", B=8, T=5000)
    for row in table:
        for name in ("count", "flops", "bytes", "seconds"):
            cell = f'#ops tr[data-row="{row.name}"] [data-field={name}]'
            shown = float(page.page.get_attribute(cell, "data-value"))
            assert close(shown, float(getattr(row, name))), (row.name, name)
        bound = page.page.inner_text(f'#ops tr[data-row="{row.name}"] td:last-child')
        assert row.bound in bound
    total = float(page.page.get_attribute("#step-total", "data-value"))
    assert close(total, table.totals["seconds"])
    page.page.select_option("#phase", "prefill")
    page.settle()
    prefill = cg.compile(MODEL, "h100").breakdown("prefill", B=8, S=1024)
    total = float(page.page.get_attribute("#step-total", "data-value"))
    assert close(total, prefill.totals["seconds"])
    page.clean()


def test_parts_out_of_sight_rest_while_a_slider_moves(
    html: str, opening: Callable[..., Opened]
) -> None:
    page = opening(html, seen=False).page
    shown = "document.querySelector('#ops td').innerText !== ''"
    height = "document.documentElement.scrollHeight"
    assert page.evaluate("innerHeight") < page.locator("#steps").bounding_box()["y"]
    assert page.evaluate(shown)  # a picture of the whole page has all of it
    before = page.evaluate(height)
    page.evaluate("pause = setTimeout(() => {}, 0); setTimeout = () => 0;")  # a slider in a hand
    flops = "Number(document.querySelector('#ops [data-field=flops]').dataset.value)"
    one = page.evaluate(flops)
    page.locator("#value-B-slider").press("ArrowRight")
    page.wait_for_selector("#ops[aria-busy]", state="attached")
    assert not page.evaluate(shown)  # nothing of the batch before is to be seen
    assert abs(page.evaluate(height) - before) < 200  # sizes are remembered: nothing jumps
    assert page.evaluate("() => !('drawn' in document.documentElement.dataset)")
    page.locator("#ops").scroll_into_view_if_needed()
    page.wait_for_selector("#ops:not([aria-busy])")  # what comes near is drawn at once
    assert page.evaluate(shown)
    assert page.evaluate(flops) == 2 * one
    page.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
    # The page is told a frame later what is out of sight.
    frame = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    page.evaluate(f"{frame}.then(() => {frame})")
    page.locator("#value-B-slider").press("ArrowRight")
    page.wait_for_selector("#ops[aria-busy]", state="attached")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")  # paper has all of it
    assert page.evaluate("'drawn' in document.documentElement.dataset")
    assert page.locator("main [aria-busy]").count() == 0


def test_an_ideal_page_knows_no_latency_bound(html: str, opening: Callable[..., Opened]) -> None:
    page = opening(html)
    assert "▲ bound by latency" not in page.page.inner_text("main")
    assert "fidelity ideal" in page.page.inner_text("#facts")
    assert "lower bound" in page.page.inner_text("footer")
    page.clean()


def test_sliders_step_by_key(html: str, opening: Callable[..., Opened]) -> None:
    page = opening(html)
    for key, batch in (("ArrowRight", 2), ("ArrowRight", 3), ("End", 1024), ("Home", 1)):
        page.page.focus("#value-B-slider")
        page.page.keyboard.press(key)
        page.settle()
        assert page.page.input_value("#value-B") == str(batch)
        wanted = expected(cg.compile(MODEL, "h100"), "tpot", {"B": batch, "T": 2048})
        assert wanted is not None
        assert close(page.card("tpot"), wanted)
    page.page.focus("#figure-BW-slider")
    page.page.keyboard.press("ArrowRight")
    assert page.page.input_value("#figure-BW") != "3350"
    page.page.keyboard.press("ArrowLeft")
    assert page.page.input_value("#figure-BW") == "3350"
    page.clean()


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "", "1e13"])
def test_wrong_values_are_refused_in_words(
    text: str, html: str, opening: Callable[..., Opened]
) -> None:
    page = opening(html)
    before = page.card("latency")
    page.set("S", text)
    assert page.card("latency") == before
    assert "whole number" in page.page.inner_text("#value-S-error")
    assert page.page.get_attribute("#value-S", "aria-invalid") == "true"
    page.set("S", "7")
    assert page.page.inner_text("#value-S-error") == ""
    page.clean()


def test_what_does_not_fit_is_said(html: str, opening: Callable[..., Opened]) -> None:
    page = opening(html)
    assert "does not fit" not in page.page.inner_text("#cards")
    page.set("M", 10, "figure")
    assert "does not fit" in page.page.inner_text("#cards")
    page.page.locator("#spoken", has_text="does not fit").wait_for(state="attached")
    page.clean()


@drawn
def test_a_click_on_a_node_opens_its_panel(html: str, opening: Callable[..., Opened]) -> None:
    page = opening(html)
    assert page.page.is_hidden("#panel")
    page.page.click("#graph g.node[aria-label^='q_proj ']")
    page.settle()
    assert page.page.inner_text("#panel-title") == "q_proj"
    page.page.click("#panel-close")
    page.page.click("#graph g.node[aria-label^='final_norm ']")  # far right: the panel takes that
    at, place = (page.page.locator(x).bounding_box() for x in ("#graph .op:focus", "#graph"))
    assert place["x"] <= at["x"] <= at["x"] + at["width"] <= place["x"] + place["width"]
    page.page.click("#panel-close")
    page.page.click("#graph g.node[aria-label^='q_proj ']")
    page.settle()
    row = cg.compile(MODEL, "h100").breakdown("decode", B=1, T=2048)["q_proj"]
    for name in ("seconds", "flops", "bytes", "count"):
        shown = page.page.get_attribute(f"#panel [data-field={name}]", "data-value")
        assert close(float(shown), float(getattr(row, name)))
    body = page.page.inner_text("#panel-body")
    for text in ("made by", "q_proj.weight", "bf16", "bound by"):
        assert text in body
    assert page.page.locator("#panel math").count() == 3
    page.set("B", 2)
    assert float(
        page.page.get_attribute("#panel [data-field=flops]", "data-value")
    ) == pytest.approx(2 * row.flops)
    page.page.click("#panel-close")
    assert page.page.is_hidden("#panel")
    page.clean()


@drawn
def test_weights_have_a_panel_too(html: str, opening: Callable[..., Opened]) -> None:
    page = opening(html)
    page.page.click("#graph g.node[aria-label^='q_proj.weight ']")
    assert page.page.inner_text("#panel-title") == "q_proj.weight"
    assert "[4096, 4096]" in page.page.inner_text("#panel-body")
    page.page.click("#graph g.node[aria-label^='q_proj ']")
    page.settle()
    assert page.page.inner_text("#panel-title") == "q_proj"
    page.clean()


@drawn
def test_the_graph_works_by_keyboard(html: str, opening: Callable[..., Opened]) -> None:
    page = opening(html)
    assert page.page.locator("#graph g.node[tabindex='0']").count() == 1
    page.page.focus("#graph g.node[tabindex='0']")
    page.page.keyboard.press("ArrowDown")
    page.page.keyboard.press("ArrowDown")
    label = page.page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.page.keyboard.press("Enter")
    page.settle()
    title = page.page.inner_text("#panel-title")
    assert label.startswith(title)
    assert page.page.evaluate("document.activeElement.id") == "panel"
    page.page.keyboard.press("Escape")
    page.settle()
    assert page.page.is_hidden("#panel")
    assert page.page.evaluate("document.activeElement.getAttribute('aria-label')").startswith(title)
    page.clean()


def test_everything_can_be_reached_with_tab(html: str, opening: Callable[..., Opened]) -> None:
    page = opening(html)
    reached = set()
    for _ in range(200):
        page.page.keyboard.press("Tab")
        reached.add(page.page.evaluate("document.activeElement.id"))
    wanted = {
        "theme", "value-B", "value-B-slider", "device", "reset", "figure-BW", "show-0",
        "compare-1", "stack", "formula-metric", "formula", "phase", "zoom-in", "filter",
        "sort-total", "curve-metric", "curve-log",
    }  # fmt: skip
    assert wanted <= reached
    page.clean()


def test_the_table_sorts_and_filters(html: str, opening: Callable[..., Opened]) -> None:
    page = opening(html)

    def column(field: str) -> list[float]:
        found = page.page.eval_on_selector_all(
            f"#ops [data-field={field}]", "cells => cells.map(c => Number(c.dataset.value))"
        )
        return [float(v) for v in found]

    assert column("total") == sorted(column("total"), reverse=True)
    page.page.click("#sort-flops")
    page.settle()
    assert column("flops") == sorted(column("flops"), reverse=True)
    page.page.focus("#sort-flops")
    page.page.keyboard.press("Enter")
    page.settle()
    assert column("flops") == sorted(column("flops"))
    assert page.page.get_attribute("#ops th:nth-child(4)", "aria-sort") == "ascending"
    assert page.page.evaluate("document.activeElement.id") == "sort-flops"
    page.page.fill("#filter", "norm")
    page.settle()
    names = page.page.eval_on_selector_all("#ops tbody tr", "rows => rows.map(r => r.dataset.row)")
    assert names
    assert all("norm" in n for n in names)
    page.page.fill("#filter", "(")
    page.settle()
    assert page.page.locator("#ops tbody tr").count() == 0
    page.clean()


def test_formulas_follow_the_choice(html: str, opening: Callable[..., Opened]) -> None:
    page = opening(html)
    for metric in METRICS:
        page.page.select_option("#formula-metric", metric)
        for detail in page.page.eval_on_selector_all(
            "#formula-detail option", "o => o.map(x => x.value)"
        ):
            page.page.select_option("#formula-detail", detail)
            assert page.page.locator("#formula math").count() >= 1
    page.page.check("#show-2")
    page.settle()
    assert "quantize" in page.page.inner_text("section:has(#formula) .of-pipeline")
    page.clean()


def test_curves_cross_where_wins_says(html: str, opening: Callable[..., Opened]) -> None:
    page = opening(html)
    for index in (1, 3):
        page.page.uncheck(f"#compare-{index}")
    page.settle()
    text = page.page.inner_text("#crossovers")
    a = cg.compile(MODEL, "h100").tpot
    b = cg.compile(MODEL, "h100", "fuse,quantize{weights=int4,bits=b}").tpot.bind(b=4)
    signs = [a.evaluate(B=n, T=2048) < b.evaluate(B=n, T=2048) for n in range(1, 1025)]
    changes = [n + 2 for n in range(1023) if signs[n] != signs[n + 1]]
    for n in changes:
        assert f"B = {n}:" in text
    assert text.count("falls below") == len(changes)
    for symbol in ("T", "BW", "b"):
        page.page.select_option("#curve-symbol", symbol)
        page.settle()
        assert page.page.locator("#curve polyline").count() == 2
    page.page.select_option("#curve-metric", "memory")
    page.page.select_option("#curve-symbol", "S")
    page.page.uncheck("#curve-log")
    page.settle()
    assert page.page.locator("#curve polyline").count() == 2
    page.clean()


def test_bars_and_roofline_follow(html: str, opening: Callable[..., Opened]) -> None:
    page = opening(html)
    assert page.page.locator("#bars rect").count() >= 8
    for stack in ("kinds", "bounds", "memory"):
        page.page.select_option("#stack", stack)
        page.settle()
        label = page.page.get_attribute("#bars svg", "aria-label")
        assert all(f"{x}: " in label for x in "ABCD")
    first = page.page.locator("#roofline .point").first
    first.focus()
    page.page.keyboard.press("Enter")
    page.settle()
    assert page.page.is_visible("#panel")
    page.page.select_option("#phase", "prefill")
    page.set("S", 100000)
    assert page.page.locator("#roofline .point.compute").count() > 0
    page.clean()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_themes(
    scheme: str, html: str, opening: Callable[..., Opened]
) -> None:
    page = opening(html, color_scheme=scheme)

    def contrast(selector: str) -> float:
        return float(
            page.page.evaluate(
                """selector => {
  const parse = t => t.match(/[\\d.]+/g).map(Number);
  const light = c => c.slice(0, 3).map(v => v / 255).map(v =>
    v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((a, v, i) => a + v * [0.2126, 0.7152, 0.0722][i], 0);
  const node = document.querySelector(selector);
  let back = node, colour;
  do { colour = parse(getComputedStyle(back).backgroundColor); back = back.parentElement; }
  while (back && colour.length === 4 && colour[3] === 0);
  const svg = node.namespaceURI.endsWith("svg");
  const a = light(parse(getComputedStyle(node)[svg ? "fill" : "color"])), b = light(colour);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}""",
                selector,
            )
        )

    for selector in ("h1", ".card output", ".card .note", "#ops td", ".tick", "label", ".hint"):
        assert contrast(selector) >= 4.5, selector
    dark = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.page.click("#theme")
    page.page.click("#theme" if scheme == "light" else "h1")
    other = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert other != dark
    page.clean()


def test_print_is_light_and_complete(html: str, opening: Callable[..., Opened]) -> None:
    page = opening(html, color_scheme="dark")
    page.page.emulate_media(media="print")
    back = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == "rgb(255, 255, 255)"
    assert page.page.is_hidden("#value-B-slider")
    assert page.page.is_visible("#sort-total")
    assert page.page.is_visible("#phase")
    # No name of a field without it; of a choice only where it is taken.
    assert page.page.is_hidden("label[for=filter]")
    assert page.page.is_visible("label[for=curve-log]")
    page.page.evaluate("document.getElementById('curve-log').checked = false")
    assert page.page.is_hidden("label[for=curve-log]")
    whole = "getComputedStyle(document.getElementById('bars')).breakInside"
    assert page.page.evaluate(whole) == "avoid-page"  # with what its colours mean
    for moment, seen in (("beforeprint", True), ("afterprint", False)):
        page.page.evaluate("moment => dispatchEvent(new Event(moment))", moment)
        assert page.page.is_visible("#assumptions") is seen
    page.clean()


#: What is wrong with the charts: cut, scrolled, too small to read, or one text on another.
CHARTS = """() => [...document.querySelectorAll('svg.chart')].flatMap(chart => {
  const whole = chart.getBoundingClientRect(), place = chart.parentElement;
  const wrong = place.scrollWidth > place.clientWidth ? ['scrolls'] : [];
  const texts = [...chart.querySelectorAll('text')].map(t => [t, t.getBoundingClientRect()]);
  for (const [t, at] of texts) {
    const scale = whole.width / chart.viewBox.baseVal.width;
    if (parseFloat(getComputedStyle(t).fontSize) * scale < 9) wrong.push('small: ' + t.textContent);
    if (at.left < whole.left - 1 || at.right > whole.right + 1 || at.top < whole.top - 1
        || at.bottom > whole.bottom + 1) wrong.push('cut: ' + t.textContent);
  }
  const fixed = texts.filter(([t]) => t.matches('.tick, .name, .label, .inside'));
  fixed.forEach(([t, a], i) => fixed.slice(i + 1).forEach(([u, b]) => {
    if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4)
      wrong.push(`${t.textContent} on ${u.textContent}`);
  }));
  return wrong.map(w => `${place.id} ${w}`);
})"""


#: What is wrong with the tables: what scrolls, heads that stand not as what is below them, and
#: numbers on two lines.
TABLES = """() => [...document.querySelectorAll('main table:has(td)')].flatMap(table => {
  const place = table.parentElement, cells = table.querySelector('tbody tr').children;
  const lines = (cell) => {
    const range = document.createRange();
    range.selectNodeContents(cell);
    return range.getClientRects().length;
  };
  const side = (cell) => getComputedStyle(cell).textAlign === 'right';
  const heads = [...table.querySelectorAll('thead th')], all = table.querySelectorAll('.number');
  return [
    ...(place.scrollWidth > place.clientWidth ? ['scrolls'] : []),
    ...heads.filter((h, i) => side(h) !== side(cells[i])).map(h => `head ${h.textContent}`),
    ...[...all].filter(c => c.matches('td') && lines(c) > 1).map(c => `broken ${c.textContent}`),
  ].map(text => `${text} of ${table.id}`);
})"""


def test_narrow_pages_show_charts_whole_and_do_not_scroll(
    html: str, opening: Callable[..., Opened]
) -> None:
    page = opening(html)
    for width in (1400, 800, 390):
        page.page.set_viewport_size({"width": width, "height": 900})
        # Charts are drawn anew for their room one frame after it is another.
        page.page.evaluate("() => new Promise(r => requestAnimationFrame(() => setTimeout(r, 50)))")
        for stack in ("latency", "kinds", "memory", "races") if width == 390 else ("latency",):
            page.page.select_option("#stack", stack)
            page.settle()
            assert page.page.evaluate(CHARTS) == [], (width, stack)
        charts = page.page.locator("svg.chart").count()
        assert charts >= 4
        wide = page.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, width
        # On a tablet units go below numbers; on a telephone tables scroll.
        left = {1400: "none", 800: "broken", 390: "scrolls"}[width]
        wrong = [text for text in page.page.evaluate(TABLES) if not text.startswith(left)]
        assert wrong == [], width
    page.clean()


def test_hostile_names_do_nothing(opening: Callable[..., Opened]) -> None:
    name = "<script>alert(1)</script>\"'</script><img src=x onerror=alert(1)>"
    program = replace(cg.load_model("gpt2"), name=name, assumptions=(name,))
    page = opening(report(program, "a6000").html)
    assert page.page.inner_text("h1") == name
    assert page.page.title().startswith(name)
    page.page.click("details summary")
    assert name in page.page.inner_text("#assumptions")
    assert page.page.locator("img").count() == 0
    page.clean()


def test_the_time_to_open_is_reported(
    html: str, opening: Callable[..., Opened], record_property: Callable[[str, object], None]
) -> None:
    start = time.perf_counter()
    page = opening(html)
    record_property("seconds to open", time.perf_counter() - start)
    page.clean()
