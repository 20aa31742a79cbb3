"""The DeepSeek lineage: latent attention, dense first layers, shared experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import LatentAttention, Layer
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.experts import (
    corrected_route,
    ends_of,
    feed_forward_of,
    shared_stack,
    uniform,
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


def _glm_lite(fields: Fields) -> Reading:
    """GLM-4.7-Flash: as DeepSeek-V3, whose first layer alone is dense where nothing is said."""
    return _deepseek_v3(fields.with_defaults(first_k_dense_replace=1))


def _dense(fields: Fields) -> Reading:
    """Latent attention and one dense feed-forward block in every layer."""
    bias = fields.flag("mlp_bias", False)
    dense = replace(feed_forward_of(fields, fields.size("intermediate_size")), bias=bias)
    layer = Layer(
        dense.d,
        latent_attention_of(fields),
        dense,
        # Branches are multiplied by scale_depth / sqrt(layers).
        residual_scale=fields.values.get("scale_depth") is not None,
    )
    d = fields.size("hidden_size")
    ends = ends_of(
        fields,
        tied=True,
        embed_scale=fields.number("scale_emb", 1.0) != 1,
        head_scale=fields.size("dim_model_base", default=d) != d,
    )
    return Reading(uniform(ends, layer, fields.size("num_hidden_layers")))


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
        "sarvam_mla": _deepseek_v3,
        "glm4_moe_lite": _glm_lite,
        "youtu": _dense,
        "minicpm3": _dense,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "DeepseekV2ForCausalLM": "deepseek_v2",
        "DeepseekV3ForCausalLM": "deepseek_v3",
        "KimiK2ForCausalLM": "kimi_k2",
        "SarvamMLAForCausalLM": "sarvam_mla",
        "Glm4MoeLiteForCausalLM": "glm4_moe_lite",
        "YoutuForCausalLM": "youtu",
        "MiniCPM3ForCausalLM": "minicpm3",
    }
)
