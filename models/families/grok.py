"""Grok 1 and 2: norms around every block, capped scores, experts with a dense block beside them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from costgraph.models.blocks import Layer
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.experts import (
    attention_of,
    ends_of,
    experts_of,
    feed_forward_of,
    uniform,
)
from costgraph.models.fields import Fields
from costgraph.ops import Route

#: ``model_type`` in the file of Grok 2, whose class alone says what it is: GIT has the same.
GROK2 = "git"


def _grok1(fields: Fields) -> Reading:
    attention = attention_of(fields, score_cap=fields.number("max_attn_value", 30.0) != 0)
    act = fields.with_defaults(hidden_act="gelu")
    experts = experts_of(act, fields.size("intermediate_size"), Route(), "num_experts")
    layer = Layer(attention.d, attention, experts, post_norms=True)
    fields.values.get("attn_output_multiplier")  # a scale of the scores
    ends = ends_of(
        fields,
        tied=True,
        embed_scale=fields.number("embedding_multiplier_scale", 1.0) != 1,
        logit_scale=fields.number("output_multiplier_scale", 1.0) != 1,
    )
    return Reading(uniform(ends, layer, fields.size("num_hidden_layers")))


def grok2(fields: Fields) -> Reading:
    """As served by SGLang, whose class the file names."""
    attention = attention_of(fields, score_cap=fields.number("attn_logit_softcapping", 30.0) != 0)
    act = fields.with_defaults(hidden_act="gelu")
    shared = None
    if fields.flag("residual_moe", False):
        shared = feed_forward_of(act, fields.size("intermediate_size"))
    own = fields.values.get("moe_intermediate_size") is not None
    width = fields.size("moe_intermediate_size" if own else "intermediate_size")
    experts = experts_of(
        act,
        width,
        Route(),
        "num_local_experts",
        "num_experts",
        shared=shared,
        averaged=shared is not None,
        router_cap=fields.number("router_logit_softcapping", 30.0) != 0,
    )
    layer = Layer(attention.d, attention, experts, post_norms=True)
    ends = ends_of(
        fields,
        embed_scale=fields.number("embedding_multiplier_scale", 1.0) != 1,
        logit_scale=fields.number("output_multiplier_scale", 1.0) != 1,
        logit_cap=fields.number("final_logit_softcapping", 0.0) != 0,
    )
    return Reading(uniform(ends, layer, fields.size("num_hidden_layers")))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"grok-1": _grok1, "grok1": _grok1})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType({"Grok1ModelForCausalLM": "grok-1"})
