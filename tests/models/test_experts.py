"""Models with experts and latent attention, as imported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sympy import Integer, expand

import costgraph as cg
from costgraph.counting.count import parameters, rows
from costgraph.counting.footprint import cache_bytes
from costgraph.errors import InputError, ModelError
from costgraph.hardware.machine import Engine
from costgraph.ir.tensor import Role
from costgraph.models import load_model
from costgraph.symbols import B, T, q

DATA = Path(__file__).parent / "counted"
COUNTED = json.loads((DATA / "counted.json").read_text())
CONVENTION = {"mask": "compute", "logits": "all"}
LATENT = ["deepseek-v2-lite", "deepseek-v2", "deepseek-v3", "deepseek-r1"]


def config(name: str) -> dict:
    found = json.loads((DATA / "configs" / f"{name}.json").read_text())
    found.pop("quantization_config", None)
    return found


def small(**changes) -> dict:
    """A little DeepSeek-V3."""
    made = {
        "model_type": "deepseek_v3",
        "hidden_size": 64,
        "intermediate_size": 96,
        "moe_intermediate_size": 24,
        "num_hidden_layers": 4,
        "first_k_dense_replace": 1,
        "num_attention_heads": 4,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "q_lora_rank": 32,
        "kv_lora_rank": 32,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
        "vocab_size": 100,
    }
    return {**made, **changes}


def products(graph, values) -> int:
    total = sum(row.total.flops_of(Engine.TENSOR) for row in rows(graph))
    return int(expand(total).xreplace(values))


# --- latent attention -----------------------------------------------------------


@pytest.mark.parametrize("name", LATENT)
def test_cached_keys_and_values_equal_the_count_without_reexpansion(name):
    graph = load_model(config(name), mla="expanded", **CONVENTION).graph
    for batch, length in ((1, 128), (1, 2048), (8, 128), (8, 2048)):
        values = {B: Integer(batch), q: Integer(1), T: Integer(length + 1)}
        counted = COUNTED[name]["flops"]["sdpa"][f"decode_b{batch}_l{length}"]
        assert products(graph, values) == counted["total_without_mla_reexpansion"]


@pytest.mark.parametrize("name", LATENT)
def test_absorbing_trades_expansion_for_wider_scores(name):
    given = config(name)
    forms = {
        form: load_model(given, mla=form, **CONVENTION).graph
        for form in ("absorbed", "naive", "expanded")
    }
    assert len({parameters(g) for g in forms.values()}) == 1
    assert forms["absorbed"].tensors["sample"].shape == forms["naive"].tensors["sample"].shape
    layers, heads = given["num_hidden_layers"], given["num_attention_heads"]
    rank, rope = given["kv_lora_rank"], given["qk_rope_head_dim"]
    nope, v = given["qk_nope_head_dim"], given["v_head_dim"]
    values = {B: Integer(3), q: Integer(2), T: Integer(100)}
    up = 2 * heads * rank * (nope + v)  # per position: two projections, either way
    wider = 2 * heads * ((2 * rank + rope) - (nope + rope + v))  # per pair of positions
    absorbed = products(forms["absorbed"], values)
    assert absorbed - products(forms["naive"], values) == layers * 3 * (
        up * (2 - 100) + wider * 2 * 100
    )
    assert absorbed - products(forms["expanded"], values) == layers * 3 * wider * 2 * 100


def test_the_cache_holds_one_latent_and_one_rotary_key_per_position():
    graph = load_model(config("deepseek-v3")).graph
    assert expand(cache_bytes(graph) - 61 * B * T * (512 + 64) * 2) == 0
    wide = load_model(config("deepseek-v3"), mla="expanded").graph
    assert expand(cache_bytes(wide) - 61 * B * T * (128 * (128 + 128) + 64) * 2) == 0


def test_prefill_expands_and_decode_absorbs_from_the_same_memory():
    program = load_model(config("deepseek-v3"))
    prefill, decode = (program.phase(p).graph for p in ("prefill", "decode"))
    assert parameters(prefill) == parameters(decode) == 671026404352
    assert expand(cache_bytes(prefill) - cache_bytes(decode)) == 0
    one = load_model(config("deepseek-v3"), mla="absorbed")
    assert one.phase("prefill").graph is one.phase("decode").graph
    assert decode == one.graph
    both = cg.compile(program, "b200")
    only = cg.compile(one, "b200")
    weights = 2 * 671026404352
    for B_, S_ in ((1, 128), (4, 1024)):
        held = both.memory.evaluate(B=B_, S=S_, N=64)
        assert weights < held < 1.05 * weights  # not held twice
        assert both.tpot.evaluate(B=B_, T=S_) == only.tpot.evaluate(B=B_, T=S_)
        assert both.ttft.evaluate(B=B_, S=S_) < only.ttft.evaluate(B=B_, S=S_)


def test_narrow_caches_do_not_narrow_what_is_made_of_them():
    program = load_model(small(), mla="naive", kv="fp8")
    wide = load_model(small(), mla="naive")
    for row, other in zip(rows(program.graph), rows(wide.graph), strict=True):
        for made, known in zip(row.node.outputs, other.node.outputs, strict=True):
            if made.role is not Role.KV:
                assert made == known


def test_an_unknown_form_is_refused():
    with pytest.raises(InputError, match="form of latent attention 'absorb'; did you mean"):
        load_model(small(), mla="absorb")


# --- experts -------------------------------------------------------------------


def test_segments_of_a_model_with_dense_first_layers():
    graph = load_model(config("deepseek-v3")).graph
    counts = [n.op.count for n in graph.nodes if n.op.kind == "repeat"]
    assert counts == [3, 58]
    names = {r.name for r in rows(graph)}
    assert {"router", "route", "expert_gate", "expert_down", "shared_add"} <= names


def test_experts_between_dense_layers():
    given = {
        "model_type": "qwen3_moe",
        "hidden_size": 64,
        "intermediate_size": 96,
        "moe_intermediate_size": 16,
        "num_hidden_layers": 7,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "vocab_size": 100,
        "decoder_sparse_step": 2,
    }
    program = load_model(given)
    kinds = [r for r in rows(program.graph) if r.kind == "route"]
    assert sum(r.count for r in kinds) == 3
    down = [r for r in rows(program.graph) if r.name.endswith("down_proj")]
    assert sum(r.count for r in down) == 4
    fewer = load_model({**given, "mlp_only_layers": [1]})
    assert sum(r.count for r in rows(fewer.graph) if r.kind == "route") == 2


@pytest.mark.parametrize(
    ("routing", "touched"),
    [("balanced", 8 * (1 - 0.75**6)), ("all", 8), ("least", 2), ([1] * 8, 8 * (1 - 0.75**6))],
)
def test_routing_decides_what_is_read_and_nothing_else(routing, touched):
    base = load_model(small())
    program = load_model(small(), routing=routing)
    values = {B: Integer(6), q: Integer(1), T: Integer(10)}
    row = next(r for r in rows(program.graph) if r.name == "expert_up")
    known = next(r for r in rows(base.graph) if r.name == "expert_up")
    assert row.cost.flops == known.cost.flops
    read = float(row.cost.bytes_of(Role.WEIGHT).xreplace(values))
    assert read == pytest.approx(touched * 24 * 64 * 2, rel=1e-12)


def test_skewed_routing_reads_less():
    values = {"B": 16, "T": 100}
    times = [
        cg.compile(small(), "a100-80g", routing=r).tpot.evaluate(**values)
        for r in ("least", "zipf:1.5", "zipf:0.5", "balanced", "all")
    ]
    assert times == sorted(times)
    assert len(set(times)) == len(times)


def test_assumptions_name_the_routing():
    assert "balanced" in cg.compile(small(), "h100").tpot.text()
    assert any("1/i^1.2" in a for a in load_model(small(), routing="zipf:1.2").assumptions)
    assert any("given popularity" in a for a in load_model(small(), routing=[1] * 8).assumptions)


@pytest.mark.parametrize(
    ("routing", "message"),
    [
        ("balance", "unknown routing 'balance'; did you mean 'balanced'"),
        ("zipf:x", "unknown routing"),
        ([1, 2, -1], "must not be negative"),
        ([], "must not be negative"),
        (3, "a name or a list of numbers"),
        (["a"], "a name or a list of numbers"),
    ],
)
def test_bad_routing_is_refused(routing, message):
    with pytest.raises(InputError, match=message):
        load_model(small(), routing=routing)


def test_popularity_of_other_experts_is_refused():
    with pytest.raises(ModelError, match="popularity of 3 experts is given, there are 8"):
        load_model(small(), routing=[1, 2, 3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts_per_tok": 9}, "'num_experts_per_tok' = 9 of 8 experts"),
        ({"first_k_dense_replace": 5}, "'first_k_dense_replace' must be from 0 to 4"),
        ({"moe_layer_freq": 2}, "'moe_layer_freq' = 2"),
        ({"num_hidden_layers": 10**6}, "more than 4096 layers"),
        ({"kv_lora_rank": None}, "'kv_lora_rank' is null"),
    ],
)
def test_bad_configurations_are_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        load_model(small(**changes))


def test_symbolic_dimensions_give_the_same_numbers():
    plain = cg.compile(small(), "h100")
    other = cg.compile(small(), "h100", symbolic_model=True)
    dims = {s.name: v for s, v in other.program.dims}
    assert {"E", "Ek", "Ie", "Rk", "Ld", "Lx"} <= set(dims)
    for metric in ("tpot", "ttft", "flops", "memory"):
        found = getattr(other, metric)
        names = {s.name for s in found.symbols}
        at = {"B": 3, "S": 50, "N": 7, "T": 90}
        given = {k: v for k, v in at.items() if k in names}
        wanted = {
            k: v for k, v in at.items() if k in {s.name for s in getattr(plain, metric).symbols}
        }
        sizes = {k: int(v) for k, v in dims.items() if k in names}
        assert found.evaluate(**given, **sizes) == pytest.approx(
            getattr(plain, metric).evaluate(**wanted), rel=1e-12
        )


# --- formulas -------------------------------------------------------------------


def test_formulas_of_powers_print_and_evaluate():
    compiled = cg.compile(small(), "h100")
    text = compiled.tpot.text()
    assert "(3/4)^B" in text
    assert r"\left(\tfrac{3}{4}\right)^{B}" in compiled.tpot.latex()
    for values in ({"B": 1, "T": 9}, {"B": 7, "T": 100}):
        exact = float(
            compiled.tpot.expr.xreplace({s: Integer(values[s.name]) for s in compiled.tpot.symbols})
        )
        assert compiled.tpot.evaluate(**values) == pytest.approx(exact, rel=1e-12)


def test_bytes_are_exact_and_stay_fast_for_long_prompts():
    compiled = cg.compile(small(), "h100")
    moved = compiled.bytes
    values = {"B": 2, "S": 3, "N": 4}
    expr = moved.expr.xreplace({s: Integer(values[s.name]) for s in moved.symbols})
    assert moved.evaluate(**values) == pytest.approx(float(expr), rel=1e-15)
    assert moved.evaluate(B=64, S=10**5, N=10) > 0  # no power with millions of digits


def test_the_critical_batch_of_experts_is_far_beyond_that_of_dense_layers():
    """Each expert sees 2 of 8 rows: four times the batch of an equal dense layer."""
    found = cg.compile(config("mixtral-8x7b"), "h100").tpot.crossover("B", T=1000)
    by_op = {op: float(c.value) for c in found for op in c.ops}
    dense = by_op["q_proj"]
    expert = by_op["expert_down"]
    assert 3.5 < expert / dense < 4.5  # activations shift it a little


def test_one_sequence_reads_its_own_experts():
    """Mixtral: 12.9 of 46.7 billion parameters are active."""
    step = cg.compile(config("mixtral-8x7b"), "h100")
    row = sum(r.total.bytes_of(Role.WEIGHT) for r in step.rows["decode"])
    one = row.xreplace({B: Integer(1), q: Integer(1)})
    # All but the embedding table, of which one row is read.
    active = (one - 4096 * 2) / 2 + 32000 * 4096
    assert active == 12879925248
    assert row.xreplace({B: Integer(64), q: Integer(1)}) / (2 * 46702792704) > 0.99


def test_grok_1_by_the_sizes_of_its_published_code():
    # xai-org/grok-1, run.py and model.py; "314B" is what the publisher rounds this to.
    d, ffn, layers, vocab, head = 6144, 32768, 64, 128 * 1024, 128
    grok = {
        "model_type": "grok-1",
        "architectures": ["Grok1ModelForCausalLM"],
        "vocab_size": vocab,
        "hidden_size": d,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": 48,
        "num_key_value_heads": 8,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "attn_output_multiplier": 0.08838834764831845,
        "embedding_multiplier_scale": 78.38367176906169,
        "output_multiplier_scale": 0.5773502691896257,
        "max_attn_value": 30.0,
    }
    attention = 2 * d * 48 * head + 2 * d * 8 * head
    layer = attention + 8 * 3 * d * ffn + 8 * d + 4 * d
    made = parameters(load_model(grok))
    assert made == layers * layer + vocab * d + d
    assert abs(made / 314e9 - 1) < 0.01
