"""Molmo 2's language model: Qwen 3, or OLMo 2's norms, with rows of its own for marks of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from costgraph.errors import ModelError, clip
from costgraph.models.families.absent import part_of
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.llama import llama_like
from costgraph.models.fields import Fields

#: What the class has where the file says nothing.
SIZES: Mapping[str, Any] = MappingProxyType(
    {
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "num_hidden_layers": 36,
        "intermediate_size": 12288,
    }
)
#: Whether queries and keys are normalised by head, or all heads together.
_OVER = {"qwen3": "head", "olmo": "all"}


def _text(fields: Fields) -> Reading:
    named = fields.renamed(attention_bias="qkv_bias").with_defaults(**SIZES)
    fields.require("use_qk_norm", True)
    kind = fields.word("qk_norm_type", default="qwen3")
    if kind not in _OVER:
        raise ModelError(f"{fields.name}: 'qk_norm_type' = {clip(kind)}: {' or '.join(_OVER)}")
    behind = fields.flag("norm_after", False)
    for key in ("rope_scaling_layers", "layer_norm_eps"):
        fields.values.get(key)  # which of two tables of angles a layer reads; what norms add
    model = replace(
        llama_like(named, tied=False, activation="silu"),
        qkv_bias=named.flag("attention_bias", False),
        qk_norm=True,
        qk_norm_over=_OVER[kind],
        pre_norms=not behind,
        post_norms=behind,
    )
    if model.tied:
        raise ModelError(
            f"{fields.name}: 'tie_word_embeddings' = true: the class never ties embeddings and "
            "logits"
        )
    rows = fields.values.get("additional_vocab_size", 128)
    if type(rows) is not int or rows < 0:
        raise ModelError(f"{fields.name}: 'additional_vocab_size' must be a number of rows")
    stack = model.stack()
    return Reading(replace(stack, ends=replace(stack.ends, unsaid=rows)))


def _whole(fields: Fields) -> Reading:
    """The text part of the model that also sees; what is left out is said."""
    return _text(part_of(fields, "molmo2_text", tied=False))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"molmo2_text": _text, "molmo2": _whole})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType({"Molmo2ForConditionalGeneration": "molmo2"})
