"""FocalNet."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import FeedForward
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.vision import LARGEST_ENTRY, classes_of, pixels, stages
from costgraph.models.fields import Fields
from costgraph.models.focalnet import FocalLayer, FocalNet


def _focalnet(fields: Fields) -> Reading:
    named = fields.with_defaults(
        depths=[2, 2, 6, 2], focal_levels=[2, 2, 2, 2], focal_windows=[3, 3, 3, 3]
    )
    depths, levels, windows = stages(named, "depths", "focal_levels", "focal_windows")
    width = fields.size("embed_dim", default=96)
    if width > LARGEST_ENTRY or len(depths) > 8 or any(n % 2 == 0 for n in windows):
        raise ModelError(
            f"{fields.name}: 'embed_dim' = {width} over {len(depths)} stages, 'focal_windows' = "
            f"{list(windows)}: odd ones keep the size"
        )
    ratio = fields.number("mlp_ratio", 4.0)
    function = activation_of(fields, "hidden_act", default="gelu")
    layers = []
    for index, (level, window) in enumerate(zip(levels, windows, strict=True)):
        d = width * 2**index
        inner = int(d * ratio)
        if not 0 < inner <= LARGEST_ENTRY or level > 16:
            raise ModelError(f"{fields.name}: 'mlp_ratio' gives {inner}, {level} levels")
        layers.append(
            FocalLayer(
                size=(),
                feed=FeedForward(Integer(d), Integer(inner), function, gated=False, bias=True),
                levels=level,
                window=window,
                behind=fields.flag("use_post_layernorm", False),
                inside=fields.flag("use_post_layernorm_in_modulation", False),
                shared=fields.flag("normalize_modulator", False),
                scaled=fields.flag("use_layerscale", False),
            )
        )
    classes = classes_of(fields)
    model = FocalNet(
        channels=Integer(fields.size("num_channels", default=3)),
        size=pixels(fields),
        classes=classes,
        layers=tuple(layers),
        depths=depths,
        patch=fields.size("patch_size", default=4),
        overlaps=fields.flag("use_conv_embed", False),
        bare=classes is None,
    )
    return Reading(model)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"focalnet": _focalnet})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"FocalNetForImageClassification": "focalnet", "FocalNetModel": "focalnet"}
)
