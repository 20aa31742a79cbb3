"""Language models behind towers that see images of any size: Pixtral's, SigLIP 2, MoonViT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isqrt
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import FeedForward, Norm
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import PatchTower
from costgraph.models.blocks.pictures import Lines, Squares
from costgraph.models.blocks.projector import Acted, Beside, Normed, Product, Steps, two_products
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.language import before, language
from costgraph.models.families.multimodal import PIXELS_3, UNKNOWN_PIXELS, squares, windowed_tower
from costgraph.models.families.seeing import SIGLIP
from costgraph.models.families.vision import sizes, tower_of
from costgraph.models.fields import Fields, divided

RMS = Norm()


def pixtral_tower(seen: Fields, merge: int, steps: Steps, out: Any) -> PatchTower:
    """Pixtral's tower: images of any size, rotated positions, gated blocks without biases."""
    seen = seen.with_defaults(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16
    )
    d, heads = seen.size("hidden_size"), seen.size("num_attention_heads")
    width = divided(seen, d, heads, "vision width over heads")
    if seen.values.get("head_dim") is not None and Integer(seen.size("head_dim")) != width:
        raise ModelError(f"{seen.name}: 'head_dim' must be {width}, width over heads")
    act = activation_of(seen, "hidden_act", default="gelu")
    # The largest side bounds the table of rotations, and what pictures are scaled to.
    longest = seen.size("image_size", default=1024)
    return PatchTower(
        at=Heads(Integer(d), Integer(heads), width, rotary=width),
        feed=FeedForward(Integer(d), Integer(seen.size("intermediate_size")), act),
        norm=RMS,
        layers=seen.size("num_hidden_layers"),
        channels=Integer(seen.size("num_channels", default=3)),
        patch=Integer(seen.size("patch_size", default=16)),
        frames=None,
        merge=Integer(merge),
        out=out,
        bias=False,
        front=RMS,
        steps=steps,
        processor=Lines(longest, seen.size("patch_size", default=16) * merge),
    )


def _mistral3(fields: Fields, text: str = "mistral") -> Reading:
    stack, reading = language(fields, text)
    key = "tie_word_embeddings"
    if fields.values.get(key) is None and fields.section("text_config").peek(key) is None:
        made = "tied to the embeddings" if stack.ends.tied else "a projection of their own"
        fields.tell(
            f"logits are {made}, as the published checkpoints have them: the file says nothing of "
            f"{key!r}, which classes of transformers 5 then take as true"
        )
    return before(stack, reading, mistral3_eyes(fields, stack.ends.d))


def mistral3_eyes(fields: Fields, d: Expr, usual: Mapping[str, Any] | None = None) -> PatchTower:
    """Pixtral's tower and Mistral 3's projector to rows of ``d``.

    Args:
        fields: the file of the whole model.
        d: hidden size of the language model.
        usual: what the tower has where the file does not say it, if not its class's own.
    """
    fields.require("vision_feature_layer", -1)
    seen = fields.section("vision_config").with_defaults(**(usual or {}))
    seen.require("model_type", "pixtral")
    merge = fields.size("spatial_merge_size", default=2)
    act = activation_of(fields, "projector_hidden_act", default="gelu")
    bias = fields.flag("multimodal_projector_bias", False)
    steps: Steps = (
        Normed(RMS),
        Beside(Integer(merge**2), copied=True),
        Product("merge", Integer(seen.size("hidden_size", default=1024)), False),
        *two_products(d, act, bias),
    )
    return pixtral_tower(seen, merge, steps, d)


def _lighton_ocr(fields: Fields) -> Reading:
    """Mistral 3's eyes in front of Qwen3."""
    return _mistral3(fields.with_defaults(projector_hidden_act="gelu"), "qwen3")


