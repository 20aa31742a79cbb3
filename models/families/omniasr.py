"""Omnilingual ASR: wav2vec 2.0's layers in front of letters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.encoder import Encoder
from costgraph.models.encoder_heads import Head, LabelHead
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.speech import POSITIONS, speech_layers
from costgraph.models.fields import Fields
from costgraph.models.waves import SpeechFront


def _encoded(fields: Fields, vocab: int | None) -> Reading:
    """The encoder: norms first, one behind each convolution; positions are made without a gain."""
    if fields.size("num_conv_pos_embeddings", default=128) % 2:
        raise ModelError(f"{fields.name}: 'num_conv_pos_embeddings' is even in this family")
    named = fields.with_defaults(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        conv_bias=True,
    )
    act = activation_of(named, "hidden_act", default="gelu")
    reading = speech_layers(
        named.with_values(
            architectures=["Wav2Vec2Model"],
            do_stable_layer_norm=True,
            feat_extract_norm="layer",
            feat_proj_layer_norm=True,
            mask_time_prob=0.0,
            mask_feature_prob=0.0,
        )
    )
    model = reading.model
    assert isinstance(model, Encoder)
    assert isinstance(model.front, SpeechFront)
    assert model.front.placing is not None
    placing = replace(model.front.placing, gain=False, bare=True)
    front = replace(model.front, placing=placing, activation=act)
    head: Head | None = None if vocab is None else LabelHead(model.d, Integer(vocab))
    return Reading(replace(model, front=front, head=head), assumptions=(POSITIONS,))


def _ctc(fields: Fields) -> Reading:
    for key in ("ctc_loss_reduction", "ctc_zero_infinity", "blank_token_id"):
        fields.values.get(key)
    vocab = fields.size("vocab_size", default=10288)
    return _encoded(fields.section("audio_config"), vocab)


def _audio(fields: Fields) -> Reading:
    return _encoded(fields, None)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"omniasr_ctc": _ctc, "omniasr_audio": _audio})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"OmniASRForCTC": "omniasr_ctc", "OmniASRAudioModel": "omniasr_audio"}
)
