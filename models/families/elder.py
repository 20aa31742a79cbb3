"""Decoders of the years before Llama: layer norms, two matrices, positions of several kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward, Layer, Norm
from costgraph.models.blocks.encoder import Normed
from costgraph.models.blocks.stack import Transform
from costgraph.models.decoder import Kind
from costgraph.models.families.common import (
    FULL,
    SLIDING,
    Family,
    Reading,
    activation_of,
    biases,
    heads_of,
    layer_count,
    layer_types,
    plain_decoder,
    rotary_of,
)
from costgraph.models.families.encoders import task_of
from costgraph.models.families.experts import attention_of, ends_of, stacked
from costgraph.models.families.gpt import plain_norms
from costgraph.models.fields import Fields, divided, widened
from costgraph.ops.pattern import sliding

#: What GPT's first code calls its activations; its GELU is the tanh form.
_FIRST_ACTIVATIONS: Mapping[str, str] = MappingProxyType(
    {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}
)


def _gpt(fields: Fields) -> Reading:
    """The first GPT: norms behind the residuals, none behind all layers."""
    d, heads = fields.size("n_embd"), fields.size("n_head")
    name = fields.word("afn", default="gelu")
    if name not in _FIRST_ACTIVATIONS:
        raise ModelError(f"{fields.name}: 'afn' = {clip(name)} is not known")
    model = plain_decoder(
        fields,
        d,
        heads,
        4 * d,
        layers=Integer(fields.size("n_layer")),
        activation=_FIRST_ACTIVATIONS[name],
        **biases(True),
        positions=Integer(fields.size("n_positions", default=512)),
        tied=fields.flag("tie_word_embeddings", True),
        norm_first=False,
        final_norm=False,
        fused_qkv=True,
    )
    return Reading(model)


def _ctrl(fields: Fields) -> Reading:
    """Positions are sines in a table that is no parameter; logits have biases."""
    d, heads = fields.size("n_embd"), fields.size("n_head")
    model = plain_decoder(
        fields,
        d,
        heads,
        fields.size("dff"),
        layers=Integer(fields.size("n_layer")),
        activation="relu",
        **biases(True),
        fixed=True,
        embed_scale=True,
        tied=fields.flag("tie_word_embeddings", True),
        head_bias=True,
    )
    return Reading(model)


def _xglm(fields: Fields) -> Reading:
    d = fields.size("d_model")
    fields.refuse("add_cross_attention", "cross-attention is not supported in this family")
    model = plain_decoder(
        fields,
        d,
        fields.size("attention_heads"),
        fields.size("ffn_dim"),
        layers=Integer(fields.size("num_layers")),
        activation=activation_of(fields, "activation_function", default="gelu"),
        **biases(True),
        fixed=True,
        embed_scale=fields.flag("scale_embedding", True),
        tied=fields.flag("tie_word_embeddings", True),
    )
    return Reading(model)


def _biogpt(fields: Fields) -> Reading:
    """OPT under BERT's names; two rows of its positions stand for none."""
    model = plain_decoder(
        fields,
        fields.size("hidden_size"),
        fields.size("num_attention_heads"),
        fields.size("intermediate_size"),
        layers=Integer(fields.size("num_hidden_layers")),
        activation=activation_of(fields, "hidden_act", default="gelu"),
        **biases(True),
        positions=Integer(fields.size("max_position_embeddings") + 2),
        unused=2,
        embed_scale=fields.flag("scale_embedding", True),
        tied=fields.flag("tie_word_embeddings", True),
    )
    return Reading(model)


def _neox_japanese(fields: Fields) -> Reading:
    """One matrix for queries, keys and values; a bias in the last layer's attention alone."""
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    dh = divided(fields, d, heads, "hidden size over heads")
    key = "rotary_pct" if fields.values.get("rotary_pct") is not None else "partial_rotary_factor"
    count = layer_count(fields)
    model = plain_decoder(
        fields,
        d,
        heads,
        int(widened(fields, "intermediate_multiple_size", 4, d)),
        layers=Integer(count),
        activation=activation_of(fields, "hidden_act", default="gelu"),
        rotary=rotary_of(fields, dh, 1.0, key),
        tied=fields.flag("tie_word_embeddings", True),
        fused_qkv=True,
        kinds=(Kind("plain"), Kind("last", (("out_bias", True),))),
        pattern=("plain",) * (count - 1) + ("last",),
    )
    return Reading(model)


def _persimmon(fields: Fields) -> Reading:
    heads, few, dh = heads_of(fields, fields.size("hidden_size"))
    if few != heads:
        raise ModelError(
            f"{fields.name}: 'num_key_value_heads' must be 'num_attention_heads' in this family"
        )
    model = replace(
        plain_norms(fields, "relu2"),
        **biases(True),
        fused_qkv=True,
        qk_norm=fields.flag("qk_layernorm", True),
        rotary=rotary_of(fields, dh, 0.5),
    )
    return Reading(model)


def _modernbert(fields: Fields) -> Reading:
    """ModernBERT as a decoder; its first layer's attention has no norm in front."""
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    norm = Norm("layer", fields.flag("norm_bias", False))
    bias = fields.flag("attention_bias", False)
    act = activation_of(fields, "hidden_activation", default="gelu")
    every = fields.size("global_attn_every_n_layers", default=3)
    kinds = layer_types(fields, lambda i: i % every != 0)
    # The file states the width of the encoder's window; its decoder sees half of it.
    half = fields.size("local_attention", default=128) // 2
    if fields.size("sliding_window", default=half) != half:
        raise ModelError(f"{fields.name}: 'sliding_window' must be half of 'local_attention'")
    full = attention_of(fields, qkv_bias=bias, out_bias=bias)
    mixers = {FULL: full, SLIDING: replace(full, pattern=sliding(Integer(half)))}
    feed = FeedForward(
        Integer(d),
        Integer(fields.size("intermediate_size")),
        act,
        bias=fields.flag("mlp_bias", False),
        fused_gate_up=True,
    )
    divided(fields, d, heads, "hidden size over heads")
    biased = fields.flag("classifier_bias", False)
    if biased and task_of(fields) == "ForSequenceClassification":
        raise ModelError(f"{fields.name}: 'classifier_bias': scores with biases are not read here")
    heads_act = activation_of(fields, "classifier_activation", default="gelu")
    layers = {kind: Layer(Integer(d), mixers[kind], feed, norm) for kind in set(kinds)}
    first = replace(layers[kinds[0]], channel=Normed(feed, Integer(d), norm), pre_norms=False)
    ends = ends_of(
        fields,
        tied=True,
        norm=norm,
        embed_norm=norm,
        head_bias=fields.flag("decoder_bias", True),
        transform=Transform(heads_act, norm, biased),
    )
    return Reading(stacked(ends, ("first", *kinds[1:]), {**layers, "first": first}))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "openai-gpt": _gpt,
        "ctrl": _ctrl,
        "xglm": _xglm,
        "biogpt": _biogpt,
        "gpt_neox_japanese": _neox_japanese,
        "persimmon": _persimmon,
        "modernbert-decoder": _modernbert,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "OpenAIGPTLMHeadModel": "openai-gpt",
        "CTRLLMHeadModel": "ctrl",
        "XGLMForCausalLM": "xglm",
        "BioGptForCausalLM": "biogpt",
        "GPTNeoXJapaneseForCausalLM": "gpt_neox_japanese",
        "PersimmonForCausalLM": "persimmon",
        "ModernBertDecoderForCausalLM": "modernbert-decoder",
    }
)
