"""Language models behind Whisper's encoder: Qwen2-Audio, Voxtral and others; the encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import FeedForward, Layer, Segment
from costgraph.models.blocks.encoder import Bidirectional, Heads
from costgraph.models.blocks.projector import (
    Acted,
    Averaged,
    Beside,
    Ended,
    Normed,
    Product,
    Steps,
    two_products,
)
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.encoder import AudioFront, Encoder
from costgraph.models.encoder_heads import HalvedNorm
from costgraph.models.families.common import Family, Reading, activation_of, rotary_of
from costgraph.models.families.language import before, language
from costgraph.models.fields import Fields, divided
from costgraph.models.fun_ears import FunEars, RememberingLayer
from costgraph.models.hearing import Ears, ShrunkFront


def _ears(heard: Fields, steps: Steps, out: Expr) -> Ears:
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
        front=AudioFront(Integer(d), _mels(heard), Integer(positions), "gelu"),
        at=Heads(Integer(d), Integer(heads), width, qv_bias=True, out_bias=True),
        feed=FeedForward(Integer(d), Integer(ffn), act, gated=False, bias=True),
        layers=Integer(heard.size("encoder_layers", "num_hidden_layers", default=32)),
        length=Integer(positions),
        steps=steps,
        out=out,
    )


def _made(heard: Fields, out: Expr) -> None:
    """Refuses an encoder whose rows are not as wide as the language model takes them."""
    if Integer(heard.size("output_dim", default=3584)) != out:
        raise ModelError(
            f"{heard.name}: the encoder makes rows of {heard.size('output_dim', default=3584)}, "
            f"the language model takes {out}"
        )


def omni_ears(heard: Fields, out: Expr) -> Ears:
    """Qwen2.5-Omni's encoder: pieces of a sound, of which each sees itself (arXiv 2503.20215).

    Raises:
        ModelError: a key of the section is wrong, or its rows are not ``out`` wide.
    """
    _made(heard, out)
    heard.values.get("max_source_positions")  # the table of positions is no parameter
    length = heard.size("n_window", default=100)
    cut = heard.with_values(max_source_positions=length)
    marks = Ended(("start_row", "end_row"), out)
    ears = _ears(cut, (*_halved(cut), Product("1", out), marks), out)
    front = AudioFront(ears.at.d, _mels(heard), None, fixed=True)
    return replace(ears, front=front, near=Integer(1))


def shrunk_ears(heard: Fields, out: Expr) -> Ears:
    """Qwen3-Omni's encoder: three convolutions over pieces, windows of pieces behind them.

    Raises:
        ModelError: a key of the section is wrong, or its rows are not ``out`` wide.
    """
    _made(heard, out)
    for key in ("max_source_positions", "max_position_embeddings", "conv_chunksize"):
        heard.values.get(key)  # tables that are no parameters, and pieces at a time
    half, seen = heard.size("n_window", default=50), heard.size("n_window_infer", default=800)
    if seen < 2 * half:
        raise ModelError(f"{heard.name}: 'n_window_infer' = {seen}: at least {2 * half}")
    ears = _ears(heard, (), out)
    d, at = ears.at.d, replace(ears.at, k_bias=True)
    act = activation_of(heard, "activation_function", default="gelu")
    steps: Steps = (Normed(LAYER_NORM), Product("1", d), Acted(act), Product("2", out))
    channels = Integer(heard.size("downsample_hidden_size", default=480))
    front = ShrunkFront(d, int(_mels(heard)), 2 * half, channels)
    return replace(
        ears,
        front=front,
        at=at,
        length=Integer(front.length),
        steps=steps,
        near=Integer(seen // (2 * half)),
    )


def _mels(heard: Fields) -> Integer:
    return Integer(heard.size("num_mel_bins", default=128))


def _qwen3_asr(fields: Fields) -> Reading:
    """Qwen3-Omni's encoder, smaller, in front of Qwen3."""
    stack, reading = language(fields, "qwen3", tied=True)
    heard = fields.section("audio_config").with_defaults(
        d_model=1024, encoder_layers=24, encoder_attention_heads=16, encoder_ffn_dim=4096
    )
    fields.values.get("token_classification_bias")  # of the class that aligns words
    return before(stack, reading, shrunk_ears(heard, stack.ends.d))


