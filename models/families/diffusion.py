"""Diffusion language models: attention in both directions, no cache, denoising steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from costgraph.models.decoder import Decoder
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.llama import llama_like
from costgraph.models.fields import Fields


def _both_ways(model: Decoder) -> Reading:
    return Reading(replace(model, causal=False, all_logits=True), phases="denoising")


def _llada(fields: Fields) -> Reading:
    named = fields.renamed(
        hidden_size="d_model",
        num_attention_heads="n_heads",
        num_key_value_heads="n_kv_heads",
        num_hidden_layers="n_layers",
        intermediate_size="mlp_hidden_size",
        hidden_act="activation_type",
        tie_word_embeddings="weight_tying",
    )
    fields.refuse("alibi", "linear biases are not supported in this family")
    fields.refuse("multi_query_attention", "give 'n_kv_heads' instead")
    bias = fields.flag("include_bias", False)
    # The table has rows beyond the vocabulary.
    rows = fields.size("embedding_size", default=fields.size("vocab_size"))
    model = replace(
        llama_like(named.with_values(vocab_size=rows), activation="silu"),
        qkv_bias=fields.flag("include_qkv_bias", bias),
        out_bias=bias,
        mlp_bias=bias,
    )
    return _both_ways(model)


def _dream(fields: Fields) -> Reading:
    return _both_ways(replace(llama_like(fields, activation="silu"), qkv_bias=True))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llada": _llada,
        "Dream": _dream,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "LLaDAModelLM": "llada",
        "DreamModel": "Dream",
    }
)
