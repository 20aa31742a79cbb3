"""RT-DETR 1 and 2."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import FeedForward
from costgraph.models.convnet import ResNet
from costgraph.models.families.common import Family, Reading, activation_of, class_of, labels_of
from costgraph.models.families.detecting import FROZEN, RESNET, heads_of
from costgraph.models.families.stages import taken_of
from costgraph.models.families.vision import LARGEST_ENTRY, MOST_ENTRIES, resnet_of, sizes
from costgraph.models.fields import Fields
from costgraph.models.rtdetr import Fusing, RTDetr

SIZE = 640
SCALED = "pictures of 640 x 640 pixels where no size is asked for, as the published processor has"
#: Keys of what training weighs or draws, and of kernels.
_TRAINED = (
    "label_noise_ratio", "box_noise_scale", "matcher_alpha", "matcher_gamma",
    "matcher_class_cost", "matcher_bbox_cost", "matcher_giou_cost", "use_focal_loss",
    "auxiliary_loss", "focal_loss_alpha", "focal_loss_gamma", "weight_loss_vfl",
    "weight_loss_bbox", "weight_loss_giou", "eos_coefficient", "initializer_bias_prior_prob",
    "positional_encoding_temperature", "disable_custom_kernels", "anchor_image_size",
    "decoder_offset_scale", "feat_strides", "with_box_refine", "backbone", "backbone_kwargs",
    "use_pretrained_backbone", "use_timm_backbone", "batch_norm_eps", "tie_word_embeddings",
)  # fmt: skip


def _stem(fields: Fields, levels: tuple[int, ...]) -> ResNet:
    """The convolutional network, whose last stages have channels as ``levels`` says."""
    part = fields.section("backbone_config") if fields.values.get("backbone_config") else None
    part = (part or Fields(fields.name, {})).with_defaults(**RESNET)
    part.require("model_type", "rt_detr_resnet")
    widths = sizes(part, "hidden_sizes")
    if widths[-len(levels) :] != levels:
        raise ModelError(
            f"{fields.name}: 'encoder_in_channels' = {list(levels)}: the last of 'hidden_sizes' "
            f"{list(widths)} are supported"
        )
    last = tuple(range(len(widths) - len(levels) + 1, len(widths) + 1))
    if taken_of(part, len(widths), last) != last:
        raise ModelError(f"{part.name}: only the last {len(levels)} stages are known to be taken")
    made = resnet_of(part, (Integer(SIZE), Integer(SIZE)), Integer(1))
    if made.early or (not made.bottleneck and widths[0] != made.stem) or made.stem % 2:
        raise ModelError(f"{part.name}: a first stage that shrinks or widens is not supported")
    if not made.bottleneck and any(a == b for a, b in itertools.pairwise(widths)):
        raise ModelError(f"{part.name}: basic layers of equal stages are not supported")
    frozen = fields.flag("freeze_backbone_batch_norms", True)
    return replace(made, frozen=frozen, deep=True)


def _feed(fields: Fields, d: int, inner: str, act: str, default: str) -> FeedForward:
    name = activation_of(fields, act, default=default)
    return FeedForward(Integer(d), Integer(fields.size(inner, default=1024)), name, False, True)


def _rt_detr(fields: Fields, second: bool = False) -> Reading:
    fields = fields.with_defaults(
        d_model=256, encoder_hidden_dim=256, decoder_layers=6, decoder_attention_heads=8,
        encoder_attention_heads=8, num_queries=300,
    )  # fmt: skip
    channels = sizes(fields, "encoder_in_channels", (512, 1024, 2048))
    wide, d, count = (fields.size(k) for k in ("encoder_hidden_dim", "d_model", "decoder_layers"))
    levels = len(channels)
    for key in ("num_feature_levels", *(("decoder_n_levels",) if second else ())):
        fields.require(key, levels, *([None] if levels == 3 else []))
    if sizes(fields, "decoder_in_channels", (256,) * 3) != (wide,) * levels or levels < 2:
        raise ModelError(
            f"{fields.name}: 'decoder_in_channels' must be 'encoder_hidden_dim' = {wide} for each "
            f"of {levels} maps, two or more"
        )
    if count > MOST_ENTRIES or max(wide, d) > LARGEST_ENTRY:
        raise ModelError(f"{fields.name}: 'decoder_layers' = {count} of width {d}")
    fields.refuse("normalize_before", "norms in front of blocks are not known in this family")
    fields.refuse("learn_initial_query", "the published code does not run it")
    fields.refuse("eval_size", "an encoder without places is not known in this family")
    fields.require("decoder_method", "default", None)
    layers = fields.values.get("encoder_layers", 1)
    mixed = sizes(fields, "encode_proj_layers", (2,)) if layers else ()
    if any(n >= levels for n in mixed):
        raise ModelError(f"{fields.name}: 'encode_proj_layers' = {list(mixed)} of {levels} maps")
    inner = wide * fields.number("hidden_expansion", 1.0)
    if not 1 <= inner <= LARGEST_ENTRY:
        raise ModelError(f"{fields.name}: 'hidden_expansion' gives {inner} channels")
    labels = labels_of(fields)
    for key in _TRAINED:
        fields.values.get(key)
    model = RTDetr(
        stem=_stem(fields, channels),
        levels=levels,
        size=(Integer(SIZE), Integer(SIZE)),
        at=heads_of(fields, wide, fields.size("encoder_attention_heads")),
        feed=_feed(fields, wide, "encoder_ffn_dim", "encoder_activation_function", "gelu"),
        layers=Integer(fields.size("encoder_layers", default=1) if layers else 0),
        mixed=mixed,
        fusing=Fusing(
            wide, int(inner), activation_of(fields, "activation_function", default="silu")
        ),
        own=heads_of(fields, d, fields.size("decoder_attention_heads")),
        fed=_feed(fields, d, "decoder_ffn_dim", "decoder_activation_function", "relu"),
        count=count,
        points=fields.size("decoder_n_points", default=4),
        queries=Integer(fields.size("num_queries")),
        labels=Integer(labels),
        trained=Integer(labels + 1) if fields.values.get("num_denoising", 100) else None,
        boxed=(class_of(fields.values) or "ForObjectDetection").endswith("ForObjectDetection"),
    )
    return Reading(model, assumptions=(SCALED, FROZEN) if model.stem.frozen else (SCALED,))


def _rt_detr_v2(fields: Fields) -> Reading:
    """The second (arXiv 2407.17140), which chooses its points by another scale."""
    return _rt_detr(fields, second=True)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"rt_detr": _rt_detr, "rt_detr_v2": _rt_detr_v2})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "RTDetrForObjectDetection": "rt_detr",
        "RTDetrModel": "rt_detr",
        "RTDetrV2ForObjectDetection": "rt_detr_v2",
        "RTDetrV2Model": "rt_detr_v2",
    }
)
