"""RT-DETR 1 and 2, and D-FINE."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import FeedForward
from costgraph.models.convnet import ResNet
from costgraph.models.dfine import DFine, Strided
from costgraph.models.families.common import Family, Reading, activation_of, class_of, labels_of
from costgraph.models.families.detecting import FROZEN, RESNET, heads_of
from costgraph.models.families.hgnet import hgnet
from costgraph.models.families.stages import taken_of
from costgraph.models.families.vision import LARGEST_ENTRY, MOST_ENTRIES, few, resnet_of, sizes
from costgraph.models.fields import Fields
from costgraph.models.hgnet import HGNet
from costgraph.models.rtdetr import Fusing, RTDetr
from costgraph.models.stages import Maps

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


def _taken(fields: Fields, part: Fields, network: ResNet | HGNet, levels: tuple[int, ...]) -> Maps:
    """The last stages of a network, whose images have channels as ``levels`` says."""
    widths, count = network.widths, len(levels)
    if widths[-count:] != levels:
        raise ModelError(
            f"{fields.name}: 'encoder_in_channels' = {list(levels)}: the last of the network's "
            f"{list(widths)} are supported"
        )
    last = tuple(range(len(widths) - count + 1, len(widths) + 1))
    if taken_of(part, len(widths), last) != last:
        raise ModelError(f"{part.name}: only the last {count} stages are known to be taken")
    frozen = fields.flag("freeze_backbone_batch_norms", True)
    return Maps(replace(network, frozen=frozen), last)


def _stem(fields: Fields, levels: tuple[int, ...]) -> Maps:
    """RT-DETR's convolutional network."""
    part = fields.section("backbone_config") if fields.values.get("backbone_config") else None
    part = (part or Fields(fields.name, {})).with_defaults(**RESNET)
    part.require("model_type", "rt_detr_resnet")
    made = resnet_of(part, (Integer(SIZE), Integer(SIZE)), Integer(1))
    widths = made.widths
    if made.early or (not made.bottleneck and widths[0] != made.stem) or made.stem % 2:
        raise ModelError(f"{part.name}: a first stage that shrinks or widens is not supported")
    if not made.bottleneck and any(a == b for a, b in itertools.pairwise(widths)):
        raise ModelError(f"{part.name}: basic layers of equal stages are not supported")
    return _taken(fields, part, replace(made, deep=True), levels)


def _feed(fields: Fields, d: int, inner: str, act: str, default: str) -> FeedForward:
    name = activation_of(fields, act, default=default)
    return FeedForward(Integer(d), Integer(fields.size(inner, default=1024)), name, False, True)


def _shared(fields: Fields) -> tuple[Fields, dict[str, Any]]:
    """What all of them share: the file with what classes fill in, and attributes of the model."""
    fields = fields.with_defaults(
        d_model=256, encoder_hidden_dim=256, decoder_layers=6, decoder_attention_heads=8,
        encoder_attention_heads=8, num_queries=300,
    )  # fmt: skip
    levels = len(sizes(fields, "encoder_in_channels", (512, 1024, 2048)))
    wide, d, count = (fields.size(k) for k in ("encoder_hidden_dim", "d_model", "decoder_layers"))
    fields.require("num_feature_levels", levels, *([None] if levels == 3 else []))
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
    labels = labels_of(fields)
    for key in _TRAINED:
        fields.values.get(key)
    return fields, {
        "at": heads_of(fields, wide, fields.size("encoder_attention_heads")),
        "feed": _feed(fields, wide, "encoder_ffn_dim", "encoder_activation_function", "gelu"),
        "layers": Integer(fields.size("encoder_layers", default=1) if layers else 0),
        "mixed": mixed,
        "own": heads_of(fields, d, fields.size("decoder_attention_heads")),
        "fed": _feed(fields, d, "decoder_ffn_dim", "decoder_activation_function", "relu"),
        "count": count,
        "queries": Integer(fields.size("num_queries")),
        "labels": Integer(labels),
        "trained": Integer(labels + 1) if fields.values.get("num_denoising", 100) else None,
        "boxed": not (class_of(fields.values) or "").endswith("Model"),
    }


