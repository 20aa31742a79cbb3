"""EmbeddingGemma 2: Gemma 4's layers in both directions, whose own inputs have no table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.models.blocks import FeedForward
from costgraph.models.blocks.perlayer import SharingLayer
from costgraph.models.blocks.stack import Output
from costgraph.models.families.absent import part_of
from costgraph.models.families.common import (
    FULL,
    SLIDING,
    Family,
    Reading,
    activation_of,
    layer_types,
)
from costgraph.models.families.experts import ends_of
from costgraph.models.families.gemma4 import Places, Sharing, attentions_of
from costgraph.models.families.hybrid import GATHERED
from costgraph.models.fields import Fields

POOLED = "the mean over a text's positions, which makes its embedding, is not counted"
#: What the class has where the file says nothing.
SIZES = {
    "vocab_size": 262144,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "rope_parameters": {"full_attention": {}},
}


def _sized(fields: Fields, kinds: tuple[str, ...]) -> Fields:
    """The file with sizes of full layers where transformers 5 saves those."""
    wide = {
        "head_dim": fields.size("global_head_dim", default=512),
        "num_key_value_heads": fields.size("num_global_key_value_heads", default=1),
    }
    full = {str(i): wide for i, kind in enumerate(kinds) if kind == FULL}
    return fields.with_defaults(per_layer_config=full)


def _text(fields: Fields) -> Reading:
    """Norms around blocks, a gate for each layer's own input, and a product behind the last."""
    fields = fields.with_defaults(**SIZES)
    fields.refuse("attention_k_eq_v", "keys that are values are not known in this family")
    fields.values.get("tie_word_embeddings")  # the class has no logits
    every = fields.size("sliding_window_pattern", default=6)
    kinds = layer_types(fields, lambda i: (i + 1) % every != 0)
    kinds = (*kinds[:-1], FULL)  # as the published code: the last layer sees everything
    d = Integer(fields.size("hidden_size"))
    act = activation_of(fields, "hidden_activation", default="gelu_pytorch_tanh")
    feed = FeedForward(d, Integer(fields.size("intermediate_size")), act)
    own = Integer(fields.size("hidden_size_per_layer_input", default=512))
    attentions = attentions_of(_sized(fields, kinds), kinds)
    places = tuple(
        Places(
            kind,
            SharingLayer(replace(attentions[kind], causal=False), feed, own=own, activation=act),
            tuple(i for i, its in enumerate(kinds) if its == kind),
        )
        for kind in (SLIDING, FULL)
        if kind in kinds
    )
    vector = Output("score", Integer(fields.size("embedding_dim", default=768)), every=True)
    ends = ends_of(fields, embed_scale=True, output=vector)
    return Reading(Sharing(ends, places, own), "forward", assumptions=(GATHERED, POOLED))


def _whole(fields: Fields) -> Reading:
    """The text part of the model that also sees and hears; what is left out is said."""
    return _text(part_of(fields, "embedding_gemma2_text"))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"embedding_gemma2_text": _text, "embedding_gemma2": _whole}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "EmbeddingGemma2TextModel": "embedding_gemma2_text",
        "EmbeddingGemma2Model": "embedding_gemma2",
    }
)
