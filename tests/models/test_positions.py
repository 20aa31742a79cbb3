"""Methods of positions are named where they act, and cost what they cost."""

from __future__ import annotations

import json
from typing import Any

import pytest

import costgraph as cg
from costgraph.counting.count import rows
from costgraph.models import load_model
from costgraph.models.catalog import CONFIGS
from costgraph.models.positions import METHODS

LLAMA: dict[str, Any] = json.loads((CONFIGS / "llama-3.2-1b.json").read_text())
LLAMA.pop("rope_scaling")
GEMMA: dict[str, Any] = json.loads((CONFIGS / "gemma-3-27b-text.json").read_text())


def told(config: dict[str, Any], phase: str = "decode") -> set[str]:
    graph = load_model(config).phase(phase).graph
    return {n.op.told for g in graph.walk() for n in g.nodes if n.op.kind == "rope"}


@pytest.mark.parametrize("kind", [*METHODS, "heron"])
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("name", ["type", "rope_type"])
def test_a_method_is_named_and_changes_no_count(key, name, kind):
    config = {**LLAMA, key: {name: kind, "factor": 8.0}}
    assert told(config) == {METHODS.get(kind, kind)}
    plain, named = (load_model(c).phase("decode").graph for c in (LLAMA, config))
    costs = [[(r.name, r.count, r.cost) for r in rows(g)] for g in (plain, named)]
    assert costs[0] == costs[1]


@pytest.mark.parametrize("kind", ["default", "none", ""])
def test_what_changes_nothing_has_no_name(kind):
    assert told({**LLAMA, "rope_scaling": {"type": kind}}) == {""}
    assert load_model({**LLAMA, "rope_scaling": {"type": kind}}) == load_model(LLAMA)


def test_layers_that_slide_have_a_method_of_their_own():
    scaled = {"rope_type": "linear", "factor": 8.0}
    pi = METHODS["linear"]
    assert told({**GEMMA, "rope_scaling": scaled}) == {pi, ""}
    own = {"full_attention": scaled, "sliding_attention": {"rope_type": "yarn"}}
    assert told({**GEMMA, "rope_parameters": own}) == {pi, METHODS["yarn"]}
    assert told({**GEMMA, "rope_scaling": scaled, "rope_local_base_freq": None}) == {pi}


def test_towers_keep_their_own():
    found = load_model("qwen2.5-vl-7b")
    config = json.loads((CONFIGS / "qwen2.5-vl-7b.json").read_text())
    made = load_model({**config, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}})
    assert {n.op.told for g in made.phase("vision").graph.walk() for n in g.nodes} == {""}
    names = {n.op.told for g in made.phase("decode").graph.walk() for n in g.nodes}
    assert names == {"", METHODS["mrope"]}
    assert [p.name for p in found.phases] == [p.name for p in made.phases]


@pytest.mark.parametrize("passes", ["", "fuse", "window,fuse", "share-kv"])
def test_explanations_and_drawings_show_it(passes):
    compiled = cg.compile("llama-3.2-1b", "h100", passes)
    text = str(compiled.explain("tpot", B=1, T=1000))
    assert "at no cost\n    rope: Llama 3's frequencies" in text
    drawn = compiled.draw(phase="decode").dot
    assert "Llama 3's frequencies" in drawn


def test_biases_on_scores_are_counted():
    bloom = json.loads((CONFIGS / "bloom-7b1.json").read_text())
    kinds = {r.kind: r for r in rows(load_model(bloom).phase("decode").graph)}
    assert kinds["alibi"].cost.total_flops != 0
