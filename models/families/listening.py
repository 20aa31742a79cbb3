"""Speech recognisers beside Whisper: Moonshine."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import Ends, FeedForward, Layer, Norm, Segment
from costgraph.models.blocks.encoder import Bidirectional, CrossLayer, Heads
from costgraph.models.encoder import Encoder, EncoderDecoder
from costgraph.models.families.common import Family, Reading, activation_of, rotary_of
from costgraph.models.fields import Fields, divided
from costgraph.models.waves import WaveFront

NORM = Norm("layer")
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


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"moonshine": _moonshine})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"MoonshineForConditionalGeneration": "moonshine"}
)
