"""Models that cut pictures into parts: SAM 1 and 2, SAM-HQ, and image encoders of SAM 1 to 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields as fields_of
from dataclasses import replace
from fractions import Fraction
from types import MappingProxyType

from sympy import Integer, Rational

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward
from costgraph.models.blocks.hiera import Hiera, Neck
from costgraph.models.blocks.sam import SamEncoder
from costgraph.models.blocks.sam3 import TurnedEncoder
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.vision import pixels, sizes, stages, tower_of
from costgraph.models.fields import Fields, divided
from costgraph.models.segmenting import Fine, FinerSegmenter, ImageEncoder, Pyramids, Segmenter

MEMORY = (
    "a picture, or the first frame of a video: what remembers earlier frames is left out, in time "
    "and memory"
)
PROMPTS = "B counts pictures, with one prompt of S tokens each: points, corners, the empty point"


def _whole(seen: Fields, key: str, layers: int) -> frozenset[int]:
    """Layers of ``layers``, counted from zero, that see the whole grid."""
    found = seen.values.get(key)
    if not isinstance(found, list) or any(type(n) is not int or not 0 <= n < layers for n in found):
        raise ModelError(f"{seen.name}: {key!r} must be a list of layers")
    return frozenset(found)


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
    layers = seen.size("num_hidden_layers")
    whole = _whole(seen, "global_attn_indexes", layers)
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
        whole=whole,
        channels=Integer(seen.size("num_channels", default=3)),
        size=int(size[0]),
        patch=patch,
        window=seen.size("window_size"),
        out=Integer(seen.size("output_channels")),
        table=seen.flag("use_abs_pos", True),
        placed=seen.flag("use_rel_pos", True),
    )


def _prompted(fields: Fields) -> Segmenter:
    """SAM 1 as a whole."""
    encoder = sam_encoder(fields.section("vision_config"))
    waves = fields.section("vision_config").size("num_pos_feats", default=128)
    if encoder.out != 2 * waves:
        raise ModelError(f"{fields.name}: 'num_pos_feats' = {waves} of channels {encoder.out}")
    return _decoder(fields, encoder, second=False)


def _sam(fields: Fields) -> Reading:
    return Reading(_prompted(fields), assumptions=(PROMPTS,))


def _sam_hq(fields: Fields) -> Reading:
    """SAM-HQ (arXiv 2306.01567)."""
    model = _prompted(fields)
    encoder = model.encoder
    assert isinstance(encoder, SamEncoder)
    if not encoder.whole:
        raise ModelError(f"{fields.name}: finer masks need a layer that sees the whole grid")
    masked = fields.with_defaults(mask_decoder_config={}).section("mask_decoder_config")
    masked = masked.with_defaults(vit_dim=768)
    masked.require("vit_dim", int(encoder.at.d))
    shown = {f.name: getattr(model, f.name) for f in fields_of(model)}
    finer = FinerSegmenter(**{**shown, "encoder": replace(encoder, early=True)})
    return Reading(finer, assumptions=(PROMPTS,))


def _decoder(fields: Fields, encoder: SamEncoder | Neck | Fine, second: bool) -> Segmenter:
    """Prompts and the decoder of masks behind an encoder."""
    asked, masked = (
        fields.with_defaults(**{key: {}}).section(key).with_defaults(hidden_size=256)
        for key in ("prompt_encoder_config", "mask_decoder_config")
    )
    d, heads = masked.size("hidden_size"), masked.size("num_attention_heads", default=8)
    # The published code reads the key in its last attention alone; elsewhere it is 2.
    rate = 2
    masked.require("attention_downsample_rate", rate)
    divided(masked, d, 8, "hidden size")
    divided(masked, d, rate * heads, "hidden size over heads and their rate")
    if not encoder.out == d == asked.size("hidden_size"):
        raise ModelError(f"{fields.name}: encoder, prompts and decoder have different widths")
    if second:
        if encoder.size != encoder.side * asked.size("patch_size", default=16):
            raise ModelError(f"{asked.name}: 'patch_size' must be {encoder.size // encoder.side}")
    else:
        side = asked.size("image_size", default=1024) // asked.size("patch_size", default=16)
        asked.with_defaults(image_embedding_size=side).require("image_embedding_size", encoder.side)
    asked.require("image_size", encoder.size)
    act = activation_of(masked, "hidden_act", default="relu")
    act = "relu" if second else act  # the published code does not read the key
    inner = Integer(masked.size("mlp_dim", default=2048))
    asked.values.get("hidden_act")
    return Segmenter(
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
        second=second,
    )


def _sam_alone(fields: Fields) -> Reading:
    return Reading(ImageEncoder(sam_encoder(fields)))


def _pyramid(seen: Fields) -> Hiera:
    """Hiera from the file's part for it."""
    listed = ("blocks_per_stage", "embed_dim_per_stage", "num_attention_heads_per_stage",
              "window_size_per_stage")  # fmt: skip
    seen = seen.with_defaults(
        image_size=[1024, 1024],
        blocks_per_stage=[1, 2, 7, 2],
        embed_dim_per_stage=[96, 192, 384, 768],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 4, 14, 7],
        global_attention_blocks=[5, 7, 9],
        window_positional_embedding_background_size=[7, 7],
    )
    depths, widths, heads, windows = stages(seen, *listed)
    for key, usual in (("patch_kernel_size", 7), ("patch_stride", 4), ("patch_padding", 3),
                       ("query_stride", 2)):  # fmt: skip
        seen.require(key, [usual, usual], None, usual)
    if seen.size("hidden_size", default=96) != widths[0]:
        raise ModelError(f"{seen.name}: 'hidden_size' must be the first stage's width, {widths[0]}")
    seen.values.get("num_attention_heads")  # each stage has its own
    for width, count in zip(widths, heads, strict=True):
        divided(seen, width, count, "width of a stage over heads")
    whole = _whole(seen, "global_attention_blocks", sum(depths))
    pooling = seen.size("num_query_pool_stages", default=3)
    size = pixels(seen, 1024)
    background = sizes(seen, "window_positional_embedding_background_size")
    if len(background) != 2:
        raise ModelError(f"{seen.name}: a table of positions of {background}")
    ratio = Rational(str(seen.number("mlp_ratio", 4.0)))
    found = Hiera(
        channels=Integer(seen.size("num_channels", default=3)),
        size=(int(size[0]), int(size[1])),
        kernel=7,
        stride=4,
        padding=3,
        background=(background[0], background[1]),
        tile=windows[0],
        widths=widths,
        depths=depths,
        heads=heads,
        windows=windows,
        whole=whole,
        pooling=pooling,
        ratio=ratio,
        activation=activation_of(seen, "hidden_act", default="gelu"),
    )
    for stage in range(1, min(pooling + 1, len(widths))):
        grid, window = found.grids[stage - 1], windows[stage - 1]
        if any(n % 2 for n in (*grid, window)) or widths[stage] == widths[stage - 1]:
            raise ModelError(
                f"{seen.name}: stage {stage + 1} halves a grid of {grid} in windows of {window}"
            )
    if any(n % windows[0] for n in found.grids[0]):
        raise ModelError(f"{seen.name}: a grid of {found.grids[0]} in tiles of {windows[0]}")
    if any(not (ratio * width).is_Integer for width in widths):
        raise ModelError(f"{seen.name}: 'mlp_ratio' = {ratio} gives no whole width")
    return found


