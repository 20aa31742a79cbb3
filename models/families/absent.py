"""What published classes have where a file has no such key at all: files that were saved as what
differs from the class leave it out. A key that is null says what null says."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from costgraph.models.families.common import tied_as_whole
from costgraph.models.fields import Fields

_DEEPSEEK = {"n_shared_experts": 1, "q_lora_rank": 1536, "first_k_dense_replace": 3}

_NEMOTRON_H = {
    "vocab_size": 131072,
    "hidden_size": 4096,
    "intermediate_size": 21504,
    "num_attention_heads": 32,
    "head_dim": 128,
    "mamba_num_heads": 128,
    "mamba_head_dim": 64,
    "n_groups": 8,
    "ssm_state_size": 128,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 7688,
    "moe_shared_expert_intermediate_size": 7688,
    "norm_topk_prob": True,
}

#: Families whose heads do not fill the hidden size.
_WIDE = ("cohere2_moe", "cwm", "helium", "iquestcoder", "ministral3", "seed_oss")

#: Families to keys that count and their values, where readers of several families differ.
ABSENT: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "deepseek_v3": _DEEPSEEK,
        "deepseek_v32": _DEEPSEEK,
        "glm_moe_dsa": {
            **_DEEPSEEK,
            "q_lora_rank": 2048,
            "index_n_heads": 32,
            "index_head_dim": 128,
            "index_topk": 2048,
        },
        "nemotron_h": _NEMOTRON_H,
        "glm4_moe_lite": {"n_shared_experts": 1, "q_lora_rank": 768},
        "axk1": {"n_shared_experts": 1, "q_lora_rank": 1536},
        "glm5_next_text": {"n_shared_experts": 1, "q_lora_rank": 1536, "first_k_dense_replace": 3},
        "mistral_large4_text": {"n_shared_experts": 1, "first_k_dense_replace": 1},
        "mistral4": {"n_shared_experts": 1, "q_lora_rank": 1024},
        "youtu": {"q_lora_rank": 1536},
        "exaone": {"num_key_value_heads": 8},
        "idefics3_vision": {"hidden_size": 1152},
        "smolvlm_vision": {"hidden_size": 1152},
        "exaone_moe": {"num_shared_experts": 1},
        "ernie4_5_moe": {"moe_num_shared_experts": 2},
        "afmoe": {"num_shared_experts": 2, "head_dim": 128},
        "solar_open": {"n_shared_experts": 1, "head_dim": 128},
        "hy_v3": {"num_shared_experts": 1, "head_dim": 128},
        "minimax_m2": {"head_dim": 128},
        "qwen3_next": {"head_dim": 256, "num_experts": 512},
        "qwen3_5_text": {"head_dim": 256},
        "qwen3_5_moe_text": {"head_dim": 256},
        "glm": {"attention_bias": True},
        "glm4": {"attention_bias": True},
        "granite": {"tie_word_embeddings": False},
        "granitemoehybrid": {"tie_word_embeddings": False, "num_local_experts": 8},
        "opt": {"max_position_embeddings": 2048},
        **{kind: {"head_dim": 128} for kind in _WIDE},
        "zamba": {"num_key_value_heads": 16},
        "mimo_v2_flash": {"first_k_dense_replace": 1},
        "bailing_hybrid": {"num_shared_experts": 1},
        "kimi_linear": {"num_shared_experts": 1},
        "longcat_flash": {"zero_expert_num": 256},
        "minicpm3": {"q_lora_rank": 768},
        "sarvam_mla": {"num_shared_experts": 1, "first_k_dense_replace": 1},
        "sarvam_moe": {"head_dim": 64, "num_shared_experts": 1, "first_k_dense_replace": 1},
        "glm4_moe": {"n_shared_experts": 1, "first_k_dense_replace": 1},
        "glm4v_moe_text": {"n_shared_experts": 1},
        "axk2": {"n_shared_experts": 1, "q_lora_rank": 384},
        "dots3_note_text": {"n_shared_experts": 1, "q_lora_rank": 1024},
        "hy_v4": {"n_shared_experts": 1, "q_lora_rank": 1536},
        "hy_v4_vl_text": {"n_shared_experts": 1, "q_lora_rank": 2048},
        "step3p5": {"head_dim": 128, "num_attention_groups": 8},
    }
)


def part_of(fields: Fields, kind: str, tied: bool | None = None) -> Fields:
    """The language model's part of a file, whose class has the type ``kind`` where it names none.

    ``tied`` is what the class of the whole takes where the file does not say it.
    """
    return named(tied_as_whole(fields, fields.section("text_config"), tied), kind)


def named(fields: Fields, kind: str) -> Fields:
    """A part of a file with its type, and what the class of that type has for absent keys."""
    if fields.peek("model_type") is None:
        fields = fields.with_values(model_type=kind)
    return filled(fields, kind)


def filled(fields: Fields, family: str) -> Fields:
    """The configuration with what the class of ``family`` has for keys that are not there."""
    values = dict(ABSENT.get(family, {}))
    if fields.has("mlp_layer_types"):
        values.pop("first_k_dense_replace", None)  # the list says it
    missing = {k: v for k, v in values.items() if not fields.has(k)}
    return fields.with_values(**missing) if missing else fields
