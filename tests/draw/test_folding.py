"""Large graphs are folded: what repeats is drawn once, and the rest stays within the limit."""

from __future__ import annotations

from dataclasses import replace

import networkx
import pytest
from sympy import Integer

import costgraph as cg
from costgraph.ir.dtypes import DType
from costgraph.ir.graph import Builder, Graph, Node
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops.elementwise import Add
from costgraph.rewriting.unrolled import unrolled
from costgraph.showing.draw import LIMIT, draw
from costgraph.showing.draw.build import graph_scene
from costgraph.showing.draw.fold import blocks
from costgraph.showing.draw.scene import Scene
from tests.draw.conftest import TINY


def dtype() -> DType:
    return cg.compile(TINY, "a6000").graph.node("embed").outputs[0].dtype


def chain(copies: int, tail: int = 3) -> Graph:
    """Layers of three additions with two weights each, then a tail, as an importer lists them."""
    kind = dtype()
    shape = (Integer(8),)
    builder = Builder("chain")
    here = builder.source(Tensor("x", shape, kind))
    for layer in range(copies):
        w = builder.source(Tensor(f"l{layer}.w", shape, kind, Role.WEIGHT))
        v = builder.source(Tensor(f"l{layer}.v", shape, kind, Role.WEIGHT))
        a = builder.add(f"l{layer}.a", Add(), here, w)
        b = builder.add(f"l{layer}.b", Add(), a, v)
        here = builder.add(f"l{layer}.c", Add(), b, here)
    for index in range(tail):
        u = builder.source(Tensor(f"t{index}.u", (Integer(8),), kind, Role.STATE))
        here = builder.add(f"tail{index}", Add(), u, here)
    return builder.build(here)


@pytest.mark.parametrize("copies", [2, 5, 40])
def test_repeated_parts_are_found_and_drawn_once(copies):
    from costgraph.showing.draw.build import graph_scene
    from costgraph.showing.draw.fold import fold_repeats

    scene = graph_scene(chain(copies))
    folded = fold_repeats(scene)
    assert [c.title for c in folded.clusters] == [f"3 operations × {copies}"]
    names = [v.name for v in folded.vertices]
    assert names == [
        "x", "l0.w", "l0.v", "t0.u", "t1.u", "t2.u",
        "l0.a", "l0.b", "l0.c", "tail0", "tail1", "tail2", "tail2",
    ]  # fmt: skip
    plain = networkx.DiGraph((x.start, x.end) for x in folded.links if not x.carried)
    assert networkx.is_directed_acyclic_graph(plain)
    carried = {(x.start, x.end) for x in folded.links if x.carried}
    assert carried == {("l0.c", "l0.a")}  # and to itself, which is not drawn
    inside = {v.name for v in folded.vertices if v.cluster}
    assert inside == {"l0.a", "l0.b", "l0.c", "l0.w", "l0.v"}


def test_parts_that_differ_are_not_folded():
    from costgraph.showing.draw.build import graph_scene
    from costgraph.showing.draw.fold import fold_repeats

    graph = chain(4)
    # The third layer takes its operands from elsewhere: no longer alike.
    nodes = [replace(n, inputs=("l0.a", "l2.v")) if n.name == "l2.b" else n for n in graph.nodes]
    folded = fold_repeats(graph_scene(replace(graph, nodes=tuple(nodes))))
    assert [c.title for c in folded.clusters] == ["3 operations × 2"]


def test_listing_order_does_not_matter():
    from costgraph.showing.draw.build import graph_scene
    from costgraph.showing.draw.fold import fold_repeats

    graph = chain(6)
    layers = [n for n in graph.nodes if n.name.startswith("l")]
    # All that can come early comes early: still a topological order of the same graph.
    shuffled = networkx.DiGraph()
    made = {t.name: n.name for n in graph.nodes for t in n.outputs}
    for n in graph.nodes:
        shuffled.add_node(n.name)
        shuffled.add_edges_from((made[i], n.name) for i in n.inputs if i in made)
    order = list(networkx.lexicographical_topological_sort(shuffled, key=lambda n: n[::-1]))
    nodes = sorted(graph.nodes, key=lambda n: order.index(n.name))
    folded = fold_repeats(graph_scene(replace(graph, nodes=tuple(nodes))))
    assert [c.title for c in folded.clusters] == [f"3 operations × {len(layers) // 3}"]


