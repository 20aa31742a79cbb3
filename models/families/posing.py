"""Key points of bodies: ViTPose."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.families.common import Family, Reading, activation_of, labels_of
from costgraph.models.families.stages import taken_of
from costgraph.models.families.vision import FOLDED, pixels, tower_of
from costgraph.models.fields import Fields
from costgraph.models.posing import ViTPose

BOXES = "B counts bodies, each cut out of a picture: what finds them is not counted"


def _vitpose(fields: Fields) -> Reading:
    part = fields.section("backbone_config")
    part.require("model_type", "vitpose_backbone")
    part = part.with_defaults(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, image_size=[256, 192],
        patch_size=[16, 16],
    )  # fmt: skip
    part.require("num_experts", 1, None)
    for key in ("part_features", "architectures"):
        part.values.get(key)  # of experts
    layers = part.size("num_hidden_layers")
    if len(taken_of(part, layers)) > 1:
        raise ModelError(f"{part.name}: features of several layers are not known in this family")
    inner = part.size("hidden_size") * part.size("mlp_ratio", default=4)
    act = activation_of(part, "hidden_act", default="gelu")
    at, feed = tower_of(part.with_values(intermediate_size=inner), act)
    size, patch = pixels(part), pixels(part, key="patch_size")
    if any(n % p or p < 5 for n, p in zip(size, patch, strict=True)):
        raise ModelError(f"{part.name}: patches of {patch[0]} x {patch[1]} do not fill the image")
    simple = fields.flag("use_simple_decoder", True)
    factor = fields.size("scale_factor", default=4)
    for key in ("backbone", "use_pretrained_backbone", "use_timm_backbone", "backbone_kwargs"):
        fields.values.get(key)
    model = ViTPose(
        channels=Integer(part.size("num_channels", default=3)),
        size=size,
        patch=patch,
        at=at,
        feed=feed,
        layers=Integer(layers),
        points=Integer(labels_of(fields)),
        factor=Integer(factor) if simple else None,
    )
    return Reading(model, assumptions=(BOXES,) if simple else (BOXES, FOLDED))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"vitpose": _vitpose})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType({"VitPoseForPoseEstimation": "vitpose"})
