"""The OLMo family: open Llama-like models with norms in other places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from costgraph.models.blocks import Layer
from costgraph.models.decoder import Decoder
from costgraph.models.families.common import (
    Family,
    Reading,
    alternating,
    layer_types,
    window_of,
)
from costgraph.models.families.experts import RMS, attention_of, ends_of, experts_of, uniform
from costgraph.models.families.llama import llama_like
from costgraph.models.fields import Fields
from costgraph.ops import Route


def _olmo(fields: Fields) -> Reading:
    bias = fields.flag("attention_bias", False)
    model = replace(
        llama_like(fields, activation="silu"),
        norm="layer",
        norm_weight=False,
        qkv_bias=bias,
        out_bias=bias,
        clip=fields.number("clip_qkv", 0.0) != 0,
    )
    return Reading(model)


def _olmo2_like(fields: Fields) -> Decoder:
    """Norms behind the blocks only, and over all queries and keys."""
    bias = fields.flag("attention_bias", False)
    return replace(
        llama_like(fields, activation="silu"),
        pre_norms=False,
        post_norms=True,
        qk_norm=True,
        qk_norm_over="all",
        qkv_bias=bias,
        out_bias=bias,
    )


def _olmo2(fields: Fields) -> Reading:
    return Reading(_olmo2_like(fields))


def _olmo3(fields: Fields) -> Reading:
    kinds = layer_types(fields, lambda i: (i + 1) % 4 != 0)
    return Reading(alternating(_olmo2_like(fields), kinds, window_of(fields, 4096)))


def _flex_olmo(fields: Fields) -> Reading:
    """OLMo 2's layers with the experts of OLMoE."""
    bias = fields.flag("attention_bias", False)
    attention = attention_of(fields, qkv_bias=bias, out_bias=bias, qk_norm=RMS, qk_norm_over="all")
    route = Route(normalise=fields.flag("norm_topk_prob", False))
    experts = experts_of(fields, fields.size("intermediate_size"), route, "num_experts")
    layer = Layer(attention.d, attention, experts, pre_norms=False, post_norms=True)
    return Reading(uniform(ends_of(fields), layer, fields.size("num_hidden_layers")))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "olmo": _olmo,
        "olmo2": _olmo2,
        "olmo3": _olmo3,
        "flex_olmo": _flex_olmo,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "OlmoForCausalLM": "olmo",
        "Olmo2ForCausalLM": "olmo2",
        "Olmo3ForCausalLM": "olmo3",
        "FlexOlmoForCausalLM": "flex_olmo",
    }
)
