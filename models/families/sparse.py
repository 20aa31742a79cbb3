"""Relatives of the families with experts: the same blocks under other keys and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Attention, FeedForward, Layer
from costgraph.models.families.common import FULL, SLIDING, Family, Reading, layer_types, window_of
from costgraph.models.families.experts import (
    FAMILIES as EXPERTS,
)
from costgraph.models.families.experts import (
    RMS,
    attention_of,
    corrected_route,
    crossed,
    ends_of,
    experts_of,
    feed_forward_of,
    layers_of,
    shared_experts,
    shared_stack,
    stacked,
    uniform,
)
from costgraph.models.fields import Fields
from costgraph.ops import Route
from costgraph.ops.pattern import sliding


def _each(fields: Fields, key: str, default: int | None = None) -> int:
    """A count that may stand once for each layer: equal ones are one."""
    found = fields.values.get(key)
    if isinstance(found, list) and found:
        if any(value != found[0] for value in found):
            raise ModelError(f"{fields.name}: {key!r} = {clip(found)}: layers must be alike here")
        fields = fields.with_values(**{key: found[0]})
    return fields.size(key, default=default)


def _hunyuan_moe(fields: Fields) -> Reading:
    fields.refuse("use_cla", "caches shared between layers are not known in this family")
    fields.refuse("moe_layer_num_skipped", "dense layers in front are not known in this family")
    bias = fields.flag("attention_bias", False)
    normed = RMS if fields.flag("use_qk_norm", True) else None
    attention = attention_of(fields, qkv_bias=bias, out_bias=bias, qk_norm=normed)
    width = fields.size("intermediate_size")
    if _each(fields, "moe_intermediate_size", width) != width:
        raise ModelError(f"{fields.name}: 'moe_intermediate_size' is not {width} in each layer")
    named = fields.with_values(
        num_experts=_each(fields, "num_experts"), num_experts_per_tok=_each(fields, "moe_topk")
    )
    shared = feed_forward_of(fields, width * _each(fields, "num_shared_expert", 1))
    experts = experts_of(named, width, Route(normalise=True), "num_experts", shared=shared)
    layer = Layer(attention.d, attention, experts)
    return Reading(uniform(ends_of(fields), layer, fields.size("num_hidden_layers")))


def _dots(fields: Fields) -> Reading:
    """DeepSeek-V3's experts behind Qwen 3's attention."""
    bias = fields.flag("attention_bias", False)
    attention = attention_of(fields, qk_norm=RMS, qkv_bias=bias, out_bias=bias)
    window, first = window_of(fields), fields.size("max_window_layers", default=62)
    kinds = layer_types(fields, lambda i: window is not None and i >= first)
    named = fields.with_defaults(norm_topk_prob=False)
    dense = feed_forward_of(named, named.size("intermediate_size"))
    return _windowed(named, attention, kinds, dense)


def _windowed(
    fields: Fields,
    attention: Attention,
    kinds: tuple[str, ...],
    dense: FeedForward,
    **full: Any,
) -> Reading:
    """Layers with a window or without, with experts or without; ``full``: changes of the latter."""
    mixers = {
        SLIDING: replace(attention, pattern=sliding(window_of(fields))),
        FULL: replace(attention, **full),
    }
    experts = shared_experts(fields, dense, corrected_route(fields))
    return crossed(fields, mixers, kinds, dense, experts, ahead=FULL)


def _exaone_moe(fields: Fields) -> Reading:
    """Exaone 4's attention behind norms in front, and DeepSeek-V3's experts."""
    attention = attention_of(fields, qk_norm=RMS)
    named = fields.with_defaults(first_k_dense_replace=1)
    every = fields.size("sliding_window_pattern", default=4)
    window = window_of(fields)
    kinds = layer_types(fields, lambda i: window is not None and (i + 1) % every != 0)
    dense = feed_forward_of(fields, fields.size("intermediate_size"))
    # With a window, layers that see everything do not rotate.
    plain = {} if window is None else {"rotary": None}
    return _windowed(named, attention, kinds, dense, **plain)


def _solar_open(fields: Fields) -> Reading:
    bias = fields.flag("attention_bias", False)
    attention = attention_of(fields, qkv_bias=bias)
    # Every layer has experts: no width of dense layers is stated.
    dense = feed_forward_of(fields, fields.size("moe_intermediate_size"))
    fields.refuse("first_k_dense_replace", "dense layers are not known in this family")
    return shared_stack(fields, attention, dense, corrected_route(fields))


def _sarvam_moe(fields: Fields) -> Reading:
    """GLM 4's experts and attention, with norms on queries and keys."""
    return EXPERTS["glm4_moe"](fields.with_defaults(use_qk_norm=True))


