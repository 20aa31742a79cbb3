"""Families with mixture-of-experts layers on grouped-query attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import (
    Attention,
    Block,
    Ends,
    Experts,
    FeedForward,
    Layer,
    Norm,
    Segment,
    Stack,
    arranged,
)
from costgraph.models.blocks.pattern import period_of
from costgraph.models.blocks.stack import Repeatable
from costgraph.models.families.common import (
    Family,
    Reading,
    activation_of,
    heads_of,
    next_token,
    rotary_of,
    window_of,
)
from costgraph.models.fields import Fields
from costgraph.ops import Route
from costgraph.ops.pattern import sliding

RMS = Norm()
#: Runs of equal layers up to which no pattern behind first layers is looked for,
#: and how many first layers there may be.
MOST_RUNS, MOST_FIRST = 4, 4


def attention_of(fields: Fields, **changes: Any) -> Attention:
    """Grouped-query attention with rotary embedding, as in Llama."""
    d = fields.size("hidden_size")
    heads, kv_heads, dh = heads_of(fields, d)
    block = Attention(Integer(d), Integer(heads), Integer(kv_heads), dh, rotary_of(fields, dh, 1.0))
    return replace(block, **changes)


def feed_forward_of(fields: Fields, width: int) -> FeedForward:
    """The gated feed-forward block of a dense layer."""
    activation = activation_of(fields, "hidden_act", default="silu")
    return FeedForward(Integer(fields.size("hidden_size")), Integer(width), activation)


def experts_of(fields: Fields, width: int, route: Route, *keys: str, **changes: Any) -> Experts:
    """Gated experts; ``keys`` name the number of experts.

    Raises:
        ModelError: more experts are chosen than there are.
    """
    # Transformers 5 saves the number of experts of most families under one name.
    count = fields.size(*keys, *(() if "num_local_experts" in keys else ("num_local_experts",)))
    chosen = fields.size("num_experts_per_tok", "experts_per_token")
    if chosen > count:
        raise ModelError(f"{fields.name}: 'num_experts_per_tok' = {chosen} of {count} experts")
    block = Experts(
        d=Integer(fields.size("hidden_size")),
        width=Integer(width),
        experts=Integer(count),
        chosen=Integer(chosen),
        route=route,
        activation=activation_of(fields, "hidden_act", default="silu"),
    )
    return replace(block, **changes)


def ends_of(fields: Fields, tied: bool = False, **changes: Any) -> Ends:
    """Embedding, final RMS norm and projection."""
    ends = Ends(
        Integer(fields.size("hidden_size")),
        Integer(fields.size("vocab_size")),
        norm=RMS,
        tied=fields.flag("tie_word_embeddings", tied),
    )
    return replace(ends, **changes)


def stacked(ends: Ends, kinds: Sequence[str], layers: Mapping[str, Repeatable]) -> Stack:
    """A model whose layer ``i`` is ``layers[kinds[i]]``.

    Where a pattern recurs only after a few first layers, those stand apart.
    """
    runs = sum(1 for _ in groupby(kinds))
    if runs > MOST_RUNS and period_of(kinds) == len(kinds):
        for start in range(1, MOST_FIRST + 1):
            rest = kinds[start:]
            if period_of(rest) < len(rest):
                front = tuple(
                    replace(s, name=f"first_{s.name}")
                    for s in arranged(ends.d, kinds[:start], layers)
                )
                return Stack(ends, (*front, *arranged(ends.d, rest, layers)))
    return Stack(ends, arranged(ends.d, kinds, layers))


def layers_of(fields: Fields) -> int:
    """The number of layers, bounded: patterns are searched layer by layer."""
    count = fields.size("num_hidden_layers")
    if count > 4096:
        raise ModelError(f"{fields.name}: 'num_hidden_layers' = {count}: more than 4096 layers")
    return count


def uniform(ends: Ends, layer: Layer, count: int) -> Stack:
    """A model whose layers are all alike."""
    return Stack(ends, (Segment("layers", layer, Integer(count)),))


def numbers_of(fields: Fields, key: str) -> list[int]:
    """A list of whole numbers under ``key``; empty without the key.

    Raises:
        ModelError: it is no such list.
    """
    value = fields.values.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or any(
        isinstance(v, bool) or not isinstance(v, int) for v in value
    ):
        raise ModelError(f"{fields.name}: {key!r} must be a list of numbers, not {clip(value)}")
    return value


def _mixtral(fields: Fields) -> Reading:
    route = Route(normalise=True)
    experts = experts_of(fields, fields.size("intermediate_size"), route, "num_local_experts")
    attention = attention_of(fields, pattern=sliding(window_of(fields)))
    layer = Layer(attention.d, attention, experts)
    return Reading(uniform(ends_of(fields), layer, fields.size("num_hidden_layers")))


def _olmoe(fields: Fields) -> Reading:
    bias = fields.flag("attention_bias", False)
    attention = attention_of(
        fields,
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=RMS,
        qk_norm_over="all",
        clip=fields.values.get("clip_qkv") is not None,
    )
    route = Route(normalise=fields.flag("norm_topk_prob", False))
    experts = experts_of(fields, fields.size("intermediate_size"), route, "num_experts")
    layer = Layer(attention.d, attention, experts)
    return Reading(uniform(ends_of(fields), layer, fields.size("num_hidden_layers")))


def _qwen_moe(fields: Fields, attention: Attention, experts: Experts) -> Reading:
    """Experts in every so many layers, without the named ones."""
    d, count = attention.d, layers_of(fields)
    step = fields.size("decoder_sparse_step", default=1)
    dense = set(numbers_of(fields, "mlp_only_layers"))
    kinds = ["dense" if (i + 1) % step or i in dense else "experts" for i in range(count)]
    if fields.flag("use_sliding_window", False):
        attention = replace(attention, pattern=sliding(window_of(fields, 4096)))
        if fields.size("max_window_layers", default=count) < count:
            raise ModelError(
                f"{fields.name}: 'max_window_layers': windows in some layers only are unknown here"
            )
    layers = {"experts": Layer(d, attention, experts)}
    if "dense" in kinds:
        width = fields.size("intermediate_size")
        layers["dense"] = Layer(d, attention, feed_forward_of(fields, width))
    return Reading(stacked(ends_of(fields), kinds, layers))


def _qwen2_moe(fields: Fields) -> Reading:
    route = Route(normalise=fields.flag("norm_topk_prob", False))
    shared = feed_forward_of(fields, fields.size("shared_expert_intermediate_size"))
    width = fields.size("moe_intermediate_size")
    experts = experts_of(fields, width, route, "num_experts", shared=shared, shared_gate=True)
    bias = fields.flag("qkv_bias", True)
    return _qwen_moe(fields, attention_of(fields, qkv_bias=bias), experts)


def _qwen3_moe(fields: Fields) -> Reading:
    bias = fields.flag("attention_bias", False)
    attention = attention_of(fields, qk_norm=RMS, qkv_bias=bias, out_bias=bias)
    route = Route(normalise=fields.flag("norm_topk_prob", False))
    experts = experts_of(fields, fields.size("moe_intermediate_size"), route, "num_experts")
    return _qwen_moe(fields, attention, experts)


def _granitemoe(fields: Fields) -> Reading:
    width = fields.size("intermediate_size")
    experts = experts_of(fields, width, Route(after=True), "num_local_experts", packed=True)
    if fields.values.get("shared_intermediate_size"):
        block = feed_forward_of(fields, fields.size("shared_intermediate_size"))
        experts = replace(experts, shared=replace(block, fused_gate_up=True))
    bias = fields.flag("attention_bias", False)
    attention = attention_of(fields, qkv_bias=bias, out_bias=bias)
    scaled = fields.number("residual_multiplier", 1.0) != 1
    layer = Layer(attention.d, attention, experts, residual_scale=scaled)
    ends = ends_of(
        fields,
        embed_scale=fields.number("embedding_multiplier", 1.0) != 1,
        logit_scale=fields.number("logits_scaling", 1.0) != 1,
    )
    return Reading(uniform(ends, layer, fields.size("num_hidden_layers")))


def _dbrx(fields: Fields) -> Reading:
    inner, outer = fields.section("ffn_config"), fields.section("attn_config")
    named = fields.renamed(
        hidden_size="d_model", num_attention_heads="n_heads", num_hidden_layers="n_layers"
    ).with_values(num_key_value_heads=outer.size("kv_n_heads", default=1))
    norm = Norm("layer")
    attention = attention_of(named, fused_qkv=True, clip=outer.values.get("clip_qkv") is not None)
    activation = inner.section("ffn_act_fn") if inner.values.get("ffn_act_fn") else inner
    normalised = inner.values.get("moe_normalize_expert_weights", 1) is not None
    experts = Experts(
        d=attention.d,
        width=Integer(inner.size("ffn_hidden_size")),
        experts=Integer(inner.size("moe_num_experts")),
        chosen=Integer(inner.size("moe_top_k")),
        route=Route(normalise=normalised),
        activation=activation_of(activation, "name", default="silu"),
    )
    layer = Layer(attention.d, attention, experts, norm)
    return Reading(uniform(ends_of(named, norm=norm), layer, named.size("num_hidden_layers")))


def _phimoe(fields: Fields) -> Reading:
    bias = fields.flag("attention_bias", False)
    norm = Norm("layer", True)
    # Its router (SparseMixer) takes a softmax over masked logits for each choice; one is counted.
    experts = experts_of(fields, fields.size("intermediate_size"), Route(), "num_local_experts")
    seen = sliding(window_of(fields))
    attention = attention_of(fields, qkv_bias=bias, out_bias=bias, pattern=seen)
    layer = Layer(attention.d, attention, experts, norm)
    ends = ends_of(fields, norm=norm, head_bias=fields.flag("lm_head_bias", False))
    return Reading(uniform(ends, layer, fields.size("num_hidden_layers")))


def _minimax_m2(fields: Fields) -> Reading:
    # Its modules for multi-token prediction (num_mtp_modules) are no part of the decoder.
    if fields.values.get("shared_intermediate_size"):
        raise ModelError(f"{fields.name}: 'shared_intermediate_size': shared experts are unknown")
    fields.require("qk_norm_type", "per_layer")
    fields.require("scoring_func", "sigmoid")
    fields.require("use_routing_bias", True)
    kinds = fields.values.get("attn_type_list") or [1]
    if not isinstance(kinds, list) or any(kind != 1 for kind in kinds):
        raise ModelError(
            f"{fields.name}: 'attn_type_list' = {clip(kinds)}: only 1, attention over all "
            "positions, is supported"
        )
    normed = fields.flag("use_qk_norm", True)
    attention = attention_of(
        fields, qk_norm=RMS if normed else None, qk_norm_over="all" if normed else "head"
    )
    if fields.values.get("rotary_dim") is not None:
        attention = replace(attention, rotary=Integer(fields.size("rotary_dim")))
    route = Route(score="sigmoid", normalise=True, correction=True)
    experts = experts_of(fields, fields.size("intermediate_size"), route, "num_local_experts")
    layer = Layer(attention.d, attention, experts)
    return Reading(uniform(ends_of(fields), layer, fields.size("num_hidden_layers")))


def _glm4_moe(fields: Fields) -> Reading:
    _, _, dh = heads_of(fields, fields.size("hidden_size"))
    attention = attention_of(
        fields,
        rotary=rotary_of(fields, dh, 0.5),
        qkv_bias=fields.flag("attention_bias", False),
        qk_norm=RMS if fields.flag("use_qk_norm", False) else None,
    )
    dense = feed_forward_of(fields, fields.size("intermediate_size"))
    return shared_stack(fields, attention, dense, corrected_route(fields))


def corrected_route(fields: Fields) -> Route:
    """The router of DeepSeek-V3 (arXiv 2412.19437): sigmoids, and a correction that balances."""
    return Route(
        score="sigmoid",
        normalise=fields.flag("norm_topk_prob", True),
        scale=fields.values.get("routed_scaling_factor") not in (None, 1, 1.0),
        correction=True,
        groups=Integer(fields.size("n_group", default=1)),
        kept=Integer(fields.size("topk_group", default=1)),
    )


def sparse_layers(fields: Fields) -> list[bool]:
    """Whether each layer has experts: ``mlp_layer_types``, or all after the first dense ones."""
    count = layers_of(fields)
    listed = fields.values.get("mlp_layer_types")
    if listed is not None:
        known = isinstance(listed, list) and all(k in ("dense", "sparse") for k in listed)
        if not known or len(listed) != count:
            raise ModelError(
                f"{fields.name}: 'mlp_layer_types' must be a list of {count} times dense or sparse"
            )
        return [kind == "sparse" for kind in listed]
    first = fields.values.get("first_k_dense_replace", 0)
    if isinstance(first, bool) or not isinstance(first, int) or not 0 <= first <= count:
        raise ModelError(
            f"{fields.name}: 'first_k_dense_replace' must be from 0 to {count}, not {clip(first)}"
        )
    return [i >= first for i in range(count)]


def shared_stack(fields: Fields, mixer: Block, dense: FeedForward, route: Route) -> Reading:
    """Layers as DeepSeek-V3 has them: first dense ones, then experts with shared ones.

    Extra layers for multi-token prediction (``num_nextn_predict_layers``) have experts, too.
    """
    experts = shared_experts(fields, dense, route)
    return crossed(fields, {"": mixer}, [""] * layers_of(fields), dense, experts)


def shared_experts(fields: Fields, dense: FeedForward, route: Route) -> Experts:
    """Routed experts, and shared ones as one wide block."""
    width = fields.size("moe_intermediate_size")
    experts = experts_of(fields, width, route, "n_routed_experts", "num_experts")
    key = "n_shared_experts" if fields.values.get("n_shared_experts") else "num_shared_experts"
    if not fields.values.get(key):
        return experts
    return replace(experts, shared=replace(dense, width=Integer(width * fields.size(key))))


def crossed(
    fields: Fields,
    mixers: Mapping[str, Block],
    kinds: Sequence[str],
    dense: Block,
    experts: Block,
    ends: Ends | None = None,
    ahead: str | None = "",
    **layer: Any,
) -> Reading:
    """Layers of several kinds of mixers, each with experts or with a dense block.

    Args:
        fields: says which layers have experts (:func:`sparse_layers`).
        mixers: by name; a name that is not empty stands in the names of its layers.
        kinds: the mixer of each layer.
        dense, experts: the channels.
        ends: around the layers; those of :func:`ends_of` where not given.
        ahead: the mixer of modules for multi-token prediction; None where theirs is not known.
        layer: attributes of the layers.
    """
    d = Integer(fields.size("hidden_size"))

    def name(held: bool, kind: str) -> str:
        return ("experts" if held else "dense") + (f"_{kind}" if kind else "")

    pairs = list(zip(sparse_layers(fields), kinds, strict=True))
    layers = {
        name(held, kind): Layer(d, mixers[kind], experts if held else dense, **layer)
        for held, kind in dict.fromkeys(pairs)
    }
    outer = ends_of(fields) if ends is None else ends
    model = stacked(outer, [name(*pair) for pair in pairs], layers)
    key = "num_nextn_predict_layers"
    if ahead is None or not fields.values.get(key):
        return Reading(model)
    module = Layer(d, mixers[ahead], experts, **layer)
    return Reading(model, ahead=next_token(outer, module, fields.size(key)))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "mixtral": _mixtral,
        "qwen2_moe": _qwen2_moe,
        "qwen3_moe": _qwen3_moe,
        "qwen3_vl_moe_text": _qwen3_moe,
        "granitemoe": _granitemoe,
        "granitemoeshared": _granitemoe,
        "dbrx": _dbrx,
        "minimax_m2": _minimax_m2,
        "olmoe": _olmoe,
        "phimoe": _phimoe,
        "glm4_moe": _glm4_moe,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "MixtralForCausalLM": "mixtral",
        "Qwen2MoeForCausalLM": "qwen2_moe",
        "Qwen3MoeForCausalLM": "qwen3_moe",
        "GraniteMoeForCausalLM": "granitemoe",
        "GraniteMoeSharedForCausalLM": "granitemoeshared",
        "DbrxForCausalLM": "dbrx",
        "MiniMaxM2ForCausalLM": "minimax_m2",
        "OlmoeForCausalLM": "olmoe",
        "PhimoeForCausalLM": "phimoe",
        "PhiMoEForCausalLM": "phimoe",
        "Glm4MoeForCausalLM": "glm4_moe",
    }
)
