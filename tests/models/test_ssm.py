"""State-space, recurrent and hybrid models: states, decode cost, forms of scans."""

from __future__ import annotations

import json

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.counting.count import exact_cost, parameters, rows
from costgraph.counting.footprint import cache_bytes
from costgraph.errors import InputError, ModelError
from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Direction
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Role
from costgraph.ir.verify import verify
from costgraph.models import load_model
from costgraph.models.blocks import Segment, Stack, Style
from costgraph.models.blocks.pattern import gathered, runs
from costgraph.models.catalog import CONFIGS
from costgraph.models.families import FAMILIES
from costgraph.models.fields import Fields
from costgraph.rewriting.unrolled import unrolled
from costgraph.symbols import B, S, T, q

RECURRENT = [
    "falcon-mamba-7b",
    "mamba-130m",
    "mamba-2.8b",
    "mamba-codestral-7b",
    "rwkv-4-169m",
    "rwkv-4-7b",
]
HYBRID = [
    "granite-4.0-h-micro",
    "jamba-v0.1",
    "lfm2-1.2b",
    "nemotron-h-56b",
    "qwen3-next-80b-a3b",
    "qwen3.5-27b",
    "recurrentgemma-2b",
    "zamba2-default",
]
SCANNING = [
    "granite-4.0-h-micro",
    "mamba-codestral-7b",
    "nemotron-h-56b",
    "qwen3-next-80b-a3b",
    "qwen3.5-27b",
    "zamba2-default",
]


def config(name: str) -> dict:
    return json.loads((CONFIGS / f"{name}.json").read_text())


def graph_of(name: str, style: Style):
    found = config(name)
    return FAMILIES[found["model_type"]](Fields(name, found)).model.graph(name, style)


@pytest.mark.parametrize("name", RECURRENT)
def test_a_decode_step_does_not_depend_on_the_context(name):
    compiled = cg.compile(name, "h100")
    assert compiled.tpot.symbols == (B,)
    assert not cache_bytes(compiled.program.phase("decode").graph).has(T, S)
    early = compiled.breakdown("decode", B=2, T=10).totals
    late = compiled.breakdown("decode", B=2, T=10_000).totals
    assert early == late


@pytest.mark.parametrize("name", HYBRID)
def test_a_hybrid_has_a_state_and_a_growing_cache(name):
    total = cache_bytes(load_model(name).phase("decode").graph)
    at = [int(total.xreplace({B: Integer(1), q: Integer(1), T: Integer(t)})) for t in (10, 20, 40)]
    per_token = (at[1] - at[0]) // 10
    assert per_token > 0
    assert at[0] > 10 * per_token  # the states
    assert at[2] == at[0] + 30 * per_token


#: Bytes per token of the caches and bytes of the states, from the configurations by hand.
SIZES = {
    # 10 layers × 2 × 8 heads × 128 × 2 B; 54 × (256·64·256 × 4 B + 20480·4 × 2 B)
    "nemotron-h-56b": (40_960, 54 * (256 * 64 * 256 * 4 + 20480 * 4 * 2)),
    # 16 × 2 × 4 × 256 × 2 B; 48 × (48·128·128 × 4 B + 10240·4 × 2 B)
    "qwen3.5-27b": (65_536, 48 * (48 * 128 * 128 * 4 + 10240 * 4 * 2)),
    # 8 × 2 × 1 × 256 × 2 B; 18 × (2560 × 4 B + 2560·4 × 2 B)
    "recurrentgemma-2b": (8 * 2 * 256 * 2, 18 * (2560 * 4 + 2560 * 4 * 2)),
    # 6 × 2 × 8 × 64 × 2 B; 10 × 2048·3 × 2 B
    "lfm2-1.2b": (6 * 2 * 8 * 64 * 2, 10 * 2048 * 3 * 2),
    # 4 × 2 × 8 × 128 × 2 B; 28 × (8192·16 × 4 B + 8192·4 × 2 B)
    "jamba-v0.1": (4 * 2 * 8 * 128 * 2, 28 * (8192 * 16 * 4 + 8192 * 4 * 2)),
    # 12 × 2 × 2 × 256 × 2 B; 36 × (32·128·128 × 4 B + 8192·4 × 2 B)
    "qwen3-next-80b-a3b": (12 * 2 * 2 * 256 * 2, 36 * (32 * 128 * 128 * 4 + 8192 * 4 * 2)),
    # 4 × 2 × 8 × 64 × 2 B; 36 × (64·64·128 × 4 B + 4352·4 × 2 B)
    "granite-4.0-h-micro": (4 * 2 * 8 * 64 * 2, 36 * (64 * 64 * 128 * 4 + 4352 * 4 * 2)),
    "mamba-2.8b": (0, 64 * (5120 * 16 * 4 + 5120 * 4 * 2)),
    "rwkv-4-169m": (0, 12 * 768 * (3 * 4 + 2 * 2)),
}


