"""Relatives of ViT, each a line of data: DeiT, ViT-MSN, I-JEPA, BEiT, DINO 2 and 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import FeedForward
from costgraph.models.blocks.image import Patches
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.families.common import Family, Reading, activation_of, class_of, labels_of
from costgraph.models.families.stages import is_backbone, tower_maps
from costgraph.models.families.vision import patches_of, pixels, swiglu, tower_of
from costgraph.models.fields import Fields, divided
from costgraph.models.vision import Tower, VisionTransformer

#: ViT's base size, which classes fill in.
BASE: Mapping[str, Any] = MappingProxyType(
    {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "patch_size": 16,
        "hidden_act": "gelu",
    }
)
ROTATED = "class token and registers are rotated as patches are: the published code leaves them out"


@dataclass(frozen=True)
class Kind:
    """What a plain relative of ViT is.

    Attributes:
        tokens: learned tokens in front of the patches.
        mean: the classifier reads the mean of all patches.
        pooler: the bare class has a product and tanh on the first position.
    """

    tokens: int = 1
    mean: bool = False
    pooler: bool = True


def _kind(kind: Kind) -> Family:
    def read(fields: Fields) -> Reading:
        fields = fields.with_defaults(**BASE)
        at, feed = tower_of(fields, activation_of(fields, "hidden_act"))
        size = pixels(fields)
        patches = patches_of(fields, at.d, size, fields.size("patch_size"), kind.tokens)
        layers = Integer(fields.size("num_hidden_layers"))
        tower = Tower(patches, at, feed, layers, size)
        name = class_of(fields.values) or ""
        if "ForImageClassification" in name:
            taught = name.endswith("WithTeacher")
            classes = Integer(labels_of(fields))
            return Reading(VisionTransformer(tower, classes, mean=kind.mean, teacher=taught))
        if kind.pooler:
            fields.require("pooler_output_size", int(at.d))
            fields.require("pooler_act", "tanh")
        return Reading(VisionTransformer(tower, None, pooler=kind.pooler))

    return read


def _beit(fields: Fields, pooled: bool = True) -> Reading:
    """BEiT (arXiv 2106.08254): biases of positions, layers that scale what their blocks make.

    ``pooled``: the bare class has the norm behind a mean of patches, too.
    """
    named = fields.with_defaults(**BASE)
    at, feed = tower_of(named.with_values(qkv_bias=True), activation_of(named, "hidden_act"))
    places = named.flag("use_absolute_position_embeddings", False)
    size, patch = pixels(named), named.size("patch_size")
    patches = patches_of(named, at.d, size, patch, placed=places)
    tall, wide = (int(n) // patch for n in size)
    # Offsets of patches, and three for pairs with the class token.
    offsets = Integer((2 * tall - 1) * (2 * wide - 1) + 3)
    own = named.flag("use_relative_position_bias", False)
    shared = named.flag("use_shared_relative_position_bias", False)
    at = replace(at, k_bias=False, buckets=offsets if own else None)
    if shared:
        named.refuse("use_relative_position_bias", "biases of each layer and of all together")
        at = replace(at, relative=True)
    mean = named.flag("use_mean_pooling", True)
    classifier = (class_of(fields.values) or "").endswith("ForImageClassification")
    taken = is_backbone(fields)
    bare = mean and (taken or not (classifier or pooled))
    tower = Tower(
        patches,
        at,
        feed,
        Integer(named.size("num_hidden_layers")),
        size,
        back=None if bare else LAYER_NORM,
        scaled=named.number("layer_scale_init_value", 0.1) > 0,
        biases=offsets if shared else None,
    )
    # Keys of heads that segment images, and of masks that only training draws.
    for key in ("add_fpn", "auxiliary_channels", "auxiliary_concat_input", "auxiliary_num_convs",
                "auxiliary_loss_weight", "pool_scales", "use_auxiliary_head",
                "semantic_loss_ignore_index", "reshape_hidden_states", "drop_path_rate",
                "vocab_size"):  # fmt: skip
        fields.values.get(key)
    model = VisionTransformer(
        tower,
        Integer(labels_of(fields)) if classifier else None,
        mean=mean and not bare,
        back_last=mean and not bare,
        mask=named.flag("use_mask_token", False),
    )
    if taken:
        fields.refuse("add_fpn", "maps of several sizes are not known in this family")
        return tower_maps(fields, model, normed=False, ended=True)
    return Reading(model)


def _data2vec(fields: Fields) -> Reading:
    return _beit(fields, pooled=False)


def _ast(fields: Fields) -> Reading:
    """A ViT over the overlapping patches of a spectrogram (arXiv 2104.01778), with two tokens."""
    named = fields.with_defaults(**BASE)
    at, feed = tower_of(named, activation_of(named, "hidden_act"))
    size = tuple(
        Integer(named.size(key, default=default))
        for key, default in (("num_mel_bins", 128), ("max_length", 1024))
    )
    patch = (Integer(named.size("patch_size")),) * 2
    stride = tuple(
        Integer(named.size(key, default=10)) for key in ("frequency_stride", "time_stride")
    )
    patches = Patches(at.d, Integer(1), patch, first=2, stride=stride)
    patches = replace(patches, rows=patches.count(size))
    layers = Integer(named.size("num_hidden_layers"))
    tower = Tower(patches, at, feed, layers, (size[0], size[1]))
    classifier = "ForAudioClassification" in (class_of(fields.values) or "")
    classes = Integer(labels_of(fields)) if classifier else None
    return Reading(VisionTransformer(tower, classes, pair=True))


def _videomae(fields: Fields) -> Reading:
    """A ViT over tubes of a video (arXiv 2203.12602), positions from a fixed table."""
    named = fields.with_defaults(**BASE)
    bias = named.flag("qv_bias", True)
    at, feed = tower_of(named.with_values(qkv_bias=bias), activation_of(named, "hidden_act"))
    named.require("use_mean_pooling", True)
    # The decoder that only training has.
    for key in ("decoder_hidden_size", "decoder_intermediate_size", "decoder_num_attention_heads",
                "decoder_num_hidden_layers", "norm_pix_loss"):  # fmt: skip
        fields.values.get(key)
    frames, tube = named.size("num_frames", default=16), named.size("tubelet_size", default=2)
    patch = Integer(named.size("patch_size"))
    patches = Patches(
        at.d,
        Integer(named.size("num_channels", default=3)),
        (Integer(tube), patch, patch),
        fixed=True,
    )
    classifier = (class_of(fields.values) or "").endswith("ForVideoClassification")
    tower = Tower(
        patches,
        replace(at, k_bias=False),
        feed,
        Integer(named.size("num_hidden_layers")),
        pixels(named),
        back=LAYER_NORM if classifier else None,
        frames=Integer(frames),
    )
    if not classifier:
        return Reading(VisionTransformer(tower, None))
    return Reading(VisionTransformer(tower, Integer(labels_of(fields)), mean=True, back_last=True))


def dino(fields: Fields, rotary: bool) -> Reading:
    """DINOv2 with registers (arXiv 2309.16588), and DINOv3 (arXiv 2508.10104), which rotates."""
    named = fields.with_defaults(**BASE)
    act = activation_of(named, "hidden_act")
    if rotary:
        named = fields.with_defaults(
            **{**BASE, "hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6}
        )
    else:
        named = named.with_values(
            intermediate_size=named.size("hidden_size") * named.size("mlp_ratio", default=4)
        )
    at, feed = tower_of(named, act)
    feed = feed if rotary else swiglu(fields, feed)
    if rotary:
        divided(fields, int(at.head_dim), 4, "a rotated head by two axes")
        bias = named.flag("mlp_bias", True)
        feed = FeedForward(at.d, feed.width, act, named.flag("use_gated_mlp", False), bias)
        at = replace(
            at,
            rotary=at.head_dim,
            k_bias=named.flag("key_bias", False),
            out_bias=named.flag("proj_bias", True),
        )
        biased = named.flag("query_bias", True)
        if named.flag("value_bias", True) != biased:
            raise ModelError(f"{fields.name}: 'value_bias' must be 'query_bias' in this family")
        at = replace(at, qv_bias=biased)
        for key in ("pos_embed_jitter", "pos_embed_rescale", "pos_embed_shift"):
            fields.values.get(key)  # of training
    for key in ("apply_layernorm", "drop_path_rate", "reshape_hidden_states", "layerscale_value"):
        fields.values.get(key)
    none = named.values.get("num_register_tokens", 0 if rotary else 4) == 0
    registers = 0 if none else named.size("num_register_tokens", default=4)
    size = pixels(named)
    patches = patches_of(named, at.d, size, named.size("patch_size"), placed=not rotary)
    layers = Integer(named.size("num_hidden_layers"))
    tower = Tower(replace(patches, registers=registers), at, feed, layers, size, scaled=True)
    if (class_of(fields.values) or "").endswith("ForImageClassification"):
        classes = Integer(labels_of(fields))
        return Reading(VisionTransformer(tower, classes, beside_mean=True, mask=True))
    said = (ROTATED,) if rotary else ()
    model = VisionTransformer(tower, None, mask=True)
    if is_backbone(fields):
        normed = fields.flag("apply_layernorm", True)
        last = f"stage{layers}" in (fields.values.get("out_features") or [])
        return tower_maps(
            fields, model, *said, normed=normed, ended=rotary and not last, cut=rotary
        )
    return Reading(model, assumptions=said)


def _dinov2(fields: Fields) -> Reading:
    return dino(fields, rotary=False)


def _dinov3(fields: Fields) -> Reading:
    return dino(fields, rotary=True)


#: ``model_type`` to what it is.
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "deit": Kind(tokens=2),
        "vit_msn": Kind(pooler=False),
        "ijepa": Kind(tokens=0, mean=True, pooler=False),
    }
)
#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        **{name: _kind(kind) for name, kind in KINDS.items()},
        "beit": _beit,
        "videomae": _videomae,
        "audio-spectrogram-transformer": _ast,
        "data2vec-vision": _data2vec,
        "dinov2_with_registers": _dinov2,
        "dinov3_vit": _dinov3,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "DeiTForImageClassification": "deit",
        "DeiTForImageClassificationWithTeacher": "deit",
        "DeiTModel": "deit",
        "ViTMSNForImageClassification": "vit_msn",
        "ViTMSNModel": "vit_msn",
        "IJepaForImageClassification": "ijepa",
        "IJepaModel": "ijepa",
        "ASTForAudioClassification": "audio-spectrogram-transformer",
        "ASTModel": "audio-spectrogram-transformer",
        "VideoMAEForVideoClassification": "videomae",
        "VideoMAEModel": "videomae",
        "BeitForImageClassification": "beit",
        "BeitModel": "beit",
        "BeitBackbone": "beit",
        "Data2VecVisionForImageClassification": "data2vec-vision",
        "Data2VecVisionModel": "data2vec-vision",
        "Dinov2WithRegistersForImageClassification": "dinov2_with_registers",
        "Dinov2WithRegistersModel": "dinov2_with_registers",
        "Dinov2WithRegistersBackbone": "dinov2_with_registers",
        "DINOv3ViTModel": "dinov3_vit",
        "DINOv3ViTBackbone": "dinov3_vit",
    }
)
