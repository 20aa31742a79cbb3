"""Ling and Ring: the Bailing models with experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import Block
from costgraph.models.blocks.kimi import KimiDeltaAttention
from costgraph.models.families.common import Family, Reading, heads_of, rotary_of
from costgraph.models.families.deepseek import latent_attention_of
from costgraph.models.families.experts import (
    RMS,
    attention_of,
    corrected_route,
    crossed,
    feed_forward_of,
    layers_of,
    shared_experts,
    shared_stack,
)
from costgraph.models.families.hybrid import words
from costgraph.models.fields import Fields
from costgraph.ops import Route

DELTA, FULL = "delta", "full"


def _bailing(fields: Fields) -> Reading:
    """Ling 1, 1.5 and 2: the second chooses experts as DeepSeek-V3 does.

    Both name the type alike; the class tells them apart.
    """
    second = (fields.values.get("architectures") or [""])[0] == "BailingMoeV2ForCausalLM"
    if fields.flag("norm_head", False):
        raise ModelError(f"{fields.name}: 'norm_head' = True: normalised logits are not understood")
    _, _, dh = heads_of(fields, fields.size("hidden_size"))
    attention = attention_of(
        fields,
        fused_qkv=True,
        qkv_bias=fields.flag("use_qkv_bias", False),
        out_bias=fields.flag("use_bias", False),
        qk_norm=RMS if fields.flag("use_qk_norm", second) else None,
        rotary=rotary_of(fields, dh, 0.5 if second else 1.0),
    )
    if second:
        fields.require("score_function", "sigmoid")
        route = replace(
            corrected_route(fields.with_defaults(n_group=8, topk_group=4)),
            correction=fields.flag("moe_router_enable_expert_bias", True),
        )
        fields.require("norm_topk_prob", True)
    else:
        route = Route(normalise=fields.flag("norm_topk_prob", True))
        fields.refuse("moe_router_enable_expert_bias", "biased choices are those of Ling 2")
    if fields.flag("multi_gate", False):
        raise ModelError(f"{fields.name}: 'multi_gate' = True: one router a layer is understood")
    dense = feed_forward_of(fields, fields.size("intermediate_size"))
    return shared_stack(fields, attention, dense, route)


def _bailing_hybrid(fields: Fields) -> Reading:
    """Ling 3: delta attention, and latent attention with a gate a head in every sixth layer."""
    named = fields.renamed(
        num_experts_per_tok="num_experts_per_token",
        norm_topk_prob="moe_renormalize",
        n_group="num_expert_group",
        n_shared_experts="num_shared_experts",
        num_experts="num_local_experts",
        num_nextn_predict_layers="num_mtp_layers",
    ).with_defaults(first_k_dense_replace=2, head_dim=128)
    heads = fields.size("num_attention_heads")
    delta = KimiDeltaAttention(
        d=Integer(fields.size("hidden_size")),
        heads=Integer(fields.size("linear_num_heads", default=heads)),
        head_dim=Integer(fields.size("linear_head_dim", default=named.size("head_dim"))),
        conv=Integer(fields.size("linear_conv_kernel_dim", "short_conv_kernel_size", default=4)),
        full_decay=True,
        full_gate=True,
    )
    # Bounded or not, the gate is one function of a number.
    for key in ("kda_safe_gate", "kda_lower_bound"):
        fields.values.get(key)
    full = replace(latent_attention_of(fields), gate="head")
    every = fields.size("layer_group_size", default=6)
    if fields.values.get("layer_types") is None:
        count = layers_of(fields)
        kinds = [FULL if (i + 1) % every == 0 else DELTA for i in range(count)]
    else:
        kinds = words(fields, "layer_types", {"linear_attention": DELTA, "full_attention": FULL})
    dense = feed_forward_of(named, named.size("intermediate_size"))
    experts = shared_experts(named, dense, corrected_route(named))
    mixers: dict[str, Block] = {DELTA: delta, FULL: full}
    made = crossed(named, mixers, kinds, dense, experts, ahead=None)
    return replace(made, scans=True)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"bailing_moe": _bailing, "bailing_hybrid": _bailing_hybrid}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "BailingMoeForCausalLM": "bailing_moe",
        "BailingMoeV2ForCausalLM": "bailing_moe",
        "BailingHybridForCausalLM": "bailing_hybrid",
    }
)
