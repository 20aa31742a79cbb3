"""Windows with more heads than full layers, gates on heads: Step 3.5 and 3.7, Laguna."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Attention
from costgraph.models.families.absent import filled, part_of
from costgraph.models.families.common import (
    FULL,
    SLIDING,
    Family,
    Reading,
    heads_of,
    kind_sizes,
    layer_types,
    rotary_of,
    window_of,
)
from costgraph.models.families.experts import (
    RMS,
    attention_of,
    corrected_route,
    crossed,
    experts_of,
    feed_forward_of,
    layers_of,
)
from costgraph.models.fields import Fields
from costgraph.ops import Route
from costgraph.ops.pattern import CAUSAL, sliding


def _shares(fields: Fields, kinds: Sequence[str]) -> dict[str, Any]:
    """The share of a head that rotates, by kind of layer."""
    nested = fields.values.get("rope_parameters")
    if isinstance(nested, Mapping):
        inner = {k: nested.get(f"{k}_attention") for k in (SLIDING, FULL)}
        return {k: v.get("partial_rotary_factor", 1.0) for k, v in inner.items()
                if isinstance(v, Mapping)}  # fmt: skip
    listed = fields.values.get("partial_rotary_factors")
    if listed is None:
        return {}
    if not isinstance(listed, list) or len(listed) < len(kinds):
        raise ModelError(f"{fields.name}: 'partial_rotary_factors' must have one entry a layer")
    found: dict[str, Any] = {}
    for kind, share in zip(kinds, listed, strict=False):
        if found.setdefault(kind, share) != share:
            raise ModelError(f"{fields.name}: 'partial_rotary_factors' differ among {kind} layers")
    return found


def _mixers(
    fields: Fields, heads: Mapping[str, int], kinds: Sequence[str], window: Any, **both: Any
) -> dict[str, Attention]:
    """Attention by kind of layer; each kind has as many heads as ``heads`` says."""
    shares = _shares(fields, kinds)
    found = {}
    for kind in dict.fromkeys(kinds):
        named = fields.with_values(num_attention_heads=heads[kind])
        _, _, dh = heads_of(named, fields.size("hidden_size"))
        share = Fields(fields.name, {"partial_rotary_factor": shares.get(kind, 1.0)})
        rotary = rotary_of(share, dh, 1.0)
        found[kind] = attention_of(
            named,
            rotary=rotary,
            qk_norm=RMS,
            table="rope_table" if rotary == dh else "partial_rope_table",
            pattern=sliding(window) if kind == SLIDING else CAUSAL,
            **both,
        )
    return found


def _trimmed(fields: Fields, key: str) -> Any:
    """A list with one entry a layer; those of modules for multi-token prediction stand behind."""
    found = fields.values.get(key)
    extra = fields.values.get("num_nextn_predict_layers") or 0
    count = layers_of(fields)
    if isinstance(found, list) and len(found) == count + (extra if type(extra) is int else 0):
        return found[:count]
    return found


def _sparse(fields: Fields) -> list[str]:
    """``dense`` or ``sparse`` per layer; the first files name numbers of layers in a text."""
    count, listed = layers_of(fields), _trimmed(fields, "mlp_layer_types")
    if listed is not None:
        found: list[str] = listed
        return found
    named = fields.values.get("moe_layers_enum")
    if named is None:
        first = fields.values.get("first_k_dense_replace", 3)
        if type(first) is not int or not 0 <= first <= count:
            raise ModelError(f"{fields.name}: 'first_k_dense_replace' must be from 0 to {count}")
        held = set(range(first, count))
    else:
        parts = named.split(",") if isinstance(named, str) else named
        if not isinstance(parts, list) or not all(str(p).strip().isdecimal() for p in parts):
            raise ModelError(f"{fields.name}: 'moe_layers_enum' must be numbers of layers")
        held = {int(p) for p in parts}
    return ["sparse" if i in held else "dense" for i in range(count)]


def _step(fields: Fields) -> Reading:
    """Step 3.5 and 3.7's language model: a gate for each head, one shared expert."""
    named = fields.renamed(
        num_key_value_heads="num_attention_groups",
        n_routed_experts="moe_num_experts",
        num_experts_per_tok="moe_top_k",
        share_expert_dim="share_expert_dims",
    )
    named = named.renamed(n_routed_experts="num_experts")
    for key in ("sink", "use_mfa", "attention_bias", "mlp_bias"):
        fields.refuse(key, "not understood in this family")
    for key, usual in (("use_head_wise_attn_gate", True), ("use_qk_norm", True),
                       ("use_moe", True), ("zero_centered", True), ("moe_layer_offset", 0),
                       ("moe_every_n_layer", 1), ("n_shared_experts", 1),
                       ("moe_router_activation", "sigmoid"), ("scoring_func", "sigmoid"),
                       ("norm_expert_weight", True), ("use_moe_router_bias", True),
                       ("att_impl_type", "GQA")):  # fmt: skip
        fields.require(key, usual)
    limits = [_trimmed(fields, key) for key in ("swiglu_limits", "swiglu_limits_shared")]
    clamps = any(isinstance(found, list) and any(found) for found in limits)
    count, heads = layers_of(fields), fields.size("num_attention_heads")
    kinds = layer_types(named.with_values(layer_types=_trimmed(fields, "layer_types")))
    more = fields.size("num_sliding_attention_heads", default=heads)
    own = kind_sizes(fields, kinds, {SLIDING: ("num_attention_heads",)}).get(SLIDING, {})
    more = own.get("num_attention_heads", more)
    other = fields.values.get("attention_other_setting")
    if isinstance(other, Mapping):
        more = Fields(f"{fields.name}: attention_other_setting", other).size("num_attention_heads")
        inner = {k: other.get(k) for k in ("num_attention_groups", "head_dim", "attention_type")}
        expected: dict[str, Any] = {
            "num_attention_groups": named.size("num_key_value_heads"),
            "head_dim": fields.size("head_dim"),
            "attention_type": "sliding_attention",
        }
        for key, value in inner.items():
            if value not in (None, expected[key]):
                raise ModelError(
                    f"{fields.name}: 'attention_other_setting': {key!r} = {clip(value)}: "
                    f"only {expected[key]!r} is supported"
                )
    window = window_of(fields)
    if window is None and SLIDING in kinds:
        raise ModelError(f"{fields.name}: 'sliding_window' is missing, and some layers slide")
    mixers = _mixers(named, {SLIDING: more, FULL: heads}, kinds, window, gate="head")
    route = Route(
        score="sigmoid",
        normalise=True,
        correction=True,
        scale=fields.number("moe_router_scaling_factor", 1.0) != 1,
    )
    dense = feed_forward_of(named, fields.size("intermediate_size"))
    experts = experts_of(
        named,
        fields.size("moe_intermediate_size"),
        route,
        "n_routed_experts",
        shared=replace(dense, width=Integer(named.size("share_expert_dim"))),
    )
    sparse = named.with_values(mlp_layer_types=_sparse(named), num_hidden_layers=count)
    made = crossed(sparse, mixers, kinds, dense, experts, ahead=None)
    said = ("clamped activations of some layers are counted without the clamp",) if clamps else ()
    return replace(made, assumptions=said)


