"""ERNIE 4.5-VL: experts of text and of images apart, behind a tower and a resampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward, Layer, Maker
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import PatchTower
from costgraph.models.blocks.parted import Parted, PartedExperts
from costgraph.models.blocks.pictures import Squares
from costgraph.models.blocks.projector import Acted, Beside, Normed, Product, Steps
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.families.absent import part_of
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.experts import (
    RMS,
    attention_of,
    ends_of,
    experts_of,
    feed_forward_of,
    layers_of,
    sparse_layers,
    stacked,
)
from costgraph.models.families.multimodal import MOST_LAYERS, UNKNOWN_PIXELS
from costgraph.models.fields import Fields, divided
from costgraph.models.multimodal import Seeing
from costgraph.ops import Route
from costgraph.ops.views import Beside as Joined


@dataclass(frozen=True)
class Twice:
    """Each row beside itself: an image is both frames of a pair."""

    def add(self, m: Maker, prefix: str, x: str) -> str:
        """Adds it behind ``x (batch, n, d)``."""
        return m.add(f"{prefix}_twice", Joined(2), x, x)


def _widths(fields: Fields) -> tuple[int, int]:
    """Widths of the experts of text and of images."""
    found = fields.values.get("moe_intermediate_size")
    given = [1536, 512] if found is None else found
    if not isinstance(given, list) or len(given) != 2:
        raise ModelError(
            f"{fields.name}: 'moe_intermediate_size' must be the widths of experts of text and of "
            f"images, not {clip(given)}"
        )
    both = [fields.with_values(width=width).size("width") for width in given]
    return both[0], both[1]


def _text(fields: Fields) -> Parted:
    """The language model: a layer in front is dense where nothing is said."""
    bias = fields.flag("use_bias", False)
    attention = attention_of(fields, qkv_bias=bias, out_bias=bias)
    dense = replace(feed_forward_of(fields, fields.size("intermediate_size")), bias=bias)
    wide, narrow = _widths(fields)
    named = fields.with_values(
        num_experts=fields.size("moe_num_experts", "num_experts", default=64),
        num_experts_per_tok=fields.size("moe_k", "num_experts_per_tok", default=6),
    ).with_defaults(first_k_dense_replace=min(1, layers_of(fields)))
    route = Route(normalise=True, correction=True)
    text, image = (
        experts_of(named, width, route, "num_experts", learned_correction=True)
        for width in (wide, narrow)
    )
    shared = None
    if fields.values.get("moe_num_shared_experts", 2) != 0:
        count = fields.size("moe_num_shared_experts", default=2)
        shared = replace(dense, width=Integer(wide * count))
    experts = PartedExperts(text, image, shared)
    kinds = ["experts" if held else "dense" for held in sparse_layers(named)]
    ends = ends_of(fields, tied=True)
    plain, seeing = (
        stacked(
            ends,
            kinds,
            {
                "experts": Layer(attention.d, attention, replace(experts, images=images)),
                "dense": Layer(attention.d, attention, dense),
            },
        )
        for images in (False, True)
    )
    return Parted(ends, plain, seeing)


def ernie_tower(seen: Fields, out: Integer) -> PatchTower:
    """The tower, and the resampler that makes one row of each square of patches."""
    d, heads = seen.size("hidden_size", default=1280), seen.size("num_heads", default=16)
    layers, side = seen.size("depth", default=32), seen.size("spatial_merge_size", default=2)
    if layers > MOST_LAYERS:
        raise ModelError(f"{seen.name}: 'depth' = {layers} is beyond {MOST_LAYERS}")
    seen.require("temporal_merge_size", 2)
    width = divided(seen, d, heads, "vision width over heads")
    patch = seen.size("patch_size", default=14)
    wide = Integer(d * side**2)
    steps: Steps = (
        Beside(Integer(side**2)),
        Product("spatial1", wide),
        Acted("gelu", "spatial_act"),
        Product("spatial2", wide),
        Normed(LAYER_NORM, "spatial_norm"),
        Twice(),
        Product("temporal1", wide),
        Acted("gelu", "temporal_act"),
        Product("temporal2", wide),
        Normed(LAYER_NORM, "temporal_norm"),
        Product("out", out),
        Normed(RMS),
    )
    feed = FeedForward(
        Integer(d),
        Integer(seen.size("intermediate_size", default=5120)),
        activation_of(seen, "hidden_act", default="quick_gelu"),
        gated=False,
        bias=True,
    )
    return PatchTower(
        at=Heads(Integer(d), Integer(heads), width, True, True, True, fused=True, rotary=width),
        feed=feed,
        norm=LAYER_NORM,
        layers=layers,
        channels=Integer(seen.size("in_channels", default=3)),
        patch=Integer(patch),
        frames=None,
        merge=Integer(side),
        out=out,
        bias=False,
        back=LAYER_NORM,
        steps=steps,
        processor=Squares(patch * side, said=UNKNOWN_PIXELS),
        said="tokens of videos, which stand for two frames each, are not counted",
    )


def _ernie_vl(fields: Fields) -> Reading:
    text = _text(part_of(fields, "ernie4_5_vl_moe_text", True))
    d = text.ends.d
    assert isinstance(d, Integer)
    return Reading(Seeing(ernie_tower(fields.section("vision_config"), d), text))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"ernie4_5_vl_moe": _ernie_vl})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "Ernie4_5_VLMoeForConditionalGeneration": "ernie4_5_vl_moe",
        "Ernie4_5_VL_MoeForConditionalGeneration": "ernie4_5_vl_moe",
    }
)
