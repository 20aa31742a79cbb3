"""Kimi Linear and K3: delta attention between layers of latent attention that do not rotate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Block, Segment
from costgraph.models.blocks.kimi import KimiDeltaAttention
from costgraph.models.blocks.pattern import gathered
from costgraph.models.blocks.residuals import ResidualLayer, ResidualStack
from costgraph.models.families.absent import part_of
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.deepseek import latent_attention_of
from costgraph.models.families.experts import (
    RMS,
    corrected_route,
    crossed,
    ends_of,
    feed_forward_of,
    layers_of,
    numbers_of,
    shared_experts,
    sparse_layers,
)
from costgraph.models.families.hybrid import GATHERED, words
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
    residuals = fields.values.get("attn_res_block_size") is not None
    if not residuals:
        for key in ("use_full_rank_gate", "gate_lower_bound"):
            inner.refuse(key, "only known with residuals over blocks of layers")
        for key in ("routed_expert_hidden_size", "mla_use_output_gate"):
            fields.refuse(key, "only known with residuals over blocks of layers")
    if fields.values.get("moe_layer_freq", 1) != 1:
        raise ModelError(
            f"{fields.name}: 'moe_layer_freq' = {clip(fields.values['moe_layer_freq'])}: only 1"
        )
    delta = KimiDeltaAttention(
        d=Integer(fields.size("hidden_size")),
        heads=Integer(_either(fields, inner, "linear_num_heads", "num_heads")),
        head_dim=Integer(_either(fields, inner, "linear_head_dim", "head_dim")),
        conv=Integer(_either(fields, inner, "linear_conv_kernel_dim", "short_conv_kernel_size")),
        full_gate=inner.flag("use_full_rank_gate", False),
        channels=inner.values.get("gate_lower_bound") is not None,
    )
    full = replace(
        latent_attention_of(fields),
        rotary=not fields.flag("mla_use_nope", True),
        gate="each" if fields.flag("mla_use_output_gate", False) else "",
    )
    named = fields.renamed(
        num_experts_per_tok="num_experts_per_token",
        norm_topk_prob="moe_renormalize",
        n_group="num_expert_group",
    ).with_defaults(first_k_dense_replace=1)
    if residuals:
        return _residuals(named, delta, full, _kinds(fields, inner))
    dense = feed_forward_of(named, named.size("intermediate_size"))
    experts = shared_experts(named, dense, corrected_route(named))
    mixers: dict[str, Block] = {DELTA: delta, FULL: full}
    made = crossed(named, mixers, _kinds(fields, inner), dense, experts, ahead=None)
    return replace(made, scans=True)


#: Of counts that no class, but the published table of tensors was compared with.
BOUNDED = (
    "decays with a lower bound are counted like those without, and constants around tanh as four "
    "operations"
)


def _residuals(
    fields: Fields, delta: KimiDeltaAttention, full: Block, kinds: Sequence[str]
) -> Reading:
    """Kimi K3: mixtures of where blocks of layers began, experts in a width of their own."""
    if fields.word("hidden_act", default="situ") != "situ":
        raise ModelError(f"{fields.name}: 'hidden_act' must be 'situ' where residuals are mixed")
    for key in ("activation_situ_beta", "activation_situ_linear_beta", "head_dim"):
        fields.values.get(key)  # two constants, and a number that no layer uses
    named = fields.with_values(hidden_act="silu")
    situ: dict[str, Any] = {"activation": "situ", "up_activation": "situ_linear"}
    dense = replace(feed_forward_of(named, named.size("intermediate_size")), **situ)
    key = "routed_expert_hidden_size"
    low = Integer(fields.size(key)) if fields.values.get(key) else None
    normed = RMS if low is not None and fields.flag("latent_moe_use_norm", False) else None
    experts = replace(
        shared_experts(named, dense, corrected_route(named)),
        latent=low,
        latent_norm=normed,
        **situ,
    )
    every, d = fields.size("attn_res_block_size"), Integer(fields.size("hidden_size"))
    mixers: dict[str, Block] = {DELTA: delta, FULL: full}
    names = [
        (f"{kind}_{'experts' if held else 'dense'}", mixers[kind], experts if held else dense)
        for kind, held in zip(kinds, sparse_layers(named), strict=True)
    ]
    blocks = []
    for index, start in enumerate(range(0, len(names), every)):
        first, *rest = names[start : start + every]
        layers = {
            name: ResidualLayer(d, mixer, channel, index + 1) for name, mixer, channel in rest
        }
        begins = ResidualLayer(d, first[1], first[2], index, begins=True)
        found = gathered((name, layers[name]) for name, *_ in rest)
        blocks.append(
            tuple(
                replace(s, name=f"block{index}_{s.name}")
                for s in (Segment(f"first_{first[0]}", begins, Integer(1)), *found)
            )
        )
    model = ResidualStack(ends_of(named), tuple(blocks))
    return Reading(model, scans=True, assumptions=(BOUNDED, GATHERED))


def _k3(fields: Fields) -> Reading:
    """The language model of Kimi K3's files, which also see; what is left out is said."""
    return _kimi_linear(part_of(fields, "kimi_linear"))


def _either(fields: Fields, inner: Fields, outer_key: str, inner_key: str) -> int:
    """A size from the section that the first files have, or beside it."""
    if inner.values.get(inner_key) is not None:
        return inner.size(inner_key)
    return fields.size(outer_key)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"kimi_linear": _kimi_linear, "kimi_k3": _k3})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"KimiLinearForCausalLM": "kimi_linear", "KimiK3ForConditionalGeneration": "kimi_k3"}
)
