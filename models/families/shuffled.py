"""Language models behind towers whose squares of patches pass a gated projector, or a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import FeedForward, Norm
from costgraph.models.blocks.eyes import WHOLE, FixedTower
from costgraph.models.blocks.projector import Halves, Normed, Product, Softly, Steps
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.language import before, language
from costgraph.models.families.seeing import siglip_tower, squares_beside
from costgraph.models.families.vision import patches_of, pixels, tower_of
from costgraph.models.fields import Fields
from costgraph.models.vision import Tower

RMS = Norm()


def _squares(fields: Fields, normed: bool, width: int | None) -> Reading:
    """Squares side by side, a norm or none, and a product whose halves gate one another."""
    stack, reading = language(fields, "cohere2")
    d = stack.ends.d
    tower = siglip_tower(fields.section("vision_config"))
    beside = squares_beside(fields, tower, "downsample_factor")
    default = int(d) if width is None else width
    inner = fields.size("alignment_intermediate_size", default=default)
    if inner % 2:
        raise ModelError(f"{fields.name}: 'alignment_intermediate_size' = {inner} has no halves")
    norms: Steps = (Normed(LAYER_NORM),) if normed else ()
    steps = (beside, *norms, Product("1", Integer(inner)), Halves("silu"), Product("2", d))
    return before(stack, reading, FixedTower(tower, steps, d, normed=True))


def _aya_vision(fields: Fields) -> Reading:
    fields.require("vision_feature_layer", -1)
    fields.require("vision_feature_select_strategy", "full")
    return _squares(fields, True, None)


def _cohere2_vision(fields: Fields) -> Reading:
    return _squares(fields, False, 36864)


def _ovis2(fields: Fields) -> Reading:
    """AIMv2's tower; rows are sums over a table of visual words, weighed by a softmax
    (arXiv 2405.20797)."""
    stack, reading = language(fields, "qwen2", tied=True)
    d = stack.ends.d
    for key, own, usual in (("hidden_size", d, 1536), ("vocab_size", stack.ends.vocab, 151643)):
        if Integer(fields.size(key, default=usual)) != own:
            raise ModelError(f"{fields.name}: {key!r} must be the language model's {own}")
    seen = fields.section("vision_config")
    tower = _aim_tower(seen)
    seen.require("tokenize_function", "softmax")
    words = seen.size("vocab_size", default=16384)
    marks = seen.size("num_visual_indicator_tokens", default=5)
    if marks >= words:
        raise ModelError(f"{seen.name}: 'num_visual_indicator_tokens' = {marks} of {words} words")
    steps: Steps = (
        squares_beside(seen.with_defaults(hidden_stride=1), tower, "hidden_stride"),
        Product("words", Integer(words - marks), False),
        Normed(LAYER_NORM),
        Softly(Integer(marks)),
        Product("table", d, False),
    )
    said = f"{WHOLE}; rows that mark where images begin and end are not counted"
    return before(stack, reading, FixedTower(tower, steps, d, normed=True, said=said))


def _aim_tower(seen: Fields) -> Tower:
    """AIMv2 (arXiv 2411.14402): gated blocks, a norm on patches, no class token."""
    seen = seen.with_defaults(
        hidden_size=1024, intermediate_size=2816, num_hidden_layers=24, num_attention_heads=8
    )
    act, bias = activation_of(seen, "hidden_act", default="silu"), seen.flag("qkv_bias", False)
    at, _ = tower_of(seen.with_values(qkv_bias=bias), act)
    width = Integer(seen.size("intermediate_size"))
    feed = FeedForward(at.d, width, act, bias=seen.flag("mlp_bias", False))
    size, patch = pixels(seen), seen.size("patch_size", default=14)
    patches = replace(patches_of(seen, at.d, size, patch, first=0), norm=RMS)
    layers = Integer(seen.size("num_hidden_layers"))
    return Tower(patches, replace(at, out_bias=bias), feed, layers, size, back=RMS, norm=RMS)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"aya_vision": _aya_vision, "cohere2_vision": _cohere2_vision, "ovis2": _ovis2}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "AyaVisionForConditionalGeneration": "aya_vision",
        "Cohere2VisionForConditionalGeneration": "cohere2_vision",
        "Ovis2ForConditionalGeneration": "ovis2",
    }
)
