"""Figures of programs that are placed: where tensors lie, what computes where, what crosses."""

from __future__ import annotations

import pytest

import costgraph as cg
from costgraph.showing.draw.build import graph_scene

SMALL = "llama-3.2-1b"
HOSTED = "rtx-4090+i9-13900k"
#: Pipelines, and what must be read in the figure of a step: by kind of vertex, or of a cluster.
PLACED = [
    (SMALL, HOSTED, "offload{weights=host:0.6,caches=host:x,activations=host,blocks=2}", "decode",
     {"source": ("3/5 in ddr", "x in ddr"),
      "stream": ("weight from ddr", "kv from ddr", "kv to ddr")}),
    (SMALL, HOSTED, "offload{weights=host:0.1234567}", "prefill", {"source": ("12.35 % in ddr",)}),
    (SMALL, HOSTED, "offload{caches=host,attention=host}", "decode",
     {"source": ("in ddr",), "carry": ("to ddr", "from ddr"), "": ("computed in ddr",)}),
    (SMALL, "a100+5xhbm-pim", "place{attention=hbm-pim,ffn=hbm-pim}", "decode",
     {"source": ("in hbm-pim",), "carry": ("to hbm-pim", "from hbm-pim, 5 times"),
      "": ("computed in hbm-pim",)}),
    (SMALL, "a100+5xhbm-pim", "place{ffn=hbm-pim}", "prefill",
     {"source": ("in hbm-pim",), "stream": ("weight from hbm-pim",)}),
    (SMALL, HOSTED, "active{neurons=0.1,rank=8,hot=0.3}", "decode",
     {"source": ("in ddr",), "carry": ("to ddr", "from ddr"), "": ("computed in ddr", "hot")}),
    (SMALL, "576xgroqchip", "chain", "decode",
     {"source": ("1/576 of it here",), "relay": ("504 times over c2c", "71 times over network")}),
    (SMALL, HOSTED, "host-io", "prefill", {"carry": ("from ddr", "to ddr")}),
    ("vgg-16", "edge-3x-gtx-1080-ti", "split-rows", "forward", {"": ("edge 1", "edge 2")}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "system", "passes", "phase", "wanted"), PLACED,
                         ids=lambda x: x if isinstance(x, str) and "{" in x else "")  # fmt: skip
def test_levels_and_units_are_read_in_the_figure(model, system, passes, phase, wanted):
    made = cg.compile(model, system, passes)
    scene = graph_scene(made.program.phase(phase).graph)
    titles = {c.title for c in scene.clusters}
    assert not any("@" in title for title in titles)
    for kind, texts in wanted.items():
        found = {line for v in scene.vertices if v.kind == kind for line in v.lines} or titles
        assert set(texts) <= found
    # What moves says where to, always.
    for vertex in scene.vertices:
        if vertex.kind in ("stream", "carry", "relay", "among-parts", "hand-over"):
            assert len(vertex.lines) > 1
