"""Kimi Linear: delta attention between layers of latent attention without rotary embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Block
from costgraph.models.blocks.kimi import KimiDeltaAttention
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.deepseek import latent_attention_of
from costgraph.models.families.experts import (
    corrected_route,
    crossed,
    feed_forward_of,
    layers_of,
    numbers_of,
    shared_experts,
)
from costgraph.models.families.hybrid import words
from costgraph.models.fields import Fields

DELTA, FULL = "delta", "full"


def _kinds(fields: Fields, inner: Fields) -> list[str]:
    """The mixer of each layer: numbers from one in two lists, or names."""
    count = layers_of(fields)
    full, delta = (numbers_of(inner, key) for key in ("full_attn_layers", "kda_layers"))
    if full or delta:
        if sorted([*full, *delta]) != list(range(1, count + 1)):
            raise ModelError(
                f"{fields.name}: 'full_attn_layers' and 'kda_layers' must hold each layer from "
                f"1 to {count} once"
            )
        return [FULL if i + 1 in full else DELTA for i in range(count)]
    return words(fields, "layer_types", {"linear_attention": DELTA, "full_attention": FULL})


def _kimi_linear(fields: Fields) -> Reading:
    given = fields.values.get("linear_attn_config")
    inner = fields.section("linear_attn_config") if given else Fields(fields.name, {})
    for key in ("use_full_rank_gate", "gate_lower_bound"):
        inner.refuse(key, "not understood in this family")
    for key in ("attn_res_block_size", "routed_expert_hidden_size", "mla_use_output_gate"):
        fields.refuse(key, "not understood in this family")
    if fields.values.get("moe_layer_freq", 1) != 1:
        raise ModelError(
            f"{fields.name}: 'moe_layer_freq' = {clip(fields.values['moe_layer_freq'])}: only 1"
        )
    delta = KimiDeltaAttention(
        d=Integer(fields.size("hidden_size")),
        heads=Integer(_either(fields, inner, "linear_num_heads", "num_heads")),
        head_dim=Integer(_either(fields, inner, "linear_head_dim", "head_dim")),
        conv=Integer(_either(fields, inner, "linear_conv_kernel_dim", "short_conv_kernel_size")),
    )
    full = replace(latent_attention_of(fields), rotary=not fields.flag("mla_use_nope", True))
    named = fields.renamed(
        num_experts_per_tok="num_experts_per_token",
        norm_topk_prob="moe_renormalize",
        n_group="num_expert_group",
    ).with_defaults(first_k_dense_replace=1)
    dense = feed_forward_of(named, named.size("intermediate_size"))
    experts = shared_experts(named, dense, corrected_route(named))
    mixers: dict[str, Block] = {DELTA: delta, FULL: full}
    made = crossed(named, mixers, _kinds(fields, inner), dense, experts, ahead=None)
    return replace(made, scans=True)


def _either(fields: Fields, inner: Fields, outer_key: str, inner_key: str) -> int:
    """A size from the section that the first files have, or beside it."""
    if inner.values.get(inner_key) is not None:
        return inner.size(inner_key)
    return fields.size(outer_key)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"kimi_linear": _kimi_linear})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType({"KimiLinearForCausalLM": "kimi_linear"})
