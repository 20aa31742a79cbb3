"""What a page and a table say of several devices: what each holds, and whose the rows are."""

from __future__ import annotations

import pytest

import costgraph as cg
from costgraph.showing.report.contents import held_text

#: How a model is shared, what each device holds of its weights, and whose the rows are.
SHARED = [
    ("vgg-16", "edge-3x-gtx-1080-ti", "split-rows",
     "weights: 276.7 MB on the first device, 29.43 MB on each of edge 1, edge 2",
     "rows are of all 3 devices: their unit says whose"),
    ("llama-2-7b", "4xh100", "parallel{tp=4}", "weights: 3.37 GB on each of 4 devices",
     "rows are of one device; 4 devices work alike"),
    ("llama-2-7b", "2xh100", "parallel{pp=2}", "weights: 6.738 GB on stage 1, 6.738 GB on stage 2",
     "rows are of all 2 devices: their unit says whose"),
    ("llama-2-7b", "4xh100", "parallel{tp=2,pp=2}",
     "weights: 3.369 GB on each of 2 devices of stage 1, 3.369 GB on each of 2 devices of stage 2",
     "rows are of one device of each of the 2 stages; 2 devices of a stage work alike"),
    ("llama-2-70b", "576xgroqchip", "quantize{weights=int8},chain",
     "weights: 120.7 MB on each of 576 devices",
     "rows are of all 576 devices of a row, one after the other"),
    ("llama-2-7b", "h100", "", "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("model", "on", "passes", "held", "about"), SHARED)
def test_several_devices_are_told_what_each_holds(model, on, passes, held, about):
    made = cg.compile(model, on, passes)
    assert held_text(made) == held
    values = {"B": 1} if model == "vgg-16" else {"B": 1, "T": 9}
    table = made.breakdown(made.program.phases[-1].name, **values)
    whose = "parameters are those of the row" if "chain" in passes else "the device that holds most"
    assert "".join(table.about[:1]) == about
    assert all(line.endswith(whose) for line in table.about[1:])
    assert len(table.about) == (2 if about else 0)


@pytest.mark.parametrize(
    ("passes", "first"), [("fuse,offload{weights=host}", "link:pcie"), ("fuse", "memory")]
)
def test_what_a_step_waits_for_is_what_its_formula_says(passes, first):
    made = cg.compile("llama-2-7b", "a6000+i9-13900k", passes)
    table = made.breakdown("decode", B=1, T=64)
    assert table.overlaps == (first != "memory")
    assert next(iter(table.waits)) == first
    assert sum(table.waits.values()) == pytest.approx(1)
    asked = made.explain("tpot", B=1, T=64)
    assert table.waits == pytest.approx(dict(asked.bounds))
