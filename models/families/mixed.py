"""Further families with experts: windows, sinks and shared experts in other mixtures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Attention, Layer, Stack
from costgraph.models.blocks.blockwise import BlockAttention
from costgraph.models.blocks.differential import DifferentialAttention
from costgraph.models.blocks.headexperts import HeadExperts
from costgraph.models.blocks.layer import Block
from costgraph.models.families.absent import part_of
from costgraph.models.families.common import (
    FULL,
    SLIDING,
    Family,
    Reading,
    activation_of,
    layer_types,
    window_of,
)
from costgraph.models.families.dense import swa_layers
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
    numbers_of,
    stacked,
    uniform,
)
from costgraph.models.fields import Fields
from costgraph.ops import Route
from costgraph.ops.pattern import sliding

#: The kinds of ``mlp_layer_types``.
DENSE, SPARSE = "dense", "sparse"


def _granitemoe_swa(fields: Fields) -> Reading:
    """Granite's experts with sinks, windows in three of four layers, layers that do not rotate."""
    layers_of(fields)
    model = EXPERTS["granitemoe"](fields).model
    assert isinstance(model, Stack)
    layer = model.segments[0].layer
    assert isinstance(layer, Layer)
    assert isinstance(layer.mixer, Attention)
    window = window_of(fields, 128)
    listed, layers = swa_layers(fields), {}
    for name, slide, turn in listed:
        mixer = replace(layer.mixer, sinks=True, pattern=sliding(window if slide else None))
        layers[name] = replace(layer, mixer=mixer if turn else replace(mixer, rotary=None))
    return Reading(stacked(model.ends, [name for name, *_ in listed], layers))


def _mixers(fields: Fields, attention: Attention, window: int, **full: Any) -> dict[str, Attention]:
    """Attention with a window, and without; ``full``: changes of the latter."""
    return {
        SLIDING: replace(attention, pattern=sliding(window_of(fields, window))),
        FULL: replace(attention, **full),
    }


def _attention(fields: Fields, **changes: Any) -> Attention:
    """Qwen 3's attention: norms of queries and keys, all biases or none."""
    bias, named = fields.flag("attention_bias", False), fields.with_defaults(head_dim=128)
    return attention_of(named, qk_norm=RMS, qkv_bias=bias, out_bias=bias, **changes)


def _mellum(fields: Fields) -> Reading:
    """Qwen 3's layers with experts, with windows in some."""
    attention = _attention(fields)
    route = Route(normalise=fields.flag("norm_topk_prob", True))
    experts = experts_of(fields, fields.size("moe_intermediate_size"), route, "num_experts")
    dense = feed_forward_of(fields, fields.size("intermediate_size"))
    mixers = _mixers(fields, attention, 1024)
    return crossed(fields, mixers, layer_types(fields), dense, experts, ahead=None)


def _flint(fields: Fields) -> Reading:
    """Sinks in all layers; those without a window do not rotate; one expert for all tokens."""
    count, attention = layers_of(fields), _attention(fields, sinks=True)
    dense = feed_forward_of(fields, fields.size("intermediate_size"))
    shared = replace(dense, width=Integer(fields.size("shared_expert_intermediate_size")))
    route = Route(score="sigmoid", normalise=fields.flag("norm_topk_prob", True))
    width = fields.size("moe_intermediate_size")
    experts = experts_of(fields, width, route, "num_experts", shared=shared)
    kinds = layer_types(fields, lambda i: i >= 2 and i % 4 != 1 and i != count - 1)
    step = fields.size("decoder_sparse_step", default=1)
    first = [0, 1] if fields.values.get("mlp_only_layers") is None else []
    apart = {*first, *numbers_of(fields, "mlp_only_layers")}
    held = [SPARSE if i not in apart and (i + 1) % step == 0 else DENSE for i in range(count)]
    named = fields.with_values(mlp_layer_types=held)
    mixers = _mixers(fields, attention, 513, rotary=None)
    return crossed(named, mixers, kinds, dense, experts, ahead=None)


