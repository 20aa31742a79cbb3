"""Hybrids of gated delta nets and attention outside Qwen's: OLMo Hybrid, Lara."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.models.blocks import Attention, Block, Layer, Norm, Stack
from costgraph.models.blocks.delta import GatedDeltaNet
from costgraph.models.blocks.pattern import gathered
from costgraph.models.families.common import Family, Reading, window_of
from costgraph.models.families.experts import (
    RMS,
    attention_of,
    ends_of,
    experts_of,
    feed_forward_of,
    layers_of,
)
from costgraph.models.families.hybrid import GATHERED, words
from costgraph.models.families.state_space import require_silu
from costgraph.models.fields import Fields
from costgraph.ops import Route
from costgraph.ops.pattern import sliding

#: Kinds of layers as files name them.
_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "linear_attention": "delta",
        "full_attention": "attention",
        "sliding_attention": "sliding",
    }
)


def net_of(fields: Fields, **defaults: int) -> GatedDeltaNet:
    """The delta net of the keys ``linear_…``; ``defaults`` where the file does not say them."""

    def size(key: str) -> Integer:
        return Integer(fields.size(f"linear_{key}", default=defaults.get(key)))

    return GatedDeltaNet(
        d=Integer(fields.size("hidden_size")),
        key_heads=size("num_key_heads"),
        key_dim=size("key_head_dim"),
        value_heads=size("num_value_heads"),
        value_dim=size("value_head_dim"),
        conv=Integer(fields.size("linear_conv_kernel_dim", default=4)),
    )


def _olmo_hybrid(fields: Fields) -> Reading:
    """Norms in front of delta nets; behind attention and its feed-forward block, as in OLMo 2."""
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    require_silu(fields, "hidden_act")
    fields.flag("linear_allow_neg_eigval", True)  # doubles a gate, in its weights
    for key in ("linear_a_log_min", "linear_a_log_max", "linear_dt_min", "linear_dt_max",
                "linear_dt_init_floor"):  # fmt: skip
        fields.values.get(key)  # of the first values of parameters
    key_heads = fields.size("linear_num_key_heads", default=heads)
    key_dim = fields.size("linear_key_head_dim", default=int(0.75 * d / key_heads))
    net = net_of(
        fields,
        num_key_heads=key_heads,
        num_value_heads=heads,
        key_head_dim=key_dim,
        value_head_dim=2 * key_dim,
    )
    bias = fields.flag("attention_bias", False)
    attention = attention_of(fields, qk_norm=RMS, qk_norm_over="all", qkv_bias=bias, out_bias=bias)
    rope = fields.values.get("rope_parameters", {"rope_theta": 0})
    if rope is None or (isinstance(rope, Mapping) and rope.get("rope_theta") is None):
        attention = replace(attention, rotary=None)
    feed = feed_forward_of(fields, fields.size("intermediate_size"))
    layers = {
        "delta": Layer(Integer(d), net, feed),
        "attention": Layer(Integer(d), attention, feed, pre_norms=False, post_norms=True),
    }
    count = layers_of(fields)
    if fields.values.get("layer_types") is None:
        kinds = ["attention" if i % 4 == 3 else "delta" for i in range(count)]
        if "attention" not in kinds:
            kinds[-1] = "attention"
    else:
        known = {k: v for k, v in _KINDS.items() if v != "sliding"}
        kinds = words(fields, "layer_types", known)
    segments = gathered((kind, layers[kind]) for kind in kinds)
    return Reading(Stack(ends_of(fields), segments), scans=True, assumptions=(GATHERED,))


def _lara(fields: Fields) -> Reading:
    """Delta nets, windows, and layers that see everything and do not rotate; experts in each."""
    d = fields.size("hidden_size")
    require_silu(fields, "hidden_act")
    bias = fields.flag("attention_bias", False)
    full: Attention = attention_of(
        fields.with_defaults(head_dim=128), qk_norm=Norm(), qkv_bias=bias, out_bias=bias
    )
    mixers: dict[str, Block] = {
        "delta": net_of(fields),
        "attention": replace(full, rotary=None),
        "sliding": replace(full, pattern=sliding(window_of(fields, 512))),
    }
    route = Route(normalise=fields.flag("norm_topk_prob", True))
    shared = feed_forward_of(fields, fields.size("shared_expert_intermediate_size"))
    width = fields.size("moe_intermediate_size")
    experts = experts_of(fields, width, route, "num_experts", shared=shared)
    if fields.values.get("layer_types") is None:
        period = ("delta", "sliding", "delta", "attention", "sliding")
        kinds = [period[i % len(period)] for i in range(layers_of(fields))]
    else:
        kinds = words(fields, "layer_types", _KINDS)
    segments = gathered((kind, Layer(Integer(d), mixers[kind], experts)) for kind in kinds)
    ends = ends_of(fields, tied=True)
    return Reading(Stack(ends, segments), scans=True, assumptions=(GATHERED,))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"olmo_hybrid": _olmo_hybrid, "lara_mini": _lara})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"OlmoHybridForCausalLM": "olmo_hybrid", "LaraMiniForCausalLM": "lara_mini"}
)
