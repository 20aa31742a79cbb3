"""Forecasters of series: Chronos-Bolt, whose files name T5's type, and TimesFM 1 to 2.5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward, Norm, Segment
from costgraph.models.blocks.encoder import Heads
from costgraph.models.encoder import Encoder, EncoderDecoder
from costgraph.models.families.common import Family, Reading, activation_of, class_of
from costgraph.models.families.encoders import t5
from costgraph.models.fields import Fields
from costgraph.models.forecasting import (
    Forecaster,
    Quantiles,
    ResidualBlock,
    SampledFront,
    SampledLayer,
    SeriesFront,
    SpreadForecaster,
)

#: The class that Chronos-Bolt's files name.
BOLT = "ChronosBoltModelForForecasting"


def _t5(fields: Fields) -> Reading:
    return _bolt(fields) if class_of(fields.values) == BOLT else t5(fields)


def _bolt(fields: Fields) -> Reading:
    """Chronos-Bolt (github.com/amazon-science/chronos-forecasting)."""
    series = fields.section("chronos_config")
    patch, stride = series.size("input_patch_size"), series.size("input_patch_stride")
    if stride != patch:
        raise ModelError(f"{series.name}: 'input_patch_stride' must be 'input_patch_size', {patch}")
    many = _listed(series)
    rows = 2 if series.flag("use_reg_token", False) else 1
    context, ahead = series.size("context_length"), series.size("prediction_length")
    for key in ("vocab_size", "tie_word_embeddings", "reg_token_id", "scale_decoder_outputs"):
        fields.values.get(key)  # the class has rows for its own tokens alone, and no logits
    pair = t5(
        fields.with_values(vocab_size=rows, tie_word_embeddings=True, scale_decoder_outputs=True)
    ).model
    assert isinstance(pair, EncoderDecoder)
    assert isinstance(pair.encoder, Encoder)
    assert isinstance(pair.layer.channel, FeedForward)
    d, feed = pair.ends.d, pair.layer.channel
    taken = ResidualBlock(feed.width, d, feed.activation)
    given = replace(taken, out=Integer(many * ahead))
    longest = -(-context // patch) + rows - 1
    encoder = replace(pair.encoder, front=SeriesFront(Integer(patch), taken, rows), longest=longest)
    model = Forecaster(
        encoder=encoder,
        layer=pair.layer,
        layers=pair.layers,
        ends=pair.ends,
        buckets=pair.buckets,
        answer=given,
    )
    behind = " and the token behind them" if rows == 2 else ""
    said = (
        f"S counts patches of {patch} values of a series{behind}; one pass answers {ahead} steps "
        f"with {many} quantiles each, and what scales the series is not counted"
    )
    return Reading(model, assumptions=(said,))


def _listed(fields: Fields) -> int:
    """How many quantiles a forecaster answers with."""
    quantiles = fields.values.get("quantiles")
    if not isinstance(quantiles, list) or not 0 < len(quantiles) <= 1000:
        raise ModelError(f"{fields.name}: 'quantiles' must be a list, not {clip(quantiles)}")
    return len(quantiles)


def _timesfm(fields: Fields) -> Reading:
    """TimesFM 1 and 2 (arXiv 2310.10688): a decoder over patches, read in one pass."""
    d, heads = (
        fields.size("hidden_size", default=1280),
        fields.size("num_attention_heads", default=16),
    )
    wide, patch = (
        fields.size("intermediate_size", default=1280),
        fields.size("patch_length", default=32),
    )
    ahead, context = (
        fields.size("horizon_length", default=128),
        fields.size("context_length", default=512),
    )
    for key in ("tolerance", "pad_val", "min_timescale", "max_timescale"):
        fields.values.get(key)
    taken = ResidualBlock(Integer(wide), Integer(d), "silu")
    many = _listed(fields) if fields.has("quantiles") else 9
    width = Integer(fields.size("head_dim", default=80))
    layer = SampledLayer(
        Heads(Integer(d), Integer(heads), width, True, True, True),
        FeedForward(Integer(d), Integer(wide), "relu", gated=False, bias=True),
    )
    model = Encoder(
        front=SampledFront(
            Integer(patch),
            taken,
            Integer(fields.size("freq_size", default=3)),
            fields.flag("use_positional_embedding", False),
        ),
        segments=(Segment("layers", layer, Integer(fields.size("num_hidden_layers", default=50))),),
        d=Integer(d),
        head=Quantiles(replace(taken, out=Integer(ahead * (1 + many)))),
        longest=context // patch,
    )
    said = (
        f"S counts patches of {patch} values of a series; one pass answers the {ahead} steps "
        f"behind each with a mean and {many} quantiles, and what scales the series is not counted"
    )
    return Reading(model, "forward", assumptions=(said,))


#: What a pass of TimesFM 2.5 is.
_TWICE = (
    "B counts the series of one pass: a forecast that is averaged over a series and its negative "
    "('force_flip_invariance') doubles it"
)


def _timesfm2_5(fields: Fields) -> Reading:
    """TimesFM 2.5: norms on both sides of blocks, turned heads, a second head for quantiles."""
    d = fields.size("hidden_size", default=1280)
    heads = fields.size("num_attention_heads", default=16)
    keys = fields.size("num_key_value_heads", default=16)
    if heads % keys:
        raise ModelError(f"{fields.name}: {heads} heads do not share {keys} of keys")
    width = Integer(fields.size("head_dim", default=80))
    patch, ahead = (
        fields.size("patch_length", default=32),
        fields.size("horizon_length", default=128),
    )
    spread = fields.size("output_quantile_len", default=1024)
    context = fields.size("context_length", default=16384)
    many = 1 + (_listed(fields) if fields.has("quantiles") else 9)
    for key in ("decode_index", "infer_is_positive", "use_continuous_quantile_head",
                "rope_parameters", "max_position_embeddings"):  # fmt: skip
        fields.values.get(key)  # which of its answers the class takes, and rotary values
    act = activation_of(fields, "activation", default="swish")
    taken, bias = ResidualBlock(Integer(d), Integer(d), act), fields.flag("attention_bias", False)
    # Without biases in the class, whatever 'use_bias' says of the layers.
    answer = replace(taken, out=Integer(ahead * many), bias=False)
    layer = SampledLayer(
        Heads(
            Integer(d), Integer(heads), width, bias, bias, bias,
            rotary=width, kv_heads=Integer(keys), each=Norm(),
        ),
        FeedForward(
            Integer(d),
            Integer(fields.size("intermediate_size", default=1280)),
            act,
            gated=False,
            bias=fields.flag("use_bias", False),
        ),
        fed_norm=Norm(),
        post_norms=True,
    )  # fmt: skip
    model = SpreadForecaster(
        front=SeriesFront(Integer(patch), taken, 1),
        segments=(Segment("layers", layer, Integer(fields.size("num_hidden_layers", default=20))),),
        d=Integer(d),
        head=Quantiles(answer),
        longest=context // patch,
        spread=replace(answer, out=Integer(spread * many)),
    )
    said = (
        f"S counts patches of {patch} values of a series, which the class fills up to {context}; "
        f"one pass answers the {ahead} steps behind each with a mean and {many - 1} quantiles, and "
        "what scales the series is not counted"
    )
    told = (_TWICE,) if fields.flag("force_flip_invariance", True) else ()
    return Reading(model, "forward", assumptions=(said, *told))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"t5": _t5, "timesfm": _timesfm, "timesfm2_5": _timesfm2_5}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "T5ForConditionalGeneration": "t5",
        "T5WithLMHeadModel": "t5",
        "T5EncoderModel": "t5",
        BOLT: "t5",
        "TimesFmModelForPrediction": "timesfm",
        "TimesFm2_5ModelForPrediction": "timesfm2_5",
    }
)
