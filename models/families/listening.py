"""Speech recognisers beside Whisper: Moonshine 1 and streaming, Speech2Text, SpeechT5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import Ends, FeedForward, Layer, Norm, Segment
from costgraph.models.blocks.encoder import Bidirectional, CrossLayer, Heads
from costgraph.models.blocks.pattern import gathered
from costgraph.models.conformer import NearHeads, NearRows
from costgraph.models.encoder import Encoder, EncoderDecoder
from costgraph.models.families.common import (
    Family,
    Reading,
    activation_of,
    class_of,
    layer_count,
    rotary_of,
)
from costgraph.models.families.encoders import LAYER_NORM, answering, sides_of
from costgraph.models.families.speaking import TAUGHT, spoken
from costgraph.models.families.speech import GAIN, POSITIONS, speech_front
from costgraph.models.families.vision import MOST_ENTRIES, sizes
from costgraph.models.fields import Fields, divided
from costgraph.models.moonshine import FrameFront, PlacedEncoder
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


def _windows(heard: Fields, count: int) -> tuple[tuple[int, int], ...]:
    """How many positions each layer sees, itself and those before it, and from itself on."""
    key = "sliding_windows"
    found = heard.values.get(key, [[16, 4], [16, 4], [16, 0], [16, 0], [16, 4], [16, 4]])
    good = isinstance(found, list) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(type(n) is int and 0 <= n < MOST_ENTRIES for n in pair)
        and pair[0] > 0
        for pair in found
    )
    if not good or len(found) != count:
        raise ModelError(f"{heard.name}: {key!r} must be a list of {count} pairs of whole numbers")
    return tuple((before, ahead) for before, ahead in found)


def _moonshine_streaming(fields: Fields) -> Reading:
    """Moonshine over frames of samples, whose encoder looks a little ahead at most."""
    fields = fields.with_defaults(
        hidden_size=320, intermediate_size=1280, num_hidden_layers=6, num_attention_heads=8,
        vocab_size=32768,
    )  # fmt: skip
    heard = fields.section("encoder_config").with_defaults(
        hidden_size=320, intermediate_size=1280, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=8,
    )  # fmt: skip
    at, own = _streamed(heard, None), _streamed(fields, fields)
    if own.heads != own.keys:
        raise ModelError(f"{fields.name}: the decoder must have as many heads of keys as queries")
    act = activation_of(heard, "hidden_act", default="gelu")
    feed = FeedForward(at.d, Integer(heard.size("intermediate_size")), act, gated=False, bias=True)
    gate = activation_of(fields, "hidden_act", default="silu")
    fed = FeedForward(
        own.d, Integer(fields.size("intermediate_size")), gate, bias=True, fused_gate_up=True
    )
    samples = heard.size("sample_rate", default=16000) * heard.number("frame_ms", 5.0) / 1000
    if round(samples) != samples or samples < 1:
        raise ModelError(f"{heard.name}: 'frame_ms' makes no whole number of samples")
    windows = _windows(heard, layer_count(heard))
    layers = gathered(
        (
            f"encoder_{before}_{ahead}",
            Layer(
                at.d,
                Bidirectional(at, Integer(before - 1), Integer(max(ahead - 1, 0))),
                feed,
                NORM,
            ),
        )
        for before, ahead in windows
    )
    longest = fields.size("max_position_embeddings", default=4096)
    heard.values.get("max_position_embeddings")  # the decoder's table is the one that there is
    encoder = PlacedEncoder(
        front=FrameFront(at.d, Integer(round(samples))),
        segments=layers,
        d=at.d,
        norm=NORM,
        longest=longest,
        rows=Integer(longest),
        joined=None if at.d == own.d else own.d,
    )
    model = EncoderDecoder(
        encoder=encoder,
        layer=CrossLayer(own.d, own, replace(own, rotary=None), fed, NORM),
        layers=Integer(fields.size("num_hidden_layers")),
        ends=Ends(
            own.d,
            Integer(fields.size("vocab_size")),
            norm=NORM,
            tied=fields.flag("tie_word_embeddings", False),
        ),
        shared=(),
    )
    padded = fields.values.get("pad_head_dim_to_multiple_of") is not None
    said = f"S counts positions, each made of four frames of {round(samples)} samples"
    return Reading(model, assumptions=(said, *((PADDED,) if padded else ())))


def _streamed(fields: Fields, turned: Fields | None) -> Heads:
    """Heads of one half; those of the decoder, whose fields are ``turned``, rotate."""
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    keys = fields.size("num_key_value_heads")
    if heads % keys:
        raise ModelError(f"{fields.name}: {heads} heads are no multiple of {keys}")
    width = (
        Integer(fields.size("head_dim"))
        if fields.values.get("head_dim") is not None
        else divided(fields, d, heads, "hidden size over heads")
    )
    bias = fields.flag("attention_bias", False)
    at = Heads(
        Integer(d), Integer(heads), width, bias, bias, bias and turned is None,
        kv_heads=Integer(keys),
    )  # fmt: skip
    if turned is None:
        return at
    # Where a file says how positions are turned and not how far, its class turns whole heads.
    share = 0.8 if fields.values.get("rope_parameters") is None else 1.0
    return replace(at, rotary=rotary_of(fields, width, share))


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
    {
        "moonshine": _moonshine,
        "moonshine_streaming": _moonshine_streaming,
        "speech_to_text": _speech2text,
        "speecht5": _speecht5,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "MoonshineForConditionalGeneration": "moonshine",
        "MoonshineStreamingForConditionalGeneration": "moonshine_streaming",
        "Speech2TextForConditionalGeneration": "speech_to_text",
        "SpeechT5ForSpeechToText": "speecht5",
        "SpeechT5ForTextToSpeech": "speecht5",
    }
)