def _lfm2_vl(fields: Fields) -> Reading:
    stack, reading = language(fields, "lfm2")
    seen = fields.section("vision_config").with_defaults(**SIGLIP)
    seen.require("model_type", "siglip2_vision_model")
    at, feed = tower_of(seen, activation_of(seen, "hidden_act", default="gelu_pytorch_tanh"))
    if seen.flag("vision_use_head", True):
        raise ModelError(f"{seen.name}: 'vision_use_head' = True: a head nothing reads")
    factor = fields.size("downsample_factor", default=2)
    inner = Integer(fields.size("projector_hidden_size", default=2560))
    bias = fields.flag("projector_bias", True)
    act = activation_of(fields, "projector_hidden_act", default="gelu")
    normed: Steps = (Normed(LAYER_NORM),) if fields.flag("projector_use_layernorm", True) else ()
    d = stack.ends.d
    steps: Steps = (
        Beside(Integer(factor**2), copied=True),
        *normed,
        Product("1", inner, bias),
        Acted(act),
        Product("2", d, bias),
    )
    patch = seen.size("patch_size", default=16)
    # How the image processor cuts images.
    for key in ("encoder_patch_size", "tile_size", "max_tiles", "min_tiles", "use_thumbnail",
                "max_image_tokens", "min_image_tokens", "max_pixels_tolerance",
                "do_image_splitting", "use_image_special_tokens"):  # fmt: skip
        fields.values.get(key)
    eyes = PatchTower(
        at=at,
        feed=feed,
        norm=LAYER_NORM,
        layers=seen.size("num_hidden_layers"),
        channels=Integer(seen.size("num_channels", default=3)),
        patch=Integer(patch),
        frames=None,
        merge=Integer(factor),
        out=d,
        rows=Integer(seen.size("num_patches", default=256)),
        back=LAYER_NORM,
        steps=steps,
        processor=Squares(int(patch * factor), said=UNKNOWN_PIXELS),
    )
    return before(stack, reading, eyes)


def moon_tower(seen: Fields) -> PatchTower:
    """MoonViT, with a norm behind it; the file has names of its own, or those of transformers."""
    seen = seen.renamed(
        hidden_size="vt_hidden_size",
        intermediate_size="vt_intermediate_size",
        num_attention_heads="vt_num_attention_heads",
        num_hidden_layers="vt_num_hidden_layers",
        pos_emb_height="init_pos_emb_height",
        pos_emb_width="init_pos_emb_width",
        pos_emb_time="init_pos_emb_time",
    )
    d, heads = seen.size("hidden_size", default=1152), seen.size("num_attention_heads", default=16)
    seen.require("mm_projector_type", "patchmerger")
    seen.require("merge_type", "sd2_tpool")
    seen.require("pos_emb_type", "divided_fixed")
    seen.require("video_attn_type", "spatial_temporal")
    seen.require("mm_hidden_size", d)
    side = sizes(seen, "merge_kernel_size", (2, 2))
    if len(side) != 2 or side[0] != side[1]:
        raise ModelError(f"{seen.name}: 'merge_kernel_size' = {side}: a square is supported")
    # A still image has one frame, to which no time is added.
    seen.values.get("pos_emb_time")
    width = divided(seen, d, heads, "vision width over heads")
    rows = seen.size("pos_emb_height", default=64) * seen.size("pos_emb_width", default=64)
    patch = seen.size("patch_size", default=14)
    return PatchTower(
        at=Heads(Integer(d), Integer(heads), width, True, True, True, rotary=width),
        feed=FeedForward(
            Integer(d),
            Integer(seen.size("intermediate_size", default=4304)),
            activation_of(seen, "hidden_act", default="gelu_pytorch_tanh"),
            gated=False,
            bias=True,
        ),
        norm=LAYER_NORM,
        layers=seen.size("num_hidden_layers", default=27),
        channels=Integer(3),
        patch=Integer(patch),
        frames=None,
        merge=Integer(side[0]),
        out=Integer(d),
        rows=Integer(rows),
        back=LAYER_NORM,
        processor=Squares(patch * side[0], said=UNKNOWN_PIXELS),
    )


