"""Parts of an image: MaskFormer, Mask2Former and OneFormer, which make masks, and UPerNet."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward
from costgraph.models.families.common import Family, Reading, activation_of, class_of, labels_of
from costgraph.models.families.detecting import COSTS, RESNET, grouped, heads_of
from costgraph.models.families.stages import maps_of
from costgraph.models.families.vision import FOLDED, few, sizes
from costgraph.models.fields import Fields, divided
from costgraph.models.masks import Mask2Former, MaskFormer, OneFormer
from costgraph.models.stages import Maps
from costgraph.models.upernet import Beside, UperNet

#: What a file leaves out where it names the network alone, as the classes have it.
_USUAL: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "swin": {
            "image_size": 224, "patch_size": 4, "num_channels": 3, "embed_dim": 96,
            "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7,
        },
        "resnet": RESNET,
    }
)  # fmt: skip
SIZED = "pictures of the size in the network's part where no other is asked for"
#: Keys of what training weighs or draws.
_TRAINED = (
    "no_object_weight", "class_weight", "mask_weight", "dice_weight", "cross_entropy_weight",
    "train_num_points", "oversample_ratio", "importance_sample_ratio", "ignore_value",
    "init_xavier_std", "output_auxiliary_logits", "use_pretrained_backbone", "backbone",
    "use_timm_backbone", "backbone_kwargs",
)  # fmt: skip


def stem_of(fields: Fields, *known: str, whole: bool = False) -> Maps:
    """The network; of ``whole`` ones every stage is taken, whatever the part says."""
    part = fields.section("backbone_config")
    kind = part.word("model_type").removeprefix("maskformer-")
    part = part.with_defaults(**_USUAL.get(kind, {})).with_values(model_type=kind)
    if whole and kind == "swin":
        count = len(sizes(part, "depths"))
        names = [f"stage{i}" for i in range(1, count + 1)]
        part = part.with_values(out_features=names, out_indices=None)
    return maps_of(part, *known)


def _labels(fields: Fields, end: str) -> Expr | None:
    """Kinds of parts and none, where the class has masks for each."""
    return (
        Integer(labels_of(fields) + 1) if (class_of(fields.values) or end).endswith(end) else None
    )


def _maskformer(fields: Fields) -> Reading:
    for key in (*_TRAINED, "num_attention_heads", "num_hidden_layers"):
        fields.values.get(key)
    labels = _labels(fields, "ForInstanceSegmentation")
    if labels is not None:
        fields.refuse("use_auxiliary_loss", "masks behind every layer are not counted here")
    fields.values.get("use_auxiliary_loss")
    part: Any = fields.values.get("decoder_config")
    part = (
        fields.section("decoder_config") if part else Fields(f"{fields.name}: decoder_config", {})
    )
    part.require("model_type", "detr", None)
    part.refuse("auxiliary_loss", "a norm behind every layer is not counted in this family")
    for key in (*COSTS, "backbone_config", "backbone", "use_timm_backbone", "architectures",
                "use_pretrained_backbone", "backbone_kwargs", "encoder_layers", "dilation",
                "encoder_ffn_dim", "encoder_attention_heads", "num_channels", "init_xavier_std",
                "position_embedding_type", "encoder_layerdrop", "decoder_layerdrop",
                "num_hidden_layers", "tie_word_embeddings"):  # fmt: skip
        part.values.get(key)  # of DETR's encoder and network, which are not part of it
    d = part.size("d_model", default=256)
    heads = heads_of(part, d, part.size("decoder_attention_heads", default=8))
    act = activation_of(part, "activation_function", default="relu")
    inner = Integer(part.size("decoder_ffn_dim", default=2048))
    stem = stem_of(fields, "swin", "resnet", whole=True)
    if len(stem.taken) < 2:
        raise ModelError(f"{fields.name}: two stages or more are fused")
    model = MaskFormer(
        stem=stem,
        fused=Integer(grouped(fields, "fpn_feature_size")),
        pixels=Integer(fields.size("mask_feature_size", default=256)),
        heads=heads,
        feed=FeedForward(Integer(d), inner, act, gated=False, bias=True),
        layers=part.size("decoder_layers", default=6),
        queries=Integer(part.size("num_queries", default=100)),
        labels=labels,
    )
    return Reading(model, assumptions=(SIZED,))


def _mask2former(fields: Fields) -> Reading:
    fields = fields.with_defaults(num_queries=100)
    labels = _labels(fields, "ForUniversalSegmentation")
    return Reading(_masked(fields, Mask2Former, labels), assumptions=(SIZED,))


def _masked(
    fields: Fields, kind: type[Mask2Former], labels: Expr | None, **more: Any
) -> Mask2Former:
    """Mask2Former, or what is made of it, from its keys."""
    for key in (*_TRAINED, "use_auxiliary_loss"):
        fields.values.get(key)
    fused = grouped(fields, "feature_size")
    d, count = fields.size("hidden_dim", default=256), fields.size("num_attention_heads", default=8)
    divided(fields, fused, count, "width over heads")
    layers = few(fields, "decoder_layers", 10) - 1
    strides = sizes(fields, "feature_strides", (4, 8, 16, 32))
    stem = stem_of(fields, "swin", "resnet")
    if len(strides) != len(stem.taken) or len(stem.taken) < 3:
        raise ModelError(
            f"{fields.name}: 'feature_strides' = {clip(list(strides))} of {len(stem.taken)} stages"
        )
    common, least = fields.size("common_stride", default=4), min(strides[-3:])
    finer = max(least // common, 1).bit_length() - 1
    if common << finer != least or finer > len(stem.taken):
        raise ModelError(
            f"{fields.name}: 'common_stride' = {common} is no half, or half of half, of {least}"
        )
    act = activation_of(fields, "activation_function", default="relu")
    seen = Integer(fields.size("encoder_feedforward_dim", default=1024))
    return kind(
        stem=stem,
        fused=Integer(fused),
        pixels=Integer(fields.size("mask_feature_size", default=256)),
        heads=heads_of(fields, d, count),
        feed=FeedForward(
            Integer(d), Integer(fields.size("dim_feedforward", default=2048)), act, False, True
        ),
        layers=layers,
        queries=Integer(fields.size("num_queries")),
        labels=labels,
        seen=FeedForward(Integer(fused), seen, "relu", gated=False, bias=True),
        encoders=Integer(fields.size("encoder_layers", default=6)),
        finer=finer,
        projected=fields.flag("enforce_input_projection", False) or fused != d,
        first=fields.flag("pre_norm", False),
        **more,
    )


#: Keys of what reads texts in training.
_TOLD = (
    "contrastive_weight", "contrastive_temperature", "text_encoder_width",
    "text_encoder_context_length", "text_encoder_num_layers", "text_encoder_vocab_size",
    "text_encoder_proj_layers", "text_encoder_n_ctx", "init_std", "num_hidden_layers",
)  # fmt: skip


def _oneformer(fields: Fields) -> Reading:
    """OneFormer: a task in front of Mask2Former's layers."""
    fields = fields.renamed(
        feature_size="conv_dim",
        mask_feature_size="mask_dim",
        feature_strides="strides",
        enforce_input_projection="enforce_input_proj",
    )
    fields = fields.with_defaults(num_queries=150, feature_size=256, hidden_dim=256)
    fields = fields.with_values(activation_function="relu")
    fields.refuse("is_training", "what reads texts in training is not counted")
    fields.require("norm", "GN")
    for key in _TOLD:
        fields.values.get(key)
    widths = {fields.size(k, default=256) for k in ("feature_size", "mask_feature_size")}
    if widths != {fields.size("hidden_dim")} or fields.flag("enforce_input_projection", False):
        raise ModelError(
            f"{fields.name}: 'conv_dim', 'mask_dim' and 'hidden_dim' must be one width"
        )
    if fields.size("num_queries") < 2:
        raise ModelError(f"{fields.name}: 'num_queries': the task is one of two or more")
    whole = (class_of(fields.values) or "ForUniversalSegmentation").endswith("Segmentation")
    scaled = whole and fields.values.get("contrastive_temperature", 0.07) is not None
    model = _masked(
        fields,
        OneFormer,
        Integer(labels_of(fields) + 1),
        task=fields.size("task_seq_len", default=77),
        asking=few(fields, "query_dec_layers", 2),
        normed=fields.flag("use_task_norm", True),
        scaled=scaled,
    )
    if model.finer != 1:
        raise ModelError(
            f"{fields.name}: 'common_stride' must be half of the third stage from last"
        )
    return Reading(model, assumptions=(SIZED,))


