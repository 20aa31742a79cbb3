"""Encoders that see a share of an image: ViTMAE."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.families.common import Family, Reading, activation_of, class_of
from costgraph.models.families.patchwise import BASE
from costgraph.models.families.vision import grid_of, patches_of, pixels, tower_of
from costgraph.models.fields import Fields
from costgraph.models.masking import Filling, MaskedViT
from costgraph.models.vision import Tower

SEEN = "the layers see {kept} of {every} patches, chosen at random, as the published code has them"


def _vit_mae(fields: Fields) -> Reading:
    named = fields.with_defaults(**BASE)
    act = activation_of(named, "hidden_act")
    at, feed = tower_of(named, act)
    size, patch = pixels(named), named.size("patch_size")
    every = grid_of(named, size, patch)
    ratio = named.number("mask_ratio", 0.75)
    if not 0 <= ratio < 1:
        raise ModelError(f"{fields.name}: 'mask_ratio' = {ratio} must be at least 0 and below 1")
    kept = int(every * (1 - Fraction(str(ratio))))
    if not kept:
        raise ModelError(f"{fields.name}: 'mask_ratio' = {ratio} leaves none of {every} patches")
    tower = Tower(
        patches_of(named, at.d, size, patch),
        at,
        feed,
        Integer(named.size("num_hidden_layers")),
        size,
    )
    fields.values.get("norm_pix_loss")
    said = (SEEN.format(kept=kept, every=every),)
    inner = named.with_values(
        hidden_size=named.size("decoder_hidden_size", default=512),
        num_attention_heads=named.size("decoder_num_attention_heads", default=16),
        intermediate_size=named.size("decoder_intermediate_size", default=2048),
    )
    layers = named.size("decoder_num_hidden_layers", default=8)
    if (class_of(fields.values) or "Model").endswith("Model"):
        return Reading(MaskedViT(tower, kept), assumptions=said)
    wide, narrow = tower_of(inner, act)
    out = tower.patches.channels * patch**2
    filling = Filling(wide, narrow, Integer(layers), out)
    return Reading(MaskedViT(tower, kept, filling), assumptions=said)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"vit_mae": _vit_mae})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"ViTMAEModel": "vit_mae", "ViTMAEForPreTraining": "vit_mae"}
)
