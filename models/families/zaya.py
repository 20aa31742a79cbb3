"""Zaya: convolutions over queries and keys, experts that a network of their own chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks.zaya import ConvolvedAttention, Hearing, HearingExperts, HearingLayer
from costgraph.models.families.common import FULL, SLIDING, Family, Reading
from costgraph.models.families.experts import ends_of, experts_of, layers_of
from costgraph.models.families.hybrid import words
from costgraph.models.fields import Fields
from costgraph.ops import Route
from costgraph.ops.pattern import sliding

_KINDS: Mapping[str, str] = MappingProxyType({"hybrid": FULL, "hybrid_sliding": SLIDING})
#: What the class has where the file says nothing.
SIZES = {
    "vocab_size": 262272,
    "hidden_size": 2048,
    "num_hidden_layers": 40,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "moe_intermediate_size": 2048,
    "num_experts": 16,
    "num_experts_per_tok": 1,
    "router_hidden_size": 256,
    "cca_time0": 2,
    "cca_time1": 2,
}
SKIPS = (
    "a token whose router chooses no expert is counted with one, as the published class computes "
    "it and multiplies it by zero"
)
WIDE = (
    "sums of layers are kept in the format of activations; the published class keeps them in FP32"
)


def _attention(fields: Fields, kind: str, name: str) -> ConvolvedAttention:
    """Each kind of layer has a rotary table: of half a head, unless the file says."""
    width, heads = fields.size("head_dim"), fields.size("num_attention_heads")
    kv_heads = fields.size("num_key_value_heads")
    if heads % kv_heads or kv_heads * width % 2:
        raise ModelError(
            f"{fields.name}: {heads} heads of {width} and {kv_heads} key heads: heads must be a "
            "multiple of key heads, and values even"
        )
    share = 0.5
    if fields.values.get("rope_parameters") is not None:
        share = float(fields.section("rope_parameters").section(name).fraction(
            "partial_rotary_factor", 1.0))  # fmt: skip
    rotary = int(width * share)
    if rotary < 2 or rotary % 2:
        raise ModelError(
            f"{fields.name}: 'partial_rotary_factor' = {share} of {width} is not an even width"
        )
    window = Integer(fields.size("sliding_window")) if kind == SLIDING else None
    return ConvolvedAttention(
        d=Integer(fields.size("hidden_size")),
        heads=Integer(heads),
        kv_heads=Integer(kv_heads),
        head_dim=Integer(width),
        rotary=Integer(rotary),
        taps=Integer(fields.size("cca_time0")),
        mixed=Integer(fields.size("cca_time1")),
        bias=fields.flag("attention_bias", False),
        pattern=sliding(window),
        table="rope_table" if kind == FULL else "sliding_rope_table",
    )


def _zaya(fields: Fields) -> Reading:
    fields = fields.with_defaults(**SIZES)
    fields.require("num_experts_per_tok", 1)  # the class computes no other number
    names = fields.values.get("layer_types") or ["hybrid"] * layers_of(fields)
    kinds = words(fields.with_values(layer_types=names), "layer_types", _KINDS)
    fields.values.get("layer_types")
    fields.values.get("sliding_window")  # of layers with a window, where there are some
    width, route = fields.size("moe_intermediate_size"), Route(correction=True)
    plain = experts_of(fields, width, route, "num_experts", packed=True)
    inner = Integer(fields.size("router_hidden_size"))
    experts = HearingExperts(**vars(plain), inner=inner)
    by = dict(zip(kinds, names, strict=True))
    layers = {
        kind: HearingLayer(_attention(fields, kind, name), experts) for kind, name in by.items()
    }
    start = replace(layers[kinds[0]], experts=replace(experts, first=True))
    parts = [("first_layer", start, 1)]
    for number, (kind, members) in enumerate(groupby(kinds[1:])):
        parts.append((f"{kind}_{number}", layers[kind], len(list(members))))
    ends = ends_of(fields, tied=True, head_bias=fields.flag("lm_head_bias", False))
    return Reading(Hearing(ends, tuple(parts)), assumptions=(SKIPS, WIDE))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"zaya": _zaya})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType({"ZayaForCausalLM": "zaya"})