def test_written_out_layers_fold_back():
    compiled = cg.compile("gpt2", "a6000")
    flat = unrolled(compiled.graph)
    drawing = draw(flat, limit=100)
    operations = next(n for n in compiled.graph.nodes if n.op.kind == "repeat").op.body.nodes
    titles = [c.title for c in drawing.scene.clusters]
    assert titles == [f"{len(operations)} operations × 12"]
    assert "drawn once" in drawing.scene.notes[0]
    assert len(drawing.whole.vertices) > 100  # data formats keep everything


def test_links_that_go_far_make_fewer_blocks():
    """Graphviz takes minutes to lead a thousand lines around hundreds of vertices."""
    kind, shape = dtype(), (Integer(8),)

    def drawn(back: int) -> Scene:
        before = [f"n{max(i - 1 - i * 7 % back, 0)}" for i in range(900)]
        nodes = [
            Node(f"n{i}", Add(), (f"n{i - 1}", before[i]), (Tensor(f"n{i}", shape, kind),))
            for i in range(1, 900)
        ]
        graph = Graph("far", (Tensor("n0", shape, kind),), tuple(nodes), ("n899",))
        return blocks(graph_scene(graph))

    near, far = drawn(2), drawn(800)
    assert 200 < len(near.vertices) <= LIMIT
    assert 16 <= len(far.vertices) < 100


def test_large_graphs_are_always_within_the_limit():
    graph = chain(1, tail=2000)
    kind, shape = dtype(), (Integer(8),)
    # Widths that all differ: nothing repeats, so only blocks help.
    sources = [Tensor("x", shape, kind)]
    nodes = []
    here = sources[0]
    for index in range(700):
        out = Tensor(f"n{index}", shape, kind)
        w = Tensor(f"w{index}", (Integer(index + 1),), kind, Role.WEIGHT)
        sources.append(w)
        nodes.append(Node(f"n{index}", Add(), (here.name, w.name), (out,)))
        here = out
    graph = Graph("long", tuple(sources), tuple(nodes), (here.name,))
    scene = draw(graph).scene
    assert len(scene.vertices) <= LIMIT
    assert "blocks" in scene.notes[-1]
    plain = networkx.DiGraph((x.start, x.end) for x in scene.links)
    assert networkx.is_directed_acyclic_graph(plain)
    assert sum(int(v.lines[0].split()[0]) for v in scene.vertices if v.kind == "part") >= 700


@pytest.mark.parametrize("level", ["op", "layer"])
def test_graphs_without_layers_fold_by_the_names_of_their_operations(level):
    compiled = cg.compile("sdxl-unet", "h100")
    found = draw(compiled, level=level, B=1, S=77)
    parts = {v.name: v for v in found.scene.vertices if v.kind == "part"}
    assert {"down1_1_…", "down3_2_…", "middle_2_…", "up1_3_…"} <= set(parts)
    assert len(found.scene.vertices) < 100
    assert "names begin alike" in found.scene.notes[-1] or level == "layer"
    plain = networkx.DiGraph((x.start, x.end) for x in found.scene.links)
    assert networkx.is_directed_acyclic_graph(plain)
    # Nothing is lost: operations are counted with those of parts in parts, and times add up.
    told = sum(int(v.lines[0].split()[0]) for v in parts.values())
    alone = sum(v.kind not in ("part", "result") for v in found.scene.operations)
    every = draw(compiled, B=1, S=77).whole
    whole = [v for v in every.operations if v.kind != "result"]
    assert told + alone == len(whole)
    assert sum(v.seconds or 0 for v in found.scene.vertices) == pytest.approx(
        sum(v.seconds or 0 for v in whole)
    )


def test_bodies_of_large_graphs_stay_in_their_frames():
    compiled = cg.compile("vgg-16", "edge-3x-gtx-1080-ti", "split-rows")
    found = draw(compiled, limit=300)
    scene, frames = found.scene, {c.id: c for c in found.scene.clusters}
    assert len(found.whole.vertices) > 300 >= len(scene.vertices)
    assert any("one vertex for each body" in note for note in scene.notes)
    bodies = [v for v in scene.vertices if v.id.endswith(":body")]
    assert {v.unit for v in bodies} == {"", "edge 1", "edge 2"}
    assert all("at once" in frames[v.cluster].title for v in bodies)
    shown = sum(int(v.lines[0].split()[0]) if v in bodies else 1 for v in scene.operations)
    assert shown == len(found.whole.operations)
    plain = networkx.DiGraph((x.start, x.end) for x in scene.links)
    assert networkx.is_directed_acyclic_graph(plain)
