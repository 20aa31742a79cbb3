"""Time Series Transformer: forecasts that are drawn step by step."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import Ends, FeedForward, Layer, Segment
from costgraph.models.blocks.encoder import Bidirectional, CrossLayer, Heads
from costgraph.models.encoder import Encoder
from costgraph.models.families.common import Family, Reading, activation_of, class_of
from costgraph.models.families.encoders import LAYER_NORM
from costgraph.models.families.patchtst import parameters_of
from costgraph.models.families.vision import MOST_ENTRIES, sizes
from costgraph.models.fields import Fields, divided
from costgraph.models.stepping import StepFront, Stepper


def _half(fields: Fields, side: str, d: int, act: str) -> tuple[Heads, FeedForward, Integer]:
    """Heads, feed-forward block and number of layers of one half."""
    heads = fields.size(f"{side}_attention_heads", default=2)
    width = divided(fields, d, heads, "'d_model' over heads")
    feed = FeedForward(
        Integer(d), Integer(fields.size(f"{side}_ffn_dim", default=32)), act, gated=False, bias=True
    )
    layers = Integer(fields.size(f"{side}_layers", default=2))
    return Heads(Integer(d), Integer(heads), width, True, True, True), feed, layers


def _kinds(fields: Fields) -> tuple[tuple[Integer, Integer], ...]:
    """Categories of a series, how many of each, and widths of their rows."""
    count = _few(fields, "num_static_categorical_features")
    if not count:
        for key in ("cardinality", "embedding_dimension"):
            fields.values.get(key)
        return ()
    many = sizes(fields, "cardinality", ())
    usual = tuple(min(50, (n + 1) // 2) for n in many)
    wide = sizes(fields, "embedding_dimension", usual) or usual
    if not len(many) == len(wide) == count:
        raise ModelError(
            f"{fields.name}: 'cardinality' and 'embedding_dimension' must be lists of {count}"
        )
    return tuple((Integer(n), Integer(w)) for n, w in zip(many, wide, strict=True))


def _few(fields: Fields, key: str) -> int:
    """How many features of a kind there are; none where the file says nothing."""
    found = fields.values.get(key) or 0
    if type(found) is not int or not 0 <= found <= MOST_ENTRIES:
        raise ModelError(f"{fields.name}: {key!r} must be a whole number up to {MOST_ENTRIES}")
    return found


def _time_series(fields: Fields) -> Reading:
    d = fields.size("d_model", "hidden_size", default=64)
    act = activation_of(fields, "activation_function", default="gelu")
    (seen, feed, layers), (own, fed, count) = (
        _half(fields, side, d, act) for side in ("encoder", "decoder")
    )
    ahead = fields.size("prediction_length")
    context = fields.size("context_length", default=ahead)
    if fields.values.get("loss", "nll") != "nll":
        raise ModelError(f"{fields.name}: 'loss' must be 'nll': the class has no other")
    values = fields.size("input_size", default=1)
    lags = len(sizes(fields, "lags_sequence", (1, 2, 3, 4, 5, 6, 7)))
    features = sum(
        _few(fields, f"num_{kind}_features") for kind in ("dynamic_real", "time", "static_real")
    )
    kinds = _kinds(fields)
    # Of a series whose number of categories is nought the class counts a feature of width nought.
    given = Integer(values * (lags + 2) + features)
    rows = Integer(context + ahead)
    every = given + sum((width for _, width in kinds), Integer(0))
    wide = Integer(d)
    bare = (class_of(fields.values) or "").endswith("Model")
    many = parameters_of(fields)
    model = Stepper(
        encoder=Encoder(
            front=StepFront(wide, given, rows, kinds),
            segments=(
                Segment(
                    "encoder",
                    Layer(wide, Bidirectional(seen), feed, LAYER_NORM, norm_first=False),
                    layers,
                ),
            ),
            d=wide,
            longest=context,
        ),
        layer=CrossLayer(wide, own, own, fed, LAYER_NORM, norm_first=False),
        layers=count,
        ends=Ends(wide, Integer(1), norm=None),
        shared=(),
        longest=int(rows),
        front=StepFront(wide, every, rows),
        answers=() if bare else (Integer(values),) * many,
    )
    paths = fields.size("num_parallel_samples", default=100)
    said = (
        f"S counts steps of the past, {context} in the class, and N steps ahead, {ahead} there; "
        f"the class draws {paths} paths of each series, which multiply B in all steps",
        "steps keep keys and values of earlier ones, which the class makes anew in each; what "
        "scales a series is not counted",
    )
    return Reading(model, assumptions=said)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"time_series_transformer": _time_series})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "TimeSeriesTransformerForPrediction": "time_series_transformer",
        "TimeSeriesTransformerModel": "time_series_transformer",
    }
)
