"""What passes changed, drawn: what is kept, created, erased or changed, and whose it is."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest
from sympy import Expr, Symbol
from sympy.parsing.sympy_parser import parse_expr

import costgraph as cg
from costgraph.counting.count import rows
from costgraph.errors import InputError
from costgraph.ir.regions import Region
from costgraph.ops.fused import Fused
from costgraph.rewriting.pipeline import Outcome, Pass
from costgraph.rewriting.unrolled import unrolled
from costgraph.showing.draw import draw
from costgraph.showing.draw.diff import compare_graphs
from tests.draw.conftest import TINY, needs_svg


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


@pytest.mark.parametrize(
    ("model", "passes"),
    [("deepseek-v3", "fuse"), (TINY, "fuse,quantize{preset=w8a8}")],
)
def test_what_fuses_is_in_the_frame_of_its_own_kernel(model, passes):
    """What a pass put in between is no part of the operation that it serves."""
    compiled = cg.compile(model, "h100", passes)
    step = next(s for s in compiled.trace.steps if s.made_by.name == "fuse")
    for old, new in zip(step.before.phases, step.after.phases, strict=True):
        origins = compare_graphs(old.graph, new.graph).origins
        kernels = dict(_kernels(new.graph))
        assert kernels
        for path, inside in kernels.items():
            assert sorted(m.rsplit("/", 1)[-1] for m in origins[path]) == sorted(inside)


def _kernels(graph, prefix=""):
    """Fused operations by their paths, and what stands in them."""
    for node in graph.nodes:
        if isinstance(node.op, Fused):
            yield f"{prefix}{node.name}", [inner.name for inner in node.op.body.nodes]
        elif isinstance(node.op, Region):
            for label, inner in zip(node.op.labels, node.op.graphs, strict=True):
                yield from _kernels(inner, f"{prefix}{node.name}/{label + '/' if label else ''}")


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


@pytest.mark.parametrize(
    ("model", "passes", "phase", "accounting"),
    [
        ("gpt2", "fuse", "decode", "exact"),
        ("llama-3.2-1b", "quantize{weights=int4}", "prefill", "exact"),
        ("llama-2-7b", "quantize{weights=int8}", "decode", "survey"),
    ],
)
def test_files_of_a_difference_have_the_work_of_both_sides(model, passes, phase, accounting):
    """What stands before a pass adds up to its graph before, what stands after to that after."""
    compiled = cg.compile(model, "h100", passes, accounting=accounting)
    (step,) = compiled.trace.steps
    found = draw(compiled, diff=True, phase=phase).to_networkx()
    sizes = {"B": 3, "T": 70, "S": 48, "q": 5}
    names = {name: Symbol(name) for name in sizes}

    def number(text: str) -> Expr:
        return parse_expr(text, names).subs(sizes)

    nodes = [data for _, data in found.nodes(data=True) if data["kind"] not in ("source", "result")]
    assert found.graph["work"].startswith("operations have what they do before the pass")
    for name in ("flops", "bytes"):
        key = f"{name}_expression"
        before = [number(n[key]) for n in nodes if n["mark"] != "created"]
        after = [number(n[key]) for n in nodes if n["mark"] in ("kept", "created")]
        after += [number(n[f"{key}_after"]) for n in nodes if n["mark"] == "changed"]
        created = found.graph.get(f"created_{key}", "").splitlines()
        after += [number(line.rpartition(": ")[2]) for line in created]
        frames = {n["cluster"] for n in nodes}
        assert {line.rpartition(": ")[0] for line in created} <= frames
        for side, parts in ((step.before, before), (step.after, after)):
            one = side.phase(phase)
            counted = rows(one.graph, compiled.accounting, one.is_single_query)
            total = sum(r.count * getattr(r.cost, f"total_{name}") for r in counted)
            assert sum(parts) == total.subs({s: sizes[s.name] for s in total.free_symbols})


def test_files_of_a_difference_have_the_work_of_phases():
    found = json.loads(draw(cg.compile("gpt2", "h100", "speculative"), diff=True).json)
    phases = {n["name"]: n for n in found["nodes"] if n["kind"] == "phase"}
    assert {n["mark"] for n in phases.values()} >= {"created", "erased"}
    assert all("flops_expression" in n for n in phases.values())
    assert "B: batch" in found["graph"]["symbols"]


def test_a_difference_under_a_convention_without_a_rule_says_so():
    compiled = cg.compile("llama-2-7b", "h100", "fuse", accounting="survey")
    found = json.loads(draw(compiled, diff=True).json)
    assert "survey" in found["graph"]["work"]
    assert not any("flops_expression" in n for n in found["nodes"])


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
