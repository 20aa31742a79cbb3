"""EoMT over DINO 2 and 3 (arXiv 2503.19108): a vision transformer that makes masks by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.eomt import MaskTower
from costgraph.models.families.common import Family, Reading, activation_of, labels_of
from costgraph.models.families.patchwise import dino
from costgraph.models.families.vision import few, grid_of
from costgraph.models.fields import Fields
from costgraph.models.vision import VisionTransformer

ANNEALED = (
    "attention to masks is annealed away, as published files have it: fresh weights of the class "
    "make masks in front of each of the last layers"
)


def _eomt(fields: Fields, rotary: bool) -> Reading:
    fields = fields.with_defaults(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_register_tokens=4,
    )
    sides = {
        "image_size": fields.size("image_size", default=640),
        "patch_size": fields.size("patch_size", default=16),
    }
    named = fields.with_values(qkv_bias=True, **sides)  # the class reads no list, and no such key
    reading = dino(named.with_defaults(intermediate_size=4096) if rotary else named, rotary)
    assert isinstance(reading.model, VisionTransformer)
    tower = reading.model.tower
    if not rotary:  # positions are of patches alone
        lead, rows = tower.patches.lead, grid_of(named, tower.size, sides["patch_size"])
        patches = replace(tower.patches, first=0, registers=int(lead), rows=Integer(rows))
        tower = replace(tower, patches=patches)
    late = fields.size("num_blocks", default=4)
    if late > int(tower.layers):
        raise ModelError(f"{fields.name}: 'num_blocks' = {late} of {tower.layers} layers")
    model = MaskTower(
        tower,
        late,
        Integer(fields.size("num_queries", default=200)),
        Integer(labels_of(fields) + 1),
        few(fields, "num_upscale_blocks", 2),
        activation_of(fields, "hidden_act", default="gelu"),
    )
    return Reading(model, assumptions=(*reading.assumptions, ANNEALED))


def _second(fields: Fields) -> Reading:
    return _eomt(fields, rotary=False)


def _third(fields: Fields) -> Reading:
    return _eomt(fields, rotary=True)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"eomt": _second, "eomt_dinov3": _third})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "EomtForUniversalSegmentation": "eomt",
        "EomtDinov3ForUniversalSegmentation": "eomt_dinov3",
    }
)
