"""Families that grew from Llama: RMS norms, rotary embedding, gated feed-forward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.decoder import Decoder
from costgraph.models.families.common import (
    Family,
    Reading,
    activation_of,
    heads_of,
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
    return Reading(llama_like(fields, activation="silu"), window_of(fields))


def _qwen2(fields: Fields) -> Reading:
    window = window_of(fields) if fields.flag("use_sliding_window", False) else None
    return Reading(replace(llama_like(fields, activation="silu"), qkv_bias=True), window)


def _qwen3(fields: Fields) -> Reading:
    bias = fields.flag("attention_bias", False)
    window = window_of(fields) if fields.flag("use_sliding_window", False) else None
    model = replace(
        llama_like(fields, activation="silu"), qk_norm=True, qkv_bias=bias, out_bias=bias
    )
    if fields.values.get("head_dim") is None:
        # The architecture's own default is 128, not hidden size over heads.
        model = replace(model, head_dim=Integer(128), rotary=Integer(128))
    return Reading(model, window)


def _gemma_like(fields: Fields) -> Decoder:
    if fields.values.get("head_dim") is None:
        raise ModelError(f"{fields.name}: missing key 'head_dim' (Gemma states it apart)")
    # The first releases name an exact GELU that the published code replaces by tanh.
    key = "hidden_activation" if fields.values.get("hidden_activation") else "hidden_act"
    activation = activation_of(fields, key, default="gelu_pytorch_tanh")
    return replace(
        llama_like(fields, tied=True, activation="gelu_pytorch_tanh"),
        activation="gelu_tanh" if activation == "gelu" else activation,
        embed_scale=True,
        qkv_bias=fields.flag("attention_bias", False),
        out_bias=fields.flag("attention_bias", False),
    )


def _gemma(fields: Fields) -> Reading:
    return Reading(_gemma_like(fields))


def _gemma2(fields: Fields) -> Reading:
    model = replace(
        _gemma_like(fields),
        post_norms=True,
        score_cap=fields.values.get("attn_logit_softcapping") is not None,
        logit_cap=fields.values.get("final_logit_softcapping") is not None,
    )
    return Reading(model, window_of(fields))


def _phi3(fields: Fields) -> Reading:
    model = replace(llama_like(fields, activation="silu"), fused_qkv=True, fused_gate_up=True)
    return Reading(model, window_of(fields))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": _llama,
        "mistral": _mistral,
        "qwen2": _qwen2,
        "qwen3": _qwen3,
        "gemma": _gemma,
        "gemma2": _gemma2,
        "phi3": _phi3,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "LlamaForCausalLM": "llama",
        "LLaMAForCausalLM": "llama",
        "MistralForCausalLM": "mistral",
        "Qwen2ForCausalLM": "qwen2",
        "Qwen3ForCausalLM": "qwen3",
        "GemmaForCausalLM": "gemma",
        "Gemma2ForCausalLM": "gemma2",
        "Phi3ForCausalLM": "phi3",
    }
)
