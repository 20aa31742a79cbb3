"""Decoders behind Parakeet's encoder: Cohere's transcriber and NVIDIA's Canary."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Ends, FeedForward
from costgraph.models.blocks.encoder import CrossLayer, Heads
from costgraph.models.encoder import Encoder, EncoderDecoder
from costgraph.models.families.common import Family, Reading, activation_of, heads_of
from costgraph.models.families.encoders import LAYER_NORM
from costgraph.models.families.parakeet import FAMILIES as EARS
from costgraph.models.fields import Fields

#: What is said of a product that the published class repeats.
ONCE = (
    "the encoder's result is projected once; the published class does it in every step, and reads "
    "it in the first alone"
)


#: What Cohere's class has for keys that its encoder's part leaves out.
_HEARD: Mapping[str, int | bool] = MappingProxyType(
    {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 48,
        "num_mel_bins": 128,
        "scale_input": False,
    }
)


def _answering(
    fields: Fields, said: Fields, fixed: bool, tied: bool, **left_out: int | bool
) -> Reading:
    """Norms in front of the blocks, one behind the embeddings, biases; logits have one, too."""
    heard = fields.section("encoder_config")
    missing = {key: value for key, value in left_out.items() if not heard.has(key)}
    heard = heard.with_values(**missing)
    kind = heard.word("model_type", default="parakeet_encoder")
    if kind != "parakeet_encoder":
        raise ModelError(f"{heard.name}: {clip(kind)}: only parakeet_encoder is known here")
    ears = EARS[kind](heard)
    encoder = ears.model
    assert isinstance(encoder, Encoder)
    said = said.with_defaults(
        hidden_size=1024, num_hidden_layers=8, num_attention_heads=8, intermediate_size=4096,
        vocab_size=16384, max_position_embeddings=1024,
    )  # fmt: skip
    d, bias = Integer(said.size("hidden_size")), said.flag("attention_bias", True)
    heads, few, width = heads_of(said, int(d))
    at = Heads(d, Integer(heads), width, bias, bias, bias, kv_heads=Integer(few))
    act = activation_of(said, "hidden_act", default="relu")
    feed = FeedForward(d, Integer(said.size("intermediate_size")), act, gated=False, bias=True)
    longest = said.size("max_position_embeddings")
    if fixed and encoder.d != d:
        raise ModelError(f"{said.name}: 'hidden_size' must be the encoder's {encoder.d}")
    model: Any = EncoderDecoder(
        encoder=encoder,
        layer=CrossLayer(d, at, at, feed, LAYER_NORM),
        layers=Integer(said.size("num_hidden_layers")),
        ends=Ends(
            d,
            Integer(said.size("vocab_size")),
            positions=None if fixed else Integer(longest),
            fixed=fixed,
            embed_norm=LAYER_NORM,
            norm=LAYER_NORM,
            tied=fields.flag("tie_word_embeddings", tied),
            head_bias=True,
        ),
        shared=(),
        longest=longest,
        joined=None if fixed else d,
    )
    return Reading(model, assumptions=(*ears.assumptions, *(() if fixed else (ONCE,))))


def _cohere_asr(fields: Fields) -> Reading:
    """Learned positions, and a product in front of what is heard."""
    return _answering(fields, fields, fixed=False, tied=False, **_HEARD)


def _canary(fields: Fields) -> Reading:
    """Fixed positions; the encoder is as wide as the decoder (arXiv 2406.19674)."""
    said = fields.section("decoder_config")
    words = said.size("vocab_size", default=16384)
    if fields.size("vocab_size", default=16384) != words:
        raise ModelError(f"{fields.name}: 'vocab_size' must be the decoder's {words}")
    return _answering(
        fields, said.with_defaults(head_dim=128, num_key_value_heads=8), fixed=True, tied=True
    )


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"cohere_asr": _cohere_asr, "canary": _canary})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "CohereAsrForConditionalGeneration": "cohere_asr",
        "CanaryForConditionalGeneration": "canary",
    }
)
