"""Pictures, graphs and tables of every kind of region, unit and exchange."""

from __future__ import annotations

import json
from collections import Counter

import networkx
import pytest

import costgraph as cg
from costgraph.counting.count import rows
from costgraph.ir.graph import Graph
from costgraph.ir.regions import Parallel, Region, Repeat
from costgraph.ops.collectives import Exchange
from costgraph.ops.fused import Fused
from costgraph.showing.draw import draw
from costgraph.showing.export.models import structure

STEP = {"B": 8, "T": 512}
#: A pipeline for every kind of region, unit and exchange.
PLANS = {
    "exchanges": ("llama-3-8b", "4xh100", "fuse,parallel{tp=4}"),
    "parts of kernels": ("llama-3-8b", "4xh100", "fuse,parallel{tp=4},overlap"),
    "bodies": ("llama-3-8b", "4xh100", "fuse,parallel{tp=4},overlap{by=halves}"),
    "units": ("llama-3-8b", "4xh100", "fuse,parallel{tp=2,pp=2}"),
    "groups": ("llama-3-8b", "4xh100", "fuse,parallel{pp=4,micro=2}"),
    "experts over nodes": ("mixtral-8x7b", "2x4xh200", "fuse,parallel{ep=8}"),
    "positions": ("llama-3-8b", "4xh100", "parallel{cp=2,tp=2}"),
}


@pytest.fixture(scope="module", params=PLANS, ids=list(PLANS))
def compiled(request):
    return cg.compile(*PLANS[request.param])


def operations(graph: Graph, unit: str = ""):
    """Every operation with the unit that runs it, regions opened."""
    for node in graph.nodes:
        on = node.unit or unit
        if isinstance(node.op, Region):
            for inner, its in zip(node.op.graphs, node.op.units, strict=True):
                yield from operations(inner, its or on)
        else:
            yield node, on


def exchanges(graph: Graph) -> int:
    def sends(node) -> bool:
        inside = node.op.body.nodes if isinstance(node.op, Fused) else (node,)
        return any(isinstance(n.op, Exchange) for n in inside)

    return sum(sends(node) for node, _ in operations(graph))


@pytest.mark.parametrize("numbers", [False, True], ids=["symbols", "numbers"])
def test_a_picture_shows_every_operation_unit_and_exchange(compiled, numbers):
    phase = compiled.program.phases[-1]
    found = draw(compiled, **STEP) if numbers else draw(compiled, phase=phase.name)
    scene, every = found.whole, list(operations(phase.graph))
    drawn = [v for v in scene.operations if v.kind != "result"]
    assert len(drawn) == len(every)
    assert Counter(v.unit for v in drawn) == Counter(unit for _, unit in every)
    assert sum(bool(v.link) for v in drawn) == exchanges(phase.graph) > 0
    for v in drawn:
        assert not v.link or any(" of " in line and "B" in line.upper() for line in v.lines)
    names = {v.id for v in scene.vertices}
    assert len(names) == len(scene.vertices)
    assert {end for link in scene.links for end in (link.start, link.end)} <= names
    frames = {c.id for c in scene.clusters}
    assert {v.cluster for v in scene.vertices} | {c.parent for c in scene.clusters} <= {"", *frames}
    units = {n.unit for n in phase.graph.nodes if n.unit and not isinstance(n.op, Exchange)}
    assert units <= {c.title for c in scene.clusters}


def test_times_in_a_picture_are_the_step(compiled):
    table = compiled.breakdown("decode", **STEP)
    step = compiled.time("decode").evaluate(**STEP)
    assert table.totals["seconds"] == pytest.approx(step, rel=1e-12)
    assert f"{STEP['B']}" in draw(compiled, **STEP).scene.subtitle
    shares = sum(v.share or 0 for v in draw(compiled, **STEP).whole.vertices)
    assert shares == pytest.approx(table.totals["busy_seconds"] / step)


