"""PatchTST: forecasts, labels and numbers of series that are cut into patches."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward
from costgraph.models.blocks.encoder import Heads
from costgraph.models.families.common import Family, Reading, activation_of, class_of
from costgraph.models.fields import Fields, divided
from costgraph.models.patchtst import (
    ALL,
    FIRST,
    MEAN,
    MOST,
    PatchHead,
    PatchLayer,
    PatchMaskHead,
    PatchSeries,
)
from costgraph.symbols import B

#: Parameters of the distributions that answers may have.
_PARAMETERS = MappingProxyType({"student_t": 3, "normal": 2, "negative_binomial": 2})


def _known(fields: Fields, key: str, default: str, known: tuple[str, ...]) -> str:
    found = fields.word(key, default=default)
    if found not in known:
        raise ModelError(f"{fields.name}: {key!r} = {clip(found)}: {' or '.join(known)}")
    return found


def _pooled(fields: Fields, classed: bool) -> str:
    """What is made of the positions of a channel; null stands for all of them."""
    pooled = fields.values.get("pooling_type", MEAN)
    if classed:
        return FIRST
    return ALL if pooled is None else _known(fields, "pooling_type", MEAN, (MEAN, MOST))


def parameters_of(fields: Fields) -> int:
    """Parameters of the distribution that answers have.

    Raises:
        ModelError: it is another one than classes have.
    """
    return _PARAMETERS[_known(fields, "distribution_output", "student_t", tuple(_PARAMETERS))]


def _outs(fields: Fields, width: int) -> tuple[Expr, ...]:
    """Widths of the products of an answer: of numbers, or of parameters of a distribution."""
    count = parameters_of(fields)
    return (Integer(width),) * (1 if fields.values.get("loss", "mse") == "mse" else count)


def _head(fields: Fields, classed: bool, patch: int) -> PatchHead | PatchMaskHead | None:
    name = class_of(fields.values) or "ForPrediction"
    pooled = _pooled(fields, classed)
    targets = fields.size("num_targets", default=1)
    ahead = fields.size("prediction_length", default=24)
    outs = _outs(fields, ahead if name.endswith("ForPrediction") else targets)
    bounded = fields.values.get("output_range") is not None and len(outs) == 1
    shared = fields.flag("share_projection", True)
    if name.endswith("ForPretraining"):
        return PatchMaskHead(Integer(patch), classed)
    if name.endswith("ForPrediction"):
        if not shared:
            raise ModelError(f"{fields.name}: 'share_projection' = false is not supported")
        return PatchHead(pooled, outs, joined=False)
    if name.endswith("Model"):
        return None
    if pooled == ALL:
        raise ModelError(f"{fields.name}: 'pooling_type' must not be null for this class")
    if name.endswith("ForClassification"):
        return PatchHead(pooled, (Integer(targets),), joined=True)
    return PatchHead(pooled, outs, joined=True, bounded=bounded)


def _patchtst(fields: Fields) -> Reading:
    """Layers over patches; channels are sequences of their own."""
    fields.refuse("channel_attention", "attention across channels is not supported")
    d = fields.size("d_model", "hidden_size", default=128)
    heads = fields.size("num_attention_heads", default=4)
    channels = fields.size("num_input_channels", default=1)
    if not fields.flag("share_embedding", True) and channels > 1:
        raise ModelError(f"{fields.name}: 'share_embedding' = false is not supported")
    context = fields.size("context_length", default=32)
    patch = fields.size("patch_length", default=1)
    stride = fields.size("patch_stride", default=1)
    if context <= patch:
        raise ModelError(f"{fields.name}: 'context_length' must be above 'patch_length' = {patch}")
    patches = (context - patch) // stride + 1
    classed = fields.flag("use_cls_token", False)
    # Learned or not, the table of positions is a parameter of the class.
    _known(fields, "positional_encoding_type", "sincos", ("sincos", "random"))
    act = activation_of(fields, "activation_function", default="gelu")
    layer = PatchLayer(
        batch=channels * B,
        length=Integer(patches + classed),
        at=Heads(
            Integer(d),
            Integer(heads),
            divided(fields, d, heads, "hidden size over heads"),
            True,
            True,
            True,
        ),
        feed=FeedForward(
            Integer(d),
            Integer(fields.size("ffn_dim", default=512)),
            act,
            gated=False,
            bias=fields.flag("bias", True),
        ),
        over_batch=_known(fields, "norm_type", "batchnorm", ("batchnorm", "layernorm"))
        == "batchnorm",
        first=fields.flag("pre_norm", True),
    )
    model = PatchSeries(
        channels=Integer(channels),
        patches=Integer(patches),
        patch=Integer(patch),
        layer=layer,
        layers=Integer(fields.size("num_hidden_layers", default=3)),
        classed=classed,
        head=_head(fields, classed, patch),
    )
    said = (
        f"B counts series of {context} steps and {channels} channels, each {patches} patches; "
        "what scales a series, or masks its patches, is not counted"
    )
    return Reading(model, "forward", assumptions=(said,))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"patchtst": _patchtst})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        f"PatchTST{task}": "patchtst"
        for task in ("ForPrediction", "ForClassification", "ForRegression", "ForPretraining",
                     "Model")
    }
)  # fmt: skip
