"""The DeepSeek lineage: latent attention, dense first layers, shared experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Attention, LatentAttention, Layer
from costgraph.models.blocks.indexed import IndexedAttention, SelectedAttention
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.dense import scales_queries
from costgraph.models.families.experts import (
    RMS,
    attention_of,
    corrected_route,
    crossed,
    ends_of,
    feed_forward_of,
    layers_of,
    shared_experts,
    shared_stack,
    uniform,
)
from costgraph.models.fields import Fields, divided
from costgraph.ops import Route


def latent_attention_of(fields: Fields, rotated: bool = True) -> LatentAttention:
    """Latent attention; without ``q_lora_rank`` queries are projected at once.

    Not ``rotated``: the family has no rotary keys.
    """
    rank = fields.values.get("q_lora_rank")
    return LatentAttention(
        d=Integer(fields.size("hidden_size")),
        heads=Integer(fields.size("num_attention_heads")),
        kv_rank=Integer(fields.size("kv_lora_rank")),
        rope_dim=Integer(fields.size("qk_rope_head_dim") if rotated else 0),
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
    return shared_stack(fields, mixer_of(fields), dense, route)


def mixer_of(fields: Fields) -> LatentAttention | Attention:
    """Latent attention, or Llama's where the file says that it has none (``use_mla``).

    Raises:
        ModelError: such a file has compressed caches.
    """
    if fields.flag("use_mla", True):
        return latent_attention_of(fields)
    for key in ("kv_lora_rank", "q_lora_rank"):
        fields.refuse(key, "compressed projections, though 'use_mla' is false")
    for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
        fields.refuse(key, "a part of a head, though 'use_mla' is false")
    bias = fields.flag("attention_bias", False)
    return attention_of(fields, qkv_bias=bias, out_bias=bias)


def _deepseek_v3(fields: Fields) -> Reading:
    return _read(fields, corrected_route(fields))


def _glm_lite(fields: Fields) -> Reading:
    """GLM-4.7-Flash: as DeepSeek-V3, whose first layer alone is dense where nothing is said."""
    return _deepseek_v3(fields.with_defaults(first_k_dense_replace=1))


def _axk1(fields: Fields) -> Reading:
    """DeepSeek-V3 with a norm behind its experts."""
    named = fields.with_defaults(first_k_dense_replace=1)
    dense = feed_forward_of(named, named.size("intermediate_size"))
    experts = replace(shared_experts(named, dense, corrected_route(named)), behind=RMS)
    kinds = [""] * layers_of(fields)
    # Its modules for multi-token prediction are not in the published class.
    return crossed(named, {"": latent_attention_of(fields)}, kinds, dense, experts, ahead=None)


def _mistral4(fields: Fields) -> Reading:
    """DeepSeek-V3's layers behind DeepSeek-V2's router; queries scaled by position."""
    route = replace(corrected_route(fields), score="softmax", correction=False)
    attention = latent_attention_of(fields)
    attention = replace(attention, query_scale=scales_queries(fields))
    dense = feed_forward_of(fields, fields.size("intermediate_size"))
    return shared_stack(fields, attention, dense, route)


def indexed_of(fields: Fields, rotated: bool = True) -> IndexedAttention:
    """Latent attention with an indexer; it needs latent queries."""
    plain = latent_attention_of(fields, rotated)
    if plain.q_rank is None:
        raise ModelError(f"{fields.name}: 'q_lora_rank' is null: the indexer reads latent queries")
    return IndexedAttention(
        **vars(plain),
        index_heads=Integer(fields.size("index_n_heads")),
        index_dim=Integer(fields.size("index_head_dim")),
        most=Integer(fields.size("index_topk")),
    )


def _sparse(fields: Fields, ahead: str | None, kinds: Sequence[str] | None = None) -> Reading:
    """Attention to chosen positions; layers that are not ``full`` share the last one's choice."""
    indexed = indexed_of(fields)
    if fields.values.get("moe_layer_freq", 1) != 1:
        raise ModelError(f"{fields.name}: 'moe_layer_freq' must be 1")
    dense = feed_forward_of(fields, fields.size("intermediate_size"))
    experts = shared_experts(fields, dense, corrected_route(fields))
    shared = SelectedAttention(**vars(latent_attention_of(fields)), most=indexed.most)
    mixers = {"": indexed, "full": indexed, "shared": shared}
    wanted = [""] * layers_of(fields) if kinds is None else kinds
    made = crossed(fields, mixers, wanted, dense, experts, ahead=ahead)
    return replace(made, assumptions=(*made.assumptions, chosen_of(indexed)))


def chosen_of(indexed: IndexedAttention) -> str:
    """What to say of attention to positions that an indexer chooses."""
    return (
        f"each query attends the {indexed.most} rows that an indexer scores highest; queries of "
        "one step that choose apart read at most as many rows as they choose"
    )


def _deepseek_v32(fields: Fields) -> Reading:
    return _sparse(fields, "")


def _glm_dsa(fields: Fields) -> Reading:
    """GLM-5: some layers have an indexer, the others share the choice of the last one."""
    return _sparse(fields.with_defaults(first_k_dense_replace=3), None, indexer_kinds(fields))


def indexer_kinds(fields: Fields) -> list[str]:
    """``full`` for layers with an indexer, ``shared`` for the others: said in one of three ways.

    Raises:
        ModelError: two ways disagree, or one cannot be read.
    """
    count = layers_of(fields)
    found = fields.values.get("indexer_types")
    pattern = fields.values.get("index_topk_pattern")
    if pattern is not None:
        letters = pattern if isinstance(pattern, str) else ""
        named = [{"F": "full", "S": "shared"}.get(letter) for letter in letters]
        if found is not None and found != named:
            raise ModelError(
                f"{fields.name}: 'index_topk_pattern' = {clip(pattern)} is not what "
                "'indexer_types' says"
            )
        found = named
    if found is None:
        step = fields.size("index_topk_freq", default=1)
        offset = fields.values.get("index_skip_topk_offset", 2)
        if type(offset) is not int:
            raise ModelError(f"{fields.name}: 'index_skip_topk_offset' must be a number")
        found = ["full" if max(i - offset + 1, 0) % step == 0 else "shared" for i in range(count)]
    return indexers(fields, found)


def indexers(fields: Fields, found: Any) -> list[str]:
    """Whether each layer has an indexer, ``full``, or shares the choice of the last: ``found``.

    Raises:
        ModelError: it is no such list.
    """
    count = layers_of(fields)
    known = isinstance(found, list) and all(k in ("full", "shared") for k in found)
    if not known or len(found) != count or found[0] != "full":
        raise ModelError(
            f"{fields.name}: 'indexer_types' must say full or shared for each of {count} layers, "
            "and full for the first"
        )
    return list(found)


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


def _minicpm3(fields: Fields) -> Reading:
    """Values are as wide as the hidden size over the heads where the file does not say."""
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    each = divided(fields, d, heads, "hidden size over heads")
    return _dense(fields.with_defaults(v_head_dim=int(each)))


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
        "deepseek_v32": _deepseek_v32,
        "glm_moe_dsa": _glm_dsa,
        "axk1": _axk1,
        "mistral4": _mistral4,
        "youtu": _dense,
        "minicpm3": _minicpm3,
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
        "DeepseekV32ForCausalLM": "deepseek_v32",
        "GlmMoeDsaForCausalLM": "glm_moe_dsa",
        "AXK1ForCausalLM": "axk1",
        "Mistral4ForCausalLM": "mistral4",
        "YoutuForCausalLM": "youtu",
        "MiniCPM3ForCausalLM": "minicpm3",
    }
)
