"""Objects show themselves in notebooks: well-formed HTML, nothing but text from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any
from xml.etree import ElementTree

import pytest

import costgraph as cg

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
