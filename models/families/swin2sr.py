"""Swin2SR."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward
from costgraph.models.blocks.tower import SwinLayer
from costgraph.models.families.common import Family, Reading, activation_of, class_of
from costgraph.models.families.detecting import heads_of
from costgraph.models.families.shrinking import inside
from costgraph.models.families.vision import LARGEST_ENTRY, pixels, stages
from costgraph.models.fields import Fields
from costgraph.models.swin2sr import Swin2SR
from costgraph.symbols import B

_WAYS = ("pixelshuffle", "pixelshuffledirect", "nearest+conv", "pixelshuffle_aux")


def _swin2sr(fields: Fields) -> Reading:
    named = fields.with_defaults(depths=[6] * 6, num_heads=[6] * 6)
    depths, heads = stages(named, "depths", "num_heads")
    d, size = fields.size("embed_dim", default=180), pixels(fields, 64)
    fields.require("patch_size", 1)
    fields.refuse("use_absolute_embeddings", "learned positions are not supported in this family")
    bias = fields.flag("qkv_bias", True)
    act = activation_of(fields, "hidden_act", default="gelu")
    if d > LARGEST_ENTRY:
        raise ModelError(f"{fields.name}: 'embed_dim' = {d} is too wide")
    inner = Integer(inside(fields, d, fields.number("mlp_ratio", 2.0)))
    window, room = fields.size("window_size", default=8), int(min(size))
    if any(n % window for n in size):
        raise ModelError(
            f"{fields.name}: 'image_size' must be a multiple of 'window_size' = {window}"
        )
    layers = []
    for count in heads:
        at = replace(heads_of(fields, d, count), qv_bias=bias, k_bias=False)
        feed = FeedForward(Integer(d), inner, act, gated=False, bias=True)
        whole = (int(size[0]), int(size[1]))
        shifts = room > window and window > 1
        layers.append(SwinLayer(B, whole, at, feed, window, window, shifts, cosine=True))
    link = fields.word("resi_connection", default="1conv")
    if link not in ("1conv", "3conv") or (link == "3conv" and d % 4):
        raise ModelError(f"{fields.name}: 'resi_connection' = {clip(link)} of width {d}")
    way = fields.word("upsampler", default="pixelshuffle") or None
    finer = fields.size("upscale", default=2)
    channels = fields.size("num_channels", default=3)
    out = fields.size("num_channels_out", default=channels)
    bare = (class_of(fields.values) or "").endswith("Model")
    steps = finer == 3 or (finer & (finer - 1) == 0 and finer <= 64)
    if way is not None and (way not in _WAYS or not steps or (way == _WAYS[2] and finer != 4)):
        raise ModelError(f"{fields.name}: 'upsampler' = {clip(way)} by {finer} is not known")
    if way == _WAYS[3] and channels != 3:
        raise ModelError(f"{fields.name}: 'upsampler' = {clip(way)} of {channels} channels")
    fields.values.get("img_range")  # a factor
    model = Swin2SR(
        channels=Integer(channels),
        out=Integer(out),
        size=size,
        layers=tuple(layers),
        depths=depths,
        narrow=link == "3conv",
        finer=finer,
        way=way,
        bare=bare,
    )
    return Reading(model)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"swin2sr": _swin2sr})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"Swin2SRForImageSuperResolution": "swin2sr", "Swin2SRModel": "swin2sr"}
)
