"""Parakeet: a Fast Conformer in front of letters, or of a decoder of LSTMs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward, Segment
from costgraph.models.blocks.encoder import Heads
from costgraph.models.conformer import ConformerLayer, PointHead, Shrinking
from costgraph.models.encoder import Encoder
from costgraph.models.encoder_heads import Head, LabelHead, Resting
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.speech import POSITIONS
from costgraph.models.families.vision import FOLDED, MOST_ENTRIES
from costgraph.models.fields import Fields, divided


def _conformer(fields: Fields, head: Head | None) -> Reading:
    """The encoder of Parakeet."""
    fields = fields.with_defaults(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=8
    )
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    fields.require("num_key_value_heads", heads)
    width = divided(fields, d, heads, "hidden size over heads")
    bias = fields.flag("attention_bias", True)
    factor = fields.size("subsampling_factor", default=8)
    fields.require("subsampling_conv_stride", 2)
    count, mels = factor.bit_length() - 1, fields.size("num_mel_bins", default=80)
    if 2**count != factor or not count or mels % factor:
        raise ModelError(
            f"{fields.name}: 'subsampling_factor' = {factor} of {mels} bands: a power of two that "
            "divides them"
        )
    kernels = {
        key: fields.size(key, default=default)
        for key, default in (("subsampling_conv_kernel_size", 3), ("conv_kernel_size", 9))
    }
    if any(n % 2 == 0 for n in kernels.values()) or kernels["subsampling_conv_kernel_size"] != 3:
        raise ModelError(f"{fields.name}: kernels of 3 and of odd sizes, not {kernels}")
    act = activation_of(fields, "hidden_act", default="silu")
    feed = FeedForward(
        Integer(d), Integer(fields.size("intermediate_size")), act, gated=False, bias=bias
    )
    channels = Integer(fields.size("subsampling_conv_channels", default=256))
    scaled = fields.flag("scale_input", True)
    layer = ConformerLayer(
        Heads(Integer(d), Integer(heads), width, bias, bias, bias),
        feed,
        kernels["conv_kernel_size"],
        fields.flag("convolution_bias", True),
        act,
    )
    model = Encoder(
        front=Shrinking(Integer(d), mels, channels, 3, count, scaled),
        segments=(Segment("layers", layer, Integer(fields.size("num_hidden_layers"))),),
        d=Integer(d),
        head=head,
    )
    return Reading(model, assumptions=(POSITIONS.replace("samples", "frames"), FOLDED))


def _parakeet_ctc(fields: Fields) -> Reading:
    for key in ("ctc_loss_reduction", "ctc_zero_infinity"):
        fields.values.get(key)
    vocab = Integer(fields.size("vocab_size", default=1025))
    return _conformer(fields.section("encoder_config"), PointHead(vocab))


#: What is said of a decoder whose steps depend on what is said.
STEPS = (
    "the encoder is counted, in time; the decoder's steps, one a word or a blank, are left out: "
    "its weights only rest in memory"
)


def _transducer(fields: Fields, durations: bool = False) -> Reading:
    """Parakeet with a decoder of LSTMs, which also says how long a word is (arXiv 2304.06795)."""
    d = fields.size("decoder_hidden_size", default=640)
    layers = fields.size("num_decoder_layers", default=2)
    words = fields.size("vocab_size", default=8193)
    activation_of(fields, "hidden_act", default="relu")
    for key in ("max_symbols_per_step", "blank_token_id"):
        fields.values.get(key)
    lengths = fields.values.get("durations", [0, 1, 2, 3, 4]) if durations else []
    if not isinstance(lengths, list) or len(lengths) > MOST_ENTRIES or layers > MOST_ENTRIES:
        raise ModelError(f"{fields.name}: 'durations' = {clip(lengths)}, {layers} LSTMs")
    said = words + len(lengths)
    resting = (
        ("words", Integer(words * d)),
        ("lstm", Integer(layers * (8 * d * d + 8 * d))),
        ("word_proj", Integer(d * d + d)),
        ("joint", Integer(said * d + said)),
    )
    encoder = fields.section("encoder_config")
    width = Integer(encoder.size("hidden_size", default=1024))
    reading = _conformer(encoder, Resting(resting, LabelHead(width, Integer(d))))
    return replace(reading, assumptions=(*reading.assumptions, STEPS))


def _parakeet_rnnt(fields: Fields) -> Reading:
    return _transducer(fields)


def _parakeet_tdt(fields: Fields) -> Reading:
    return _transducer(fields, durations=True)


def _parakeet_encoder(fields: Fields) -> Reading:
    return _conformer(fields, None)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "parakeet_ctc": _parakeet_ctc,
        "parakeet_encoder": _parakeet_encoder,
        "parakeet_rnnt": _parakeet_rnnt,
        "parakeet_tdt": _parakeet_tdt,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "ParakeetForCTC": "parakeet_ctc",
        "ParakeetEncoder": "parakeet_encoder",
        "ParakeetForRNNT": "parakeet_rnnt",
        "ParakeetForTDT": "parakeet_tdt",
    }
)