@pytest.mark.parametrize("name", SIZES)
def test_cache_and_state_bytes(name):
    per_token, state = SIZES[name]
    total = cache_bytes(load_model(name).phase("decode").graph)
    for batch, context in ((1, 1), (3, 777), (2, 2048)):
        values = {B: Integer(batch), q: Integer(1), T: Integer(context)}
        assert total.xreplace(values) == batch * (per_token * context + state)


@pytest.mark.parametrize("name", RECURRENT + HYBRID)
def test_states_are_read_and_written_once_per_step(name):
    graph = load_model(name).phase("decode").graph
    states = Integer(0)
    for node in graph.nodes:
        if isinstance(node.op, Repeat):
            states += node.op.instances * sum(
                (t.bytes for t in node.op.body.sources if t.role is Role.STATE), Integer(0)
            )
    cost = exact_cost(graph)
    assert (cost.bytes_of(Role.STATE, Direction.READ) - states).expand() == 0
    assert (cost.bytes_of(Role.STATE, Direction.WRITE) - states).expand() == 0
    assert states != 0


@pytest.mark.parametrize("name", SCANNING)
def test_prompts_run_in_chunks_and_single_tokens_do_not(name):
    # The prompt without images: those take places of embeddings.
    program = load_model(name, images=False)
    prefill, decode = program.phase("prefill").graph, program.phase("decode").graph
    assert parameters(prefill) == parameters(decode)
    assert cache_bytes(prefill) == cache_bytes(decode)
    for graph, wanted in ((prefill, "chunked"), (decode, "recurrent")):
        verify(graph)
        forms = {r.node.op.form for r in rows(graph) if r.kind in ("ssd-scan", "gated-delta")}
        assert forms == {wanted}
    for row, other in zip(rows(prefill), rows(decode), strict=True):
        assert (row.name, row.count) == (other.name, other.count)
        assert [t.shape for t in row.node.outputs] == [t.shape for t in other.node.outputs]
        if row.kind in ("ssd-scan", "gated-delta"):
            assert Engine.TENSOR not in {engine for engine, _ in other.cost.flops}
            continue
        assert row.cost == other.cost


def test_the_difference_between_the_forms_is_the_stated_one():
    chunk, heads, wide, n, groups = 256, 128, 64, 128, 8
    chunked = graph_of("mamba-codestral-7b", Style())
    token = graph_of("mamba-codestral-7b", Style(scan="recurrent"))
    values = {B: Integer(1), q: Integer(1024), T: Integer(1024)}

    def scan(graph, engine):
        row = next(r for r in rows(graph) if r.kind == "ssd-scan")
        return row.cost.flops_of(engine).xreplace(values)

    pairs = 4 * chunk * (chunk + 1) // 2
    assert scan(chunked, Engine.TENSOR) == (
        pairs * (2 * groups * n + 2 * heads * wide) + 1024 * 4 * heads * wide * n
    )
    assert scan(token, Engine.TENSOR) == 0
    assert scan(token, Engine.VECTOR) - scan(chunked, Engine.VECTOR) == (
        1024 * heads * (5 * wide * n - 2 - 3 * wide) - 2 * heads * pairs - 2 * 4 * heads * wide * n
    )


def test_shared_weights_count_once_and_caches_per_place():
    graph = load_model("zamba2-default").graph
    hybrid = next(n.op for n in graph.nodes if n.name == "hybrid")
    names = {t.name: c for t, c in graph.weights()}
    inner = next(n.op for n in hybrid.body.nodes if n.name == "shared_attention")
    assert hybrid.count == 9
    assert 9 * inner.weight_sets == 1
    assert inner.instances == 1
    assert names["adapter_up.weight"] == 9
    assert names["down_proj.weight"] == 1
    two = parameters(load_model(config("zamba2-default") | {"num_mem_blocks": 2}).graph)
    block = sum(t.numel for n in hybrid.body.nodes if n.name.startswith("shared_")
                if isinstance(n.op, Repeat) for t, _ in n.op.body.weights())  # fmt: skip
    assert two - parameters(graph) == block


def test_layers_that_attend_may_be_numbered():
    listed = config("lfm2-1.2b")
    kinds = listed.pop("layer_types")
    numbers = [n for n, kind in enumerate(kinds) if kind == "full_attention"]
    named = load_model({**listed, "layer_types": kinds}).phases
    assert load_model({**listed, "full_attn_idxs": numbers}).phases == named
    # Who has neither attends in every layer, as the class does.
    every = load_model({**listed, "full_attn_idxs": list(range(len(kinds)))})
    assert load_model(listed).phases == every.phases != named
    for wrong in ([16], [True], "all"):
        with pytest.raises(ModelError, match="'full_attn_idxs' must be a list of numbers"):
            load_model({**listed, "full_attn_idxs": wrong})