def _kolibri(fields: Fields) -> Reading:
    """Norms on both sides of blocks; layers without a window do not rotate; experts in each."""
    attention = attention_of(fields.with_defaults(head_dim=128), qk_norm=RMS)
    width = fields.size("moe_intermediate_size")
    shared = feed_forward_of(fields, fields.size("shared_expert_intermediate_size"))
    route = Route(
        score="sigmoid",
        after=True,
        correction=True,
        normalise=fields.flag("norm_topk_prob", False),
    )
    experts = experts_of(fields, width, route, "num_local_experts", "num_experts", shared=shared)
    kinds = layer_types(fields, lambda i: (i + 1) % 5 != 0)
    plain = {} if window_of(fields, 513) is None else {"rotary": None}
    mixers = _mixers(fields, attention, 513, **plain)
    sparse = fields.with_values(mlp_layer_types=[SPARSE] * layers_of(fields))
    return crossed(sparse, mixers, kinds, shared, experts, ahead=None, post_norms=True)


def _aria(fields: Fields) -> Reading:
    """Llama with experts and shared ones."""
    bias = fields.flag("attention_bias", False)
    attention = attention_of(fields, qkv_bias=bias, out_bias=bias)
    named = fields.renamed(num_experts="moe_num_experts", num_experts_per_tok="moe_topk")
    width = fields.size("intermediate_size")
    count = fields.size("moe_num_shared_experts", default=2)
    shared = replace(feed_forward_of(fields, width * count), bias=fields.flag("mlp_bias", False))
    experts = experts_of(named, width, Route(after=True), "num_experts", shared=shared, packed=True)
    layer = Layer(attention.d, attention, experts)
    return Reading(uniform(ends_of(fields), layer, fields.size("num_hidden_layers")))


#: Names of the index's sizes in the published files' ``sparse_attention_config``.
_INDEX: Mapping[str, str] = MappingProxyType(
    {
        "index_n_heads": "sparse_num_index_heads",
        "index_head_dim": "sparse_index_dim",
        "index_block_size": "sparse_block_size",
        "index_topk_blocks": "sparse_topk_blocks",
        "index_local_blocks": "sparse_local_block",
    }
)
#: Keys of ``sparse_attention_config`` that are read elsewhere, or count nothing.
_UNCOUNTED = ("sparse_attention_freq", "use_sparse_attention")


def _per_layer(
    fields: Fields, key: str, kinds: Sequence[str], numbers: Any, default: str
) -> list[str]:
    """The kind of each layer: names under ``key``, or numbers, 0 for the first kind."""
    count, found = layers_of(fields), fields.values.get(key)
    if found is None and numbers is not None:
        found = [kinds[v] if v in (0, 1) else v for v in numbers] if type(numbers) is list else []
    if found is None:
        return [default] * count
    if not isinstance(found, list) or len(found) != count or any(k not in kinds for k in found):
        raise ModelError(f"{fields.name}: {key!r} must name {' or '.join(kinds)} for each layer")
    return found


def _as_read(inner: Mapping[str, Any], key: str) -> bool:
    """Whether the index that a file describes is the one that is counted: the greatest score of
    a block tells, and no layer that has an index reads values through it.
    """
    value = inner[key]
    if key == "sparse_score_type":
        return bool(value == "max")
    without, has = value, inner.get("sparse_attention_freq")
    if key != "sparse_disable_index_value" or not isinstance(without, list):
        return False
    if not isinstance(has, list) or len(has) != len(without):
        return False
    return all(bool(w) for w, h in zip(without, has, strict=True) if h)


