"""Caches that several layers read: kept once, read by each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sympy import Integer, Min

import costgraph as cg
from costgraph.counting.count import rows
from costgraph.counting.footprint import cache_bytes
from costgraph.errors import CostgraphError
from costgraph.ir.tensor import Role
from costgraph.models import load_model
from costgraph.symbols import B, T, q

SMALL = Path(__file__).parents[1] / "models" / "counted" / "small.json"
LLAMA, D, KV, LAYERS, HEADS, DH = "llama-3.2-1b", 2048, 512, 16, 32, 64
STEP = {B: Integer(3), q: Integer(1), T: Integer(700)}


def step_of(passes: str, model: Any = LLAMA):
    return cg.compile(model, "h100", passes).program.phase("decode").graph


def total(graph, kind: str, values=STEP) -> tuple[int, int]:
    """FLOP and bytes of all operations of a kind."""
    found = [r for r in rows(graph) if r.kind == kind]
    flop = sum((r.count * r.cost.total_flops for r in found), Integer(0))
    moved = sum((r.count * r.cost.total_bytes for r in found), Integer(0))
    return int(flop.xreplace(values)), int(moved.xreplace(values))


@pytest.mark.parametrize("layers", [2, 3, 5, 16, 40])
def test_one_layer_of_several_keeps_a_cache(layers):
    plain, shared = step_of(""), step_of(f"share-kv{{layers={layers}}}")
    keeping = -(-LAYERS // layers)
    gone = LAYERS - keeping
    before = cg.compile(LLAMA, "h100").parameters
    assert before - cg.compile(LLAMA, "h100", f"share-kv{{layers={layers}}}").parameters == (
        gone * 2 * D * KV
    )
    assert cache_bytes(shared) == cache_bytes(plain) * keeping / LAYERS
    # Every layer attends as before; what is not projected is not written.
    for kind in ("qk-matmul", "softmax", "sv-matmul"):
        assert total(shared, kind) == total(plain, kind)
    assert total(plain, "linear")[0] - total(shared, "linear")[0] == gone * 2 * 2 * 3 * D * KV
    assert total(shared, "kv-append")[1] * LAYERS == total(plain, "kv-append")[1] * keeping


def test_products_of_queries_keys_and_values_lose_columns():
    d = 768
    before, after = (cg.compile("gpt2", "h100", p).parameters for p in ("", "share-kv{layers=12}"))
    assert before - after == 11 * 2 * (d * d + d)


def test_half_of_the_layers_see_a_window_and_the_others_one_cache():
    passes = "share-kv{by=half,window=100}"
    graph = step_of(passes)
    each = 2 * 2 * KV
    assert (cache_bytes(graph) - each * (8 * Min(T, 100) + T) * B).expand() == 0
    compiled = cg.compile(LLAMA, "h100", passes)
    # Seven layers have no keys and values of their own; the cache has a norm of its own.
    plain = cg.compile(LLAMA, "h100").parameters
    assert compiled.parameters == plain - 7 * 2 * D * KV + D
    flop, _ = total(graph, "qk-matmul")
    assert flop == 3 * 2 * HEADS * DH * (8 * 100 + 8 * 700)


def test_a_prompt_passes_the_second_half_with_its_last_position():
    compiled = cg.compile(LLAMA, "h100", "share-kv{by=half,window=100}")
    prompt = {B: Integer(1), q: Integer(300), T: Integer(300)}
    found = total(compiled.program.phase("prefill").graph, "linear", prompt)[0]
    ffn, vocab = 8192, 128256
    layer = 2 * D * D + 2 * D * KV + 3 * D * ffn
    far = 2 * D * D + 3 * D * ffn
    assert found == 2 * (300 * (8 * layer + 2 * D * KV) + 8 * far + D * vocab)
    every = cg.compile(LLAMA, "h100", "share-kv{by=half,window=100}", logits="all")
    assert total(every.program.phase("prefill").graph, "linear", prompt)[0] == 2 * 300 * (
        8 * layer + 2 * D * KV + 8 * far + D * vocab
    )


@pytest.mark.parametrize("by", ["layers", "half"])
def test_devices_hold_their_heads_of_shared_caches(by):
    passes = f"share-kv{{by={by}}}"
    alone = cg.compile(LLAMA, "h100", passes)
    two = cg.compile(LLAMA, "2xh100", f"parallel{{tp=2}},{passes}")
    kept = [cache_bytes(c.program.phase("decode").graph) for c in (alone, two)]
    assert kept[0] == 2 * kept[1]
    flops = [total(c.program.phase("decode").graph, "qk-matmul")[0] for c in (alone, two)]
    assert flops[0] == 2 * flops[1]


def test_caches_of_any_format_and_window_are_shared():
    graph = step_of("window{size=60,sinks=4},share-kv,quantize{kv=int8}")
    bytes_per_row = 8 * 2 * (KV + 8 * 2)  # a scale of two bytes for each head
    assert (cache_bytes(graph) - bytes_per_row * B * Min(T, 64)).expand() == 0
    kinds = {t.dtype.bits for g in graph.walk() for t in g.tensors.values() if t.role is Role.KV}
    assert kinds == {8}


@pytest.mark.parametrize(
    ("model", "passes", "said"),
    [
        ("gemma-2-2b", "share-kv", "no layer of its kind stands beside it"),
        ("mistral-7b", "share-kv{by=half}", "do not see all before them already"),
        ("gemma-3n-e4b", "share-kv", "layers of other kinds stand between them"),
        ("gemma-3n-e4b", "window", "other layers read what 'k_append' keeps"),
        ("bert-base", "share-kv", "no layers in a row attend a cache"),
        (LLAMA, "select,share-kv", "its rows are chosen already"),
    ],
)
def test_layers_that_stay_are_told(model, passes, said):
    trace = cg.compile(model, "h100", passes).trace
    assert any(said in miss.reason for step in trace.steps for miss in step.misses)


def test_options_of_the_other_way_are_refused():
    for wrong in ("share-kv{by=half,layers=3}", "share-kv{window=9}", "share-kv{layers=1}"):
        with pytest.raises(CostgraphError, match="share-kv"):
            cg.compile(LLAMA, "h100", wrong)


@pytest.mark.parametrize(
    ("name", "full", "near"),
    [("gemma4_text", 2 * 32 * 2, 2 * 2 * 24 * 2), ("gemma3n_text", 192, 192)],
)
def test_what_layers_hand_on_is_in_memory_once(name, full, near):
    """Two full layers and two that slide keep keys and values, in two bytes each."""
    config = json.loads(SMALL.read_text())[name]["config"]
    graph = load_model(config).phase("decode").graph
    expected = 2 * B * (near * Min(T, 16) + full * T)
    assert (cache_bytes(graph) - expected).expand() == 0
