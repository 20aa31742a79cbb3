"""VITS, the text-to-speech models of MMS."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import Ends
from costgraph.models.durations import Durations, PlainDurations
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.detecting import heads_of
from costgraph.models.families.hifigan import voice_of
from costgraph.models.families.vision import MOST_ENTRIES, few
from costgraph.models.fields import Fields
from costgraph.models.vits import Flow, SpokenLayer, Vits, Wave

FRAMES = (
    "G counts frames of the sound, of {samples} samples each: the model itself says how long "
    "tokens last, and their sum is G"
)
TOLD = "each text takes one of {speakers} voices"
TRAINED = (
    "the encoder of recorded sounds and half of the flow of durations rest: training runs them"
)


def _odd(fields: Fields, key: str, default: int) -> int:
    """An odd number of taps: others do not keep a length.

    Raises:
        ModelError: it is even, or very large.
    """
    taps = fields.size(key, default=default)
    if taps % 2 == 0 or taps > MOST_ENTRIES:
        raise ModelError(f"{fields.name}: {key!r} = {taps}: odd ones to {MOST_ENTRIES} are known")
    return taps


def _lengths(fields: Fields) -> Durations | PlainDurations:
    taps = _odd(fields, "duration_predictor_kernel_size", 3)
    plain = ("duration_predictor_filter_channels",)
    drawn = ("depth_separable_channels", "depth_separable_num_layers",
             "duration_predictor_flow_bins", "duration_predictor_num_flows")  # fmt: skip
    if not fields.flag("use_stochastic_duration_prediction", True):
        for key in drawn:
            fields.values.get(key)  # of durations that are drawn
        return PlainDurations(Integer(fields.size(plain[0], default=256)), taps)
    fields.values.get(plain[0])  # of durations that are not drawn
    channels = few(fields, drawn[0], 2)
    if channels != 2:
        raise ModelError(f"{fields.name}: {drawn[0]!r} = {channels}: the class splits two in ones")
    layers, bins, steps = (
        few(fields, key, n) for key, n in zip(drawn[1:], (3, 10, 4), strict=True)
    )
    if layers > 8:
        raise ModelError(f"{fields.name}: {drawn[1]!r} = {layers} is beyond 8")
    return Durations(taps, layers, channels, bins, steps)


def _vits(fields: Fields) -> Reading:
    d, heads = (
        fields.size("hidden_size", default=192),
        fields.size("num_attention_heads", default=2),
    )
    if not fields.flag("use_bias", True):
        raise ModelError(f"{fields.name}: 'use_bias' = False is not known in this family")
    at = heads_of(fields, d, heads)
    reach = fields.size("window_size", default=4) if fields.values.get("window_size", 4) else None
    width = fields.size("flow_size", default=192)
    if width % 2:
        raise ModelError(f"{fields.name}: 'flow_size' = {width} must be even")
    speakers = fields.size("num_speakers", default=1)
    silent = fields.values.get("speaker_embedding_size", 0) == 0
    told = 0 if silent else fields.size("speaker_embedding_size")
    if speakers > 1 and not told:
        raise ModelError(f"{fields.name}: 'speaker_embedding_size' = 0 of {speakers} speakers")
    taps = _odd(fields, "wavenet_kernel_size", 5)
    growth = few(fields, "wavenet_dilation_rate", 1)
    layers = few(fields, "prior_encoder_num_wavenet_layers", 4)
    wave = Wave(Integer(d), layers, taps, growth, told)
    lengths, bins = _lengths(fields), fields.size("spectrogram_bins", default=513)
    # The encoder of recorded sounds: a product, convolutions and a product.
    heard = Wave(
        Integer(d), few(fields, "posterior_encoder_num_wavenet_layers", 16), taps, growth, told
    )
    resting = (bins + 1) * d + heard.parameters + 2 * width * (d + 1) + lengths.resting(Integer(d))
    for key in ("noise_scale", "noise_scale_duration", "speaking_rate", "sampling_rate",
                "leaky_relu_slope", "duration_predictor_tail_bound"):  # fmt: skip
        fields.values.get(key)
    model = Vits(
        words=Ends(Integer(d), Integer(fields.size("vocab_size")), embed_scale=True),
        layer=SpokenLayer(
            at,
            Integer(fields.size("ffn_dim", default=768)),
            _odd(fields, "ffn_kernel_size", 3),
            activation_of(fields, "hidden_act", default="relu"),
            reach,
        ),
        layers=Integer(fields.size("num_hidden_layers", default=6)),
        lengths=lengths,
        width=Integer(width),
        flow=Flow(Integer(width), wave, speakers > 1),
        flows=Integer(fields.size("prior_encoder_num_flows", default=4)),
        voice=voice_of(fields),
        speakers=speakers if speakers > 1 else 0,
        told=told,
        resting=resting,
    )
    said = [FRAMES.format(samples=model.voice.samples), TRAINED]
    if speakers > 1:
        said.append(TOLD.format(speakers=speakers))
    return Reading(model, assumptions=tuple(said))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"vits": _vits})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType({"VitsModel": "vits"})
