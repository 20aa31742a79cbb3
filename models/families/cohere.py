"""The Command family: parallel blocks behind one norm, scaled logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from costgraph.models.decoder import Decoder
from costgraph.models.families.common import (
    Family,
    Reading,
    alternating,
    layer_types,
    window_of,
)
from costgraph.models.families.llama import llama_like
from costgraph.models.fields import Fields


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
    every = fields.size("sliding_window_pattern", default=4)
    kinds = layer_types(fields, lambda i: (i + 1) % every != 0)
    # Layers that see everything do not rotate.
    return Reading(alternating(_parallel(fields), kinds, window_of(fields, 4096), rotary=None))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "cohere": _cohere,
        "cohere2": _cohere2,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "CohereForCausalLM": "cohere",
        "Cohere2ForCausalLM": "cohere2",
    }
)
