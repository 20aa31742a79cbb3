"""Muse Spark's language model: Muse Glimmer's attention, experts, gated residuals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import Block
from costgraph.models.blocks.spark import UNIT, GatedResidualLayer, NarrowExperts
from costgraph.models.families.absent import part_of
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.experts import (
    experts_of,
    feed_forward_of,
    sparse_layers,
    stacked,
)
from costgraph.models.families.gated import glimmer_mixers
from costgraph.models.fields import Fields
from costgraph.ops import Route

#: What the class has where the file says nothing.
SIZES: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 202048,
        "hidden_size": 8192,
        "intermediate_size": 16384,
        "num_hidden_layers": 62,
        "num_attention_heads": 128,
        "num_key_value_heads": 16,
        "head_dim": 64,
        "moe_intermediate_size": 4096,
        "num_local_experts": 256,
        "num_experts_per_tok": 8,
        "moe_hidden_size": 4096,
        "output_multiplier": 0.1767766952966369,
    }
)
ROUTERS = "matrices of routers are counted in the format of weights; the published class keeps FP32"


def _text(fields: Fields) -> Reading:
    fields = fields.with_defaults(**SIZES)
    named, mixers, ends = glimmer_mixers(fields)
    if ends.tied:
        raise ModelError(
            f"{fields.name}: 'tie_word_embeddings' = true: the class never ties embeddings and "
            "logits"
        )
    fields.values.get("residual_gate_temperature")
    width = fields.size("moe_intermediate_size")
    scaled = fields.number("routed_scaling_factor", 1.0) != 1
    route = Route(score="sigmoid", normalise=True, scale=scaled, correction=True)
    plain = vars(experts_of(fields, width, route, "num_local_experts", packed=True))
    experts = NarrowExperts(**{**plain, "latent": Integer(fields.size("moe_hidden_size"))})
    dense = feed_forward_of(fields, fields.size("intermediate_size"))
    names, layers = [], {}
    for sparse, (kind, mixer) in zip(sparse_layers(named), mixers, strict=True):
        channel: Block = experts if sparse else dense
        name = f"{'experts' if sparse else 'dense'}_{kind}"
        layers[name] = GatedResidualLayer(replace(mixer, each_norm=UNIT), channel)
        names.append(name)
    return Reading(stacked(ends, names, layers), assumptions=(ROUTERS,))


def _whole(fields: Fields) -> Reading:
    """The text part of the model that also sees and hears; what is left out is said."""
    return _text(part_of(fields, "muse_spark_text", tied=False))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"muse_spark_text": _text, "muse_spark": _whole})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"MuseSparkForConditionalGeneration": "muse_spark"}
)
