"""Decoders of codes of sound: MusicGen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.ahead import own_parameters
from costgraph.models.blocks import Ends, FeedForward, Style
from costgraph.models.blocks.encoder import CrossLayer, Heads
from costgraph.models.encoder import Encoder, RestingFront
from costgraph.models.families.codecs import encodec
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.encoders import LAYER_NORM, t5
from costgraph.models.fields import Fields, divided
from costgraph.models.sounding import Codes

STEPS = "N counts steps, each of a code from every codebook; guidance, which is usual, doubles B"
CODEC = "the codec that makes sound of codes rests in memory: its own time is left aside"


def codec_parameters(fields: Fields) -> int:
    """Parameters of EnCodec, whose codebooks are none: the published class keeps them as buffers.

    Raises:
        ModelError: a key makes it something else.
    """
    model: Any = encodec(fields).model
    return int(own_parameters(model.program("codec", Style())))


def _musicgen(fields: Fields) -> Reading:
    read = fields.section("text_encoder")
    kind = read.word("model_type", default="t5")
    if kind != "t5":
        raise ModelError(f"{read.name}: {clip(kind)} is not read as an encoder in this family")
    read.values.get("architectures")
    read = read.with_defaults(
        vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8
    )
    encoder = t5(read.with_values(architectures=["T5EncoderModel"])).model
    assert isinstance(encoder, Encoder)
    heard = fields.section("audio_encoder")
    if heard.word("model_type", default="encodec") != "encodec":
        raise ModelError(f"{heard.name}: only EnCodec is known in this family")
    resting = (("codec.rows", Integer(codec_parameters(heard))),)
    encoder = replace(encoder, front=RestingFront(encoder.front, resting))
    said = fields.section("decoder").with_defaults(
        hidden_size=1024, num_hidden_layers=24, ffn_dim=4096, num_attention_heads=16,
        vocab_size=2048,
    )  # fmt: skip
    for key in ("is_decoder", "add_cross_attention", "audio_channels", "tie_word_embeddings"):
        said.values.get(key)
    said.refuse("tie_word_embeddings", "logits from the tables of codes are not known")
    if said.values.get("cross_attention_hidden_size") is not None:
        raise ModelError(f"{said.name}: 'cross_attention_hidden_size' is not supported")
    d, heads = said.size("hidden_size"), said.size("num_attention_heads")
    at = Heads(Integer(d), Integer(heads), divided(said, d, heads, "hidden size over heads"))
    act = activation_of(said, "activation_function", default="gelu")
    feed = FeedForward(Integer(d), Integer(said.size("ffn_dim")), act, gated=False)
    said.refuse("scale_embedding", "scaled embeddings are not supported in this family")
    model = Codes(
        encoder=encoder,
        layer=CrossLayer(Integer(d), at, at, feed, LAYER_NORM),
        layers=Integer(said.size("num_hidden_layers")),
        ends=Ends(Integer(d), Integer(said.size("vocab_size")), norm=LAYER_NORM),
        shared=(),
        longest=said.size("max_position_embeddings", default=2048),
        joined=Integer(d) if encoder.d != d else None,
        books=said.size("num_codebooks", default=4),
    )
    return Reading(model, assumptions=(STEPS, CODEC))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"musicgen": _musicgen})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"MusicgenForConditionalGeneration": "musicgen"}
)
