"""Language models that see: Qwen's VL models and 3.5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward, Norm, Stack
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import PatchTower
from costgraph.models.blocks.pictures import Squares
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.decoder import Decoder
from costgraph.models.families import cohere, experts, hybrid, hybrid_experts, qwen
from costgraph.models.families.absent import named
from costgraph.models.families.common import Family, Reading, activation_of, class_of
from costgraph.models.families.vision import MOST_ENTRIES
from costgraph.models.fields import Fields, divided, widened
from costgraph.models.multimodal import Seeing

RMS = Norm()
#: Vision layers that are believed.
MOST_LAYERS = 1024


def text_of(fields: Fields, kind: str, tied: bool | None = None) -> Fields:
    """The language model's keys: a section of their own, or the configuration itself.

    ``kind`` is the type of the part, whose class says what absent keys are; ``tied`` is what
    the class of the whole takes where the file does not say it.
    """
    text = hybrid.text_of(fields, tied)
    if text is fields:  # the whole file's type is not that of the part
        text = text.with_values(model_type=kind)
        text = text if tied is None else text.with_defaults(tie_word_embeddings=tied)
    return named(text, kind)


def stack_of(fields: Fields, reading: Reading) -> Stack:
    model = reading.model
    if isinstance(model, Decoder):
        return model.stack()
    if isinstance(model, Stack):
        return model
    raise ModelError(f"{fields.name}: a vision tower in front of this language model")


def _indexes(fields: Fields, key: str, layers: int, default: tuple[int, ...]) -> tuple[int, ...]:
    """Numbers of layers, rising, under ``key``."""
    given = fields.values.get(key)
    if given is None:
        given = list(default)
    if not isinstance(given, list) or len(given) > MOST_ENTRIES:
        raise ModelError(f"{fields.name}: {key!r} must be a list of layers, not {clip(given)}")
    if any(type(i) is not int or not 0 <= i < layers for i in given):
        raise ModelError(f"{fields.name}: {key!r} = {clip(given)}: there are {layers} layers")
    if given != sorted(set(given)):
        raise ModelError(f"{fields.name}: {key!r} = {clip(given)} must rise")
    return tuple(given)


def _heads(seen: Fields, d: int) -> Heads:
    heads = seen.size("num_heads", default=16)
    width = divided(seen, d, heads, "vision width over heads")
    return Heads(Integer(d), Integer(heads), width, True, True, True, fused=True, rotary=width)


def _depth(seen: Fields, default: int) -> int:
    layers = seen.size("depth", default=default)
    if layers > MOST_LAYERS:
        raise ModelError(f"{seen.name}: 'depth' = {layers} is beyond {MOST_LAYERS}")
    return layers


#: What is said where nothing tells how large or small pictures may be.
UNKNOWN_PIXELS = "limits of the image processor on the number of pixels are not known here"
#: Pixels of pictures and of frames that the published processors of Qwen2-VL and 2.5 allow.
_PIXELS = {
    "least": 3136,
    "most": 12845056,
    "least_video": 128 * 28**2,
    "most_video": 768 * 28**2,
}
#: Those of Qwen3-VL and 3.5, of which a video's are counted together.
PIXELS_3 = {
    "least": 65536,
    "most": 16777216,
    "least_video": 4096,
    "most_video": 25165824,
    "together": True,
}


def squares(common: Mapping[str, Any], pixels: Mapping[str, Any]) -> Squares:
    """The processor of a tower that sees squares of patches, within numbers of pixels."""
    side, frames = int(common["patch"] * common["merge"]), int(common["frames"] or 1)
    said = (
        "image tokens are counted within the numbers of pixels of the published processor: "
        f"{pixels['least']} to {pixels['most']} of a picture, {pixels['least_video']} to "
        f"{pixels['most_video']} of a {'video' if 'together' in pixels else 'frame'}"
        if pixels
        else UNKNOWN_PIXELS
    )
    return Squares(side, frames=frames, said=said, **pixels)


def _common(seen: Fields, out: int) -> dict[str, Any]:
    return {
        "channels": Integer(seen.size("in_channels", "in_chans", default=3)),
        "patch": Integer(seen.size("patch_size", default=14)),
        "frames": Integer(seen.size("temporal_patch_size", default=2)),
        "merge": Integer(seen.size("spatial_merge_size", default=2)),
        "out": Integer(out),
    }


def fitting(fields: Fields, eyes: PatchTower, d: Expr) -> PatchTower:
    """The tower, whose rows are as wide as the language model takes them.

    Raises:
        ModelError: they are not ``d`` wide.
    """
    if eyes.out != d:
        raise ModelError(
            f"{fields.name}: the vision tower makes rows of {eyes.out}, the language model takes "
            f"{d}"
        )
    return eyes


def _seeing(fields: Fields, eyes: PatchTower, reading: Reading) -> Reading:
    text = stack_of(fields, reading)
    fitting(fields, eyes, text.ends.d)
    if eyes.deep > int(text.segments[0].count):
        raise ModelError(f"{fields.name}: more places of deepstack than equal first layers")
    return replace(reading, model=Seeing(eyes, text, reading.scans))


def qwen2_tower(seen: Fields) -> PatchTower:
    """The tower of Qwen2-VL."""
    d = seen.size("embed_dim", default=1280)
    act = activation_of(seen, "hidden_act", default="quick_gelu")
    width = widened(seen, "mlp_ratio", 4.0, d)
    common = _common(seen, seen.size("hidden_size", default=3584))
    return PatchTower(
        at=_heads(seen, d),
        feed=FeedForward(Integer(d), width, act, gated=False, bias=True),
        norm=LAYER_NORM,
        layers=_depth(seen, 32),
        bias=False,
        processor=squares(common, _PIXELS),
        **common,
    )


def _qwen2_vl(fields: Fields) -> Reading:
    eyes = qwen2_tower(fields.section("vision_config"))
    return _seeing(fields, eyes, qwen.FAMILIES["qwen2"](text_of(fields, "qwen2_vl_text")))


def windowed_tower(
    seen: Fields, out: Expr | None = None, pixels: Mapping[str, Any] = MappingProxyType({})
) -> PatchTower:
    """The tower of Qwen2.5-VL: most layers attend in windows of the image.

    ``pixels`` are those that its processor allows, where they are known.

    Raises:
        ModelError: its rows are not ``out`` wide, where that is given.
    """
    d = seen.size("hidden_size", default=3584)
    layers = _depth(seen, 32)
    common = _common(seen, seen.size("out_hidden_size", default=3584))
    if out is not None and common["out"] != out:
        raise ModelError(
            f"{seen.name}: 'out_hidden_size' = {common['out']}, the language model takes {out}"
        )
    side = seen.size("window_size", default=112)
    across = side // (int(common["patch"]) * int(common["merge"])) * int(common["merge"])
    if not across:
        raise ModelError(f"{seen.name}: 'window_size' = {side} holds no token")
    act = activation_of(seen, "hidden_act", default="silu")
    at = _heads(seen, d)
    few = seen.size("num_key_value_heads", default=int(at.heads))
    return PatchTower(
        at=at if few == at.heads else replace(at, kv_heads=Integer(few)),
        feed=FeedForward(
            Integer(d), Integer(seen.size("intermediate_size", default=3420)), act, bias=True
        ),
        norm=RMS,
        layers=layers,
        bias=False,
        window=Integer(across**2),
        whole=_indexes(seen, "fullatt_block_indexes", layers, (7, 15, 23, 31)),
        processor=squares(common, pixels),
        **common,
    )


def qwen2_5_vl(fields: Fields, text: str = "qwen2_5_vl_text", tied: bool | None = None) -> Reading:
    """Qwen2.5-VL, or what has another type of language model behind its tower."""
    eyes = windowed_tower(fields.section("vision_config"), pixels=_PIXELS)
    return _seeing(fields, eyes, qwen.FAMILIES["qwen2"](text_of(fields, text, tied)))


def qwen3_tower(seen: Fields) -> PatchTower:
    """The tower of Qwen3-VL and 3.5."""
    d = seen.size("hidden_size", default=1152)
    layers = _depth(seen, 27)
    act = activation_of(seen, "hidden_act", default="gelu_pytorch_tanh")
    width = Integer(seen.size("intermediate_size", default=4304))
    common = _common(seen.with_defaults(patch_size=16), seen.size("out_hidden_size", default=3584))
    return PatchTower(
        at=_heads(seen, d),
        feed=FeedForward(Integer(d), width, act, gated=False, bias=True),
        norm=LAYER_NORM,
        layers=layers,
        rows=Integer(seen.size("num_position_embeddings", default=2304)),
        deepstack=_indexes(seen, "deepstack_visual_indexes", layers, (8, 16, 24)),
        processor=squares(common, PIXELS_3),
        **common,
    )


def _qwen3_vl(fields: Fields) -> Reading:
    eyes = qwen3_tower(fields.section("vision_config"))
    return _seeing(fields, eyes, qwen.FAMILIES["qwen3"](text_of(fields, "qwen3_vl_text")))


def _compass(fields: Fields) -> Reading:
    """Cohere's North: Qwen3-VL's tower in front of layers of Cohere 2."""
    eyes = qwen3_tower(fields.section("vision_config"))
    return _seeing(fields, eyes, cohere.compass_text(text_of(fields, "cohere_compass_text", True)))


def _qwen3_5_seeing(fields: Fields, language: Family, text: str) -> Reading:
    alone = (class_of(fields.values) or "").endswith("ForCausalLM")
    if alone or fields.values.get("vision_config") is None:
        return language(text_of(fields, text))
    seen = fields.section("vision_config").with_defaults(deepstack_visual_indexes=[])
    return _seeing(fields, qwen3_tower(seen), language(text_of(fields, text)))


def _qwen3_5(fields: Fields) -> Reading:
    return _qwen3_5_seeing(fields, hybrid.FAMILIES["qwen3_5_text"], "qwen3_5_text")


def _qwen3_5_moe(fields: Fields) -> Reading:
    return _qwen3_5_seeing(fields, hybrid_experts.qwen3_5_moe, "qwen3_5_moe_text")


def qwen3_vl_moe(
    fields: Fields, text: str = "qwen3_vl_moe_text", tied: bool | None = None
) -> Reading:
    """Qwen3-VL with experts, or what has another type of language model behind its tower."""
    eyes = qwen3_tower(fields.section("vision_config"))
    return _seeing(fields, eyes, experts.FAMILIES["qwen3_moe"](text_of(fields, text, tied)))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "qwen2_vl": _qwen2_vl,
        "qwen2_5_vl": qwen2_5_vl,
        "cohere_compass": _compass,
        "qwen3_vl": _qwen3_vl,
        "qwen3_5": _qwen3_5,
        "qwen3_5_moe": _qwen3_5_moe,
        "qwen3_vl_moe": qwen3_vl_moe,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "Qwen2VLForConditionalGeneration": "qwen2_vl",
        "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl",
        "CohereCompassForConditionalGeneration": "cohere_compass",
        "Qwen3VLForConditionalGeneration": "qwen3_vl",
        "Qwen3_5ForConditionalGeneration": "qwen3_5",
        "Qwen3_5MoeForConditionalGeneration": "qwen3_5_moe",
        "Qwen3VLMoeForConditionalGeneration": "qwen3_vl_moe",
    }
)
