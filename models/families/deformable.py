"""Deformable DETR."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import FeedForward
from costgraph.models.deformable import DeformableDetr
from costgraph.models.families.common import Family, Reading, activation_of, class_of, labels_of
from costgraph.models.families.detecting import (
    COSTS,
    FROZEN,
    SCALED,
    SIZE,
    grouped,
    heads_of,
    resnet,
)
from costgraph.models.families.stages import taken_of
from costgraph.models.families.vision import few
from costgraph.models.fields import Fields
from costgraph.models.stages import Maps

TWICE = "boxes of each layer are made twice, as in the published class"
#: Keys of what training weighs or draws, of kernels, and of what follows from others.
TRAINED = (
    *COSTS, "focal_alpha", "disable_custom_kernels", "init_xavier_std", "return_intermediate",
    "encoder_layerdrop", "num_hidden_layers",
)  # fmt: skip


def _stem(fields: Fields, levels: int) -> Maps:
    network = resnet(fields)
    part = fields.values.get("backbone_config")
    if part and fields.glimpse("backbone_config", "model_type") != "timm_backbone":
        return Maps(network, taken_of(fields.section("backbone_config"), len(network.depths)))
    last = len(network.depths)
    taken = (2, 3, 4) if levels > 1 else (4,)
    if last != 4:
        raise ModelError(f"{fields.name}: a network of {last} stages is not known in this family")
    if part:
        fields.section("backbone_config").require("out_indices", list(taken), None)
    return Maps(network, taken)


def no_fewer(fields: Fields, levels: int, stem: Maps) -> None:
    """Refuses fewer maps than stages that are read."""
    if levels < len(stem.taken):
        raise ModelError(
            f"{fields.name}: 'num_feature_levels' = {levels} is less than the "
            f"{len(stem.taken)} stages that are read"
        )


def _deformable(fields: Fields) -> Reading:
    fields = fields.with_defaults(
        encoder_layers=6, decoder_layers=6, encoder_ffn_dim=1024, num_queries=300,
        decoder_ffn_dim=1024, encoder_attention_heads=8, decoder_attention_heads=8,
        num_feature_levels=4, encoder_n_points=4, decoder_n_points=4, two_stage_num_proposals=300,
    )  # fmt: skip
    d, levels = grouped(fields, "d_model"), few(fields, "num_feature_levels")
    act = activation_of(fields, "activation_function", default="relu")
    fields.require("position_embedding_type", "sine")
    fields.require("tie_word_embeddings", True)
    staged, refined = fields.flag("two_stage", False), fields.flag("with_box_refine", False)
    boxed = (class_of(fields.values) or "ForObjectDetection").endswith("ForObjectDetection")
    if staged and not (refined and boxed):
        raise ModelError(f"{fields.name}: 'two_stage' = True needs 'with_box_refine' and boxes")
    for key in TRAINED:
        fields.values.get(key)
    stem = _stem(fields, levels)
    no_fewer(fields, levels, stem)
    at, own = (
        heads_of(fields, d, fields.size(f"{side}_attention_heads"))
        for side in ("encoder", "decoder")
    )
    feeds = [
        FeedForward(Integer(d), Integer(fields.size(f"{side}_ffn_dim")), act, False, True)
        for side in ("encoder", "decoder")
    ]
    asked, promised = fields.size("num_queries"), fields.size("two_stage_num_proposals")
    model = DeformableDetr(
        stem=stem,
        levels=levels,
        seen=(int(at.heads), fields.size("encoder_n_points")),
        feed=feeds[0],
        layers=Integer(fields.size("encoder_layers")),
        own=own,
        points=fields.size("decoder_n_points"),
        fed=feeds[1],
        count=few(fields, "decoder_layers"),
        queries=Integer(promised if staged else asked),
        labels=Integer(labels_of(fields)) if boxed else None,
        refined=refined,
        staged=staged,
    )
    said = (SCALED.format(*SIZE), FROZEN)
    return Reading(model, assumptions=(*said, TWICE) if refined and boxed else said)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"deformable_detr": _deformable})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "DeformableDetrForObjectDetection": "deformable_detr",
        "DeformableDetrModel": "deformable_detr",
    }
)
