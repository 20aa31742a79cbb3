"""Towers that see, alone or beside one that reads: SigLIP 1 and 2, CLIP's halves, DINOv2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import ModelError
from costgraph.models.families.common import Family, Reading, activation_of, class_of, labels_of
from costgraph.models.families.seeing import SIGLIP, internvit, siglip_tower
from costgraph.models.families.stages import is_backbone, tower_maps
from costgraph.models.families.vision import (
    clip_pair,
    clip_reader,
    clip_tower,
    patches_of,
    pixels,
    reader_of,
    swiglu,
    tower_of,
)
from costgraph.models.fields import Fields
from costgraph.models.vision import ImageText, PatchClassifier, Tower, VisionTransformer

#: What configurations of SigLIP's reader leave out.
_READ: Mapping[str, int] = MappingProxyType(
    {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "vocab_size": 32000,
        "max_position_embeddings": 64,
    }
)
SQUARE = (
    "images have the {side} x {side} patches of the table of positions; the published code takes "
    "as many patches in other grids"
)


def _classes(fields: Fields) -> Expr | None:
    """Labels, where the class tells pictures apart and reads no text."""
    if not (class_of(fields.values) or "").endswith("ForImageClassification"):
        return None
    for key in ("text_config", "projection_dim", "logit_scale_init_value"):
        fields.values.get(key)
    return Integer(labels_of(fields))


def _clip(fields: Fields) -> Reading:
    """CLIP's tower in front of labels, or both of its towers."""
    seen = fields.section("vision_config").with_defaults(**SIGLIP)
    classes = _classes(fields)
    if classes is None:
        return clip_pair(fields)
    return Reading(PatchClassifier(clip_tower(seen), classes, back_last=True))


def _siglip(fields: Fields) -> Reading:
    seen = fields.section("vision_config")
    tower, classes = siglip_tower(seen), _classes(fields)
    if classes is not None:
        return Reading(PatchClassifier(tower, classes, head=True))
    return _siglip_pair(fields, tower)


def _siglip_pair(fields: Fields, tower: Tower) -> Reading:
    """SigLIP (arXiv 2303.15343): pooled images against texts that see in both directions."""
    read = fields.section("text_config").with_defaults(**_READ)
    text = reader_of(read, "gelu_pytorch_tanh")
    if tower.head is None:
        raise ModelError(f"{fields.name}: 'vision_use_head' = False beside a reader")
    width = read.size("projection_size", default=int(text.text.d))
    if width != tower.at.d:
        raise ModelError(f"{fields.name}: 'projection_size' = {width} of images of {tower.at.d}")
    return Reading(ImageText(tower, text, Integer(width), pooled=True))


def _siglip2_tower(seen: Fields) -> tuple[Tower, str]:
    """SigLIP 2 with images of any shape: as many patches as its table has rows."""
    rows = seen.size("num_patches", default=256)
    side, patch = int(rows**0.5), seen.size("patch_size", default=16)
    if side * side != rows:
        raise ModelError(f"{seen.name}: 'num_patches' = {rows} is no square")
    tower = siglip_tower(seen.with_values(image_size=side * patch))
    return tower, SQUARE.format(side=side)


def _siglip2(fields: Fields) -> Reading:
    seen = fields.section("vision_config")
    if seen.values.get("image_size") is not None and seen.values.get("num_patches") is None:
        return _siglip(fields)  # files of fixed shapes are those of the first
    (tower, said), classes = _siglip2_tower(seen), _classes(fields)
    if classes is not None:
        return Reading(PatchClassifier(tower, classes, head=True), assumptions=(said,))
    return replace(_siglip_pair(fields, tower), assumptions=(said,))


def _siglip_alone(fields: Fields) -> Reading:
    return Reading(VisionTransformer(siglip_tower(fields), None, head=True))


def _siglip2_alone(fields: Fields) -> Reading:
    tower, said = _siglip2_tower(fields)
    return Reading(VisionTransformer(tower, None, head=True), assumptions=(said,))