def test_rows_name_links_units_and_what_bounds(compiled):
    table = compiled.breakdown("decode", **STEP)
    graph = compiled.program.phase("decode").graph
    assert [r.unit for r in table] == [unit for _, unit in operations(graph)]
    assert sum(bool(r.links) for r in table) == exchanges(graph)
    wire = sum(float(r.count) * r.wire for r in table)
    assert table.totals["wire_bytes"] == pytest.approx(wire)
    for row in table:
        if row.bound == "link":
            assert row.links
    alone = [r for r in table if r.links and r.kind in ("all-reduce", "all-gather", "send")]
    assert all(r.bound == "link" for r in alone)
    text, found = str(table), json.loads(json.dumps(table.to_dict()))
    assert "wire" in text
    assert ("unit" in text.split("\n")[2:][0].split()) == any(r.unit for r in table)
    assert "rows are of" in text
    assert found["about"] == list(table.about)


def test_memory_of_a_step_is_that_of_the_device_that_holds_most(compiled):
    table = compiled.breakdown("decode", **STEP)
    whole = compiled.fit(**STEP)
    assert table.totals["memory_bytes"] == pytest.approx(whole.bytes)


def test_every_format_is_written(compiled, tmp_path):
    drawing = draw(compiled, **STEP)
    for suffix in (".dot", ".mmd", ".json", ".graphml"):
        path = drawing.save(tmp_path / f"graph{suffix}")
        assert path.stat().st_size > 1000
    read = networkx.read_graphml(tmp_path / "graph.graphml")
    assert set(read) == {v.id for v in drawing.whole.vertices}
    links = [d["link"] for _, d in read.nodes(data=True) if "link" in d]
    assert len(links) == sum(bool(v.link) for v in drawing.whole.vertices) > 0
    assert drawing.dot.count("peripheries=2") > len(links)
    titles = {c.title for c in drawing.scene.clusters}
    assert all(title in drawing.mermaid for title in titles)


def test_levels_and_differences_are_drawn(compiled):
    layer = draw(compiled, level="layer", **STEP)
    assert len(layer.scene.vertices) < len(draw(compiled, **STEP).scene.vertices)
    places = {c.title for c in draw(compiled, **STEP).whole.clusters if c.is_place}
    assert places <= {c.title for c in layer.scene.clusters}
    diff = draw(compiled, diff=True)
    marks = Counter(v.mark for v in diff.whole.vertices)
    assert marks["created"]
    assert len({v.id for v in diff.whole.vertices}) == len(diff.whole.vertices)


def test_networkx_opens_and_keeps_regions(compiled):
    graph = compiled.program.phase("decode").graph
    dag = graph.to_networkx()
    assert networkx.is_directed_acyclic_graph(dag)
    ops = {n: d for n, d in dag.nodes(data=True) if d["kind"] != "source"}
    every = list(operations(graph))
    assert Counter(d["unit"] for d in ops.values()) == Counter(unit for _, unit in every)
    assert sum(bool(d["links"]) for d in ops.values()) == exchanges(graph)
    flops = 0
    for d in ops.values():
        flops += d["flops"] * d["count"]
    assert flops == sum(r.total.total_flops for r in rows(graph))
    kept = graph.to_networkx(nested=True)
    for name, data in kept.nodes(data=True):
        if data["kind"] == "parallel":
            region = graph.node(name).op
            assert tuple(data["bodies"]) == region.labels
            assert tuple(data["units"].values()) == region.units
            assert region.labels == dag.graph["parallel"][name]
        assert (data["kind"] == "repeat") == ("body" in data)


def test_regions_are_described(compiled):
    graph = compiled.program.phase("decode").graph
    text = "\n".join(structure(graph))
    for node in graph.nodes:
        if isinstance(node.op, Region):
            assert f"{node.name}" in text
            assert not node.unit or f"on {node.unit}" in text
        if isinstance(node.op, Parallel):
            assert all(label in text for label in node.op.labels)
        if isinstance(node.op, Repeat):
            assert f"× {node.op.count}" in text


def test_what_a_pass_rewrites_stays_on_its_unit():
    made = cg.compile("llama-3-8b", "4xh100", "fuse,parallel{pp=4}")
    units = {node.unit for node in made.program.phase("decode").graph.nodes}
    assert "" not in units
