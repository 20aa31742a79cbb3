"""RF-DETR."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward
from costgraph.models.blocks.encoder import Heads
from costgraph.models.families import FAMILIES as READERS
from costgraph.models.families.common import Family, Reading, activation_of, class_of, labels_of
from costgraph.models.families.detecting import COSTS
from costgraph.models.families.stages import taken_of
from costgraph.models.families.vision import LARGEST_ENTRY, few
from costgraph.models.fields import Fields, divided
from costgraph.models.rfdetr import Gathering, RFDetr, WindowedTower
from costgraph.models.vision import VisionTransformer

FILLED = (
    "pictures of {0} x {1} pixels where no size is asked for: the least that windows fill and that "
    "are no smaller than the file's"
)
#: Keys of what training weighs, of kernels, and of the class that cuts objects out.
_TRAINED = (
    *COSTS, "class_loss_coefficient", "focal_alpha", "disable_custom_kernels",
    "mask_class_loss_coefficient", "mask_dice_loss_coefficient", "mask_downsample_ratio",
    "mask_point_sample_ratio", "segmentation_head_activation_function", "intermediate_size",
)  # fmt: skip


def _tower(part: Fields) -> WindowedTower:
    """DINOv2 in windows.

    Raises:
        ModelError: it is another transformer, or the file says other layers than the class has.
    """
    part.require("model_type", "rf_detr_dinov2")
    part.require("num_register_tokens", 0)
    part.values.get("architectures")
    named = part.with_values(architectures=["Dinov2Model"])
    made = READERS["dinov2"](named).model
    assert isinstance(made, VisionTransformer)
    if not part.flag("reshape_hidden_states", True):
        raise ModelError(f"{part.name}: 'reshape_hidden_states' = False: images are read")
    tower, side = made.tower, few(part, "num_windows", 4)
    layers = int(tower.layers)
    taken = taken_of(part, layers, stem=True)
    near = [i for i in range(taken[-1] + 1) if i not in taken]
    given = part.values.get("window_block_indexes", near)
    if given != near:
        raise ModelError(
            f"{part.name}: 'window_block_indexes' = {clip(given)}: the class has {near}"
        )
    size, patch = tower.size, tower.patches.patch
    filled = tuple(-(-n // (p * side)) * p * side for n, p in zip(size, patch, strict=True))
    return WindowedTower(
        replace(tower, size=filled),
        side,
        taken,
        frozenset(range(layers)) - frozenset(near),
        part.flag("apply_layernorm", True),
        made.mask,
    )


def _rf_detr(fields: Fields) -> Reading:
    named = fields.with_defaults(d_model=256)
    d = named.size("d_model")
    part = fields.section("backbone_config") if fields.values.get("backbone_config") else None
    part = (part or Fields(fields.name, {})).with_defaults(
        model_type="rf_detr_dinov2", num_attention_heads=6, hidden_size=384, image_size=518,
        **({} if part else {"out_features": ["stage2", "stage5", "stage8", "stage11"]}),
    )  # fmt: skip
    seen = _tower(part)
    fields.require("num_feature_levels", 1)
    inner = int(d * fields.number("hidden_expansion", 0.5))
    if not 0 < inner <= LARGEST_ENTRY or d > LARGEST_ENTRY:
        raise ModelError(f"{fields.name}: 'hidden_expansion' gives {inner} channels")
    own, cross = (
        fields.size(f"decoder_{kind}_attention_heads", default=count)
        for kind, count in (("self", 8), ("cross", 16))
    )
    divided(fields, d, cross, "width over heads that read the map")
    bias = fields.flag("attention_bias", True)
    wide = divided(fields, d, own, "width over heads")
    fed = activation_of(fields, "decoder_activation_function", default="relu")
    for key in _TRAINED:
        fields.values.get(key)
    model = RFDetr(
        seen=seen,
        gather=Gathering(
            d,
            inner,
            few(fields, "c2f_num_blocks", 3),
            activation_of(fields, "activation_function", default="silu"),
        ),
        own=Heads(Integer(d), Integer(own), wide, bias, bias, bias),
        feed=FeedForward(
            Integer(d), Integer(fields.size("decoder_ffn_dim", default=2048)), fed, False, True
        ),
        layers=few(fields, "decoder_layers", 3),
        heads=cross,
        points=few(fields, "decoder_n_points", 4),
        queries=Integer(fields.size("num_queries", default=300)),
        labels=Integer(labels_of(fields)),
        groups=few(fields, "group_detr", 13),
        boxed=not (class_of(fields.values) or "").endswith("Model"),
    )
    return Reading(model, assumptions=(FILLED.format(*seen.tower.size),))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"rf_detr": _rf_detr})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"RfDetrForObjectDetection": "rf_detr", "RfDetrModel": "rf_detr"}
)
