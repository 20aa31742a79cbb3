"""Videos beside VideoMAE: ViViT and TimeSformer, which sort them, and X-CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import FeedForward
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import Patches
from costgraph.models.blocks.tower import TowerLayer
from costgraph.models.families.common import Family, Reading, activation_of, class_of, labels_of
from costgraph.models.families.patchwise import BASE
from costgraph.models.families.seeing import SIGLIP
from costgraph.models.families.vision import (
    clip_reader,
    clip_tower,
    few,
    patches_of,
    pixels,
    sizes,
    tower_of,
)
from costgraph.models.fields import Fields, divided
from costgraph.models.timesformer import TimeSformer
from costgraph.models.vision import Tower, VisionTransformer
from costgraph.models.xclip import XClip
from costgraph.symbols import B

VIDEOS = "B counts videos of {} frames, and texts: each text is seen with each video"


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


def _xclip(fields: Fields) -> Reading:
    """CLIP over frames: videos against texts."""
    seen = fields.section("vision_config").with_defaults(
        **SIGLIP, mit_hidden_size=512, mit_intermediate_size=2048, mit_num_attention_heads=8
    )
    tower, text = clip_tower(seen), clip_reader(fields.section("text_config"))
    width, frames = fields.size("projection_dim", default=512), seen.size("num_frames", default=8)
    inner = Fields(
        f"{seen.name}: frames",
        {
            "hidden_size": seen.size("mit_hidden_size"),
            "intermediate_size": seen.size("mit_intermediate_size"),
            "num_attention_heads": seen.size("mit_num_attention_heads"),
        },
    )
    at, feed = tower_of(inner, tower.feed.activation)
    if at.d != width:
        raise ModelError(f"{fields.name}: 'mit_hidden_size' must be 'projection_dim' = {width}")
    heads = fields.size("prompt_num_attention_heads", default=8)
    wide = divided(fields, width, heads, "width over heads")
    prompts = few(fields, "prompt_layers", 2)
    act = activation_of(fields, "prompt_hidden_act", default="quick_gelu")
    for key in ("prompt_alpha", "prompt_attention_dropout", "prompt_projection_dropout"):
        fields.values.get(key)
    joint = TowerLayer(B, Integer(frames), at, feed)
    model = XClip(
        tower=tower,
        text=text,
        width=Integer(width),
        frames=frames,
        joint=joint,
        joints=Integer(seen.size("mit_num_hidden_layers", default=1)),
        prompt=Heads(Integer(width), Integer(heads), wide, out_bias=True),
        spoken=FeedForward(Integer(width), Integer(4 * width), act, gated=False, bias=True),
        prompts=prompts,
    )
    return Reading(model, assumptions=(VIDEOS.format(frames),))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"vivit": _vivit, "timesformer": _timesformer, "xclip": _xclip}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "VivitForVideoClassification": "vivit",
        "VivitModel": "vivit",
        "TimesformerForVideoClassification": "timesformer",
        "TimesformerModel": "timesformer",
        "XCLIPModel": "xclip",
    }
)