def _clip_alone(fields: Fields) -> Reading:
    """CLIP's tower: the class token's vector, projected in one of its classes."""
    tower = clip_tower(fields.with_defaults(**SIGLIP, hidden_act="quick_gelu"))
    projects = (class_of(fields.values) or "").endswith("WithProjection")
    width = Integer(fields.size("projection_dim", default=512)) if projects else None
    return Reading(VisionTransformer(tower, width, back_last=True, bias=False))


def _clip_text(fields: Fields) -> Reading:
    """CLIP's reader, the text encoder of image generators."""
    projects = (class_of(fields.values) or "").endswith("WithProjection")
    width = Integer(fields.size("projection_dim", default=512))
    return Reading(replace(clip_reader(fields), width=width if projects else None))


def _dinov2(fields: Fields) -> Reading:
    """A ViT whose layers scale what their blocks make (arXiv 2304.07193)."""
    named = fields.with_defaults(hidden_size=768, num_hidden_layers=12, num_attention_heads=12)
    d = named.size("hidden_size")
    ratio = named.size("mlp_ratio", default=4)
    at, feed = tower_of(
        named.with_values(intermediate_size=d * ratio),
        activation_of(named, "hidden_act", default="gelu"),
    )
    feed = swiglu(fields, feed)
    size, patch = pixels(named, 224), named.size("patch_size", default=14)
    patches = patches_of(named, at.d, size, patch)
    layers = Integer(named.size("num_hidden_layers"))
    masked = fields.flag("use_mask_token", True)
    tower = Tower(patches, at, feed, layers, size, scaled=True)
    if (class_of(fields.values) or "Model").endswith("ForImageClassification"):
        classes = Integer(labels_of(fields))
        return Reading(VisionTransformer(tower, classes, beside_mean=True, mask=masked))
    model = VisionTransformer(tower, None, mask=masked)
    if is_backbone(fields):
        return tower_maps(fields, model, normed=fields.flag("apply_layernorm", True))
    return Reading(model)


def _internvit(fields: Fields) -> Reading:
    """InternViT alone, as transformers writes it or as its own code does."""
    if fields.values.get("model_type") == "intern_vit_6b":
        fields.refuse("qk_normalization", "norms of queries and keys are not supported")
        fields.values.get("use_flash_attn")
        tower = internvit(fields, fields.flag("qkv_bias", True))
    else:
        fields.require("use_mean_pooling", True)
        fields.require("use_absolute_position_embeddings", True)
        fields.refuse("use_mask_token", "a mask token is not supported")
        fields.refuse("use_qk_norm", "norms of queries and keys are not supported in this tower")
        tower = internvit(fields, fields.flag("attention_bias", False))
    return Reading(VisionTransformer(tower, None))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "clip": _clip,
        "metaclip_2": _clip,
        "siglip": _siglip,
        "siglip2": _siglip2,
        "siglip_vision_model": _siglip_alone,
        "siglip2_vision_model": _siglip2_alone,
        "clip_vision_model": _clip_alone,
        "chinese_clip_vision_model": _clip_alone,
        "clip_text_model": _clip_text,
        "dinov2": _dinov2,
        "internvl_vision": _internvit,
        "intern_vit_6b": _internvit,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "CLIPModel": "clip",
        "CLIPForImageClassification": "clip",
        "MetaClip2Model": "metaclip_2",
        "MetaClip2ForImageClassification": "metaclip_2",
        "SiglipModel": "siglip",
        "SiglipForImageClassification": "siglip",
        "Siglip2ForImageClassification": "siglip2",
        "Siglip2Model": "siglip2",
        "SiglipVisionModel": "siglip_vision_model",
        "Siglip2VisionModel": "siglip2_vision_model",
        "CLIPVisionModel": "clip_vision_model",
        "CLIPVisionModelWithProjection": "clip_vision_model",
        "ChineseCLIPVisionModel": "chinese_clip_vision_model",
        "CLIPTextModel": "clip_text_model",
        "CLIPTextModelWithProjection": "clip_text_model",
        "Dinov2Model": "dinov2",
        "Dinov2Backbone": "dinov2",
        "Dinov2ForImageClassification": "dinov2",
        "InternVLVisionModel": "internvl_vision",
        "InternVisionModel": "intern_vit_6b",
    }
)
