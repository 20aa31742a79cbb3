"""Families with experts whose layers alternate between windows and the whole context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Attention, Experts, FeedForward, Layer, Norm
from costgraph.models.families.common import (
    FULL,
    SLIDING,
    Family,
    Reading,
    heads_of,
    layer_types,
    window_of,
)
from costgraph.models.families.experts import (
    attention_of,
    corrected_route,
    ends_of,
    experts_of,
    feed_forward_of,
    layers_of,
    numbers_of,
    sparse_layers,
    stacked,
)
from costgraph.models.fields import Fields
from costgraph.ops import Route
from costgraph.ops.pattern import CAUSAL, Chunks, Pattern, sliding


def clamped_experts(fields: Fields) -> Experts:
    """gpt-oss's experts: biases everywhere, clamped gates, scores of those that are chosen."""
    return experts_of(
        fields,
        fields.size("intermediate_size"),
        Route(after=True),
        "num_local_experts",
        activation="clamped_gate",
        up_activation="clamped_up",
        bias=True,
        router_bias=True,
        packed=True,
    )


def _gpt_oss(fields: Fields) -> Reading:
    """Sinks, biases everywhere, clamped gates; every other layer slides."""
    bias = fields.flag("attention_bias", True)
    layers_of(fields)
    attention = attention_of(fields, qkv_bias=bias, out_bias=bias, sinks=True)
    experts = clamped_experts(fields)
    windowed = replace(attention, pattern=sliding(window_of(fields, 128)))
    layers = {
        SLIDING: Layer(attention.d, windowed, experts),
        FULL: Layer(attention.d, attention, experts),
    }
    kinds = layer_types(fields, lambda i: i % 2 == 0)
    return Reading(stacked(ends_of(fields), kinds, layers))


def _llama4(fields: Fields) -> Reading:
    """The text decoder: chunks with rotary embedding, or the whole context without."""
    count = layers_of(fields)
    attention = attention_of(fields)
    bias = fields.flag("attention_bias", False)
    attention = replace(attention, qkv_bias=bias, out_bias=bias)
    every = fields.size("no_rope_layer_interval", default=4)
    given = numbers_of(fields, "no_rope_layers")
    # One where a layer has rotary embedding, despite the key's name.
    rotates = [bool(n) for n in given] or [(i + 1) % every != 0 for i in range(count)]
    if len(rotates) != count:
        raise ModelError(f"{fields.name}: 'no_rope_layers' must be a list of {count} numbers")
    chunk: Pattern = CAUSAL
    if fields.values.get("attention_chunk_size") is not None:
        chunk = Chunks(Integer(fields.size("attention_chunk_size")))
    tuned = fields.values.get("attn_temperature_tuning", True) not in (None, False, 0)
    normed = Norm(weight=False) if fields.flag("use_qk_norm", True) else None
    mixers: dict[bool, Attention] = {
        True: replace(attention, pattern=chunk, qk_norm=normed),
        False: replace(attention, rotary=None, query_scale=tuned),
    }
    width = fields.size("intermediate_size")
    shared = feed_forward_of(fields, width)
    route = Route(score="sigmoid", after=True)
    experts = experts_of(fields, width, route, "num_local_experts", shared=shared)
    step = fields.size("interleave_moe_layer_step", default=1)
    sparse = set(numbers_of(fields, "moe_layers")) or {
        i for i in range(count) if (i + 1) % step == 0
    }
    kinds, layers = [], {}
    for i, rotated in enumerate(rotates):
        name = ("experts" if i in sparse else "dense") + ("" if rotated else "_full")
        kinds.append(name)
        if name not in layers:
            channel = experts if i in sparse else _dense_of(fields)
            layers[name] = Layer(attention.d, mixers[rotated], channel)
    return Reading(stacked(ends_of(fields), kinds, layers))


def _dense_of(fields: Fields) -> FeedForward:
    return feed_forward_of(fields, fields.size("intermediate_size_mlp"))


