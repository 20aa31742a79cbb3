"""Kimi K3 against the published table of tensors: transformers has no class of it."""

from __future__ import annotations

from typing import Any

import pytest

from costgraph.counting.count import parameters
from costgraph.errors import ModelError
from costgraph.ir.verify import verify_program
from costgraph.models import load_model

FULL = [4, 8, 9]
TEXT: dict[str, Any] = {
    "model_type": "kimi_linear",
    "architectures": ["KimiLinearForCausalLM"],
    "dtype": "bfloat16",
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 9,
    "num_attention_heads": 4,
    "hidden_act": "situ",
    "activation_situ_beta": 4.0,
    "activation_situ_linear_beta": 25.0,
    "attn_res_block_size": 3,
    "first_k_dense_replace": 1,
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "mla_use_nope": True,
    "mla_use_output_gate": True,
    "linear_attn_config": {
        "full_attn_layers": FULL,
        "kda_layers": [i for i in range(1, 10) if i not in FULL],
        "num_heads": 4,
        "head_dim": 16,
        "short_conv_kernel_size": 4,
        "use_full_rank_gate": True,
        "gate_lower_bound": -5.0,
    },
    "num_experts": 8,
    "num_experts_per_token": 2,
    "num_shared_experts": 2,
    "moe_intermediate_size": 40,
    "moe_renormalize": True,
    "routed_expert_hidden_size": 48,
    "latent_moe_use_norm": True,
    "tie_word_embeddings": False,
}
WHOLE = {
    "model_type": "kimi_k3",
    "architectures": ["KimiK3ForConditionalGeneration"],
    "dtype": "bfloat16",
    "text_config": TEXT,
    "vision_config": {"vt_hidden_size": 16},
    "tie_word_embeddings": False,
}


def published(text: dict[str, Any]) -> int:
    """The sum of the shapes that the index of the published files lists, in other sizes."""
    d, h, vocab = text["hidden_size"], text["num_attention_heads"], text["vocab_size"]
    linear = text["linear_attn_config"]
    heads, dh = linear["num_heads"], linear["head_dim"]
    wide, kernel = heads * dh, linear["short_conv_kernel_size"]
    # A_log and o_norm; b, dt_bias, f_a and f_b; convolutions; q, k, v; g and o.
    delta = 2 * dh + heads * d + wide + dh * d + wide * dh + 3 * wide * (kernel + d) + 2 * wide * d
    low, rank = text["kv_lora_rank"], text["q_lora_rank"]
    nope, rope, v = (text[k] for k in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    latent = low + (low + rope) * d + h * (nope + v) * low
    latent += rank + rank * d + h * (nope + rope) * rank + 2 * h * v * d
    inner, narrow = text["moe_intermediate_size"], text["routed_expert_hidden_size"]
    count, shared = text["num_experts"], text["num_shared_experts"]
    experts = count * 3 * inner * narrow + count * d + 2 * narrow * d + narrow
    experts += 3 * shared * inner * d
    layers, full = text["num_hidden_layers"], len(linear["full_attn_layers"])
    # Two norms, two more of the mixtures, and their vectors.
    total = (layers - full) * delta + full * latent + layers * 6 * d
    total += 3 * text["intermediate_size"] * d + (layers - 1) * experts
    return total + 2 * vocab * d + 3 * d


def test_parameters_are_those_of_the_published_tensors():
    found = load_model(WHOLE)
    assert parameters(found) == published(TEXT)
    assert any("vision" in said for said in found.assumptions)
    assert parameters(load_model(TEXT)) == published(TEXT)


def test_the_table_gives_the_published_size():
    full = [*range(4, 94, 4), 93]
    real = {
        **TEXT,
        "vocab_size": 163840,
        "hidden_size": 7168,
        "intermediate_size": 33792,
        "num_hidden_layers": 93,
        "num_attention_heads": 96,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "linear_attn_config": {
            **TEXT["linear_attn_config"],
            "full_attn_layers": full,
            "num_heads": 96,
            "head_dim": 128,
        },
        "num_experts": 896,
        "moe_intermediate_size": 3072,
        "routed_expert_hidden_size": 3584,
    }
    assert published(real) == 2_779_484_395_776


def test_starts_of_blocks_are_kept_through_the_pass():
    found = load_model(TEXT)
    verify_program(found)
    shapes = [
        next(t.shape[2] for t in inner.sources if t.name == "starts")
        for inner in found.graph.walk()
        if any(t.name == "starts" for t in inner.sources)
    ]
    # Three blocks: their first layers see those before, the others their own as well.
    assert {int(n) for n in shapes} == {1, 2, 3}


@pytest.mark.parametrize(
    "changes",
    [
        {"attn_res_block_size": None},
        {"hidden_act": "silu"},
        {"linear_attn_config": {**TEXT["linear_attn_config"], "full_attn_layers": [4]}},
    ],
)
def test_what_is_not_understood_is_refused(changes):
    with pytest.raises(ModelError):
        load_model({**TEXT, **changes})