def _neck(seen: Fields) -> Neck:
    """Hiera, and what brings its stages to one width."""
    kind = seen.section("backbone_config").word("model_type", default="sam2_hiera_det_model")
    if kind != "sam2_hiera_det_model":
        raise ModelError(f"{seen.name}: {clip(kind)} is no encoder that is known in this family")
    pyramid = _pyramid(seen.section("backbone_config"))
    listed = sizes(seen, "backbone_channel_list", (768, 384, 192, 96))
    if listed != tuple(reversed(pyramid.widths)):
        raise ModelError(f"{seen.name}: 'backbone_channel_list' must be the stages' widths")
    for key, usual in (("fpn_kernel_size", 1), ("fpn_stride", 1), ("fpn_padding", 0)):
        seen.require(key, usual)
    down = seen.values.get("fpn_top_down_levels", [2, 3])
    if not isinstance(down, list) or any(type(n) is not int for n in down):
        raise ModelError(f"{seen.name}: 'fpn_top_down_levels' must be a list of stages")
    levels = seen.size("num_feature_levels", default=3)
    if levels > len(pyramid.widths):
        raise ModelError(f"{seen.name}: 'num_feature_levels' = {levels}")
    grids = [list(grid) for grid in pyramid.grids[:levels]]
    seen.require("backbone_feature_sizes", grids)
    return Neck(
        pyramid,
        Integer(seen.size("fpn_hidden_size", default=256)),
        frozenset(down),
        levels,
    )


def _hiera_alone(fields: Fields) -> Reading:
    return Reading(Pyramids(_pyramid(fields)))


def _neck_alone(fields: Fields) -> Reading:
    return Reading(ImageEncoder(_neck(fields)))


def _sam2(fields: Fields) -> Reading:
    encoder = _neck(fields.section("vision_config"))
    if encoder.levels != 3:
        raise ModelError(f"{fields.name}: 'num_feature_levels' = {encoder.levels}: 3 is supported")
    return Reading(segmenter(fields, encoder), assumptions=(PROMPTS,))


