"""Families that grew from Llama: RMS norms, rotary embedding, gated feed-forward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.decoder import Decoder, Kind
from costgraph.models.families.common import (
    Family,
    Reading,
    activation_of,
    alternating,
    heads_of,
    layer_count,
    layer_types,
    rotary_of,
    window_of,
)
from costgraph.models.fields import Fields


def llama_like(fields: Fields, tied: bool = False, activation: str | None = None) -> Decoder:
    """Pre-norm RMS, rotary, gated: what Llama, Mistral, Qwen and Gemma share."""
    d = fields.size("hidden_size")
    heads, kv_heads, dh = heads_of(fields, d)
    return Decoder(
        layers=Integer(fields.size("num_hidden_layers")),
        d=Integer(d),
        heads=Integer(heads),
        kv_heads=Integer(kv_heads),
        head_dim=dh,
        ffn=Integer(fields.size("intermediate_size")),
        vocab=Integer(fields.size("vocab_size")),
        activation=activation_of(fields, "hidden_act", default=activation),
        rotary=rotary_of(fields, dh, 1.0),
        tied=fields.flag("tie_word_embeddings", tied),
    )


def _llama(fields: Fields) -> Reading:
    bias = fields.flag("attention_bias", False)
    model = replace(
        llama_like(fields, activation="silu"),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
    )
    return Reading(model)


def _mistral(fields: Fields) -> Reading:
    # The class slides over 4096 tokens unless the configuration says otherwise.
    model = replace(llama_like(fields, activation="silu"), window=window_of(fields, 4096))
    return Reading(model)


def _granite(fields: Fields) -> Reading:
    bias = fields.flag("attention_bias", False)
    model = replace(
        llama_like(fields, tied=True, activation="silu"),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
        embed_scale=fields.number("embedding_multiplier", 1.0) != 1,
        residual_scale=fields.number("residual_multiplier", 1.0) != 1,
        logit_scale=fields.number("logits_scaling", 1.0) != 1,
    )
    return Reading(model)


def _minicpm(fields: Fields) -> Reading:
    d = fields.size("hidden_size")
    model = replace(
        llama_like(fields, tied=True, activation="silu"),
        qkv_bias=fields.flag("attention_bias", False),
        embed_scale=fields.number("scale_emb", 1.0) != 1,
        # Branches are multiplied by scale_depth / sqrt(layers).
        residual_scale=fields.values.get("scale_depth") is not None,
        # The hidden state in front of the head is divided by d / dim_model_base.
        head_scale=fields.size("dim_model_base", default=d) != d,
    )
    return Reading(model)


def _smollm3(fields: Fields) -> Reading:
    bias = fields.flag("attention_bias", False)
    model = replace(
        llama_like(fields, tied=True, activation="silu"),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
    )
    if fields.flag("use_sliding_window", False):
        raise ModelError(f"{fields.name}: 'use_sliding_window' is not supported in this family")
    count = layer_count(fields)
    interval = fields.size("no_rope_layer_interval", default=4)
    rotated = fields.values.get("no_rope_layers")  # 1 where a layer does rotate
    if rotated is None:
        rotated = [int((i + 1) % interval != 0) for i in range(count)]
    valid = isinstance(rotated, list) and all(type(v) is int and v in (0, 1) for v in rotated)
    if not valid or len(rotated) != count:
        raise ModelError(f"{fields.name}: 'no_rope_layers' must be a list of {count} times 0 or 1")
    pattern = tuple("rotary" if v else "plain" for v in rotated)
    kinds = (Kind("rotary"), Kind("plain", (("rotary", None),)))
    return Reading(replace(model, kinds=kinds, pattern=pattern))


def _exaone(fields: Fields) -> Reading:
    return Reading(llama_like(_renamed_exaone(fields), activation="silu"))


def _renamed_exaone(fields: Fields) -> Fields:
    return fields.renamed(num_hidden_layers="num_layers", hidden_act="activation_function")


def _exaone4(fields: Fields) -> Reading:
    model = replace(
        llama_like(fields, activation="silu"), qk_norm=True, pre_norms=False, post_norms=True
    )
    window = window_of(fields)
    if window is None:
        return Reading(model)
    every = _pattern_length(fields)
    last = fields.size("num_hidden_layers") - 1
    kinds = layer_types(fields, lambda i: (i + 1) % every != 0 and i != last)
    # With a window, layers that see everything do not rotate.
    return Reading(alternating(model, kinds, window, rotary=None))


def _pattern_length(fields: Fields) -> int:
    """The period of ``sliding_window_pattern``: a number, or letters such as ``LLLG``."""
    found = fields.values.get("sliding_window_pattern")
    if isinstance(found, str):
        if found and set(found[:-1]) == {"L"} and found[-1] == "G":
            return len(found)
        raise ModelError(f"{fields.name}: 'sliding_window_pattern' {clip(found)} is not like LLLG")
    return fields.size("sliding_window_pattern", default=4)


def _internlm2(fields: Fields) -> Reading:
    bias = fields.flag("bias", False)
    model = replace(
        llama_like(fields, activation="silu"), qkv_bias=bias, out_bias=bias, fused_qkv=True
    )
    return Reading(model)


def _baichuan(fields: Fields) -> Reading:
    model = replace(llama_like(fields, activation="silu"), fused_qkv=True)
    # One model_type for both: 7B rotates; 13B has linear biases and states no table of positions.
    if fields.values.get("max_position_embeddings") is None:
        if fields.values.get("model_max_length") is None:
            raise ModelError(
                f"{fields.name}: neither 'max_position_embeddings' (rotary, 7B) nor "
                "'model_max_length' (linear biases, 13B)"
            )
        model = replace(model, rotary=None, alibi=True)
    return Reading(model)


def _stablelm(fields: Fields) -> Reading:
    parallel = fields.flag("use_parallel_residual", False)
    d = fields.size("hidden_size")
    _, _, dh = heads_of(fields, d)
    model = replace(
        llama_like(fields, activation="silu"),
        norm="layer",
        norm_bias=True,
        rotary=rotary_of(fields, dh, 0.25),
        qkv_bias=fields.flag("use_qkv_bias", False),
        qk_norm=fields.flag("qk_layernorm", False),
        qk_norm_bias=False,
        qk_norm_over="heads",
        parallel=parallel,
        shared_norm=parallel,
    )
    return Reading(model)


def _phi3(fields: Fields) -> Reading:
    model = replace(
        llama_like(fields, activation="silu"),
        fused_qkv=True,
        fused_gate_up=True,
        window=window_of(fields),
    )
    return Reading(model)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": _llama,
        "mistral": _mistral,
        "phi3": _phi3,
        "granite": _granite,
        "granite_docling_text": _granite,
        "minicpm": _minicpm,
        "smollm3": _smollm3,
        "exaone": _exaone,
        "exaone4": _exaone4,
        "internlm2": _internlm2,
        "baichuan": _baichuan,
        "stablelm": _stablelm,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "LlamaForCausalLM": "llama",
        "LLaMAForCausalLM": "llama",
        "MistralForCausalLM": "mistral",
        "Phi3ForCausalLM": "phi3",
        "GraniteForCausalLM": "granite",
        "MiniCPMForCausalLM": "minicpm",
        "SmolLM3ForCausalLM": "smollm3",
        "ExaoneForCausalLM": "exaone",
        "Exaone4ForCausalLM": "exaone4",
        "InternLM2ForCausalLM": "internlm2",
        "BaichuanForCausalLM": "baichuan",
        "BaiChuanForCausalLM": "baichuan",
        "StableLmForCausalLM": "stablelm",
    }
)
