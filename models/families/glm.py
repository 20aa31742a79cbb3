"""The GLM family: rotary on half of each head, gate and up in one matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from costgraph.errors import ModelError
from costgraph.models.decoder import Decoder
from costgraph.models.families.common import Family, Reading, heads_of, rotary_of
from costgraph.models.families.llama import llama_like
from costgraph.models.fields import Fields


def _chatglm(fields: Fields) -> Reading:
    """ChatGLM2, ChatGLM3 and GLM-4 under their original names."""
    fields.refuse(
        "apply_residual_connection_post_layernorm", "residuals of normalised states are unknown"
    )
    named = fields.renamed(
        num_hidden_layers="num_layers",
        intermediate_size="ffn_hidden_size",
        vocab_size="padded_vocab_size",
        head_dim="kv_channels",
    )
    if fields.flag("multi_query_attention", False):
        named = named.renamed(num_key_value_heads="multi_query_group_num")
    bias = fields.flag("add_bias_linear", False)
    model = replace(
        _fused(named, 0.5),
        norm="rms" if fields.flag("rmsnorm", True) else "layer",
        norm_bias=True,
        qkv_bias=fields.flag("add_qkv_bias", False) or bias,
        out_bias=bias,
        mlp_bias=bias,
        fused_qkv=True,
        final_norm=fields.flag("post_layer_norm", True),
    )
    if fields.values.get("num_layers") is None:
        raise ModelError(f"{fields.name}: missing key 'num_layers'")
    return Reading(model)


def _fused(fields: Fields, rotary: float) -> Decoder:
    _, _, dh = heads_of(fields, fields.size("hidden_size"))
    return replace(
        llama_like(fields, activation="silu"),
        rotary=rotary_of(fields, dh, rotary),
        fused_gate_up=True,
    )


def _glm(fields: Fields) -> Reading:
    named = fields.with_defaults(head_dim=128)
    return Reading(replace(_fused(named, 0.5), qkv_bias=fields.flag("attention_bias", False)))


def _glm4(fields: Fields) -> Reading:
    found = _glm(fields)
    assert isinstance(found.model, Decoder)
    return Reading(replace(found.model, post_norms=True))


def _glm_image(fields: Fields) -> Reading:
    """The language model of GLM-Image: GLM 4's layers, rotated whole, with biases."""
    fields.values.get("vision_vocab_size")  # of those tokens, how many are of images
    bias = fields.flag("attention_bias", True)
    return Reading(replace(_fused(fields, 1.0), qkv_bias=bias, post_norms=True))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "chatglm": _chatglm,
        "glm": _glm,
        "glm4": _glm4,
        "glm_image_text": _glm_image,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "ChatGLMModel": "chatglm",
        "ChatGLMForConditionalGeneration": "chatglm",
        "GlmForCausalLM": "glm",
        "Glm4ForCausalLM": "glm4",
    }
)