def segmenter(fields: Fields, encoder: Neck | Fine) -> Segmenter:
    """SAM 2's prompts and masks behind an encoder of three maps."""
    fields = fields.with_defaults(prompt_encoder_config={}, mask_decoder_config={})
    masked = fields.section("mask_decoder_config")
    masked.require("num_hidden_layers", 2)  # also how many products a feed-forward block has
    for key in ("dynamic_multimask_via_stability", "dynamic_multimask_stability_delta",
                "dynamic_multimask_stability_thresh"):  # fmt: skip
        masked.values.get(key)  # which of the masks is returned
    fields.section("prompt_encoder_config").values.get("scale")
    return _decoder(fields, encoder, second=True)


def _turned(seen: Fields) -> TurnedEncoder:
    """SAM 3's encoder from its part of a file."""
    seen = seen.with_defaults(
        hidden_size=1024,
        intermediate_size=4736,
        num_hidden_layers=32,
        num_attention_heads=16,
        image_size=1008,
        patch_size=14,
        window_size=24,
        pretrain_image_size=336,
        global_attn_indexes=[7, 15, 23, 31],
    )
    at, feed = tower_of(seen, activation_of(seen, "hidden_act", default="gelu"))
    layers = seen.size("num_hidden_layers")
    whole = _whole(seen, "global_attn_indexes", layers)
    patch = seen.size("patch_size")
    size, learned = (pixels(seen, 1008, k) for k in ("image_size", "pretrain_image_size"))
    for side in (*size, *learned):
        if side % patch or size[0] != size[1] or learned[0] != learned[1]:
            raise ModelError(
                f"{seen.name}: an image of {size[0]} x {size[1]} in patches of {patch}"
            )
    if at.head_dim % 4:
        raise ModelError(f"{seen.name}: heads of {at.head_dim} are not rotated by two axes")
    for key in ("layer_scale_init_value", "rope_theta", "rope_parameters"):
        seen.values.get(key)
    return TurnedEncoder(
        at=replace(at, rotary=at.head_dim),
        feed=feed,
        layers=layers,
        whole=whole,
        channels=Integer(seen.size("num_channels", default=3)),
        size=int(size[0]),
        patch=patch,
        window=seen.size("window_size"),
        learned=int(learned[0]) // patch,
    )


def _turned_alone(fields: Fields) -> Reading:
    return Reading(ImageEncoder(_turned(fields)))


def sam3_maps(fields: Fields) -> TurnedEncoder:
    """SAM 3's encoder and the maps behind it."""
    part = fields.section("backbone_config")
    kind = part.word("model_type", default="sam3_vit_model")
    if kind != "sam3_vit_model":
        raise ModelError(f"{fields.name}: {clip(kind)} is no encoder that is known in this family")
    encoder = _turned(part)
    given = fields.values.get("scale_factors", [4.0, 2.0, 1.0, 0.5])
    if not isinstance(given, list) or any(n not in (4, 2, 1, 0.5) for n in given) or not given:
        raise ModelError(f"{fields.name}: 'scale_factors' = {clip(given)}: of 4, 2, 1 and 0.5")
    divided(fields, int(encoder.at.d), 4, "hidden size")
    fields.values.get("backbone_feature_sizes")  # what follows from the sizes above
    out = Integer(fields.size("fpn_hidden_size", default=256))
    scales = tuple(Fraction(str(n)) for n in given)
    return replace(encoder, out=out, scales=scales)


def _sam3_vision(fields: Fields) -> Reading:
    return Reading(ImageEncoder(sam3_maps(fields)))


def _sam2_video(fields: Fields) -> Reading:
    """SAM 2 on the first frame of a video, or on a picture."""
    reading = _sam2(fields)
    for key in fields.values:
        if key.startswith(("memory_", "mask_downsampler_", "num_maskmem", "max_object_pointers",
                           "sigmoid_", "enable_", "multimask_")):  # fmt: skip
            fields.values.get(key)  # of the memory
    return replace(reading, assumptions=(*reading.assumptions, MEMORY))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "sam": _sam,
        "sam_vision_model": _sam_alone,
        "sam_hq": _sam_hq,
        "sam_hq_vision_model": _sam_alone,
        "sam2": _sam2,
        "sam2_video": _sam2_video,
        "sam2_vision_model": _neck_alone,
        "sam2_hiera_det_model": _hiera_alone,
        "sam3_vision_model": _sam3_vision,
        "sam3_vit_model": _turned_alone,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "SamModel": "sam",
        "SamVisionModel": "sam_vision_model",
        "SamHQModel": "sam_hq",
        "SamHQVisionModel": "sam_hq_vision_model",
        "Sam2Model": "sam2",
        "Sam2VideoModel": "sam2_video",
        "Sam2VisionModel": "sam2_vision_model",
        "Sam2HieraDetModel": "sam2_hiera_det_model",
        "Sam3VisionModel": "sam3_vision_model",
        "Sam3ViTModel": "sam3_vit_model",
    }
)
