"""ViTDet and Pixio: plain transformers whose layers other models read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.families.common import Family, Reading, activation_of, layer_count
from costgraph.models.families.stages import is_backbone, taken_of
from costgraph.models.families.vision import few, patches_of, pixels, tower_of
from costgraph.models.fields import Fields, widened
from costgraph.models.vision import Tower, VisionTransformer
from costgraph.models.vitdet import VitDet

POOLED = "the mean of the tokens in front, which the class answers as well, is not counted"


def _places(fields: Fields, key: str, layers: int) -> frozenset[int]:
    """The layers, counted from zero, that the list under ``key`` names."""
    given = fields.values.get(key) or []
    if not isinstance(given, list) or any(type(i) is not int or not 0 <= i < layers for i in given):
        raise ModelError(
            f"{fields.name}: {key!r} = {clip(given)}: a list of numbers below {layers}"
        )
    return frozenset(given)


def _vitdet(fields: Fields) -> Reading:
    named = fields.with_defaults(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, patch_size=16
    )
    d = named.size("hidden_size")
    named = named.with_values(intermediate_size=int(widened(named, "mlp_ratio", 4, d)))
    at, feed = tower_of(named, activation_of(named, "hidden_act", default="gelu"))
    layers, patch = few(named, "num_hidden_layers"), named.size("patch_size")
    size, learned = pixels(named), pixels(named, 224, "pretrain_image_size")
    if size[0] != size[1] or learned[0] != learned[1] or min(size[0], learned[0]) < patch:
        raise ModelError(f"{fields.name}: square images of a patch or more are supported")
    near = _places(named, "window_block_indices", layers)
    mixed = _places(named, "residual_block_indices", layers)
    width = named.values.get("window_size", 0)
    near = near if width else frozenset()
    if mixed and d % 2:
        raise ModelError(f"{fields.name}: 'hidden_size' = {d} is not even")
    taken = taken_of(fields, layers, stem=True) if is_backbone(fields) else (layers,)
    model = VitDet(
        at=replace(at, fused=True),
        feed=feed,
        layers=layers,
        near=near,
        mixed=mixed,
        window=named.size("window_size") if near else 0,
        channels=Integer(named.size("num_channels", default=3)),
        size=int(size[0]),
        patch=patch,
        learned=(
            int(learned[0]) // patch
            if named.flag("use_absolute_position_embeddings", True)
            else None
        ),
        placed=named.flag("use_relative_position_embeddings", False),
        taken=taken,
    )
    return Reading(model)


def _pixio(fields: Fields) -> Reading:
    """Pixio: a ViT with several tokens in front."""
    named = fields.with_defaults(
        hidden_size=1280, num_hidden_layers=32, num_attention_heads=16, patch_size=16
    )
    named = named.with_values(
        intermediate_size=int(widened(named, "mlp_ratio", 4, named.size("hidden_size")))
    )
    at, feed = tower_of(named, activation_of(named, "hidden_act", default="gelu"))
    size, first = pixels(named, 256), named.size("n_cls_tokens", default=8)
    patches = patches_of(named, at.d, size, named.size("patch_size"), first=first)
    tower = Tower(patches, at, feed, Integer(layer_count(named)), size)
    for key in ("apply_layernorm", "reshape_hidden_states"):
        fields.values.get(key)
    model = VisionTransformer(tower, None)
    if is_backbone(fields):
        raise ModelError(f"{fields.name}: layers of this type for other models are not read")
    return Reading(model, assumptions=(POOLED,))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"vitdet": _vitdet, "pixio": _pixio})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"VitDetModel": "vitdet", "VitDetBackbone": "vitdet", "PixioModel": "pixio"}
)
