"""Passes on models whose layers recur in a pattern of several kinds."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from sympy import Integer, Min

from costgraph.compiling.compiled import Compiled
from costgraph.counting.accounting import EXACT
from costgraph.counting.count import exact_cost, parameters, rows
from costgraph.counting.footprint import cache_bytes
from costgraph.hardware import load_hardware
from costgraph.hardware.systems import alone
from costgraph.ir.program import Program, autoregressive
from costgraph.ir.regions import Repeat
from costgraph.ir.verify import verify
from costgraph.models import load_model
from costgraph.models.blocks import Style
from costgraph.models.catalog import CONFIGS
from costgraph.models.decoder import Decoder, Kind, build
from costgraph.ops.pattern import CAUSAL, Window
from costgraph.passes import PASSES
from costgraph.passes.precision.layers import in_order
from costgraph.rewriting.layers import patterned, written_out
from costgraph.rewriting.pipeline import parse, run
from costgraph.rewriting.unrolled import unrolled
from costgraph.symbols import B, T, q

KINDS = (Kind("sliding"), Kind("full", (("window", None), ("rotary", None))))
MODEL = Decoder(
    layers=Integer(8), d=Integer(16), heads=Integer(4), kv_heads=Integer(2), head_dim=Integer(4),
    ffn=Integer(24), vocab=Integer(50), rotary=Integer(4), window=Integer(8), kinds=KINDS,
    pattern=("sliding", "sliding", "full") * 2 + ("sliding", "sliding"),
)  # fmt: skip
GRAPH = build("m", MODEL, Style())
VALUES = {B: Integer(2), q: Integer(3), T: Integer(20)}


def applied(program: Program, passes: str) -> Program:
    chosen = parse(passes, PASSES) if passes else ()
    return run(program, chosen, alone(load_hardware("a6000")))[0]


def passed(passes: str, model: Decoder = MODEL):
    return applied(autoregressive("m", build("m", model, Style())), passes)


def totals(graph):
    cost = exact_cost(graph)
    return cost.total_flops.xreplace(VALUES), cost.total_bytes.xreplace(VALUES)


def test_a_pattern_written_out_or_unrolled_costs_the_same():
    assert patterned(GRAPH)
    flat = written_out(GRAPH)
    verify(flat)
    assert not patterned(flat)
    regions = [(n.name, n.op.count) for n in flat.nodes if isinstance(n.op, Repeat)]
    assert regions == [
        ("layers.0.sliding", 2), ("layers.0.full", 1), ("layers.1.sliding", 2),
        ("layers.1.full", 1), ("last_sliding", 2),
    ]  # fmt: skip
    for other in (flat, unrolled(GRAPH)):
        assert totals(other) == totals(GRAPH)
        assert parameters(other) == parameters(GRAPH)
        same = cache_bytes(other) - cache_bytes(GRAPH)
        assert same.expand() == 0


def wide_products(graph):
    """Layers whose up projection keeps its 16-bit weight."""
    found = [r for r in rows(graph) if r.name.endswith("up_proj")]
    return sum(r.count for r in found if r.graph.tensors[r.node.inputs[1]].dtype.bits == 16)


def test_first_and_last_layers_are_layers_not_patterns():
    graph = passed("quantize{weights=int8,keep=none,first=1,last=1}").graph
    verify(graph)
    assert wide_products(graph) == 2
    assert sum(r.count for r in rows(graph) if r.name.endswith("up_proj")) == 8
    kept = passed("quantize{weights=int8,keep=up_proj:2-3}").graph
    assert wide_products(kept) == 2


def test_without_numbers_a_pattern_stays_one():
    graph = passed("quantize{weights=int8}").graph
    assert [n.name for n in graph.nodes if isinstance(n.op, Repeat)] == ["layers", "last_sliding"]


@pytest.mark.parametrize("pattern", [MODEL.pattern, ("sliding", "full") * 4])
def test_half_of_a_pattern_is_its_first_layers(pattern):
    model = replace(MODEL, pattern=pattern)
    windows = [Window(Integer(8)) if kind == "sliding" else CAUSAL for kind in pattern]

    def seen(graph):
        found = [r for r in rows(graph) if r.name.endswith("qk_matmul")]
        return [(w, full) for r in found for w, full in
                [(r.node.op.pattern, r.presence.is_full)] * int(r.count)]  # fmt: skip

    exits = passed("early-exit{p=1/2,exit=4}", model).phase("decode").graph
    verify(exits)
    assert seen(exits) == [(w, i < 4) for i, w in enumerate(windows)]
    draft = passed("speculative{layers=4,gamma=2}", model).phase("draft").graph
    verify(draft)
    assert seen(draft) == [(w, True) for w in windows[:4]]


#: Models whose layers are gathered by kind, and the kind of each of their layers in the file.
GATHERED = {
    "jamba-v0.1": lambda c: [
        ("attention" if i % 8 == 4 else "mamba") + ("_experts" if i % 2 else "_mlp")
        for i in range(c["num_hidden_layers"])
    ],
    "qwen3-next-80b-a3b": lambda c: [
        "delta" if (i + 1) % 4 else "attention" for i in range(c["num_hidden_layers"])
    ],
    "recurrentgemma-2b": lambda c: [c["block_types"][i % 3] for i in range(c["num_hidden_layers"])],
    "lfm2-1.2b": lambda c: [k.removeprefix("full_") for k in c["layer_types"]],
    "nemotron-h-56b": lambda c: [
        {"M": "mamba", "*": "attention", "-": "mlp"}[k] for k in c["hybrid_override_pattern"]
    ],
    "zamba2-default": lambda c: [
        k.replace("linear_attention", "mamba") for k in c["layers_block_type"]
    ],
    "granite-4.0-h-micro": lambda c: c["layer_types"],
    "qwen3.5-27b": lambda c: [
        "attention" if k == "full_attention" else "delta" for k in c["text_config"]["layer_types"]
    ],
}


def _config(model):
    return json.loads((CONFIGS / f"{model}.json").read_text())


@pytest.mark.parametrize("model", GATHERED)
def test_layers_gathered_by_kind_are_put_in_their_places(model):
    graph = load_model(model).phase("decode").graph
    flat, layers = in_order(graph, "test")
    verify(flat)
    listed = [n.name.rpartition(".")[0] for n in layers for _ in range(int(n.op.count))]
    assert listed == GATHERED[model](_config(model))
    assert all(a != b for a, b in pairwise(n.name.rpartition(".")[0] for n in layers))
    assert totals(flat) == totals(graph)
    assert parameters(flat) == parameters(graph)
    assert (cache_bytes(flat) - cache_bytes(graph)).expand() == 0


@pytest.mark.parametrize("model", GATHERED)
def test_half_of_gathered_layers_are_the_first_ones(model):
    """Early exits, shorter drafts and formats by number agree on which layers stand first."""
    kinds = GATHERED[model](_config(model))
    half = len(kinds) // 2
    exits = load_model(model)
    graph = applied(exits, f"early-exit{{p=1,exit={half}}}").phase("decode").graph
    verify(graph)
    ran = [n for n in graph.nodes if isinstance(n.op, Repeat) and n.op.presence.is_full]
    draft = applied(exits, f"speculative{{layers={half},gamma=2}}").phase("draft").graph
    verify(draft)
    drafted = [n for n in draft.nodes if isinstance(n.op, Repeat)]
    formats = applied(exits, "quantize{weights=int8,first=2,last=1}").phase("decode").graph
    narrow = [
        any(t.dtype.bits == 8 for t, _ in n.op.body.weights())
        for n in formats.nodes if isinstance(n.op, Repeat) for _ in range(int(n.op.count))
    ]  # fmt: skip
    assert narrow == [False, False, *[True] * (len(kinds) - 3), False]
    for nodes in (ran, drafted):
        found = Counter()
        for node in nodes:
            found[node.name.split(".")[0]] += int(node.op.count)
        assert found == Counter(kinds[:half])


@pytest.mark.parametrize(
    "passes", ["fuse", "page-kv", "quantize{kv=int8}", "fuse,page-kv{block=4},quantize{kv=int8}"]
)
def test_passes_work_inside_patterns(passes):
    graph = passed(passes).graph
    verify(graph)
    kinds = {r.kind for r in rows(graph)}
    assert ("flash-attention" in kinds) == ("fuse" in passes)
    cache = cache_bytes(graph).xreplace({B: Integer(1), q: Integer(1), T: Integer(17)})
    bytes_each = 1 if "int8" in passes else 2
    full = {"page-kv": 32, "fuse,page-kv{block=4},quantize{kv=int8}": 20}.get(passes, 17)
    slide = 16 if passes == "page-kv" else 8
    assert cache_bytes(graph).has(Min)
    if "int8" in passes:
        assert cache > 2 * 8 * bytes_each * (6 * slide + 2 * full)  # scales on top
    else:
        assert cache == 2 * 8 * bytes_each * (6 * slide + 2 * full)


def test_a_long_prefill_holds_the_rows_of_one_layer_beyond_its_window():
    compiled = Compiled(
        autoregressive("m", build("m", replace(MODEL, kinds=(), pattern=()), Style())),
        load_hardware("a6000"), EXACT,
    )  # fmt: skip
    peaks = compiled.breakdown("prefill", B=1, S=40).totals
    row = 2 * 2 * 4  # KV heads, head size, two bytes
    assert peaks["kv_bytes"] == 8 * 2 * 8 * row
    wide = Compiled(
        autoregressive("m", build("m", replace(MODEL, kinds=(), pattern=(), window=None))),
        load_hardware("a6000"), EXACT,
    ).breakdown("prefill", B=1, S=40).totals  # fmt: skip
    # The 32 oldest positions live while their own layer runs; at the peak, the
    # softmax, their keys are no longer needed.
    assert peaks["activation_bytes"] == wide["activation_bytes"] + 32 * row