def _step7(fields: Fields) -> Reading:
    """Step 3.7, whose language model may stand in a section of its own."""
    whole = isinstance(fields.values.get("text_config"), Mapping)
    found = _step(part_of(fields, "step3p5") if whole else filled(fields, "step3p5"))
    return replace(found, assumptions=(*found.assumptions, EYES))


#: What is left out of Step 3.7, also where a file says nothing of it.
EYES = "the language model alone is counted, in time and memory: whole models of this type see"


def _laguna(fields: Fields) -> Reading:
    """Heads by layer, gates through a softplus."""
    count, heads = layers_of(fields), fields.size("num_attention_heads")
    kinds = layer_types(fields)
    listed = fields.values.get("num_attention_heads_per_layer") or [heads] * count
    by: dict[str, int] = {}
    if not isinstance(listed, list) or len(listed) != count:
        raise ModelError(
            f"{fields.name}: 'num_attention_heads_per_layer' must have {count} entries"
        )
    for kind, value in zip(kinds, listed, strict=True):
        if by.setdefault(kind, value) != value:
            raise ModelError(f"{fields.name}: layers of one kind differ in their number of heads")
    fields.refuse("moe_apply_router_weight_on_input", "weights in front of experts are unknown")
    gating = fields.values.get("gating", True)
    if gating not in (True, "per-head", "per-element"):
        raise ModelError(f"{fields.name}: 'gating' = {clip(gating)} is not supported")
    bias = fields.flag("attention_bias", False)
    mixers = _mixers(
        fields,
        by,
        kinds,
        window_of(fields, 512),
        gate="each" if gating == "per-element" else "head",
        gate_act="softplus",
        qkv_bias=bias,
        out_bias=bias,
    )
    route = replace(
        corrected_route(fields),
        scale=fields.number("moe_routed_scaling_factor", 1.0) != 1,
    )
    dense = feed_forward_of(fields, fields.size("intermediate_size"))
    width = Integer(fields.size("shared_expert_intermediate_size"))
    experts = experts_of(
        fields,
        fields.size("moe_intermediate_size"),
        route,
        "num_experts",
        shared=replace(dense, width=width),
        learned_correction=True,
        router_cap=fields.number("moe_router_logit_softcapping", 0.0) > 0,
    )
    default = ["dense", *["sparse"] * (count - 1)]
    sparse = fields.with_defaults(mlp_layer_types=default)
    return crossed(sparse, mixers, kinds, dense, experts, ahead=None)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"step3p5": _step, "step3p7": _step7, "laguna": _laguna}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "Step3p5ForCausalLM": "step3p5",
        "Step3p7FlashForCausalLM": "step3p7",
        "Step3p7ForConditionalGeneration": "step3p7",
        "LagunaForCausalLM": "laguna",
    }
)
