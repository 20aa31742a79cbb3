"""Small transformers whose images shrink by convolutions: CvT and SwiftFormer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward
from costgraph.models.cvt import Cvt, CvtLayer, CvtStage
from costgraph.models.families.bit import SQUARE
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.detecting import heads_of
from costgraph.models.families.vision import FOLDED, LARGEST_ENTRY, classes_of, few, pixels, stages
from costgraph.models.fields import Fields
from costgraph.models.swiftformer import SwiftFormer, SwiftStage

#: CvT's lists of a number per stage, which the class fills in.
_CVT: Mapping[str, list[int]] = MappingProxyType(
    {
        "patch_sizes": [7, 3, 3],
        "patch_stride": [4, 2, 2],
        "embed_dim": [64, 192, 384],
        "num_heads": [1, 3, 6],
        "depth": [1, 2, 10],
        "kernel_qkv": [3, 3, 3],
        "stride_kv": [2, 2, 2],
        "stride_q": [1, 1, 1],
    }
)


def listed(fields: Fields, key: str, count: int, kind: type, default: list[Any]) -> list[Any]:
    """The list under ``key`` of a value per stage.

    Raises:
        ModelError: it is none, has another length, or values of another kind.
    """
    given = fields.values.get(key)
    given = default if given is None else given
    kinds = (int, float) if kind is float else (kind,)
    if (
        not isinstance(given, list)
        or len(given) != count
        or any(type(v) not in kinds for v in given)
        or (kind is not bool and kind is not str and any(not 0 <= v <= 64 for v in given))
    ):
        raise ModelError(f"{fields.name}: {key!r} = {clip(given)}: {count} values are asked for")
    return given


def inside(fields: Fields, width: int, ratio: float) -> int:
    """The width of a feed-forward block, cut to a whole number as classes do."""
    inner = int(width * ratio)
    if not 0 < inner <= LARGEST_ENTRY:
        raise ModelError(f"{fields.name}: 'mlp_ratio' gives {inner} channels")
    return inner


def _cvt(fields: Fields) -> Reading:
    named = fields.with_defaults(**_CVT)
    patches, strides, widths, heads, depths, kernels, far, near = stages(named, *_CVT)
    count = len(widths)
    usual = {"patch_padding": [2, 1, 1], "padding_q": [1] * count, "padding_kv": [1] * count}
    pads = [listed(fields, key, count, int, default) for key, default in usual.items()]
    ratios = listed(fields, "mlp_ratio", count, float, [4.0] * count)
    biased = listed(fields, "qkv_bias", count, bool, [True] * count)
    led = listed(fields, "cls_token", count, bool, [False, False, True])
    ways = listed(fields, "qkv_projection_method", count, str, ["dw_bn"] * count)
    if any(way != "dw_bn" for way in ways):
        raise ModelError(f"{fields.name}: 'qkv_projection_method' = {clip(ways)}: dw_bn is known")
    if any(s != 1 or 2 * p != k - 1 for s, p, k in zip(near, pads[1], kernels, strict=True)):
        raise ModelError(f"{fields.name}: convolutions of queries must keep the size of the image")
    if any(led[:-1]):
        raise ModelError(f"{fields.name}: 'cls_token' = {led}: only the last stage may have one")
    classes = classes_of(fields)
    if classes is not None and not led[-1]:
        raise ModelError(f"{fields.name}: 'cls_token': the published class does not run without")
    for key in ("attention_drop_rate", "drop_rate", "drop_path_rate"):
        fields.values.get(key)  # of training
    found = []
    for i in range(count):
        d = widths[i]
        at = heads_of(fields, d, heads[i])
        inner = Integer(inside(fields, d, ratios[i]))
        layer = CvtLayer(
            size=(),
            at=replace(at, qv_bias=biased[i], k_bias=biased[i]),
            feed=FeedForward(Integer(d), inner, "gelu", gated=False, bias=True),
            kernel=kernels[i],
            near=(near[i], pads[1][i]),
            far=(far[i], pads[2][i]),
            led=led[i],
        )
        found.append(CvtStage((patches[i], strides[i], pads[0][i]), layer, depths[i]))
    model = Cvt(
        channels=Integer(fields.size("num_channels", default=3)),
        size=pixels(fields),
        classes=classes,
        stages=tuple(found),
    )
    return Reading(model, assumptions=(SQUARE, FOLDED))


def _swiftformer(fields: Fields) -> Reading:
    named = fields.with_defaults(depths=[3, 3, 6, 4], embed_dims=[48, 56, 112, 220])
    depths, widths = stages(named, "depths", "embed_dims")
    count, ratio = len(widths), fields.number("mlp_ratio", 4)
    down = listed(fields, "downsamples", count, bool, [True] * count)
    if widths[0] % 2:
        raise ModelError(f"{fields.name}: 'embed_dims' must begin with an even number")
    taps = (
        few(fields, "down_patch_size", 3), few(fields, "down_stride", 2), few(fields, "down_pad", 1)
    )  # fmt: skip
    for key in ("drop_mlp_rate", "drop_conv_encoder_rate"):
        fields.values.get(key)  # of training
    shrinks = [
        taps if i + 1 < count and (down[i] or widths[i] != widths[i + 1]) else None
        for i in range(count)
    ]
    inner = [inside(fields, width, ratio) for width in widths]
    model = SwiftFormer(
        channels=Integer(fields.size("num_channels", default=3)),
        size=pixels(fields),
        classes=classes_of(fields),
        stages=tuple(map(SwiftStage, widths, inner, depths, shrinks)),
        activation=activation_of(fields, "hidden_act", default="gelu"),
        scaled=fields.flag("use_layer_scale", True),
    )
    return Reading(model, assumptions=(FOLDED,))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"cvt": _cvt, "swiftformer": _swiftformer})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "CvtForImageClassification": "cvt",
        "CvtModel": "cvt",
        "SwiftFormerForImageClassification": "swiftformer",
        "SwiftFormerModel": "swiftformer",
    }
)
