"""SpeechT5 that speaks."""

from __future__ import annotations

from itertools import pairwise

from sympy import Integer

from costgraph.models.blocks import Ends, Layer, Segment
from costgraph.models.blocks.encoder import CrossLayer
from costgraph.models.conformer import NearHeads, NearRows
from costgraph.models.encoder import Encoder
from costgraph.models.families.common import Reading, activation_of
from costgraph.models.families.encoders import LAYER_NORM, sides_of
from costgraph.models.families.vision import few
from costgraph.models.fields import Fields
from costgraph.models.speaking import Frames, PlacedText, Speaking

STEPS = (
    "a step of N makes {step} frames of a sound, for a speaker whose vector is given; products in "
    "front of the decoder read the last frame (the published code reads all again)"
)
REFINED = "what refines all frames behind the last step rests in memory: its time is left aside"
APART = "the vocoder, which makes samples of frames, is a file of its own (hifigan)"
#: Keys of training.
TAUGHT = (
    "apply_spec_augment", "mask_time_length", "mask_time_min_masks", "mask_time_prob",
    "mask_feature_length", "mask_feature_min_masks", "mask_feature_prob",
    "use_guided_attention_loss", "guided_attention_loss_num_heads", "guided_attention_loss_sigma",
    "guided_attention_loss_scale",
)  # fmt: skip


def spoken(fields: Fields) -> Reading:
    """SpeechT5 from text to frames; sizes of both halves are filled in."""
    d = Integer(fields.size("hidden_size"))
    act = activation_of(fields, "hidden_act", default="gelu")
    (at, feed), (own, fed) = sides_of(fields, int(d), act, k_bias=True)
    for key in TAUGHT:
        fields.values.get(key)
    vocab = Integer(fields.size("vocab_size", default=81))
    reach = fields.size("encoder_max_relative_position", default=160)
    layer = Layer(d, NearHeads(at), feed, LAYER_NORM, norm_first=False)
    encoder = Encoder(
        front=PlacedText(Ends(d, vocab, norm=None)),
        segments=(Segment("encoder", layer, Integer(fields.size("encoder_layers"))),),
        d=d,
        buckets=NearRows(Integer(2 * reach), at.head_dim),
        longest=fields.size("max_text_positions", default=450),
    )
    mels, step = fields.size("num_mel_bins", default=80), fields.size("reduction_factor", default=2)
    layers = few(fields, "speech_decoder_postnet_layers", 5)
    units = fields.size("speech_decoder_postnet_units", default=256)
    taps = fields.size("speech_decoder_postnet_kernel", default=5)
    widths = [mels, *[units] * (layers - 1), mels]
    refining = sum(taps * first * second + 2 * second for first, second in pairwise(widths))
    front = Frames(
        Integer(mels),
        Integer(fields.size("speech_decoder_prenet_units", default=256)),
        few(fields, "speech_decoder_prenet_layers", 2),
        Integer(fields.size("speaker_embedding_dim", default=512)),
        d,
    )
    model = Speaking(
        encoder=encoder,
        layer=CrossLayer(d, own, own, fed, LAYER_NORM, norm_first=False),
        layers=Integer(fields.size("decoder_layers")),
        ends=Ends(d, vocab, norm=None),
        shared=(),
        longest=fields.size("max_speech_positions", default=4000),
        front=front,
        mels=mels,
        step=step,
        resting=refining,
    )
    return Reading(model, assumptions=(STEPS.format(step=step), REFINED, APART))
