"""SAM 3: what a text names in a picture, and masks by points in front of its encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import FeedForward
from costgraph.models.blocks.encoder import Heads
from costgraph.models.concepts import GROUPS, ConceptSegmenter, Examples
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.segmenting import PROMPTS, sam3_maps, segmenter
from costgraph.models.families.vision import few, reader_of
from costgraph.models.fields import Fields, divided
from costgraph.models.segmenting import Fine

NAMED = (
    "B counts pictures, each with one text of S tokens: what reads boxes that are shown as "
    "examples rests in memory"
)
TWICE = "boxes of each layer are made twice, as in the published class"
FOLLOWED = (
    "a picture, or a frame of a video: what follows parts from frame to frame (the tracker) is "
    "left out, in time and memory"
)
#: What a file leaves out of the reader of texts, as the class has it.
_TEXT: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 49408,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "projection_dim": 512,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "max_position_embeddings": 32,
        "hidden_act": "gelu",
    }
)
#: The same where the part is there and a key of it is not: then it is CLIP's own class's.
_CLIP: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 49408,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "projection_dim": 512,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
    }
)


def _part(fields: Fields, key: str) -> Fields:
    """A part of the file; a part that it leaves out has what its class has."""
    return fields.with_defaults(**{key: {}}).section(key)


def _layers(part: Fields, layers: int) -> tuple[Heads, FeedForward, int]:
    """Heads, feed-forward block and number of layers of a part."""
    part = part.with_defaults(hidden_size=256, num_attention_heads=8, intermediate_size=2048)
    act = activation_of(part, "hidden_act", default="relu")
    inner = Integer(part.size("intermediate_size"))
    heads = _heads(part)
    named = part.renamed(num_layers="num_hidden_layers")
    feed = FeedForward(heads.d, inner, act, gated=False, bias=True)
    part.values.get("num_hidden_layers")
    return heads, feed, few(named, "num_layers", layers)


def _heads(part: Fields) -> Heads:
    d, heads = part.size("hidden_size"), part.size("num_attention_heads")
    width = divided(part, d, heads, "hidden size over heads")
    return Heads(Integer(d), Integer(heads), width, True, True, True)


def _detector(fields: Fields) -> Reading:
    encoder = sam3_maps(fields.section("vision_config"))
    if len(encoder.scales) < 2 or encoder.scales[-2] != 1:
        raise ModelError(
            f"{fields.name}: the last map but one must be of the grid's size; 'scale_factors' = "
            f"{[float(n) for n in encoder.scales]}"
        )
    read = fields.values.get("text_config")
    known = _TEXT if read is None else _CLIP
    text = _part(fields, "text_config").with_defaults(**known)
    text.require("model_type", "clip_text_model")
    joint = Integer(text.size("projection_dim"))
    reader = replace(reader_of(text, str(known["hidden_act"]), causal=True), width=joint)
    shown = _part(fields, "geometry_encoder_config")
    side = shown.size("roi_size", default=7)
    at, feed, layers = _layers(_part(fields, "detr_encoder_config"), 6)
    asking = _part(fields, "detr_decoder_config")
    own, fed, count = _layers(asking, 6)
    masked = _part(fields, "mask_decoder_config")
    looks = _heads(masked.with_defaults(hidden_size=256, num_attention_heads=8))
    mixes = few(masked, "num_upsampling_stages", 3)
    examples = Examples(*_layers(shown, 3), side)
    widths = {encoder.out, at.d, own.d, looks.d, examples.at.d}
    if len(widths) != 1 or at.d % GROUPS or at.d % 4:
        raise ModelError(f"{fields.name}: maps, layers and masks of widths {sorted(widths)}")
    if mixes < len(encoder.scales) - 2:
        raise ModelError(
            f"{masked.name}: 'num_upsampling_stages' = {mixes} is too few for the maps"
        )
    queries = Integer(asking.size("num_queries", default=200))
    model = ConceptSegmenter(
        encoder, reader, at, feed, layers, own, fed, count, queries, examples, looks, mixes
    )
    return Reading(model, assumptions=(NAMED, TWICE))


def _video(fields: Fields) -> Reading:
    """SAM 3's published file: its detector, beside what follows parts through a video."""
    part = fields.section("detector_config")
    part.require("model_type", "sam3", None)
    fields.values.get("tracker_config")
    for key in fields.values:
        if "thresh" in key or "keep_alive" in key or key in _FOLLOWS:
            fields.values.get(key)
    reading = _detector(part)
    return replace(reading, assumptions=(*reading.assumptions, FOLLOWED))


#: Keys of how parts are followed.
_FOLLOWS = frozenset(
    {
        "low_res_mask_size",
        "recondition_on_trk_masks",
        "hotstart_delay",
        "suppress_unmatched_only_within_hotstart",
        "fill_hole_area",
        "max_num_objects",
        "recondition_every_nth_frame",
    }
)


def _tracker(fields: Fields) -> Reading:
    """SAM 2's masks by points, in front of SAM 3's encoder."""
    encoder = sam3_maps(fields.section("vision_config"))
    if [float(n) for n in encoder.scales] != [4, 2, 1]:
        raise ModelError(
            f"{fields.name}: 'scale_factors' = {[float(n) for n in encoder.scales]}: only 4, 2 and "
            "1 times the grid's size are supported here"
        )
    usual = {"image_size": encoder.size, "patch_size": encoder.patch}
    asked = _part(fields, "prompt_encoder_config").with_defaults(image_size=1008, patch_size=14)
    for key, value in usual.items():
        asked.require(key, value)
    model = segmenter(fields, Fine(encoder))
    return Reading(model, assumptions=(PROMPTS,))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"sam3": _detector, "sam3_video": _video, "sam3_tracker": _tracker}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"Sam3Model": "sam3", "Sam3VideoModel": "sam3_video", "Sam3TrackerModel": "sam3_tracker"}
)
