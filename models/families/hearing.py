"""Language models behind Whisper's encoder: Qwen2-Audio, Voxtral and others; the encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import FeedForward, Layer, Segment
from costgraph.models.blocks.encoder import Bidirectional, Heads
from costgraph.models.blocks.projector import (
    Acted,
    Averaged,
    Beside,
    Normed,
    Product,
    Steps,
    two_products,
)
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.encoder import AudioFront, Encoder, HalvedNorm
from costgraph.models.families.common import Family, Reading, activation_of, rotary_of
from costgraph.models.families.language import before, language
from costgraph.models.fields import Fields, divided
from costgraph.models.hearing import Ears


def _ears(heard: Fields, steps: Steps, out: Integer) -> Ears:
    """Whisper's encoder, whose keys have two sets of names."""
    d = heard.size("d_model", "hidden_size", default=1280)
    heads = heard.size("encoder_attention_heads", "num_attention_heads", default=20)
    width = divided(heard, d, heads, "hidden size over heads")
    act = activation_of(heard, "activation_function", default="gelu")
    heard.refuse("scale_embedding", "scaled embeddings are not supported in this family")
    for key in ("head_dim", "num_key_value_heads"):
        expected = {"head_dim": int(width), "num_key_value_heads": heads}[key]
        if heard.size(key, default=expected) != expected:
            raise ModelError(f"{heard.name}: {key!r} must be {expected}")
    ffn = heard.size("encoder_ffn_dim", "intermediate_size", default=5120)
    positions = heard.size("max_source_positions", default=1500)
    # A vocabulary stands in files that were made from Whisper's; the encoder has none.
    heard.values.get("vocab_size")
    return Ears(
        front=AudioFront(
            Integer(d),
            Integer(heard.size("num_mel_bins", default=128)),
            Integer(positions),
            "gelu",
        ),
        at=Heads(Integer(d), Integer(heads), width, qv_bias=True, out_bias=True),
        feed=FeedForward(Integer(d), Integer(ffn), act, gated=False, bias=True),
        layers=Integer(heard.size("encoder_layers", "num_hidden_layers", default=32)),
        length=Integer(positions),
        steps=steps,
        out=out,
    )


def _halved(heard: Fields) -> Steps:
    """Means of each two positions, and the encoder's norm behind them."""
    positions = Integer(heard.size("max_source_positions", default=1500))
    if positions % 2:
        raise ModelError(f"{heard.name}: 'max_source_positions' = {positions} must be even")
    return Averaged((positions,), (Integer(2),)), Normed(LAYER_NORM)


def _qwen2_audio(fields: Fields) -> Reading:
    stack, reading = language(fields, "qwen2")
    heard = fields.section("audio_config")
    steps = (*_halved(heard), Product("1", stack.ends.d))
    return before(stack, reading, _ears(heard, steps, stack.ends.d))


def _audioflamingo3(fields: Fields) -> Reading:
    """Qwen2-Audio's encoder and two products (arXiv 2507.08128)."""
    stack, reading = language(fields, "qwen2")
    heard = fields.section("audio_config")
    halved = _halved(heard)
    act = activation_of(fields, "projector_hidden_act", default="gelu")
    bias = fields.flag("projector_bias", True)
    steps = (*halved, *two_products(stack.ends.d, act, bias))
    return before(stack, reading, _ears(heard, steps, stack.ends.d))


def _glmasr(fields: Fields) -> Reading:
    """Whisper's layers with rotated positions, four of which become one token."""
    stack, reading = language(
        fields,
        "llama",
        tied=True,
        vocab_size=59264,
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=4,
    )
    heard = fields.section("audio_config").renamed(
        max_source_positions="max_position_embeddings", activation_function="hidden_act"
    )
    ears = _ears(heard, (), stack.ends.d)
    turned = rotary_of(heard, ears.at.head_dim, 0.5)
    d, wide = ears.at.d, ears.feed.width
    if wide % d or ears.length % (wide / d):
        raise ModelError(f"{heard.name}: 'intermediate_size' = {wide} of positions of {d}")
    act, out = activation_of(fields, "projector_hidden_act", default="gelu"), stack.ends.d
    steps: Steps = (
        Normed(LAYER_NORM),
        Beside(wide / d),
        Product("1", 2 * out),
        Acted(act),
        Product("2", out),
    )
    front, at = replace(ears.front, positions=None), replace(ears.at, rotary=turned)
    return before(stack, reading, replace(ears, front=front, at=at, steps=steps))


def _alone(halved: bool) -> Family:
    """The encoder by itself; ``halved``: pairs of positions are averaged in front of its norm."""

    def read(fields: Fields) -> Reading:
        ears = _ears(fields, (), Integer(0))
        d, length = ears.at.d, int(ears.length)
        # Positions of clips of one length, as the table has them.
        layer = Layer(d, Bidirectional(ears.at), ears.feed, LAYER_NORM)
        model = Encoder(
            front=ears.front,
            segments=(Segment("audio_layers", layer, ears.layers),),
            d=d,
            norm=None if halved else LAYER_NORM,
            head=HalvedNorm(d) if halved else None,
            longest=length,
        )
        return Reading(model, assumptions=(f"clips have S = {length} positions as a rule",))

    return read


def _voxtral(fields: Fields) -> Reading:
    stack, reading = language(
        fields,
        "llama",
        vocab_size=131072,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=30,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
    )
    heard = fields.section("audio_config")
    fields.require("hidden_size", int(stack.ends.d))
    fields.require("vocab_size", int(stack.ends.vocab))
    d = heard.size("hidden_size", default=1280)
    width = heard.size("intermediate_size", default=5120)
    positions = heard.size("max_source_positions", default=1500)
    # As many positions become one token as fill the width of the feed-forward block.
    if width % d or positions % (width // d):
        raise ModelError(f"{heard.name}: 'intermediate_size' = {width} of positions of {d}")
    act = activation_of(fields, "projector_hidden_act", default="gelu")
    steps: Steps = (
        Normed(LAYER_NORM),
        Beside(Integer(width // d)),
        *two_products(stack.ends.d, act, False),
    )
    return before(stack, reading, _ears(heard, steps, stack.ends.d))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "qwen2_audio": _qwen2_audio,
        "voxtral": _voxtral,
        "audioflamingo3": _audioflamingo3,
        "glmasr": _glmasr,
        "qwen2_audio_encoder": _alone(halved=True),
        "audioflamingo3_encoder": _alone(halved=True),
        "voxtral_encoder": _alone(halved=False),
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "Qwen2AudioForConditionalGeneration": "qwen2_audio",
        "VoxtralForConditionalGeneration": "voxtral",
        "AudioFlamingo3ForConditionalGeneration": "audioflamingo3",
        "GlmAsrForConditionalGeneration": "glmasr",
        "Qwen2AudioEncoder": "qwen2_audio_encoder",
        "AudioFlamingo3Encoder": "audioflamingo3_encoder",
        "VoxtralEncoder": "voxtral_encoder",
    }
)
