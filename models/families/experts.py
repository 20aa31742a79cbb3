"""Families with mixture-of-experts layers on grouped-query attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
    segmented,
)
from costgraph.models.families.common import (
    Family,
    Reading,
    activation_of,
    heads_of,
    rotary_of,
    window_of,
)
from costgraph.models.fields import Fields
from costgraph.ops import Route

RMS = Norm()


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
    count = fields.size(*keys)
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


def stacked(ends: Ends, layers: Sequence[Layer]) -> Stack:
    """A model of the given layers."""
    return Stack(ends, segmented(ends.d, layers))


def layers_of(fields: Fields, key: str = "num_hidden_layers") -> int:
    """The number of layers, bounded: patterns are searched layer by layer."""
    count = fields.size(key)
    if count > 4096:
        raise ModelError(f"{fields.name}: {key!r} = {count}: more than 4096 layers")
    return count


def uniform(fields: Fields, mixer: Attention, channel: Experts, **changes: Any) -> Stack:
    """A model whose layers are all alike."""
    layer = replace(Layer(mixer.d, mixer, channel, RMS), **changes)
    count = Integer(fields.size("num_hidden_layers"))
    return Stack(ends_of(fields), (Segment("layers", layer, count),))


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
    return Reading(uniform(fields, attention_of(fields), experts), window_of(fields))


def _sparse(fields: Fields, count: int) -> list[bool]:
    """Which layers hold experts (Qwen): every so many, without the named ones."""
    step = fields.size("decoder_sparse_step", default=1)
    dense = set(numbers_of(fields, "mlp_only_layers"))
    return [(i + 1) % step == 0 and i not in dense for i in range(count)]


def _qwen_moe(fields: Fields, attention: Attention, experts: Experts) -> Reading:
    d, count = attention.d, layers_of(fields)
    pattern = _sparse(fields, count)
    sparse = Layer(d, attention, experts, RMS)
    layers = [sparse] * count
    if not all(pattern):
        feed_forward = feed_forward_of(fields, fields.size("intermediate_size"))
        dense = Layer(d, attention, feed_forward, RMS)
        layers = [sparse if held else dense for held in pattern]
    window = window_of(fields) if fields.flag("use_sliding_window", False) else None
    return Reading(stacked(ends_of(fields), layers), window)


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
    # Embedding, residual and logit multipliers are folded into neighbouring products.
    route = Route(after=True)
    width = fields.size("intermediate_size")
    experts = experts_of(fields, width, route, "num_local_experts", packed=True)
    shared = fields.values.get("shared_intermediate_size")
    if shared:
        block = feed_forward_of(fields, fields.size("shared_intermediate_size"))
        experts = replace(experts, shared=replace(block, fused_gate_up=True))
    bias = fields.flag("attention_bias", False)
    return Reading(uniform(fields, attention_of(fields, qkv_bias=bias, out_bias=bias), experts))


def _dbrx(fields: Fields) -> Reading:
    d = fields.size("d_model")
    heads = fields.size("n_heads")
    inner, outer = (nested(fields, key) for key in ("ffn_config", "attn_config"))
    activation = nested(inner, "ffn_act_fn") if inner.values.get("ffn_act_fn") else inner
    kv_heads = outer.size("kv_n_heads", default=1)
    if d % heads or heads % kv_heads:
        raise ModelError(f"{fields.name}: {d} / {heads} / {kv_heads} heads do not divide")
    dh = Integer(d // heads)
    norm = Norm("layer")
    attention = Attention(
        Integer(d), Integer(heads), Integer(kv_heads), dh, rotary=dh, fused_qkv=True
    )
    experts = Experts(
        d=Integer(d),
        width=Integer(inner.size("ffn_hidden_size")),
        experts=Integer(inner.size("moe_num_experts")),
        chosen=Integer(inner.size("moe_top_k")),
        route=Route(normalise=inner.values.get("moe_normalize_expert_weights", 1) is not None),
        activation=activation_of(activation, "name", default="silu"),
    )
    ends = Ends(
        Integer(d),
        Integer(fields.size("vocab_size")),
        norm=norm,
        tied=fields.flag("tie_word_embeddings", False),
    )
    layer = Layer(Integer(d), attention, experts, norm)
    return Reading(Stack(ends, (Segment("layers", layer, Integer(fields.size("n_layers"))),)))


def nested(fields: Fields, key: str) -> Fields:
    """The object under ``key`` as fields of its own.

    Raises:
        ModelError: there is none.
    """
    value = fields.values.get(key)
    if not isinstance(value, Mapping):
        raise ModelError(f"{fields.name}: {key!r} must be an object, not {clip(value)}")
    return Fields(f"{fields.name}: {key}", value)


def _phimoe(fields: Fields) -> Reading:
    bias = fields.flag("attention_bias", False)
    norm = Norm("layer", True)
    # Its router (SparseMixer) takes a softmax over masked logits for each choice; one is counted.
    experts = experts_of(fields, fields.size("intermediate_size"), Route(), "num_local_experts")
    attention = attention_of(fields, qkv_bias=bias, out_bias=bias)
    layer = Layer(attention.d, attention, experts, norm)
    ends = ends_of(fields, norm=norm, head_bias=fields.flag("lm_head_bias", False))
    count = Integer(fields.size("num_hidden_layers"))
    return Reading(Stack(ends, (Segment("layers", layer, count),)), window_of(fields))


def _glm4_moe(fields: Fields) -> Reading:
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    dh = fields.size("head_dim", default=d // heads)
    attention = attention_of(
        fields,
        rotary=rotary_of(fields, Integer(dh), 0.5),
        qkv_bias=fields.flag("attention_bias", False),
        qk_norm=RMS if fields.flag("use_qk_norm", False) else None,
    )
    dense = feed_forward_of(fields, fields.size("intermediate_size"))
    layers = shared_layers(fields, attention, dense, corrected_route(fields))
    return Reading(stacked(ends_of(fields), layers))


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


def shared_layers(fields: Fields, mixer: Block, dense: FeedForward, route: Route) -> list[Layer]:
    """Layers as DeepSeek-V3 has them: first dense ones, then experts with shared ones.

    Extra layers for multi-token prediction (``num_nextn_predict_layers``) are no
    part of the decoder and left out.
    """
    width = fields.size("moe_intermediate_size")
    experts = experts_of(fields, width, route, "n_routed_experts")
    shared = fields.values.get("n_shared_experts")
    if shared:
        block = replace(dense, width=Integer(width * fields.size("n_shared_experts")))
        experts = replace(experts, shared=block)
    first, count = fields.values.get("first_k_dense_replace", 0), layers_of(fields)
    if isinstance(first, bool) or not isinstance(first, int) or not 0 <= first <= count:
        raise ModelError(
            f"{fields.name}: 'first_k_dense_replace' must be from 0 to {count}, not {clip(first)}"
        )
    front, back = (Layer(dense.d, mixer, channel, RMS) for channel in (dense, experts))
    return [front] * first + [back] * (count - first)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "mixtral": _mixtral,
        "qwen2_moe": _qwen2_moe,
        "qwen3_moe": _qwen3_moe,
        "granitemoe": _granitemoe,
        "granitemoeshared": _granitemoe,
        "dbrx": _dbrx,
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
        "PhimoeForCausalLM": "phimoe",
        "PhiMoEForCausalLM": "phimoe",
        "Glm4MoeForCausalLM": "glm4_moe",
    }
)