def _hunyuan3(fields: Fields) -> Reading:
    bias = fields.flag("attention_bias", False)
    attention = attention_of(fields, qk_norm=RMS, qkv_bias=bias, out_bias=bias)
    dense = replace(
        feed_forward_of(fields, fields.size("intermediate_size")),
        bias=fields.flag("mlp_bias", False),
    )
    named = fields.renamed(
        routed_scaling_factor="router_scaling_factor",
        n_routed_experts="num_experts",
        n_shared_experts="num_shared_experts",
    ).with_defaults(first_k_dense_replace=1)
    return shared_stack(named, attention, dense, corrected_route(named))


def _ernie_moe(fields: Fields) -> Reading:
    """Experts in a stretch of layers; what biases their choice is a parameter of the class."""
    bias = fields.flag("use_bias", False)
    attention = attention_of(fields, qkv_bias=bias, out_bias=bias)
    dense = replace(feed_forward_of(fields, fields.size("intermediate_size")), bias=bias)
    width = _each(fields, "moe_intermediate_size")
    named = fields.with_values(
        num_experts=_each(fields, "moe_num_experts"), num_experts_per_tok=fields.size("moe_k")
    )
    route = Route(normalise=True, correction=True)
    experts = experts_of(named, width, route, "num_experts", learned_correction=True)
    if fields.values.get("moe_num_shared_experts"):
        wide = Integer(width * fields.size("moe_num_shared_experts"))
        experts = replace(experts, shared=replace(dense, width=wide))
    count, step = layers_of(fields), fields.size("moe_layer_interval", default=1)
    first, last = (
        _place(fields, key, default)
        for key, default in (("moe_layer_start_index", 1), ("moe_layer_end_index", -1))
    )
    last = count - 1 if last < 0 else last
    kinds = [
        "experts" if (i + 1) % step == 0 and first <= i <= last else "dense" for i in range(count)
    ]
    layers = {
        "experts": Layer(attention.d, attention, experts),
        "dense": Layer(attention.d, attention, dense),
    }
    return Reading(stacked(ends_of(fields, tied=True, head_bias=bias), kinds, layers))


def _place(fields: Fields, key: str, default: int) -> int:
    """A layer's number, from zero; -1 is the last one."""
    found = fields.values.get(key, default)
    if type(found) is not int or found < -1:
        raise ModelError(f"{fields.name}: {key!r} must be a layer's number, not {clip(found)}")
    return found


def _afmoe(fields: Fields) -> Reading:
    """Norms on both sides, gated attention; windows with rotary embedding, and all without."""
    bias = fields.flag("attention_bias", False)
    attention = attention_of(fields, qk_norm=RMS, qkv_bias=bias, out_bias=bias, gate="each")
    every = fields.size("global_attn_every_n_layers", default=4)
    kinds = layer_types(fields, lambda i: (i + 1) % every != 0)
    dense = feed_forward_of(fields, fields.size("intermediate_size"))
    width = fields.size("moe_intermediate_size")
    scaled = fields.number("route_scale", 1.0) != 1
    route = Route(score="sigmoid", normalise=True, correction=True, scale=scaled)
    experts = experts_of(fields, width, route, "num_experts", learned_correction=True)
    if fields.values.get("num_shared_experts"):
        wide = Integer(width * fields.size("num_shared_experts"))
        experts = replace(experts, shared=replace(dense, width=wide))
    first = fields.values.get("num_dense_layers", 1)
    mixers = {
        SLIDING: replace(attention, pattern=sliding(window_of(fields, 1024))),
        FULL: replace(attention, rotary=None),
    }
    ends = ends_of(fields, embed_scale=fields.flag("mup_enabled", False))
    named = fields.with_values(first_k_dense_replace=first)
    return crossed(named, mixers, kinds, dense, experts, ends, post_norms=True)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "hunyuan_v1_moe": _hunyuan_moe,
        "hy_v3": _hunyuan3,
        "dots1": _dots,
        "exaone_moe": _exaone_moe,
        "solar_open": _solar_open,
        "sarvam_moe": _sarvam_moe,
        "ernie4_5_moe": _ernie_moe,
        "afmoe": _afmoe,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "HunYuanMoEV1ForCausalLM": "hunyuan_v1_moe",
        "HYV3ForCausalLM": "hy_v3",
        "Dots1ForCausalLM": "dots1",
        "ExaoneMoeForCausalLM": "exaone_moe",
        "SolarOpenForCausalLM": "solar_open",
        "SarvamMoEForCausalLM": "sarvam_moe",
        "Ernie4_5_MoeForCausalLM": "ernie4_5_moe",
        "AfmoeForCausalLM": "afmoe",
    }
)