def _minimax_m3(fields: Fields) -> Reading:
    """Blocks of positions that an index chooses in some layers; clamped gates, shared experts."""
    nested = fields.values.get("sparse_attention_config")
    inner = nested if isinstance(nested, Mapping) else {}
    fields = fields.with_defaults(
        head_dim=128, **{k: inner[old] for k, old in _INDEX.items() if old in inner}
    )
    for key, value in inner.items():
        if value and key not in (*_INDEX.values(), *_UNCOUNTED) and not _as_read(inner, key):
            said = f"{key!r} = {clip(value)} is not understood"
            raise ModelError(f"{fields.name}: 'sparse_attention_config': {said}")
    fields.require("qk_norm_type", "per_head")
    fields.require("scoring_func", "sigmoid")
    fields.require("use_routing_bias", True)
    fields.require("n_shared_experts", 1)
    fields.refuse("attention_output_gate", "gates of what attention gives are not read here")
    attention = attention_of(
        fields,
        qk_norm=RMS if fields.flag("use_qk_norm", True) else None,
        rotary=Integer(fields.size("rotary_dim", default=64)),
    )
    index = BlockAttention(
        attention,
        heads=Integer(fields.size("index_n_heads", default=4)),
        width=Integer(fields.size("index_head_dim", default=128)),
        block=Integer(fields.size("index_block_size", default=128)),
        most=Integer(fields.size("index_topk_blocks", default=16)),
    )
    fields.values.get("index_local_blocks")  # of those that are chosen, the newest ones
    for key in ("swiglu_alpha", "swiglu_limit", "hidden_act"):
        fields.values.get(key)  # numbers of the clamped gate, which all files have
    clamped = fields.with_values(hidden_act="silu")
    acts: dict[str, Any] = {"activation": "clamped_gate", "up_activation": "clamped_up"}
    dense = replace(
        feed_forward_of(clamped, fields.size("dense_intermediate_size", default=12288)),
        fused_gate_up=True,
        **acts,
    )
    shared = replace(dense, width=Integer(fields.size("shared_intermediate_size", default=3072)))
    route = Route(
        score="sigmoid",
        normalise=True,
        correction=True,
        scale=fields.number("routed_scaling_factor", 2.0) != 1,
    )
    experts = experts_of(
        clamped,
        fields.size("intermediate_size"),
        route,
        "num_local_experts",
        shared=shared,
        packed=True,
        **acts,
    )
    sparse = "minimax_m3_sparse"
    frequency = inner.get("sparse_attention_freq")
    kinds = _per_layer(
        fields, "layer_types", ("full_attention", sparse), frequency, "full_attention"
    )
    held = _per_layer(
        fields, "mlp_layer_types", (DENSE, SPARSE), fields.values.get("moe_layer_freq"), SPARSE
    )
    names = ["indexed" if kind == sparse else "" for kind in kinds]
    named = fields.with_values(mlp_layer_types=held)
    mixers: dict[str, Block] = {"": attention, "indexed": index}
    return crossed(named, mixers, names, dense, experts, ahead=None)


def _minimax_m3_vl(fields: Fields) -> Reading:
    """The language model of the files that also see; what is left out is said."""
    return _minimax_m3(part_of(fields, "minimax_m3_vl_text"))


def _beam(fields: Fields) -> Reading:
    """Gates with biases, norms on both sides, residuals scaled by depth, DeepSeek-V3's router."""
    count, attention = layers_of(fields), _attention(fields, gate="each", gate_bias=True)
    rope = fields.values.get("rope_parameters")
    whole = rope.get("full_attention") if isinstance(rope, Mapping) else None
    # Layers that do not rotate multiply queries by a number for each position.
    plain = {"rotary": None, "query_scale": True} if whole is None else {}
    mixers = _mixers(fields, attention, 512, **plain)
    kinds = layer_types(fields, lambda i: (i + 1) % 6 != 0 and i != count - 1)
    dense = feed_forward_of(fields, fields.size("intermediate_size"))
    named = fields.with_defaults(n_group=8, topk_group=4, routed_scaling_factor=2.5)
    route = corrected_route(named)
    experts = experts_of(fields, fields.size("moe_intermediate_size"), route, "num_experts")
    first = [DENSE if i < 3 else SPARSE for i in range(count)]
    cap = fields.values.get("final_logit_softcapping", 30.0) is not None
    return crossed(
        fields.with_defaults(mlp_layer_types=first),
        mixers,
        kinds,
        dense,
        experts,
        ends=ends_of(fields, logit_cap=cap),
        ahead=None,
        post_norms=True,
        residual_scale=True,
    )


