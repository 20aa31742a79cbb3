"""The Qwen family: Llama with biases on queries, keys and values, later with norms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
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


def _qwen(fields: Fields) -> Reading:
    # Two matrices of half the stated width make gate and up.
    width = fields.size("intermediate_size")
    if width % 2:
        raise ModelError(f"{fields.name}: 'intermediate_size' = {width} must be even here")
    plain = fields.flag("no_bias", True)
    model = replace(
        llama_like(fields.renamed(head_dim="kv_channels"), activation="silu"),
        ffn=Integer(width // 2),
        qkv_bias=True,
        out_bias=not plain,
        mlp_bias=not plain,
        fused_qkv=True,
    )
    return Reading(model)


def _qwen2(fields: Fields) -> Reading:
    return Reading(
        _qwen_window(fields, replace(llama_like(fields, activation="silu"), qkv_bias=True))
    )


def _qwen_window(fields: Fields, model: Decoder) -> Decoder:
    """The window from layer ``max_window_layers`` on, where ``use_sliding_window`` asks for it."""
    if not fields.flag("use_sliding_window", False):
        return model
    first = fields.size("max_window_layers", default=28)
    return alternating(model, layer_types(fields, lambda i: i >= first), window_of(fields))


def _qwen3(fields: Fields) -> Reading:
    bias = fields.flag("attention_bias", False)
    model = replace(
        llama_like(fields, activation="silu"), qk_norm=True, qkv_bias=bias, out_bias=bias
    )
    if fields.values.get("head_dim") is None:
        # The architecture's own default is 128, not hidden size over heads.
        model = replace(model, head_dim=Integer(128), rotary=Integer(128))
    return Reading(_qwen_window(fields, model))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "qwen": _qwen,
        "qwen2": _qwen2,
        "qwen3": _qwen3,
        # Language models of those that see, in files of their own.
        "qwen2_vl_text": _qwen2,
        "qwen2_5_vl_text": _qwen2,
        "qwen3_vl_text": _qwen3,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "QWenLMHeadModel": "qwen",
        "Qwen2ForCausalLM": "qwen2",
        "Qwen3ForCausalLM": "qwen3",
    }
)
