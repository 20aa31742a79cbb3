"""Decoders of codes of sound: MusicGen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.models.ahead import own_parameters
from costgraph.models.blocks import Attention, Ends, FeedForward, Layer, Style
from costgraph.models.blocks.encoder import CrossLayer, Heads
from costgraph.models.encoder import Encoder, RestingFront
from costgraph.models.families.codecs import encodec
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.encoders import LAYER_NORM, t5
from costgraph.models.fields import Fields, divided
from costgraph.models.sounding import Codes, Led

STEPS = "N counts steps, each of a code from every codebook; guidance, which is usual, doubles B"
CODEC = "the codec that makes sound of codes rests in memory: its own time is left aside"


def codec_parameters(fields: Fields) -> int:
    """Parameters of EnCodec, whose codebooks are none: the published class keeps them as buffers.

    Raises:
        ModelError: a key makes it something else.
    """
    model: Any = encodec(fields).model
    return int(own_parameters(model.program("codec", Style())))


#: What is said of a melody.
MELODY = (
    "a prompt holds a melody of {length} steps in front of the text's S tokens, the most that the "
    "class takes; without one there is a single step, repeated as often"
)


def _encoder(fields: Fields) -> Encoder:
    """The encoder of text, beside a codec that rests."""
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
    return replace(encoder, front=RestingFront(encoder.front, resting))


@dataclass(frozen=True)
class _Said:
    """What decoders of both kinds share."""

    at: Heads
    feed: FeedForward
    layers: Expr
    ends: Ends
    books: int


def _decoder(fields: Fields) -> tuple[Fields, _Said]:
    """The section of the decoder, and what it says."""
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
    return said, _Said(
        at,
        feed,
        layers=Integer(said.size("num_hidden_layers")),
        ends=Ends(Integer(d), Integer(said.size("vocab_size")), norm=LAYER_NORM),
        books=said.size("num_codebooks", default=4),
    )


def _musicgen(fields: Fields) -> Reading:
    encoder, (said, parts) = _encoder(fields), _decoder(fields)
    at, d = parts.at, parts.at.d
    model = Codes(
        encoder=encoder,
        layer=CrossLayer(d, at, at, parts.feed, LAYER_NORM),
        layers=parts.layers,
        ends=parts.ends,
        shared=(),
        longest=said.size("max_position_embeddings", default=2048),
        joined=d if encoder.d != d else None,
        books=parts.books,
    )
    return Reading(model, assumptions=(STEPS, CODEC))


def _melody(fields: Fields) -> Reading:
    """What is heard and read stands in front of the codes: there is no attention to an encoder."""
    encoder, (said, parts) = _encoder(fields), _decoder(fields)
    said.values.get("max_position_embeddings")  # the table of positions grows as needed
    at, length = parts.at, fields.size("chroma_length", default=235)
    mixer = Attention(at.d, at.heads, at.heads, at.head_dim)
    model = Led(
        encoder=encoder,
        layer=Layer(at.d, mixer, parts.feed, LAYER_NORM),
        layers=parts.layers,
        ends=parts.ends,
        books=parts.books,
        notes=Integer(fields.size("num_chroma", default=12)),
        length=Integer(length),
    )
    return Reading(model, assumptions=(STEPS, MELODY.format(length=length), CODEC))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"musicgen": _musicgen, "musicgen_melody": _melody}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "MusicgenForConditionalGeneration": "musicgen",
        "MusicgenMelodyForConditionalGeneration": "musicgen_melody",
    }
)