def _diffllama(fields: Fields) -> Reading:
    """Llama with differential attention."""
    bias = fields.flag("attention_bias", False)
    attention = attention_of(fields, qkv_bias=bias, out_bias=bias)
    for key, count in (
        ("num_attention_heads", attention.heads),
        ("num_key_value_heads", attention.kv_heads),
    ):
        if count % 2:
            raise ModelError(f"{fields.name}: {key!r} = {count} must be even in this family")
    feed = feed_forward_of(fields, fields.size("intermediate_size"))
    layer = Layer(attention.d, DifferentialAttention(attention), feed)
    return Reading(uniform(ends_of(fields), layer, fields.size("num_hidden_layers")))


def _jetmoe(fields: Fields) -> Reading:
    """Experts in the attention, too: each has query heads of its own."""
    # The publisher's file has names of its own beside those of the class.
    for key, own, usual in (("num_local_experts", "moe_num_experts", 8),
                            ("num_experts_per_tok", "moe_top_k", 2),
                            ("intermediate_size", "ffn_hidden_size", 5632)):  # fmt: skip
        stated = fields.size(own, default=fields.size(key, default=usual))
        fields = fields.with_defaults(**{key: stated})
        if fields.size(key) != stated:
            raise ModelError(f"{fields.name}: {own!r} = {stated} is not {key!r}")
    d, heads = fields.size("hidden_size"), fields.size("num_key_value_heads")
    act = activation_of(fields, "activation_function", default="silu")
    named = fields.with_values(hidden_act=act)
    experts = experts_of(
        named,
        fields.size("intermediate_size"),
        Route(after=True),
        "num_local_experts",
        packed=True,
        sum_bias=True,
    )
    chosen = int(heads * experts.chosen)
    if fields.size("num_attention_heads", default=chosen) != chosen:
        raise ModelError(
            f"{fields.name}: 'num_attention_heads' must be 'num_key_value_heads' times "
            f"'num_experts_per_tok': {chosen}"
        )
    mixer = HeadExperts(
        d=Integer(d),
        heads=Integer(heads),
        head_dim=Integer(fields.size("kv_channels")),
        experts=experts.experts,
        chosen=experts.chosen,
    )
    layer = Layer(Integer(d), mixer, experts)
    return Reading(uniform(ends_of(fields, tied=True), layer, fields.size("num_hidden_layers")))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "granitemoe_swa": _granitemoe_swa,
        "mellum": _mellum,
        "flint": _flint,
        "kolibri1": _kolibri,
        "aria_text": _aria,
        "jetmoe": _jetmoe,
        "beam": _beam,
        "minimax_m3_vl_text": _minimax_m3,
        "minimax_m3": _minimax_m3,
        "minimax_m3_vl": _minimax_m3_vl,
        "diffllama": _diffllama,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "GraniteMoeSWAForCausalLM": "granitemoe_swa",
        "MellumForCausalLM": "mellum",
        "FlintForCausalLM": "flint",
        "Kolibri1ForCausalLM": "kolibri1",
        "AriaTextForCausalLM": "aria_text",
        "JetMoeForCausalLM": "jetmoe",
        "JetMoEForCausalLM": "jetmoe",
        "BeamForCausalLM": "beam",
        "MiniMaxM3VLForCausalLM": "minimax_m3_vl_text",
        "MiniMaxM3ForCausalLM": "minimax_m3",
        "MiniMaxM3SparseForConditionalGeneration": "minimax_m3_vl",
        "DiffLlamaForCausalLM": "diffllama",
    }
)
