"""HGNetV2."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.families.bit import SQUARE
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.stages import backbone
from costgraph.models.families.vision import FOLDED, classes_of, pixels, sizes, stages
from costgraph.models.fields import Fields
from costgraph.models.hgnet import HGNet, HGStage

#: Lists of a number per stage, which the class fills in.
_LISTS: Mapping[str, list[int]] = MappingProxyType(
    {
        "stage_in_channels": [48, 128, 512, 1024],
        "stage_mid_channels": [48, 96, 192, 384],
        "stage_out_channels": [128, 512, 1024, 2048],
        "stage_num_blocks": [1, 1, 3, 1],
        "stage_numb_of_layers": [6, 6, 6, 6],
        "stage_kernel_size": [3, 3, 5, 5],
        "stage_downsample_strides": [2, 2, 2, 2],
    }
)


def _flags(fields: Fields, key: str, count: int, default: list[bool]) -> list[bool]:
    """The list of truths under ``key``, one a stage."""
    given = fields.values.get(key, default)
    if (
        not isinstance(given, list)
        or len(given) != count
        or any(type(v) is not bool for v in given)
    ):
        raise ModelError(f"{fields.name}: {key!r} must be {count} times true or false")
    return given


def hgnet(fields: Fields) -> HGNet:
    """The network, with its classifier where the file names one.

    Raises:
        ModelError: stages do not fit one another.
    """
    named = fields.with_defaults(**_LISTS, stem_channels=[3, 32, 48], stem_strides=[2, 1, 1, 2, 1])
    entered, inner, out, blocks, layers, kernels, strides = stages(named, *_LISTS)
    count = len(out)
    stem, steps = sizes(named, "stem_channels"), sizes(named, "stem_strides")
    channels = fields.size("num_channels", default=3)
    if len(stem) != 3 or stem[0] != channels or stem[1] % 2:
        raise ModelError(
            f"{fields.name}: 'stem_channels' = {list(stem)}: those of pictures ({channels}), an "
            "even number and a third one are known"
        )
    if len(steps) != 5 or steps[1:3] != (1, 1):
        raise ModelError(f"{fields.name}: 'stem_strides' = {list(steps)}: five, 1 in the middle")
    if entered != (stem[2], *out[:-1]):
        raise ModelError(
            f"{fields.name}: 'stage_in_channels' must be {[stem[2], *out[:-1]]}, as the stages "
            "before make"
        )
    if any(n % 2 for n in out) or any(n % 2 == 0 for n in kernels):
        raise ModelError(
            f"{fields.name}: 'stage_out_channels' = {list(out)} must be even, 'stage_kernel_size' "
            f"= {list(kernels)} odd"
        )
    widths = sizes(fields, "hidden_sizes", (256, 512, 1024, 2048))
    if widths[-1] != out[-1]:
        raise ModelError(f"{fields.name}: 'hidden_sizes' = {clip(list(widths))} end in {out[-1]}")
    if len(sizes(fields, "depths", (3, 4, 6, 3))) != count:
        raise ModelError(f"{fields.name}: 'depths' must have one entry for each of {count} stages")
    down = _flags(fields, "stage_downsample", count, [False, True, True, True])
    light = _flags(fields, "stage_light_block", count, [False, False, True, True])
    shrinks = [n if is_shrunk else None for n, is_shrunk in zip(strides, down, strict=True)]
    return HGNet(
        channels=Integer(channels),
        size=pixels(fields),
        classes=classes_of(fields),
        stem=(stem[1], stem[2]),
        strides=(steps[0], steps[3], steps[4]),
        activation=activation_of(fields, "hidden_act", default="relu"),
        stages=tuple(map(HGStage, inner, out, blocks, layers, shrinks, light, kernels)),
        affine=fields.flag("use_learnable_affine_block", False),
    )


def _hgnet(fields: Fields) -> Reading:
    return backbone(fields, hgnet(fields), SQUARE, FOLDED)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"hgnet_v2": _hgnet})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"HGNetV2ForImageClassification": "hgnet_v2", "HGNetV2Backbone": "hgnet_v2"}
)
