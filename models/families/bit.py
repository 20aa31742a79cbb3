"""BiT."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.bit import Bit, eighths
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.vision import classes_of, pixels, sizes, stages
from costgraph.models.fields import Fields

STANDARDISED = "kernels are standardised once: the published code does it in every pass"
SQUARE = "pictures of 224 x 224 pixels where no size is asked for: the file says none"


def bit(fields: Fields, inside: bool = False) -> Bit:
    """The network, with its classifier where the file names one and it is not ``inside`` another.

    Raises:
        ModelError: stages or norms do not fit, or the last stages keep their size.
    """
    named = fields.with_defaults(hidden_sizes=[256, 512, 1024, 2048], depths=[3, 4, 6, 3])
    kind = fields.word("layer_type", default="preactivation")
    if kind not in ("preactivation", "bottleneck"):
        raise ModelError(f"{fields.name}: 'layer_type' = {clip(kind)} is not known")
    if inside:
        # What stands inside DPT has fewer stages than the class's list of widths.
        depths = sizes(named, "depths")
        widths = sizes(named, "hidden_sizes")[: len(depths)]
        named = named.with_values(hidden_sizes=list(widths))
    widths, depths = stages(named, "hidden_sizes", "depths")
    edges = fields.values.get("global_padding")
    if edges is not None and edges not in ("SAME", "same"):
        raise ModelError(f"{fields.name}: 'global_padding' = {clip(edges)}: SAME is known")
    if fields.size("output_stride", default=32) != 32 or len(widths) > 4:
        raise ModelError(f"{fields.name}: 'output_stride' must be 32 over four stages at most")
    factor, groups = fields.size("width_factor", default=1), fields.size("num_groups", default=32)
    wide = tuple(eighths(width * factor) for width in widths)
    stem = fields.size("embedding_size", default=64)
    before = kind == "preactivation"
    if before and factor != 1:
        raise ModelError(f"{fields.name}: 'width_factor' = {factor}: its last norm has one")
    normed = [stem, *wide, *(eighths(width // 4) for width in wide)]
    if any(width % groups for width in normed):
        raise ModelError(f"{fields.name}: 'num_groups' = {groups} of widths {normed}")
    return Bit(
        channels=Integer(fields.size("num_channels", default=3)),
        size=pixels(fields),
        classes=None if inside else classes_of(fields),
        stem=Integer(stem),
        widths=wide,
        depths=depths,
        groups=Integer(groups),
        function=activation_of(fields, "hidden_act", default="relu"),
        before=before,
        same=edges is not None,
        spread=fields.flag("embedding_dynamic_padding", False),
    )


def _bit(fields: Fields) -> Reading:
    return Reading(bit(fields), assumptions=(SQUARE, STANDARDISED))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"bit": _bit})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"BitForImageClassification": "bit", "BitModel": "bit"}
)
