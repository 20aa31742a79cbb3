"""Autoregressive flows of images: TarFlow."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer, Rational

from costgraph.errors import ModelError
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.vision import pixels
from costgraph.models.fields import Fields, divided
from costgraph.models.flow import Flow

#: Numbers per pixel of a picture.
COLOURS = 3


def _tarflow(fields: Fields) -> Reading:
    d = fields.size("channels")
    size = fields.size("head_channels", default=64)
    divided(fields, d, size, "channels over the size of a head")
    patch = fields.size("patch_size")
    height, width = (int(n) for n in pixels(fields, 256, "image_size"))
    if height % patch or width % patch:
        raise ModelError(f"{fields.name}: 'image_size' is not a multiple of 'patch_size' = {patch}")
    count = (height // patch) * (width // patch)
    if count < 2:
        raise ModelError(f"{fields.name}: an image of one patch has no sequence to invert")
    ratio = Rational(str(fields.number("expansion", 4.0)))
    classes = 0 if fields.values.get("num_classes") in (None, 0) else fields.size("num_classes")
    model = Flow(
        blocks=fields.size("num_blocks"),
        layers=Integer(fields.size("layers_per_block")),
        d=Integer(d),
        heads=Integer(d // size),
        head_dim=Integer(size),
        ffn=ratio * d,
        patches=count,
        channels=Integer(fields.size("in_channels", default=COLOURS) * patch * patch),
        classes=classes,
        scaled=fields.flag("nvp", True),
    )
    return Reading(model)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"tarflow": _tarflow})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType({})