def _kimi_k25(fields: Fields) -> Reading:
    """MoonViT in front of Kimi K2."""
    stack, reading = language(fields, "kimi_k2")
    seen = fields.section("vision_config")
    eyes = moon_tower(seen)
    d, square = eyes.at.d, eyes.merge**2
    seen.require("text_hidden_size", int(stack.ends.d))
    fields.require("projection_hidden_size", int(d))
    steps: Steps = (
        Normed(LAYER_NORM),
        Beside(square, copied=True),
        Product("1", d * square),
        Acted(activation_of(seen, "projector_hidden_act", default="gelu")),
        Product("2", stack.ends.d),
    )
    return before(stack, reading, replace(eyes, steps=steps, out=stack.ends.d))


def exaone_tower(seen: Fields, out: Any = None) -> PatchTower:
    """The tower of Qwen2.5-VL with fewer key heads."""
    return windowed_tower(seen.with_defaults(num_key_value_heads=8), out)


def _exaone4_5(fields: Fields) -> Reading:
    """The tower of Qwen2.5-VL with fewer key heads in front of EXAONE 4."""
    stack, reading = language(fields, "exaone4", tied=False)
    return before(stack, reading, exaone_tower(fields.section("vision_config"), stack.ends.d))


def _cosmos3_edge(fields: Fields) -> Reading:
    """SigLIP 2 for images of any size, and squares of its patches through two products."""
    fields.refuse("tie_word_embeddings", "the class has logits of its own either way")
    stack, reading = language(
        fields, "cosmos3_edge_text", tied=False, hidden_size=2048, intermediate_size=9216,
        num_hidden_layers=28, num_attention_heads=16, head_dim=128, vocab_size=131072,
    )  # fmt: skip
    seen = fields.section("vision_config").with_defaults(
        hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16
    )
    at, feed = tower_of(seen, activation_of(seen, "hidden_act", default="gelu_pytorch_tanh"))
    rows, merge = seen.size("num_patches", default=256), seen.size("spatial_merge_size", default=2)
    if isqrt(rows) ** 2 != rows:
        raise ModelError(f"{seen.name}: 'num_patches' = {rows} is no square")
    d, patch = stack.ends.d, seen.size("patch_size", default=16)
    common = {
        "channels": Integer(seen.size("num_channels", default=3)),
        "patch": Integer(patch),
        "frames": None,
        "merge": Integer(merge),
        "out": d,
    }
    steps: Steps = (
        Normed(LAYER_NORM),
        Beside(Integer(merge**2)),
        Product("fc1", Integer(fields.size("projector_hidden_size", default=11520))),
        Acted("gelu"),
        Product("fc2", d),
    )
    eyes = PatchTower(
        at=at,
        feed=feed,
        norm=LAYER_NORM,
        layers=seen.size("num_hidden_layers"),
        rows=Integer(rows),
        back=LAYER_NORM,
        steps=steps,
        processor=squares(common, PIXELS_3),
        **common,
    )
    return before(stack, reading, eyes)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "mistral3": _mistral3,
        "lighton_ocr": _lighton_ocr,
        "lfm2_vl": _lfm2_vl,
        "kimi_k25": _kimi_k25,
        "cosmos3_edge": _cosmos3_edge,
        "exaone4_5": _exaone4_5,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "Mistral3ForConditionalGeneration": "mistral3",
        "LightOnOcrForConditionalGeneration": "lighton_ocr",
        "Lfm2VlForConditionalGeneration": "lfm2_vl",
        "KimiK25ForConditionalGeneration": "kimi_k25",
        "Kimi_K25ForConditionalGeneration": "kimi_k25",
        "Cosmos3EdgeForConditionalGeneration": "cosmos3_edge",
        "Exaone4_5_ForConditionalGeneration": "exaone4_5",
    }
)
