"""Speech recognisers beside Whisper: Moonshine, Speech2Text, SpeechT5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import Ends, FeedForward, Layer, Norm, Segment
from costgraph.models.blocks.encoder import Bidirectional, CrossLayer, Heads
from costgraph.models.conformer import NearHeads, NearRows
from costgraph.models.encoder import Encoder, EncoderDecoder
from costgraph.models.families.common import Family, Reading, activation_of, class_of, rotary_of
from costgraph.models.families.encoders import LAYER_NORM, answering, sides_of
from costgraph.models.families.speaking import TAUGHT, spoken
from costgraph.models.families.speech import GAIN, POSITIONS, speech_front
from costgraph.models.families.vision import sizes
from costgraph.models.fields import Fields, divided
from costgraph.models.waves import GatedFront, WaveFront

NORM = Norm("layer")
FRAMES = "S counts positions, made of the fewest frames that give as many"
PADDED = (
    "heads have the width that the file states: the published code fills them up to a multiple "
    "of 'pad_head_dim_to_multiple_of' inside attention"
)


def _half(fields: Fields, side: str, old: str) -> tuple[Heads, int]:
    """Heads of one half, and its layers; files of transformers 5 have other names."""
    d = fields.size("hidden_size")
    heads = fields.size(f"{side}_num_attention_heads", old, default=8)
    kv_heads = fields.size(f"{side}_num_key_value_heads", default=heads)
    width = divided(fields, d, heads, "hidden size over heads")
    if heads % kv_heads:
        raise ModelError(f"{fields.name}: {heads} heads are no multiple of {kv_heads}")
    bias = fields.flag("attention_bias", False)
    turned = rotary_of(fields, width, 0.9)
    at = Heads(
        Integer(d), Integer(heads), width, bias, bias, False,
        rotary=turned, kv_heads=Integer(kv_heads),
    )  # fmt: skip
    return at, fields.size(f"{side}_num_hidden_layers", default=6)


def _moonshine(fields: Fields) -> Reading:
    """An encoder over samples, a decoder with gated blocks; both rotate."""
    (heard, layers), (own, count) = (
        _half(fields, side, "num_attention_heads") for side in ("encoder", "decoder")
    )
    if (heard.heads, heard.kv_heads) != (own.heads, own.kv_heads):
        # The published code reads some of the encoder's numbers in its decoder, and the reverse.
        raise ModelError(f"{fields.name}: encoder and decoder must have the same heads")
    d, width = heard.d, Integer(fields.size("intermediate_size"))
    act = activation_of(fields, "encoder_hidden_act", default="gelu")
    feed = FeedForward(d, width, act, gated=False, bias=True)
    gate = activation_of(fields, "decoder_hidden_act", default="silu")
    fed = FeedForward(d, width, gate, bias=True, fused_gate_up=True)
    longest = fields.size("max_position_embeddings", default=512)
    cross = Heads(d, own.heads, own.head_dim, own.qv_bias, own.k_bias, False, kv_heads=own.kv_heads)
    layer = Layer(d, Bidirectional(heard), feed, NORM)
    encoder = Encoder(
        front=WaveFront(d),
        segments=(Segment("encoder", layer, Integer(layers)),),
        d=d,
        norm=NORM,
    )
    ends = Ends(
        d,
        Integer(fields.size("vocab_size")),
        norm=NORM,
        tied=fields.flag("tie_word_embeddings", True),
    )
    model = EncoderDecoder(
        encoder=encoder,
        layer=CrossLayer(d, own, cross, fed, NORM),
        layers=Integer(count),
        ends=ends,
        shared=(),
        longest=longest,
    )
    padded = fields.values.get("pad_head_dim_to_multiple_of") is not None
    return Reading(model, assumptions=(PADDED,) if padded else ())


def _speech2text(fields: Fields) -> Reading:
    """Gated convolutions over a spectrogram in front of BART's layers, norms first."""
    fields = fields.with_defaults(
        d_model=256, encoder_layers=12, decoder_layers=6, encoder_ffn_dim=2048,
        decoder_ffn_dim=2048, encoder_attention_heads=4, decoder_attention_heads=4,
    )  # fmt: skip
    d = fields.size("d_model")
    act = activation_of(fields, "activation_function", default="relu")
    (at, feed), side = sides_of(fields, d, act, k_bias=True)
    kernels = sizes(fields, "conv_kernel_sizes", (5, 5))
    fields.require("num_conv_layers", len(kernels))
    if any(kernel % 2 == 0 for kernel in kernels):
        raise ModelError(f"{fields.name}: 'conv_kernel_sizes' = {list(kernels)}: odd ones")
    wide = fields.size("conv_channels", default=1024)
    divided(fields, wide, 2, "'conv_channels' over halves")
    scaled = fields.flag("scale_embedding", True)
    mels = fields.size("input_feat_per_channel", default=80)
    mels *= fields.size("input_channels", default=1)
    front = GatedFront(
        Integer(d),
        Integer(mels),
        (*(wide // 2,) * (len(kernels) - 1), d),
        kernels,
        scaled,
    )
    heard = fields.size("max_source_positions", default=6000)
    said = fields.size("max_target_positions", default=1024)
    encoder = Encoder(
        front=front,
        segments=(
            Segment(
                "encoder",
                Layer(Integer(d), Bidirectional(at), feed, LAYER_NORM),
                Integer(fields.size("encoder_layers")),
            ),
        ),
        d=Integer(d),
        norm=LAYER_NORM,
        longest=heard,
    )
    ends = Ends(
        d=Integer(d),
        vocab=Integer(fields.size("vocab_size", default=10000)),
        fixed=True,
        embed_scale=scaled,
        norm=LAYER_NORM,
        tied=fields.flag("tie_word_embeddings", True),
    )
    model = answering(fields, encoder, side, ends, shared=(), longest=said)
    return Reading(model, assumptions=(FRAMES,))


#: Keys of SpeechT5's other classes, which speak, and of training.
_SPOKEN = (
    "speech_decoder_prenet_layers", "speech_decoder_prenet_units", "speech_decoder_prenet_dropout",
    "speaker_embedding_dim", "speech_decoder_postnet_layers", "speech_decoder_postnet_units",
    "speech_decoder_postnet_kernel", "speech_decoder_postnet_dropout", "reduction_factor",
    "num_mel_bins", *TAUGHT,
)  # fmt: skip


def _speecht5(fields: Fields) -> Reading:
    """SpeechT5 (arXiv 2110.07205) that speaks, or wav2vec 2.0's front and a text decoder."""
    fields = fields.with_defaults(
        hidden_size=768, encoder_layers=12, decoder_layers=6, encoder_ffn_dim=3072,
        decoder_ffn_dim=3072, encoder_attention_heads=12, decoder_attention_heads=12,
    )  # fmt: skip
    if class_of(fields.values) == "SpeechT5ForTextToSpeech":
        return spoken(fields)
    d = fields.size("hidden_size")
    act = activation_of(fields, "hidden_act", default="gelu")
    (at, feed), side = sides_of(fields, d, act, k_bias=True)
    reach = fields.size("encoder_max_relative_position", default=160)
    layer = Layer(Integer(d), NearHeads(at), feed, LAYER_NORM, norm_first=False)
    for key in _SPOKEN:
        fields.values.get(key)
    encoder = Encoder(
        front=replace(speech_front(fields, d, before=False, several=False), fixed=True),
        segments=(Segment("encoder", layer, Integer(fields.size("encoder_layers"))),),
        d=Integer(d),
        buckets=NearRows(Integer(2 * reach), at.head_dim),
        longest=fields.size("max_speech_positions", default=4000),
    )
    said = fields.size("max_text_positions", default=450)
    ends = Ends(
        d=Integer(d),
        vocab=Integer(fields.size("vocab_size", default=81)),
        fixed=True,
        embed_scale=fields.flag("scale_embedding", False),
        norm=None,
        tied=fields.flag("tie_word_embeddings", True),
    )
    model = answering(fields, encoder, side, ends, shared=(), longest=said)
    return Reading(model, assumptions=(POSITIONS, GAIN))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"moonshine": _moonshine, "speech_to_text": _speech2text, "speecht5": _speecht5}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "MoonshineForConditionalGeneration": "moonshine",
        "Speech2TextForConditionalGeneration": "speech_to_text",
        "SpeechT5ForSpeechToText": "speecht5",
        "SpeechT5ForTextToSpeech": "speecht5",
    }
)
