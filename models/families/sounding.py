"""Decoders of codes of sound: MusicGen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Ends, FeedForward
from costgraph.models.blocks.encoder import CrossLayer, Heads
from costgraph.models.encoder import Encoder, RestingFront
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.encoders import LAYER_NORM, t5
from costgraph.models.families.vision import sizes
from costgraph.models.fields import Fields, divided
from costgraph.models.sounding import Codes

STEPS = "N counts steps, each of a code from every codebook; guidance, which is usual, doubles B"
CODEC = "the codec that makes sound of codes rests in memory: its own time is left aside"


def codec_parameters(fields: Fields) -> int:
    """Parameters of EnCodec (arXiv 2210.13438): two halves of convolutions around an LSTM each.

    Codebooks are none: the published class keeps them as buffers.

    Raises:
        ModelError: a key makes it something else.
    """
    d, wide = fields.size("hidden_size", default=128), fields.size("num_filters", default=32)
    channels = fields.size("audio_channels", default=1)
    taps = [
        fields.size(key, default=default)
        for key, default in (("kernel_size", 7), ("last_kernel_size", 7),
                             ("residual_kernel_size", 3))
    ]  # fmt: skip
    ratios = sizes(fields, "upsampling_ratios", (8, 5, 4, 2))
    many, less = fields.size("num_residual_layers", default=1), fields.size("compress", default=2)
    kind = fields.word("norm_type", default="weight_norm")
    if kind not in ("weight_norm", "time_group_norm"):
        raise ModelError(f"{fields.name}: 'norm_type' = {clip(kind)} is not known")
    short = fields.flag("use_conv_shortcut", True)
    recurrent = fields.size("num_lstm_layers", default=2)
    for key in ("codebook_size", "codebook_dim", "target_bandwidths", "sampling_rate", "normalize",
                "chunk_length_s", "overlap", "dilation_growth_rate", "use_causal_conv", "pad_mode",
                "trim_right_ratio"):  # fmt: skip
        fields.values.get(key)  # of codebooks, of sound, and of what convolutions see

    def conv(into: int, out: int, kernel: int, gains: int) -> int:
        # A gain for each row of the kernel (weight norm), or a norm's two vectors.
        return into * out * kernel + out + (gains if kind == "weight_norm" else 2 * out)

    def residual(width: int) -> int:
        inner = width // less
        whole = conv(width, inner, taps[2], inner) + conv(inner, width, 1, width)
        return whole + (conv(width, width, 1, width) if short else 0)

    top: int = wide * 2 ** len(ratios)
    total = 2 * recurrent * 8 * (top * top + top)
    total += conv(channels, wide, taps[0], wide) + conv(top, d, taps[1], d)
    total += conv(d, top, taps[0], top) + conv(wide, channels, taps[1], channels)
    for index, ratio in enumerate(reversed(ratios)):
        width: int = wide * 2**index
        total += conv(width, 2 * width, 2 * ratio, 2 * width) + many * residual(width)
        total += conv(2 * width, width, 2 * ratio, 2 * width) + many * residual(width)
    return total


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
