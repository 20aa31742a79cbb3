"""Embedding models made of decoders that see both ways, by their publishers' code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import Ends, FeedForward, Norm
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.stack import BARE, Output
from costgraph.models.decoder import Decoder
from costgraph.models.encoder import Encoder, TextFront
from costgraph.models.encoder_heads import LatentHead
from costgraph.models.families.common import Family, Reading, class_of, labels_of
from costgraph.models.families.llama import FAMILIES as LLAMA
from costgraph.models.fields import Fields

_LLAMA, _SCORED = "LlamaBidirectionalModel", "LlamaBidirectionalForSequenceClassification"
_POOLED = "the mean over a text's positions, which makes its embedding, is not counted"
_MEAN = "a score is made of the mean over a text's positions, which is not counted"


def _decoder(fields: Fields, kind: str) -> Decoder:
    """The decoder of a family without a window: every position sees all others."""
    model = LLAMA[kind](fields).model
    assert isinstance(model, Decoder)
    return replace(model, causal=False, window=None)


def _llama_bidirec(fields: Fields) -> Reading:
    """NVIDIA's embedding and reranking models: Llama's layers, each position sees all others."""
    for key in ("pooling", "temperature"):
        fields.values.get(key)
    scores = class_of(fields.values) == _SCORED
    output = Output("score", Integer(labels_of(fields))) if scores else BARE
    model = replace(_decoder(fields, "llama"), output=output)
    return Reading(model, assumptions=(_MEAN if scores else _POOLED,))


def _nvembed(fields: Fields) -> Reading:
    """NV-Embed 1 and 2 (arXiv 2405.17428): learned rows that a Mistral's positions look at.

    Raises:
        ModelError: the rows, or what looks at them, are not as wide as the hidden states.
    """
    text, seen = fields.section("text_config"), fields.section("latent_attention_config")
    for part, kinds in ((text, ("bidir_mistral", "mistral")), (seen, ("latent_attention",))):
        part.require("model_type", *kinds)
    for key in ("add_eos", "add_pad_token", "is_mask_instruction", "mask_type",
                "padding_side"):  # fmt: skip
        fields.values.get(key)  # of the tokens that are averaged
    for key in ("architectures", "sliding_window", "tie_word_embeddings"):
        text.values.get(key)  # the class has no window, and no logits
    seen.values.get("output_normalize")
    model = _decoder(text, "mistral")
    d = model.d
    fields.require("hidden_size", int(d))
    for key in ("hidden_dim", "latent_dim"):
        if seen.size(key, default=4096) != d:
            raise ModelError(f"{seen.name}: {key!r} must be the hidden size, {d}")
    heads = Integer(seen.size("num_cross_heads", default=8))
    at = Heads(d, heads, Integer(seen.size("cross_dim_head", default=4096)))
    encoder = Encoder(
        front=TextFront(Ends(d, model.vocab)),
        segments=model.stack().segments,
        d=d,
        norm=Norm(),
        head=LatentHead(
            at,
            Integer(seen.size("num_latents_value", default=512)),
            FeedForward(d, 4 * d, "gelu", bias=True, fused_gate_up=True),
        ),
    )
    return Reading(encoder, "forward", assumptions=(_POOLED,))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"llama_bidirec": _llama_bidirec, "nvembed": _nvembed}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {_LLAMA: "llama_bidirec", _SCORED: "llama_bidirec", "NVEmbedModel": "nvembed"}
)
