"""Families that grew from GPT: layer norms, plain feed-forward, biases."""

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
    activation_of,
    biases,
    heads_of,
    plain_decoder,
    rotary_of,
    window_of,
)
from costgraph.models.families.llama import llama_like
from costgraph.models.fields import Fields, divided


def _opt(fields: Fields) -> Reading:
    d = fields.size("hidden_size")
    heads = fields.size("num_attention_heads")
    bias = fields.flag("enable_bias", True)
    first = fields.flag("do_layer_norm_before", True)
    embed = fields.size("word_embed_proj_dim", default=d)
    affine = fields.flag("layer_norm_elementwise_affine", True)
    model = plain_decoder(
        fields,
        d,
        heads,
        fields.size("ffn_dim"),
        layers=Integer(fields.size("num_hidden_layers")),
        activation=activation_of(fields, "activation_function", default="relu"),
        norm_bias=affine,
        norm_weight=affine,
        **biases(bias),
        # Two extra rows: positions are offset by two in this family.
        positions=Integer(fields.size("max_position_embeddings") + 2),
        unused=2,
        tied=fields.flag("tie_word_embeddings", True),
        norm_first=first,
        final_norm=first and not fields.flag("_remove_final_layer_norm", False),
        embed_dim=Integer(embed) if embed != d else None,
    )
    return Reading(model)


def _gpt2_like(fields: Fields, activation: str) -> Decoder:
    """GPT-2, and what changed only its activation and its key/value heads."""
    d = fields.size("n_embd", "hidden_size")
    heads = fields.size("n_head", "num_attention_heads")
    fields.refuse("add_cross_attention", "cross-attention is not supported in this family")
    return plain_decoder(
        fields,
        d,
        heads,
        fields.size("n_inner", default=4 * d),
        layers=Integer(fields.size("n_layer", "num_hidden_layers")),
        activation=activation_of(fields, "activation_function", default=activation),
        **biases(True),
        positions=Integer(fields.size("n_positions", "max_position_embeddings")),
        tied=fields.flag("tie_word_embeddings", True),
        fused_qkv=True,
    )


def _gpt2(fields: Fields) -> Reading:
    return Reading(_gpt2_like(fields, "gelu_new"))


def _gptj(fields: Fields) -> Reading:
    d = fields.size("n_embd", "hidden_size")
    heads = fields.size("n_head", "num_attention_heads")
    dh = divided(fields, d, heads, "hidden size over heads")
    rotary = fields.size("rotary_dim", default=int(dh))
    if rotary > dh:
        raise ModelError(f"{fields.name}: 'rotary_dim' = {rotary} exceeds the head size {dh}")
    model = plain_decoder(
        fields,
        d,
        heads,
        fields.size("n_inner", default=4 * d),
        layers=Integer(fields.size("n_layer", "num_hidden_layers")),
        activation=activation_of(fields, "activation_function", default="gelu_new"),
        mlp_bias=True,
        head_bias=True,
        rotary=Integer(rotary),
        tied=fields.flag("tie_word_embeddings", False),
        parallel=True,
        shared_norm=True,
    )
    return Reading(model)


def _gpt_neox(fields: Fields) -> Reading:
    d = fields.size("hidden_size")
    heads = fields.size("num_attention_heads")
    dh = divided(fields, d, heads, "hidden size over heads")
    bias = fields.flag("attention_bias", True)
    model = plain_decoder(
        fields,
        d,
        heads,
        fields.size("intermediate_size"),
        layers=Integer(fields.size("num_hidden_layers")),
        activation=activation_of(fields, "hidden_act", default="gelu"),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=True,
        rotary=rotary_of(fields, dh, 0.25, "rotary_pct"),
        tied=fields.flag("tie_word_embeddings", False),
        parallel=fields.flag("use_parallel_residual", True),
        fused_qkv=True,
    )
    return Reading(model)


def _gpt_bigcode(fields: Fields) -> Reading:
    model = _gpt2_like(fields, "gelu_pytorch_tanh")
    if fields.flag("multi_query", True):
        model = replace(model, kv_heads=Integer(1))
    return Reading(model)


def _codegen(fields: Fields) -> Reading:
    # GPT-J with one matrix for queries, keys and values.
    found = _gptj(fields)
    assert isinstance(found.model, Decoder)
    return Reading(replace(found.model, fused_qkv=True))


def plain_norms(fields: Fields, activation: str) -> Decoder:
    """Layer norms with bias and two matrices, otherwise as a Llama."""
    return replace(
        llama_like(fields, activation=activation), norm="layer", norm_bias=True, gated=False
    )


def _starcoder2(fields: Fields) -> Reading:
    bias = fields.flag("use_bias", True)
    for key, known in (("norm_type", "layer_norm"), ("mlp_type", "default")):
        if fields.word(key, default=known) != known:
            raise ModelError(f"{fields.name}: {key!r} is not {known!r}: not supported here")
    model = replace(
        plain_norms(fields, "gelu_pytorch_tanh"),
        **biases(bias),
        tied=fields.flag("tie_word_embeddings", True),
        window=window_of(fields),
    )
    return Reading(model)


def _phi(fields: Fields) -> Reading:
    _, _, dh = heads_of(fields, fields.size("hidden_size"))
    model = replace(
        plain_norms(fields, "gelu_new"),
        **biases(True),
        head_bias=True,
        parallel=True,
        shared_norm=True,
        qk_norm=fields.flag("qk_layernorm", False),
        rotary=rotary_of(fields, dh, 0.5),
    )
    return Reading(model)


def _nemotron(fields: Fields) -> Reading:
    _, _, dh = heads_of(fields, fields.size("hidden_size"))
    bias = fields.flag("attention_bias", False)
    model = replace(
        plain_norms(fields, "relu2"),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
        rotary=rotary_of(fields, dh, 0.5),
    )
    return Reading(model)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "opt": _opt,
        "gpt2": _gpt2,
        "gptj": _gptj,
        "gpt_neox": _gpt_neox,
        "gpt_bigcode": _gpt_bigcode,
        "codegen": _codegen,
        "starcoder2": _starcoder2,
        "phi": _phi,
        "nemotron": _nemotron,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "OPTForCausalLM": "opt",
        "GPT2LMHeadModel": "gpt2",
        "GPTJForCausalLM": "gptj",
        "GPTNeoXForCausalLM": "gpt_neox",
        "GPTBigCodeForCausalLM": "gpt_bigcode",
        "CodeGenForCausalLM": "codegen",
        "Starcoder2ForCausalLM": "starcoder2",
        "PhiForCausalLM": "phi",
        "NemotronForCausalLM": "nemotron",
    }
)
