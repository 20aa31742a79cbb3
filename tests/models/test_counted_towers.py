"""Towers, projectors and what stands behind them, against PyTorch's counter on the real classes.

``counted/towers.json`` holds parameters, and per phase the FLOP of products and convolutions
for cases such as ``b1_g256``: symbols and their values.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from sympy import Integer

from costgraph.counting.count import parameters, rows
from costgraph.counting.footprint import cache_bytes
from costgraph.symbols import B, G, N, S, T, q
from tests.models.counting import DATA, products, program

COUNTED: dict[str, Any] = json.loads((DATA / "towers.json").read_text())
CASES = [
    (name, phase, case)
    for name, entry in COUNTED.items()
    for phase, cases in entry["phases"].items()
    for case in cases
]
SENSES = ("vision", "audio", "encode", "forward", "denoise")
SYMBOLS = {"b": B, "g": G, "s": S, "q": q, "t": T, "n": N}


def counted_in(name: str, phase: str, given: dict[Any, Integer]) -> int:
    part = program(name).phase(phase)
    found = sum((r.count * products(r) for r in rows(part.graph)), Integer(0)).xreplace(given)
    # What the case does not say is as the phase has it: a sentence's tokens see one another.
    found = found.xreplace(dict(part.bindings)).xreplace(given)
    assert found.is_Integer, found
    return int(found)


def values_of(phase: str, case: str) -> dict[Any, Integer]:
    """The symbols of a case; a prompt attends to itself."""
    given = {SYMBOLS[k]: Integer(n) for k, n in re.findall(r"([a-z])(\d+)", case)}
    if phase == "prefill" and S in given and q not in given:
        given |= {q: given[S], T: given[S]}
    return given


@pytest.mark.parametrize("name", COUNTED)
def test_parameters_are_equal(name):
    assert parameters(program(name)) == COUNTED[name]["params"]


@pytest.mark.parametrize(("name", "phase", "case"), CASES)
def test_products_are_equal(name, phase, case):
    counted = COUNTED[name]["phases"][phase][case]
    given = values_of(phase, case)
    if phase == "whole":
        # S source positions, or those of an image, then n of the decoder at once.
        source = {S: given[S]} if S in given else {}
        heard = {q: given[S]} if S in given else {}
        encoded = counted_in(name, "encode", {B: given[B], **heard})
        step = {B: given[B], **source, q: given[N], T: given[N]}
        assert encoded + counted_in(name, program(name).phases[-1].name, step) == counted["total"]
        return
    # Convolutions over a few tokens of text run on the vector engine; those of sound do not.
    sound = phase in SENSES or COUNTED[name].get("heard_in_steps")
    aside = 0 if sound else counted["by_op"].get("conv", 0)
    assert counted_in(name, phase, given) == counted["total"] - aside


@pytest.mark.parametrize("name", [n for n, e in COUNTED.items() if e.get("caches")])
def test_caches_are_equal(name):
    for case, counted in COUNTED[name]["caches"].items():
        graph = program(name).phase("decode").graph
        assert cache_bytes(graph).xreplace(values_of("decode", case)) == counted, case
