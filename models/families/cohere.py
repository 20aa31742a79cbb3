"""The Command family: parallel blocks behind one norm, scaled logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Block, Norm
from costgraph.models.decoder import Decoder
from costgraph.models.families.common import (
    FULL,
    SLIDING,
    Family,
    Reading,
    alternating,
    layer_types,
    window_of,
)
from costgraph.models.families.experts import (
    attention_of,
    crossed,
    ends_of,
    experts_of,
    feed_forward_of,
    sparse_layers,
)
from costgraph.models.families.llama import llama_like
from costgraph.models.fields import Fields, divided
from costgraph.ops import Route
from costgraph.ops.pattern import sliding


def _parallel(fields: Fields) -> Decoder:
    bias = fields.flag("attention_bias", False)
    return replace(
        llama_like(fields, tied=True, activation="silu"),
        norm="layer",
        parallel=True,
        shared_norm=True,
        qkv_bias=bias,
        out_bias=bias,
        logit_scale=fields.number("logit_scale", 0.0625) != 1,
    )


def _cohere(fields: Fields) -> Reading:
    model = replace(
        _parallel(fields), qk_norm=fields.flag("use_qk_norm", False), qk_norm_over="heads"
    )
    return Reading(model)


def _cohere2(fields: Fields) -> Reading:
    fields.refuse("use_qk_norm", "norms of queries and keys are not known in this family")
    every = fields.size("sliding_window_pattern", default=4)
    kinds = layer_types(fields, lambda i: (i + 1) % every != 0)
    # Layers that see everything do not rotate.
    return Reading(alternating(_parallel(fields), kinds, window_of(fields, 4096), rotary=None))


def compass_text(fields: Fields) -> Reading:
    """The language model of North: Cohere 2's layers, which rotate as their kind's section says."""
    fields = fields.with_defaults(logit_scale=1.0)
    fields.values.get("head_dim")  # the class fills the hidden size
    fields.values.get("pooling")  # of classes without logits
    kinds = layer_types(fields, lambda i: False)
    turns = fields.values.get("rope_parameters")
    still = {
        kind
        for kind, key in ((FULL, "full_attention"), (SLIDING, "sliding_attention"))
        if isinstance(turns, Mapping) and key in turns and turns[key] is None
    }
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    model = _parallel(fields.with_values(head_dim=int(divided(fields, d, heads, "hidden size"))))
    window = window_of(fields, 4096) if SLIDING in kinds else None
    rotary = model.rotary
    if SLIDING in still:
        model = replace(model, rotary=None)
    return Reading(alternating(model, kinds, window, rotary=None if FULL in still else rotary))


def _cohere2_moe(fields: Fields) -> Reading:
    """Cohere 2's layers with experts, and dense ones in front that may see everything."""
    norm = Norm() if fields.values.get("rms_norm_eps") is not None else Norm("layer")
    bias = fields.flag("attention_bias", False)
    attention = attention_of(fields, qkv_bias=bias, out_bias=bias)
    every = fields.size("sliding_window_pattern", default=4)
    sparse = sparse_layers(fields)
    first = fields.size("prefix_dense_sliding_window_pattern", default=1)
    kinds = layer_types(fields, lambda i: (i + 1) % (every if sparse[i] else first) != 0)
    # Dense layers in front that all see everything rotate; others that do, do not.
    mixers: dict[str, Block] = {
        SLIDING: replace(attention, pattern=sliding(window_of(fields, 4096))),
        FULL: replace(attention, rotary=None),
        "rotated": attention,
    }
    named = [
        "rotated" if kind == FULL and not held and first == 1 else kind
        for kind, held in zip(kinds, sparse, strict=True)
    ]
    how = fields.word("expert_selection_fn", default="softmax")
    if how not in ("softmax", "sigmoid"):
        raise ModelError(f"{fields.name}: 'expert_selection_fn' = {clip(how)} is not supported")
    width = fields.size("intermediate_size")
    dense = feed_forward_of(fields, fields.size("prefix_dense_intermediate_size", default=width))
    route = Route(
        score=how, after=True, normalise=how == "sigmoid" and fields.flag("norm_topk_prob", True)
    )
    shared = None
    if fields.values.get("num_shared_experts"):
        shared = replace(dense, width=Integer(width * fields.size("num_shared_experts")))
    strategy = fields.word("shared_expert_combination_strategy", default="average")
    if strategy not in ("average", "sum"):
        raise ModelError(f"{fields.name}: 'shared_expert_combination_strategy' = {clip(strategy)}")
    experts = experts_of(
        fields,
        width,
        route,
        "num_experts",
        shared=shared,
        averaged=shared is not None and strategy == "average",
    )
    ends = ends_of(
        fields, tied=True, norm=norm, logit_scale=fields.number("logit_scale", 0.0625) != 1
    )
    return crossed(
        fields,
        mixers,
        named,
        dense,
        experts,
        ends,
        ahead=None,
        norm=norm,
        parallel=True,
        shared_norm=True,
    )


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "cohere": _cohere,
        "cohere2": _cohere2,
        "cohere2_moe": _cohere2_moe,
        "cohere_compass_text": compass_text,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "CohereForCausalLM": "cohere",
        "Cohere2ForCausalLM": "cohere2",
        "Cohere2MoeForCausalLM": "cohere2_moe",
        "CohereCompassForCausalLM": "cohere_compass_text",
    }
)