def test_gathering_equal_layers_changes_nothing_that_counts():
    found = config("lfm2-1.2b")
    stack = FAMILIES["lfm2"](Fields("lfm2", found)).model
    layers = {s.name: s.layer for s in stack.segments}
    kinds = {"conv": "conv", "full_attention": "attention"}
    listed = [(kinds[k], layers[kinds[k]]) for k in found["layer_types"]]
    apart = Stack(stack.ends, runs(listed))
    assert len(apart.segments) > len(stack.segments) == 2
    assert gathered(listed) == stack.segments
    one, many = (s.graph("m", Style()) for s in (stack, apart))
    a, b = exact_cost(one), exact_cost(many)
    assert (a.total_flops - b.total_flops).expand() == 0
    assert (a.total_bytes - b.total_bytes).expand() == 0
    assert parameters(one) == parameters(many)
    assert (cache_bytes(one) - cache_bytes(many)).expand() == 0


@pytest.mark.parametrize("name", ["mamba-130m", "rwkv-4-169m"])
def test_a_repeated_layer_equals_its_copies(name):
    model = FAMILIES[config(name)["model_type"]](Fields(name, config(name))).model
    few = Stack(
        model.ends, tuple(Segment(s.name, s.layer, Integer(3)) for s in model.segments)
    ).graph(name, Style())
    flat = unrolled(few)
    verify(flat)
    values = {B: Integer(2), q: Integer(5), T: Integer(5)}
    one, many = exact_cost(few), exact_cost(flat)
    assert one.total_flops.xreplace(values) == many.total_flops.xreplace(values)
    assert one.total_bytes.xreplace(values) == many.total_bytes.xreplace(values)
    assert (cache_bytes(few) - cache_bytes(flat)).expand() == 0


@pytest.mark.parametrize("name", ["mamba-130m", "nemotron-h-56b", "qwen3.5-27b"])
def test_a_request_is_the_sum_of_its_steps(name):
    compiled = cg.compile(name, "h100", "fuse")
    known = {s.name for s in compiled.tpot.symbols}
    steps = sum(
        compiled.tpot.evaluate(**({"B": 3} | ({"T": 70 + i} if "T" in known else {})))
        for i in range(1, 8)
    )
    latency = compiled.latency.evaluate(B=3, S=70, G=64, N=8)
    assert latency == pytest.approx(compiled.ttft.evaluate(B=3, S=70, G=64) + steps, rel=1e-12)


@pytest.mark.parametrize("name", ["mamba-codestral-7b", "nemotron-h-56b"])
def test_fusion_keeps_the_states(name):
    plain, fused = cg.compile(name, "h100"), cg.compile(name, "h100", "fuse")
    for phase in plain.program.phases:
        other = fused.program.phase(phase.name)
        assert cache_bytes(phase.graph) == cache_bytes(other.graph)
        before, after = exact_cost(phase.graph), exact_cost(other.graph)
        assert (before.bytes_of(Role.STATE) - after.bytes_of(Role.STATE)).expand() == 0
        assert (before.total_flops - after.total_flops).expand() == 0


def test_wrong_configurations_explain_themselves():
    nemotron = config("nemotron-h-56b")
    with pytest.raises(ModelError, match="'x'"):
        load_model(nemotron | {"hybrid_override_pattern": "M-x", "num_hidden_layers": 3})
    with pytest.raises(ModelError, match="entries"):
        load_model(nemotron | {"num_hidden_layers": 3})
    with pytest.raises(ModelError, match="expand"):
        load_model(config("mamba-codestral-7b") | {"num_heads": 100})
    with pytest.raises(ModelError, match="unknown kind"):
        load_model(config("qwen3.5-27b")["text_config"] | {"layer_types": ["sliding"] * 64})
    with pytest.raises(ModelError, match="list"):
        load_model(config("lfm2-1.2b") | {"layer_types": "conv"})
    with pytest.raises(ModelError, match="experts"):
        load_model(config("qwen3.5-27b")["text_config"] | {"num_experts": 8})
    with pytest.raises(InputError, match="dimensions"):
        load_model("mamba-130m", symbolic=True)


def test_local_attention_stops_growing_at_its_window():
    total = cache_bytes(load_model("recurrentgemma-2b").phase("decode").graph)

    def at(context):
        return total.xreplace({B: Integer(1), q: Integer(1), T: Integer(context)})

    per_token, state = SIZES["recurrentgemma-2b"]
    assert at(2048) == at(9000) == 2048 * per_token + state
    assert at(1000) == 1000 * per_token + state


def test_speculation_says_what_it_assumes_about_states():
    spec = "speculative{gamma=3,alpha=0.7,layers=3}"
    for name, told in (("mamba-130m", True), ("gpt2", False)):
        sentences = cg.compile(name, "h100", spec).assumptions
        assert any("states are restored" in s for s in sentences) is told
