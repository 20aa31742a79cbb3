"""Objects show themselves in notebooks: well-formed HTML, nothing but text from outside."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any
from xml.etree import ElementTree

import pytest

import costgraph as cg
from costgraph.showing.draw.render import can_render
from costgraph.showing.report import report

HOSTILE = "<script>alert(1)</script>\"'&"


@cache
def compiled() -> cg.Compiled:
    return cg.compile("gpt2", "a6000", "fuse")


MAKERS: dict[str, Callable[[], Any]] = {
    "graph": lambda: compiled().graph,
    "program": lambda: compiled().program,
    "compiled": compiled,
    "formula": lambda: compiled().tpot,
    "sum over contexts": lambda: compiled().latency,
    "rate": lambda: compiled().throughput,
    "regimes": lambda: compiled().tpot.regimes("B", T=512),
    "symbolic regimes": lambda: (
        cg.compile("gpt2", "a6000", symbolic_hardware=True)
        .ttft.regimes("B", {"BW": 768 * 10**9, "F_fp16": 154 * 10**12,
                            "F_vector_fp32": 38 * 10**12, "F_special_fp32": 10**12}, S=128)
    ),
    "region map": lambda: compiled().tpot.region_map("B", "T"),
    "comparison": lambda: cg.compare("gpt2", "a6000", ["", "fuse"], S=64, N=8),
    "explanation": lambda: compiled().explain("tpot", B=1, T=512),
    "readable": lambda: compiled().readable("tpot", "summary"),
    "breakdown": lambda: compiled().breakdown("decode", B=1, T=512),
    "encoder": lambda: cg.compile("bert-base", "a6000"),
}  # fmt: skip


def tree(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{html.replace('<br>', '<br/>')}</div>")


@pytest.mark.parametrize("name", MAKERS)
def test_html_is_well_formed_and_says_something(name: str) -> None:
    found = tree(MAKERS[name]()._repr_html_())
    assert len("".join(found.itertext())) > 40
    tags = {str(e.tag).split("}")[-1] for e in found.iter()}
    assert tags & {"table", "math"}
    assert not tags & {"script", "img", "iframe", "link"}
    assert not any(k.startswith("on") for e in found.iter() for k in e.attrib)


def test_regimes_show_every_interval_and_bound() -> None:
    regimes = compiled().tpot.regimes("B", T=512)
    found = tree(regimes._repr_html_())
    assert len(found.findall(".//tbody/tr")) == len(regimes)
    text = "".join(found.itertext())
    for piece in regimes:
        assert all(resource in text for resource in piece.bound)


def test_an_explanation_shows_its_shares() -> None:
    found = compiled().explain("tpot", B=1, T=512)
    text = "".join(tree(found._repr_html_()).itertext())
    assert f"{100 * found.shares[0].share:.1f}%" in text
    assert found.setting.text("B=1, T=512") in text


def test_latex_of_formulas() -> None:
    for shown in (compiled().tpot, compiled().readable("tpot")):
        text = shown._repr_latex_()
        assert text.startswith("$\\displaystyle ")
        assert text.endswith("$")
        assert text.count("{") == text.count("}")


def test_names_from_outside_are_only_text() -> None:
    program = replace(cg.load_model("gpt2"), name=HOSTILE, assumptions=(HOSTILE,))
    graph = replace(program.graph, name=HOSTILE)
    made = cg.compile(program, "a6000")
    shown = (
        program, graph, made, made.tpot, made.breakdown("decode", B=1, T=8),
        made.explain("tpot", B=1, T=8), cg.compare(program, "a6000", [""], S=8, N=2),
        replace(made.tpot.regimes("B", T=8), name=HOSTILE),
        replace(made.tpot.region_map("B", "T"), name=HOSTILE),
    )  # fmt: skip
    for item in shown:
        html = item._repr_html_()
        assert "<script" not in html
        tree(html)
    for item in (program, made.explain("tpot", B=1, T=8)):
        assert HOSTILE in "".join(tree(item._repr_html_()).itertext())


BRIEF: dict[str, Callable[[], Any]] = MAKERS | {
    "machine": lambda: compiled().machine,
    "trace": lambda: compiled().trace,
    "step": lambda: compiled().trace.steps[0],
    "phase": lambda: compiled().program.phases[0],
    "row": lambda: compiled().rows["decode"][0].graph,
    "solution": lambda: compiled().tpot.solve_for("B", 0.01, T=99),
    "calibrated solution": lambda: (
        cg.compile("gpt2", "h100", fidelity="calibrated").tpot.solve_for("B", 0.01, T=99)
    ),
    "bracketed solution": lambda: compiled().latency.solve_for("S", 0.5, B=1, N=9),
    "crossover": lambda: compiled().tpot.crossover("B", T=99)[0],
    "local": lambda: compiled().tpot.local(B=1, T=99),
    "asymptote": lambda: compiled().tpot.asymptote("B", T=99),
    "wins": lambda: (
        cg.wins(cg.compile("gpt2", "a6000").tpot, compiled().tpot, "B", T=99)
    ),
    "search": lambda: cg.search("gpt2", "a6000", S=64, N=8, B=(1, 4)),
    "serving": lambda: cg.Serving(compiled()),
    "calibration": lambda: cg.compile("gpt2", "h100", fidelity="calibrated").timing,
    "setting": lambda: compiled().setting,
    "drawing": lambda: compiled().draw(),
    "report": lambda: report("gpt2", "a6000"),
}  # fmt: skip


@pytest.mark.parametrize("name", BRIEF)
def test_the_representation_is_brief(name: str) -> None:
    text = repr(BRIEF[name]())
    assert len(text) < 240
    assert "\n" not in text
    # No exact fraction of many digits.
    assert not re.search(r"\d{13}", text)


def test_a_comparison_does_not_name_one_of_its_pipelines() -> None:
    text = repr(cg.compare("gpt2", "a6000", ["", "fuse"], S=64, N=8))
    assert text == "<Comparison of 2 pipelines: gpt2 on a6000, fidelity ideal>"


def test_a_solution_and_a_trace_read_as_text() -> None:
    text = str(BRIEF["calibrated solution"]())
    assert "largest whole B:" in text
    assert not re.search(r"\d{13}", text)
    assert "<pre" in BRIEF["solution"]()._repr_html_()
    trace = cg.compile("llama-2-7b", "a6000", "fuse,quantize{weights=int4}").trace
    lines = str(trace).splitlines()
    assert lines[0] == "quantize{weights=int4}"
    assert any("did not apply at" in line for line in lines)
    assert "fuse" in lines


@pytest.mark.parametrize("name", ["breakdown", "comparison", "graph", "explanation"])
def test_figures_stand_to_the_right_and_text_to_the_left(name: str) -> None:
    for table in tree(MAKERS[name]()._repr_html_()).iter("table"):
        for row in table.iter("tr"):
            for cell in row:
                side = cell.get("style", "")
                text = "".join(cell.itertext())
                if cell.tag == "td" and text[:1].isalpha():
                    assert side == "text-align:left", text
                if cell.tag == "td" and re.fullmatch(r"[\d.]+[kMG]?|[\d.]+ [mµn]?s", text):
                    assert side == "text-align:right", text


def test_figures_show_themselves() -> None:
    pytest.importorskip("matplotlib")
    from costgraph.showing import plot

    for figure in (
        plot.curve(compiled(), "B", 1, 64, T=99),
        plot.roofline(compiled(), "decode", B=1, T=99),
        plot.breakdown(compiled(), "B", [1, 2], T=99),
    ):
        assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.skipif(not can_render("svg"), reason="nothing here draws SVG")
def test_a_wide_drawing_scrolls_and_is_not_cut() -> None:
    bundle = compiled().draw()._repr_mimebundle_()
    assert bundle["text/html"].startswith('<div style="overflow:auto;max-width:100%"><svg')
    assert re.search(r"width:100%;min-width:\d+pt;max-width:\d+pt", bundle["text/html"])
    assert "<!DOCTYPE" not in bundle["text/html"]
    assert bundle["image/svg+xml"].startswith("<?xml")


def test_a_report_opens_in_a_frame_of_its_own() -> None:
    frame = BRIEF["report"]()._repr_html_()
    found = ElementTree.fromstring(frame)
    assert found.tag == "iframe"
    assert found.get("sandbox") == "allow-scripts"
    assert found.get("srcdoc", "").startswith("<!DOCTYPE html>")
