"""LongCat-Flash: two attentions a layer, and experts beside the second half of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer, Rational

from costgraph.errors import ModelError
from costgraph.models.blocks import Segment, Stack
from costgraph.models.blocks.shortcut import ShortcutLayer
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.deepseek import latent_attention_of
from costgraph.models.families.experts import ends_of, experts_of, feed_forward_of
from costgraph.models.fields import Fields
from costgraph.ops import Route


def _longcat(fields: Fields) -> Reading:
    """Latent attention with scaled latents; some experts return their input."""
    named = fields.renamed(
        num_hidden_layers="num_layers",
        intermediate_size="ffn_hidden_size",
        moe_intermediate_size="expert_ffn_hidden_size",
        num_experts_per_tok="moe_topk",
    )
    for key in ("emb_neighbor_num", "emb_split_num", "ngram_vocab_size_ratio", "oe_vocab_sizes"):
        fields.refuse(key, "embeddings of several tokens are not understood")
    fields.require("zero_expert_type", "identity")
    fields.require("attention_method", "MLA")
    scaled = {fields.flag(f"mla_scale_{part}_lora", True) for part in ("q", "kv")}
    if len(scaled) != 1:
        raise ModelError(f"{fields.name}: 'mla_scale_q_lora' and 'mla_scale_kv_lora' differ")
    attention = replace(latent_attention_of(named), scaled=scaled.pop())
    if attention.q_rank is None:
        raise ModelError(f"{fields.name}: 'q_lora_rank' is null, and must have a value")
    route = Route(
        correction=True,
        scale=fields.number("routed_scaling_factor", 6.0) != 1,
        normalise=fields.flag("norm_topk_prob", False),
    )
    width = named.size("moe_intermediate_size")
    experts = experts_of(
        named, width, route, "n_routed_experts", router_bias=fields.flag("router_bias", False)
    )
    idle = Integer(fields.size("zero_expert_num")) if fields.values.get("zero_expert_num") else 0
    notes: tuple[str, ...] = ()
    if idle:
        total = experts.experts + idle
        chosen = Rational(experts.chosen * experts.experts, total)
        if not (chosen.is_Integer and chosen > 0):
            raise ModelError(
                f"{fields.name}: 'moe_topk' = {experts.chosen} of {total} experts, {idle} of which "
                "return their input: no whole number of them computes on average"
            )
        notes = (
            f"of {experts.chosen} experts that a token chooses, {experts.chosen - chosen} return "
            "their input on average: the others are counted, and those have no weights",
        )
        experts = replace(experts, chosen=chosen, idle=idle, idle_chosen=experts.chosen - chosen)
    feed = feed_forward_of(named, named.size("intermediate_size"))
    layer = ShortcutLayer(attention.d, attention, feed, experts)
    layers = Integer(named.size("num_hidden_layers"))
    stack = Stack(ends_of(named), (Segment("layers", layer, layers),))
    return Reading(stack, assumptions=notes)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"longcat_flash": _longcat, "longcat": _longcat})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"LongcatFlashForCausalLM": "longcat_flash", "LongcatCausalLM": "longcat"}
)
