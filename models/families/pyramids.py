"""Segformer's kin: PVT in front of it, and GLPN, which tells depths by it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.families.common import Family, Reading, activation_of, class_of
from costgraph.models.families.vision import (
    FOLDED,
    PYRAMID,
    classes_of,
    grid_of,
    pixels,
    stages_of,
)
from costgraph.models.fields import Fields
from costgraph.models.segformer import DepthPyramid, PlainPyramid

LOWEST = (
    "pictures of 480 x 640 pixels where no size is asked for: the file says none; the published "
    "processor cuts sizes down to multiples of 32"
)


def _pvt(fields: Fields) -> Reading:
    named = fields.renamed(sr_ratios="sequence_reduction_ratios").with_defaults(
        **{
            **PYRAMID,
            "hidden_sizes": [64, 128, 320, 512],
            "patch_sizes": [4, 2, 2, 2],
            "mlp_ratios": [8, 8, 4, 4],
        }
    )
    found = stages_of(named)
    size = pixels(named)
    if size[0] != size[1]:
        raise ModelError(f"{fields.name}: 'image_size' must be a square")
    if found[-1].shrink > 1:
        raise ModelError(
            f"{fields.name}: 'sequence_reduction_ratios' of the last stage must be 1: its class "
            "token stands in no grid"
        )
    side = int(size[0])
    for index, stage in enumerate(found):
        configured = int(size[0]) // (2 ** (index + 1) if index else 1)
        rows = grid_of(named, (Integer(configured), Integer(configured)), stage.patch)
        side = (side - stage.stride) // stage.patch + 1
        if rows != side**2 or side % stage.shrink:
            raise ModelError(
                f"{fields.name}: stage {index + 1} has {side} x {side} positions: the table of "
                f"'image_size' and 'patch_sizes' has {rows}, and squares of {stage.shrink} by "
                f"{stage.shrink} must fill them"
            )
    model = PlainPyramid(
        channels=Integer(fields.size("num_channels", default=3)),
        size=size,
        classes=classes_of(fields),
        stages=found,
        activation=activation_of(fields, "hidden_act", default="gelu"),
        bias=fields.flag("qkv_bias", True),
    )
    return Reading(model)


def _glpn(fields: Fields) -> Reading:
    named = fields.with_defaults(**PYRAMID)
    bare = (class_of(fields.values) or "").endswith("Model")
    decoder = fields.size("decoder_hidden_size", default=64)
    if decoder % 2:
        raise ModelError(f"{fields.name}: 'decoder_hidden_size' = {decoder} must be even")
    fields.require("head_in_index", -1)
    fields.values.get("max_depth")  # a factor
    model = DepthPyramid(
        channels=Integer(fields.size("num_channels", default=3)),
        size=(Integer(480), Integer(640)),
        classes=None,
        stages=stages_of(named),
        decoder=None if bare else decoder,
        activation=activation_of(fields, "hidden_act", default="gelu"),
    )
    return Reading(model, assumptions=(LOWEST,) if bare else (LOWEST, FOLDED))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"pvt": _pvt, "glpn": _glpn})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "PvtForImageClassification": "pvt",
        "PvtModel": "pvt",
        "GLPNForDepthEstimation": "glpn",
        "GLPNModel": "glpn",
    }
)
