"""Video classifiers beside VideoMAE: ViViT and TimeSformer."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import ModelError
from costgraph.models.blocks.image import Patches
from costgraph.models.families.common import Family, Reading, activation_of, class_of, labels_of
from costgraph.models.families.patchwise import BASE
from costgraph.models.families.vision import patches_of, pixels, sizes, tower_of
from costgraph.models.fields import Fields
from costgraph.models.timesformer import TimeSformer
from costgraph.models.vision import Tower, VisionTransformer


def _labels(fields: Fields) -> Expr | None:
    """Classes that videos are sorted into; None for the bare model."""
    filmed = (class_of(fields.values) or "ForVideoClassification").endswith(
        "ForVideoClassification"
    )
    return Integer(labels_of(fields)) if filmed else None


def _vivit(fields: Fields) -> Reading:
    """A ViT over tubes of a video, with learned positions (arXiv 2103.15691)."""
    named = fields.with_defaults(**{k: v for k, v in BASE.items() if k != "patch_size"})
    at, feed = tower_of(named, activation_of(fields, "hidden_act", default="gelu_fast"))
    tube, size = sizes(fields, "tubelet_size", (2, 16, 16)), pixels(fields)
    frames = fields.size("num_frames", default=32)
    if len(tube) != 3 or any(n < t for n, t in zip((frames, *size), tube, strict=True)):
        raise ModelError(f"{fields.name}: 'tubelet_size' = {list(tube)}: frames, height and width")
    patch = tuple(map(Integer, tube))
    channels = Integer(fields.size("num_channels", default=3))
    count = Patches(at.d, channels, patch, first=1).count((Integer(frames), *size))
    patches = Patches(at.d, channels, patch, first=1, rows=count)
    layers = Integer(named.size("num_hidden_layers"))
    tower = Tower(patches, at, feed, layers, size, frames=Integer(frames))
    classes = _labels(fields)
    if classes is None:
        fields.require("pooler_output_size", int(at.d), None)
        fields.require("pooler_act", "tanh")
    else:
        for key in ("pooler_output_size", "pooler_act"):
            fields.values.get(key)
    return Reading(VisionTransformer(tower, classes, pooler=classes is None))


def _timesformer(fields: Fields) -> Reading:
    """Attention over time, then over space, in each layer."""
    fields.require("attention_type", "divided_space_time")
    named = fields.with_defaults(**BASE)
    at, feed = tower_of(named, activation_of(named, "hidden_act"))
    size = pixels(fields)
    model = TimeSformer(
        patches=patches_of(fields, at.d, size, named.size("patch_size")),
        at=at,
        feed=feed,
        layers=Integer(named.size("num_hidden_layers")),
        frames=Integer(fields.size("num_frames", default=8)),
        size=size,
        classes=_labels(fields),
    )
    return Reading(model)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"vivit": _vivit, "timesformer": _timesformer})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "VivitForVideoClassification": "vivit",
        "VivitModel": "vivit",
        "TimesformerForVideoClassification": "timesformer",
        "TimesformerModel": "timesformer",
    }
)
