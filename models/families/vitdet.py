"""ViTDet, Pixio and MLCD: plain transformers whose layers other models read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Maker
from costgraph.models.families.common import Family, Reading, activation_of, layer_count
from costgraph.models.families.stages import is_backbone, taken_of
from costgraph.models.families.vision import clip_tower, few, patches_of, pixels, tower_of
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


@dataclass(frozen=True)
class TurnedClass(VisionTransformer):
    """A ViT whose heads are rotated; the class token's angles are learned."""

    def _made(self, m: Maker) -> tuple[str, ...]:
        m.vector("class_angles", Integer(1), self.tower.at.head_dim / 2)
        return super()._made(m)


def _mlcd(fields: Fields) -> Reading:
    """MLCD (arXiv 2407.17331): CLIP's tower with rotated positions."""
    named = fields.with_defaults(
        hidden_size=1664,
        intermediate_size=8192,
        num_hidden_layers=48,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        hidden_act="gelu",
    )
    fields.require("num_key_value_groups", 1)
    plain = clip_tower(named)
    if plain.at.head_dim % 4:
        raise ModelError(f"{fields.name}: heads of {plain.at.head_dim} are not rotated by two axes")
    at = replace(plain.at, rotary=plain.at.head_dim)
    tower = replace(plain, at=at, patches=replace(plain.patches, rows=None))
    return Reading(TurnedClass(tower, None, back_last=True))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"vitdet": _vitdet, "pixio": _pixio, "mlcd_vision_model": _mlcd, "mlcd": _mlcd}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "VitDetModel": "vitdet",
        "VitDetBackbone": "vitdet",
        "PixioModel": "pixio",
        "MLCDVisionModel": "mlcd_vision_model",
    }
)