def _upernet(fields: Fields) -> Reading:
    for key in ("auxiliary_loss_weight", "loss_ignore_index", *_TRAINED):
        fields.values.get(key)
    stem = stem_of(fields, "resnet", "convnext", "convnextv2", "swin")
    beside = None
    if fields.flag("use_auxiliary_head", True):
        if len(stem.taken) < 3:
            raise ModelError(f"{fields.name}: the second classifier reads the third stage")
        fields.require("auxiliary_in_channels", None, stem.widths[2])
        any_at_all = fields.values.get("auxiliary_num_convs", 1)
        count = few(fields, "auxiliary_num_convs", 1) if any_at_all else 0
        width = fields.size("auxiliary_channels", default=256)
        beside = Beside(2, width, count, fields.flag("auxiliary_concat_input", False))
        if not count and width != stem.widths[2] and not beside.joined:
            raise ModelError(f"{fields.name}: 'auxiliary_channels' of no convolution")
    else:
        for key in ("in_channels", "num_convs", "channels", "concat_input"):
            fields.values.get(f"auxiliary_{key}")
    model = UperNet(
        stem=stem,
        width=fields.size("hidden_size", default=512),
        grids=sizes(fields, "pool_scales", (1, 2, 3, 6)),
        labels=Integer(labels_of(fields)),
        beside=beside,
    )
    return Reading(model, assumptions=(SIZED, FOLDED))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "maskformer": _maskformer,
        "mask2former": _mask2former,
        "oneformer": _oneformer,
        "upernet": _upernet,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "MaskFormerForInstanceSegmentation": "maskformer",
        "MaskFormerModel": "maskformer",
        "Mask2FormerForUniversalSegmentation": "mask2former",
        "Mask2FormerModel": "mask2former",
        "OneFormerForUniversalSegmentation": "oneformer",
        "OneFormerModel": "oneformer",
        "UperNetForSemanticSegmentation": "upernet",
    }
)
