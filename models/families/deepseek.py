"""The DeepSeek lineage: latent attention, dense first layers, shared experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import LatentAttention
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.experts import (
    corrected_route,
    feed_forward_of,
    shared_stack,
)
from costgraph.models.fields import Fields
from costgraph.ops import Route


def latent_attention_of(fields: Fields) -> LatentAttention:
    """Latent attention; without ``q_lora_rank`` queries are projected at once."""
    rank = fields.values.get("q_lora_rank")
    return LatentAttention(
        d=Integer(fields.size("hidden_size")),
        heads=Integer(fields.size("num_attention_heads")),
        kv_rank=Integer(fields.size("kv_lora_rank")),
        rope_dim=Integer(fields.size("qk_rope_head_dim")),
        nope_dim=Integer(fields.size("qk_nope_head_dim")),
        v_dim=Integer(fields.size("v_head_dim")),
        q_rank=None if rank is None else Integer(fields.size("q_lora_rank")),
        bias=fields.flag("attention_bias", False),
    )


def _read(fields: Fields, route: Route) -> Reading:
    if fields.values.get("moe_layer_freq", 1) != 1:
        raise ModelError(
            f"{fields.name}: 'moe_layer_freq' = {clip(fields.values['moe_layer_freq'])}: only "
            "1 (experts in every layer after the dense ones) is understood"
        )
    dense = feed_forward_of(fields, fields.size("intermediate_size"))
    return shared_stack(fields, latent_attention_of(fields), dense, route)


def _deepseek_v3(fields: Fields) -> Reading:
    return _read(fields, corrected_route(fields))


def _deepseek_v2(fields: Fields) -> Reading:
    limited = fields.word("topk_method", default="greedy") == "group_limited_greedy"
    route = replace(
        corrected_route(fields),
        score="softmax",
        correction=False,
        normalise=fields.flag("norm_topk_prob", False),
    )
    return _read(fields, route if limited else replace(route, groups=Integer(1)))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "deepseek_v2": _deepseek_v2,
        "deepseek_v3": _deepseek_v3,
        "kimi_k2": _deepseek_v3,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "DeepseekV2ForCausalLM": "deepseek_v2",
        "DeepseekV3ForCausalLM": "deepseek_v3",
        "KimiK2ForCausalLM": "kimi_k2",
    }
)
