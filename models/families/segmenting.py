"""Models that cut pictures into parts: SAM, and its image encoder alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import FeedForward
from costgraph.models.blocks.sam import SamEncoder
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.vision import pixels, tower_of
from costgraph.models.fields import Fields, divided
from costgraph.models.segmenting import ImageEncoder, Segmenter

PROMPTS = "B counts pictures, with one prompt of S tokens each: points, corners, the empty point"


def sam_encoder(seen: Fields) -> SamEncoder:
    """The encoder from its part of a file."""
    seen = seen.with_defaults(
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=1024,
        patch_size=16,
        window_size=14,
        output_channels=256,
        global_attn_indexes=[2, 5, 8, 11],
    )
    d = seen.size("hidden_size")
    inner = seen.size("mlp_dim", default=int(d * seen.number("mlp_ratio", 4.0)))
    at, feed = tower_of(
        seen.with_values(intermediate_size=inner), activation_of(seen, "hidden_act", default="gelu")
    )
    whole = seen.values.get("global_attn_indexes")
    layers = seen.size("num_hidden_layers")
    if not isinstance(whole, list) or any(type(n) is not int or not 0 <= n < layers for n in whole):
        raise ModelError(f"{seen.name}: 'global_attn_indexes' must be a list of layers")
    size, patch = pixels(seen, 1024), seen.size("patch_size")
    if size[0] != size[1] or size[0] % patch:
        raise ModelError(f"{seen.name}: an image of {size[0]} x {size[1]} in patches of {patch}")
    # Random waves of positions, as many as fill half the decoder's width.
    for key in ("num_pos_feats", "scale"):
        seen.values.get(key)
    return SamEncoder(
        at=replace(at, fused=True),
        feed=feed,
        layers=layers,
        whole=frozenset(whole),
        channels=Integer(seen.size("num_channels", default=3)),
        size=int(size[0]),
        patch=patch,
        window=seen.size("window_size"),
        out=Integer(seen.size("output_channels")),
        table=seen.flag("use_abs_pos", True),
        placed=seen.flag("use_rel_pos", True),
    )


def _sam(fields: Fields) -> Reading:
    encoder = sam_encoder(fields.section("vision_config"))
    asked, masked = (
        fields.section(key).with_defaults(hidden_size=256)
        for key in ("prompt_encoder_config", "mask_decoder_config")
    )
    d, heads = masked.size("hidden_size"), masked.size("num_attention_heads", default=8)
    # The published code reads the key in its last attention alone; elsewhere it is 2.
    rate = 2
    masked.require("attention_downsample_rate", rate)
    divided(masked, d, 8, "hidden size")
    divided(masked, d, rate * heads, "hidden size over heads and their rate")
    waves = fields.section("vision_config").size("num_pos_feats", default=128)
    if not encoder.out == d == asked.size("hidden_size") == 2 * waves:
        raise ModelError(f"{fields.name}: encoder, prompts and decoder have different widths")
    asked.require("image_embedding_size", encoder.side)
    asked.require("image_size", encoder.size)
    act = activation_of(masked, "hidden_act", default="relu")
    inner = Integer(masked.size("mlp_dim", default=2048))
    asked.values.get("hidden_act")
    asked.values.get("patch_size")
    model = Segmenter(
        encoder=encoder,
        d=Integer(d),
        heads=Integer(heads),
        rate=rate,
        feed=FeedForward(Integer(d), inner, act, gated=False, bias=True),
        layers=masked.size("num_hidden_layers", default=2),
        masks=masked.size("num_multimask_outputs", default=3),
        # The published code has a product at each end, also where the file says one.
        depth=max(masked.size("iou_head_depth", default=3), 2),
        inner=Integer(masked.size("iou_head_hidden_dim", default=256)),
        points=asked.size("num_point_embeddings", default=4),
        shown=Integer(asked.size("mask_input_channels", default=16)),
    )
    return Reading(model, assumptions=(PROMPTS,))


def _sam_alone(fields: Fields) -> Reading:
    return Reading(ImageEncoder(sam_encoder(fields)))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"sam": _sam, "sam_vision_model": _sam_alone})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"SamModel": "sam", "SamVisionModel": "sam_vision_model"}
)
