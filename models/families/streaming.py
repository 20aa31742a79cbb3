"""Speech to text of 2026: Voxtral Realtime, which hears as it writes, and VibeVoice-ASR."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import FeedForward, Layer, Norm
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.projector import Beside, Normed, Product, two_products
from costgraph.models.causal_ears import ConvEars, TwoEars
from costgraph.models.families.common import Family, Reading, activation_of, rotary_of, window_of
from costgraph.models.families.language import before, language
from costgraph.models.families.vision import sizes
from costgraph.models.fields import Fields
from costgraph.models.streaming import Delayed, HeardLayer, StreamedEars, Streaming
from costgraph.ops.pattern import sliding

#: Width between the products that make a scale of the delay, as in the class.
DELAY_WIDTH = Integer(32)


def _ears(fields: Fields, heard: Fields, out: Integer) -> StreamedEars:
    """The encoder: Whisper's convolutions, without a look ahead, and a Llama's layers."""
    d = heard.size("hidden_size", "d_model", default=1280)
    heads = heard.size("num_attention_heads", "encoder_attention_heads", default=32)
    width = Integer(heard.size("head_dim", default=64))
    for key in ("vocab_size", "activation_function", "max_position_embeddings"):
        heard.values.get(key)  # of Whisper's files; the class has no such parts
    if heard.size("num_key_value_heads", default=heads) != heads:
        raise ModelError(f"{heard.name}: 'num_key_value_heads' must be {heads}")
    rate = fields.size("downsample_factor", default=4)
    fields.require("audio_length_per_tok", 2 * rate)
    act = activation_of(fields, "projector_hidden_act", default="gelu")
    layer = HeardLayer(
        Integer(rate),
        Heads(
            Integer(d),
            Integer(heads),
            width,
            qv_bias=True,
            out_bias=True,
            rotary=rotary_of(heard, width, 1.0),
        ),
        FeedForward(
            Integer(d),
            Integer(heard.size("intermediate_size", "encoder_ffn_dim", default=5120)),
            activation_of(heard, "hidden_act", default="silu"),
            down_bias=True,
        ),
        sliding(window_of(heard, 750)),
    )
    return StreamedEars(
        mels=Integer(heard.size("num_mel_bins", default=128)),
        layer=layer,
        layers=Integer(heard.size("num_hidden_layers", "encoder_layers", default=32)),
        steps=(Normed(Norm()), Beside(Integer(rate)), *two_products(out, act, False)),
    )


def _voxtral_realtime(fields: Fields) -> Reading:
    stack, reading = language(
        fields,
        "voxtral_realtime_text",
        tied=True,
        vocab_size=131072,
        hidden_size=3072,
        intermediate_size=9216,
        num_hidden_layers=26,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        sliding_window=8192,
    )
    heard, d = fields.section("audio_config"), stack.ends.d
    fields.require("hidden_size", int(d))
    segments = []
    for segment in stack.segments:
        layer = segment.layer
        assert isinstance(layer, Layer)
        assert layer.channel is not None
        late = replace(layer, channel=Delayed(layer.channel, d, DELAY_WIDTH))
        segments.append(replace(segment, layer=late))
    ears = _ears(fields, heard, Integer(int(d)))
    frames = 2 * int(ears.layer.rate)
    said = (
        f"S and N count tokens, each with {frames} frames of sound, which the encoder reads in the "
        "same step; its convolutions and layers keep what they need of earlier ones",
    )
    text = replace(stack, segments=tuple(segments))
    return Reading(Streaming(text, ears), assumptions=(*said, *reading.assumptions))


def _conv_ears(fields: Fields, name: str, out: int) -> ConvEars:
    """A tokenizer of VibeVoice (arXiv 2508.19205), without what makes sound again."""
    ratios = sizes(fields, "downsampling_ratios", (2, 2, 4, 5, 5, 8))
    depths = sizes(fields, "depths", (3, 3, 3, 3, 3, 3, 8))
    if len(depths) != len(ratios) + 1:
        raise ModelError(f"{fields.name}: 'depths' must be one more than 'downsampling_ratios'")
    kernel = fields.size("kernel_size", default=7)
    if kernel % 2 == 0:
        raise ModelError(f"{fields.name}: 'kernel_size' = {kernel}: an odd one")
    return ConvEars(
        name=name,
        channels=fields.size("channels", default=1),
        first=fields.size("num_filters", default=32),
        ratios=ratios,
        depths=depths,
        kernel=kernel,
        wider=fields.size("ffn_expansion", default=4),
        activation=activation_of(fields, "hidden_act", default="gelu"),
        out=fields.size("hidden_size", default=out),
    )


def _vibevoice_asr(fields: Fields) -> Reading:
    fields.refuse("tie_word_embeddings", "the class has logits of their own")
    stack, reading = language(fields, "qwen2", tied=False)
    acoustic, semantic = (
        fields.section(f"{kind}_tokenizer_encoder_config") for kind in ("acoustic", "semantic")
    )
    for part in (acoustic, semantic):
        part.require("model_type", "vibevoice_acoustic_tokenizer_encoder")
    heard, meant = _conv_ears(acoustic, "heard", 64), _conv_ears(semantic, "meant", 128)
    if (heard.hop, heard.channels) != (meant.hop, meant.channels):
        raise ModelError(f"{fields.name}: both tokenizers must make rows of equal pieces of sound")
    chunk = fields.size("acoustic_tokenizer_chunk_size", default=1440000)
    if chunk % heard.hop:
        raise ModelError(
            f"{fields.name}: 'acoustic_tokenizer_chunk_size' = {chunk} is no multiple of the "
            f"{heard.hop} samples of a row"
        )
    d = stack.ends.d
    steps = (Product("1", d), Normed(Norm()), Product("2", d))
    return before(stack, reading, TwoEars(heard, meant, steps, d, chunk))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"voxtral_realtime": _voxtral_realtime, "vibevoice_asr": _vibevoice_asr}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "VoxtralRealtimeForConditionalGeneration": "voxtral_realtime",
        "VibeVoiceAsrForConditionalGeneration": "vibevoice_asr",
    }
)
