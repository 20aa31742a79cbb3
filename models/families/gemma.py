"""The Gemma family: scaled embeddings, norms on both sides, windows on some layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from costgraph.errors import ModelError
from costgraph.models.decoder import Decoder
from costgraph.models.families.common import (
    Family,
    Reading,
    activation_of,
    alternating,
    layer_types,
    window_of,
)
from costgraph.models.families.llama import llama_like
from costgraph.models.fields import Fields


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


def _gemma2(fields: Fields, post_norms: bool = True) -> Reading:
    model = replace(
        _gemma_like(fields),
        post_norms=post_norms,
        score_cap=fields.values.get("attn_logit_softcapping") is not None,
        logit_cap=fields.values.get("final_logit_softcapping") is not None,
    )
    # Every second layer slides, the first one included.
    kinds = layer_types(fields, lambda i: i % 2 == 0)
    return Reading(alternating(model, kinds, window_of(fields, 4096)))


def _vaultgemma(fields: Fields) -> Reading:
    """Gemma 2 without the norms behind its blocks."""
    return _gemma2(fields, post_norms=False)


def _gemma3_text(fields: Fields) -> Reading:
    model = replace(
        _gemma_like(fields.with_defaults(head_dim=256)),
        post_norms=True,
        qk_norm=True,
        score_cap=fields.values.get("attn_logit_softcapping") is not None,
        logit_cap=fields.values.get("final_logit_softcapping") is not None,
    )
    # Five layers slide, the sixth sees everything.
    every = fields.size("sliding_window_pattern", default=6)
    kinds = layer_types(fields, lambda i: (i + 1) % every != 0)
    window = window_of(fields, 4096)
    if fields.flag("use_bidirectional_attention", False):
        # Half of the window lies to either side.
        model = replace(model, causal=False)
        window = None if window is None else window // 2 + 1
    return Reading(alternating(model, kinds, window))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "gemma": _gemma,
        "gemma2": _gemma2,
        "vaultgemma": _vaultgemma,
        "gemma3_text": _gemma3_text,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "GemmaForCausalLM": "gemma",
        "Gemma2ForCausalLM": "gemma2",
        "VaultGemmaForCausalLM": "vaultgemma",
        "Gemma3ForCausalLM": "gemma3_text",
    }
)
