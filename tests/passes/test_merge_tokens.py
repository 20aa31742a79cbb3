"""Tokens that a vision transformer merges: every layer by hand."""

from __future__ import annotations

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.errors import PipelineError
from costgraph.hardware.machine import Engine
from costgraph.symbols import B


def products(model: str, passes: str, **options) -> int:
    graph = cg.compile(model, "h100", passes, **options).program.phases[0].graph
    return int(graph.cost.flops_of(Engine.TENSOR).xreplace({B: Integer(1)}))


@pytest.mark.parametrize("count", [1, 8, 16, 40, 500])
def test_every_layer_attends_what_is_there_and_feeds_what_is_left(count):
    d, n, expected = 768, 197, 2 * 196 * 768 * 768 + 2 * 768 * 1000
    for _ in range(12):
        merged = min(count, (n - 1) // 2)
        expected += 2 * n * 4 * d * d + 4 * n * n * d  # projections, scores and values
        if merged:
            expected += 2 * -(-n // 2) * (n // 2) * 64
        n -= merged
        expected += 2 * n * 8 * d * d
    assert products("vit-base-16", f"merge-tokens{{count={count}}}") == expected
    assert products("vit-base-16", f"fuse,merge-tokens{{count={count}}}") == expected
    if count == 8:
        assert n == 197 - 96


def test_merging_nothing_is_the_plain_model_and_parameters_stay():
    plain, made = (cg.compile("vit-base-16", "h100", p) for p in ("", "merge-tokens"))
    none = cg.compile("vit-base-16", "h100", "merge-tokens{count=0}")
    assert none.program.phases == plain.program.phases
    assert made.parameters == plain.parameters
    fast, slow = (
        cg.compile("vit-base-16", "h100", p).latency.evaluate(B=256)
        for p in ("fuse,merge-tokens{count=16}", "fuse")
    )
    assert 1.5 < slow / fast < 2.1


def test_texts_are_left_alone_and_towers_of_language_models_refused():
    clip = cg.compile("clip-vit-b-32", "h100", "merge-tokens{count=2}")
    names = [n.name for n in clip.program.phases[0].graph.nodes if n.op.kind == "repeat"]
    assert len([n for n in names if n.startswith("vision_layers")]) == 12
    assert "text_layers" in names
    with pytest.raises(PipelineError, match="no vision transformer by itself"):
        cg.compile("llava-1.5-7b", "h100", "merge-tokens")
    windows = cg.compile("swin-tiny", "h100", "merge-tokens")
    assert any("no layers of a vision transformer" in line for line in windows.undone)


@pytest.mark.parametrize(
    ("model", "passes", "options", "at"),
    [
        ("vit-base-16", "fuse,merge-tokens", {}, {"B": 8}),
        ("llava-1.5-7b", "fuse,prune-tokens", {"image": 336}, {"B": 1, "S": 700, "N": 5}),
    ],
)
def test_fitted_times_know_what_merges_and_leaves(model, passes, options, at):
    ideal, fitted = (
        cg.compile(model, "h100", passes, fidelity=f, **options).latency.evaluate(**at)
        for f in ("ideal", "calibrated")
    )
    assert fitted > ideal
