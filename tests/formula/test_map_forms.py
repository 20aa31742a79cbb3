"""Forms of a map that are kept from strip to strip are those that hold at its points."""

from __future__ import annotations

import pytest

import costgraph as cg
from costgraph.formula import region_map as maps
from costgraph.formula.reals import inside

MAPS = (
    ("llama-3.1-8b", "fuse,window", "ttft", "B", "S"),
    ("llama-3.1-8b", "fuse,select", "tpot", "B", "T"),
    ("mixtral-8x7b", "fuse", "tpot", "B", "T"),
    ("llama-4-scout", "fuse", "tpot", "T", "B"),
)


@pytest.mark.parametrize(("model", "passes", "metric", "x", "y"), MAPS)
def test_every_cell_has_the_form_of_its_point(model, passes, metric, x, y, monkeypatch):
    asked = []
    form = maps._form
    monkeypatch.setattr(maps, "_form", lambda t, p: asked.append(t) or form(t, p))
    formula = getattr(cg.compile(model, "h100", passes), metric)
    found = formula.region_map(x, y)
    many = len(asked)
    cells = [(r, c) for r in found.regions for c in r.cells]
    for region, cell in cells:
        at = inside(cell.left, cell.right)
        low, high = (e.xreplace({found.x: at}) for e in (cell.bottom, cell.top))
        point = {found.x: at, found.y: inside(low, high)}
        assert maps._summed(found.terms, maps._pattern(found.terms, point)) == region.expr
    # Terms are not asked anew in strips that others' curves part.
    assert many < len(formula.terms) * len(cells)


def test_a_map_of_a_share_holds_at_its_end():
    hit = cg.compile("gpt2", "a6000", "prefix-cache{share=9/10,chance=h}").ttft
    for over in (("h", "B"), ("B", "h")):
        told = str(hit.region_map(*over, S=900))
        assert "0 <= h <= 1" in told
        assert "h < 1," not in told