def _inner(fields: Fields, wide: int) -> int:
    """Channels inside a fusion."""
    inner = wide * fields.number("hidden_expansion", 1.0)
    if not 1 <= inner <= LARGEST_ENTRY:
        raise ModelError(f"{fields.name}: 'hidden_expansion' gives {inner} channels")
    return int(inner)


def _said(stem: Maps) -> tuple[str, ...]:
    assert isinstance(stem.network, ResNet | HGNet)
    return (SCALED, FROZEN) if stem.network.frozen else (SCALED,)


def _rt_detr(fields: Fields, second: bool = False) -> Reading:
    fields, shared = _shared(fields)
    channels = sizes(fields, "encoder_in_channels", (512, 1024, 2048))
    if second:
        fields.require("decoder_n_levels", len(channels), *([None] if len(channels) == 3 else []))
    stem, wide = _stem(fields, channels), fields.size("encoder_hidden_dim")
    act = activation_of(fields, "activation_function", default="silu")
    model = RTDetr(
        stem=stem,
        fusing=Fusing(wide, _inner(fields, wide), act),
        points=fields.size("decoder_n_points", default=4),
        **shared,
    )
    return Reading(model, assumptions=_said(stem))


def _rt_detr_v2(fields: Fields) -> Reading:
    """The second (arXiv 2407.17140), which chooses its points by another scale."""
    return _rt_detr(fields, second=True)


def _fine_points(fields: Fields, levels: int) -> tuple[int, ...]:
    """Points of a head on each map: a number for all of them, or one for each."""
    if isinstance(fields.values.get("decoder_n_points"), list):
        points = sizes(fields, "decoder_n_points")
        if len(points) != levels or max(points) > MOST_ENTRIES:
            raise ModelError(f"{fields.name}: 'decoder_n_points' must be {levels} small numbers")
        return points
    return (fields.size("decoder_n_points", default=4),) * levels


def _d_fine(fields: Fields) -> Reading:
    fields, shared = _shared(fields)
    channels = sizes(fields, "encoder_in_channels", (512, 1024, 2048))
    wide, count = (fields.size(k) for k in ("encoder_hidden_dim", "decoder_layers"))
    part = fields.section("backbone_config") if fields.values.get("backbone_config") else None
    part = part or Fields(fields.name, {})
    part.require("model_type", "hgnet_v2")
    part.values.get("architectures")
    network = hgnet(part.with_values(architectures=["HGNetV2Backbone"]))
    stem = _taken(fields, part, replace(network, size=(Integer(SIZE), Integer(SIZE))), channels)
    fields.require("eval_idx", -1, count - 1)
    fields.require("tie_word_embeddings", True)
    for key in ("layer_scale", "reg_scale", "up", "weight_loss_fgl", "weight_loss_ddf"):
        fields.values.get(key)  # of layers behind the answer, factors, of training
    inner = round(fields.number("hidden_expansion", 1.0) * wide // 2)
    deep = round(3 * fields.number("depth_mult", 1.0))
    if not 0 < inner <= LARGEST_ENTRY or not 0 <= deep <= MOST_ENTRIES:
        raise ModelError(
            f"{fields.name}: 'hidden_expansion' and 'depth_mult' give {deep} layers of {inner}"
        )
    bins, best = fields.size("max_num_bins", default=32), fields.size("top_prob_values", default=4)
    if best > bins + 1:
        raise ModelError(f"{fields.name}: 'top_prob_values' = {best} of {bins + 1}")
    model = DFine(
        stem=stem,
        fusing=Strided(wide, inner, activation_of(fields, "activation_function", default="silu"),
                       deep),
        points=_fine_points(fields, len(channels)),
        bins=Integer(bins + 1),
        best=Integer(best),
        rated=(Integer(fields.size("lqe_hidden_dim", default=64)),) * (
            few(fields, "lqe_layers", default=2) - 1),
        **shared,
    )  # fmt: skip
    return Reading(model, assumptions=_said(stem))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"rt_detr": _rt_detr, "rt_detr_v2": _rt_detr_v2, "d_fine": _d_fine}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "RTDetrForObjectDetection": "rt_detr",
        "RTDetrModel": "rt_detr",
        "RTDetrV2ForObjectDetection": "rt_detr_v2",
        "RTDetrV2Model": "rt_detr_v2",
        "DFineForObjectDetection": "d_fine",
        "DFineModel": "d_fine",
    }
)