def _moss(fields: Fields) -> Reading:
    """MOSS-Transcribe-Diarize: Whisper's encoder, some of whose positions become one token."""
    stack, reading = language(fields, "qwen3", tied=True)
    heard = fields.section("audio_config").with_defaults(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
        num_mel_bins=80,
    )  # fmt: skip
    merged = fields.size("audio_merge_size", default=4)
    positions = heard.size("max_source_positions", default=1500)
    if positions % merged:
        raise ModelError(f"{fields.name}: {positions} positions of 'audio_merge_size' = {merged}")
    act, out = activation_of(fields, "projector_hidden_act", default="silu"), stack.ends.d
    steps: Steps = (
        Normed(LAYER_NORM),
        Beside(Integer(merged)),
        *two_products(out, act, fields.flag("projector_bias", True)),
        Normed(LAYER_NORM, "last_norm"),
    )
    return before(stack, reading, _ears(heard, steps, out))


def _fun_asr(fields: Fields) -> Reading:
    """Fun-ASR-Nano: SenseVoice's encoder, layers that adapt it, and Qwen3."""
    stack, reading = language(fields, "qwen3", tied=True)
    heard, adapts = fields.section("audio_config"), fields.section("adaptor_config")
    layers = heard.size("num_hidden_layers", default=70)
    late = heard.values.get("num_timestamp_prediction_layers", 20)
    if type(late) is not int or not 0 <= late < layers:
        raise ModelError(
            f"{heard.name}: 'num_timestamp_prediction_layers' must be below {layers}, from nought"
        )
    kernel = heard.size("fsmn_kernel_size", default=11)
    if kernel % 2 == 0:
        raise ModelError(f"{heard.name}: 'fsmn_kernel_size' = {kernel}: an odd one")
    at, feed = _plain(heard, 512, 4, 2048)
    own, fed = _plain(adapts, 1024, 8, 256)
    if own.d != stack.ends.d or fed.width != own.d // 4:
        raise ModelError(
            f"{adapts.name}: 'hidden_size' must be {stack.ends.d}, 'intermediate_size' a fourth"
        )
    bent = activation_of(adapts, "projector_hidden_act", default="relu")
    wide = Integer(adapts.size("projector_hidden_size", default=2048))
    frame = heard.size("num_mel_bins", default=80) * heard.size("num_stacked_frames", default=7)
    if Integer(frame) == at.d:
        raise ModelError(f"{heard.name}: frames as wide as layers are not supported")
    ears = FunEars(
        frame=Integer(frame),
        layer=RememberingLayer(at, feed, kernel),
        runs=(layers - late, late) if late else (layers,),
        steps=(Product("1", wide), Acted(bent), Product("2", own.d)),
        at=own,
        feed=fed,
        layers=Integer(adapts.size("num_hidden_layers", default=2)),
    )
    heard.values.get("max_position_embeddings")  # a fixed table, and no parameter
    return before(stack, reading, ears)


def _plain(fields: Fields, d: int, heads: int, inner: int) -> tuple[Heads, FeedForward]:
    """Heads and feed-forward block of one part, with biases; defaults behind the fields."""
    wide = fields.size("hidden_size", default=d)
    many = fields.size("num_attention_heads", default=heads)
    width = divided(fields, wide, many, "hidden size over heads")
    act = activation_of(fields, "hidden_act", default="relu")
    feed = Integer(fields.size("intermediate_size", default=inner))
    return (
        Heads(Integer(wide), Integer(many), width, True, True, True),
        FeedForward(Integer(wide), feed, act, gated=False, bias=True),
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
    assert isinstance(ears.front, AudioFront)
    front, at = replace(ears.front, positions=None), replace(ears.at, rotary=turned)
    return before(stack, reading, replace(ears, front=front, at=at, steps=steps))


def _alone(halved: bool) -> Family:
    """The encoder by itself; ``halved``: pairs of positions are averaged in front of its norm."""

    def read(fields: Fields) -> Reading:
        ears = _ears(fields, (), Integer(0))
        d, length = ears.at.d, int(ears.length)
        assert isinstance(ears.front, AudioFront)
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
        "qwen3_asr": _qwen3_asr,
        "moss_transcribe_diarize": _moss,
        "fun_asr_nano": _fun_asr,
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
        "Qwen3ASRForConditionalGeneration": "qwen3_asr",
        "FunAsrNanoForConditionalGeneration": "fun_asr_nano",
        "MossTranscribeDiarizeForConditionalGeneration": "moss_transcribe_diarize",
        "Qwen2AudioEncoder": "qwen2_audio_encoder",
        "AudioFlamingo3Encoder": "audioflamingo3_encoder",
        "VoxtralEncoder": "voxtral_encoder",
    }
)