def _mimo(fields: Fields) -> Reading:
    """Windows with sinks and heads of their own between layers that attend everything."""
    fields = _mimo_saved(fields)
    count, d = layers_of(fields), fields.size("hidden_size")
    full = _mimo_attention(fields, "add_full_attention_sink_bias", False)
    names = {
        "num_attention_heads": "swa_num_attention_heads",
        "num_key_value_heads": "swa_num_key_value_heads",
        "head_dim": "swa_head_dim",
        "v_head_dim": "swa_v_head_dim",
    }
    own = {k: fields.values[v] for k, v in names.items() if fields.values.get(v) is not None}
    slides = _mimo_attention(fields.with_values(**own), "add_swa_attention_sink_bias", True)
    # Its window counts the positions before each one.
    window = window_of(fields, 128)
    window = None if window is None else window + 1
    slides = replace(slides, pattern=sliding(window), table="swa_rope_table")
    pattern, sparse = (numbers_of(fields, k) for k in ("hybrid_layer_pattern", "moe_layer_freq"))
    for key, found in (("hybrid_layer_pattern", pattern), ("moe_layer_freq", sparse)):
        if len(found) != count:
            raise ModelError(f"{fields.name}: {key!r} must be a list of {count} numbers")
    if fields.values.get("n_shared_experts"):
        raise ModelError(
            f"{fields.name}: 'n_shared_experts' = {clip(fields.values['n_shared_experts'])}: "
            "shared experts are unknown in this family"
        )
    width = fields.size("moe_intermediate_size")
    experts = experts_of(fields, width, corrected_route(fields), "n_routed_experts")
    dense = feed_forward_of(fields, fields.size("intermediate_size"))
    kinds = [
        ("experts" if held else "dense") + ("_sliding" if slid else "_full")
        for slid, held in zip(pattern, sparse, strict=True)
    ]
    layers = {
        f"{channel}_{mixer}": Layer(Integer(d), attention, block)
        for mixer, attention in (("sliding", slides), ("full", full))
        for channel, block in (("dense", dense), ("experts", experts))
    }
    return Reading(stacked(ends_of(fields), kinds, layers))


def _mimo_saved(fields: Fields) -> Fields:
    """The names of the published files, where transformers 5 saved the model under others.

    Its class has twice the key heads, and sinks, in layers with a window. A published file that it
    saved again has both names: they say the same, or the file is refused.

    Raises:
        ModelError: kinds of layers rotate different shares of a head, or names disagree.
    """
    if not fields.values.get("layer_types"):
        return fields
    kinds = layer_types(fields)
    nested = fields.values.get("rope_parameters")
    inner = nested if isinstance(nested, Mapping) else {}
    shares = {
        own.get("partial_rotary_factor", 1.0) for own in inner.values() if isinstance(own, Mapping)
    }
    if len(shares) > 1:
        raise ModelError(f"{fields.name}: 'rope_parameters': layers rotate different shares")
    saved = {
        "hybrid_layer_pattern": [int(kind == SLIDING) for kind in kinds],
        "moe_layer_freq": [int(held) for held in sparse_layers(fields)],
        "swa_num_key_value_heads": 2 * fields.size("num_key_value_heads"),
        **({"partial_rotary_factor": shares.pop()} if shares else {}),
    }
    for key, value in saved.items():
        if fields.values.get(key) not in (None, value):
            raise ModelError(
                f"{fields.name}: {key!r} = {clip(fields.values[key])} contradicts what "
                f"transformers 5 saved beside it, which means {clip(value)}"
            )
    window = fields.size("sliding_window", default=129) - 1
    if fields.size("sliding_window_size", default=window) != window:
        raise ModelError(
            f"{fields.name}: 'sliding_window_size' must be one less than 'sliding_window', which "
            "transformers 5 counts with the position itself"
        )
    return fields.with_values(**saved, sliding_window=window)


def _mimo_attention(fields: Fields, sinks: str, default: bool) -> Attention:
    _, _, dh = heads_of(fields, fields.size("hidden_size"))
    bias = fields.flag("attention_bias", False)
    share = fields.fraction("partial_rotary_factor", 1.0)
    # The rotated width is rounded down to a whole number of pairs.
    width = int(int(dh) * share) // 2 * 2
    return replace(
        attention_of(fields, rotary=Integer(width)),
        qkv_bias=bias,
        v_dim=Integer(fields.size("v_head_dim")),
        value_scale=fields.values.get("attention_value_scale") not in (None, 1, 1.0),
        sinks=fields.flag(sinks, default),
    )


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "gpt_oss": _gpt_oss,
        "llama4_text": _llama4,
        "mimo_v2_flash": _mimo,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "GptOssForCausalLM": "gpt_oss",
        "Llama4ForCausalLM": "llama4_text",
        "MiMoV2FlashForCausalLM": "mimo_v2_flash",
    }
)
