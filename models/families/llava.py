"""LLaVA (Liu et al., arXiv 2304.08485), and what is made like it: any tower and two products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks.eyes import Eyes, FixedTower
from costgraph.models.blocks.projector import Normed, Steps, two_products
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.families.common import Family, Reading, activation_of, class_of
from costgraph.models.families.language import before, language
from costgraph.models.families.mobile import FAMILIES as MOBILE
from costgraph.models.families.mobile import OWN
from costgraph.models.families.patched import pixtral_tower
from costgraph.models.families.seeing import SIGLIP, siglip_tower
from costgraph.models.families.vision import MOST_ENTRIES, clip_tower
from costgraph.models.fields import Fields
from costgraph.models.multimodal import Seeing
from costgraph.models.vision import Tower

LAYER, STRATEGY = "vision_feature_layer", "vision_feature_select_strategy"


def _taps(fields: Fields, layers: int, default: object) -> tuple[int, ...]:
    """Layers in front of the features under ``vision_feature_layer``; -1 is the last one."""
    found = fields.values.get(LAYER, default)
    given = [found] if type(found) is int else found
    if not isinstance(given, list) or not 0 < len(given) <= MOST_ENTRIES:
        raise ModelError(f"{fields.name}: {LAYER!r} must be a list of layers, not {clip(found)}")
    if any(type(n) is not int for n in given):
        raise ModelError(f"{fields.name}: {LAYER!r} = {clip(found)}: numbers of layers")
    taps = tuple(n if n >= 0 else layers + 1 + n for n in given)
    if any(not 0 < tap <= layers for tap in taps):
        raise ModelError(f"{fields.name}: {LAYER!r} = {clip(found)} of {layers} layers")
    return taps


def _fixed(fields: Fields, tower: Tower, steps: Steps, out: Integer, default: object) -> FixedTower:
    """The tower where features are taken behind the layers that the file names."""
    taps = _taps(fields, int(tower.layers), default)
    several = taps if len(taps) > 1 else ()
    eyes = FixedTower(tower, steps, out, late=int(tower.layers) - max(taps), taps=several)
    return eyes.whole


def _tower(fields: Fields) -> Tower:
    """CLIP's tower or SigLIP's."""
    seen = fields.section("vision_config").with_defaults(model_type="clip_vision_model")
    if seen.word("model_type") == "siglip_vision_model":
        return siglip_tower(seen)
    return clip_tower(seen.with_defaults(**SIGLIP, image_size=224, patch_size=32))


def _eyes(fields: Fields, out: Integer) -> Eyes:
    act = activation_of(fields, "projector_hidden_act", default="gelu")
    steps = two_products(out, act, fields.flag("multimodal_projector_bias", True))
    strategy = fields.values.get(STRATEGY, "default")
    if strategy not in ("default", "full"):
        raise ModelError(f"{fields.name}: {STRATEGY!r} = {clip(strategy)}: default or full")
    seen = fields.section("vision_config")
    kind = seen.word("model_type", default="clip_vision_model")
    if kind not in ("clip_vision_model", "siglip_vision_model", "pixtral"):
        raise ModelError(
            f"{seen.name}: 'model_type' = {clip(kind)}: clip_vision_model, siglip_vision_model and "
            "pixtral are known"
        )
    if kind != "clip_vision_model" and strategy == "default":
        raise ModelError(
            f"{fields.name}: {STRATEGY!r} = 'default' drops a class token, which {kind} has not: "
            "'full'"
        )
    if kind == "pixtral":
        layers = seen.size("num_hidden_layers", default=24)
        if _taps(fields, layers, -2) != (layers,):
            raise ModelError(f"{fields.name}: {LAYER!r} must be -1, the last, of this tower")
        return pixtral_tower(seen, 1, steps, out)
    eyes = _fixed(fields, _tower(fields), steps, out, -2)
    return replace(eyes, classed=strategy == "full" and kind == "clip_vision_model").whole


def _tied(fields: Fields) -> Fields:
    """As the published class: a part that ties stands above a whole file that says it does not."""
    inner = fields.section("text_config").values.get("tie_word_embeddings")
    apart = inner and fields.values.get("tie_word_embeddings") is False
    return fields.with_values(tie_word_embeddings=inner) if apart else fields


def _llava(fields: Fields) -> Reading:
    if class_of(fields.values) == OWN:
        return MOBILE["llava_llama"](fields)
    stack, reading = language(_tied(fields), "llama")
    fields.values.get("image_seq_length")  # what the processor puts into prompts
    return before(stack, reading, _eyes(fields, stack.ends.d))


#: What is said of a second tower.
FRAMES = "the tower for frames of videos rests in memory: a request with videos is not counted"


def _video_llava(fields: Fields) -> Reading:
    """LLaVA with a second tower, of the same sizes, for frames (arXiv 2311.10122)."""
    fields.values.get("video_seq_length")  # what the processor puts into prompts
    fields.section("vision_config").require("model_type", "clip_vision_model")
    reading = _llava(fields)
    model = reading.model
    assert isinstance(model, Seeing)
    assert isinstance(model.eyes, FixedTower)
    # Both towers share the projector.
    frames = replace(model.eyes, steps=(), out=model.eyes.tower.at.d, processor=None)
    both = replace(model, resting=(frames,))
    return replace(reading, model=both, assumptions=(*reading.assumptions, FRAMES))


def _vipllava(fields: Fields) -> Reading:
    """ViP-LLaVA: features of several layers of CLIP's tower side by side (arXiv 2312.00784)."""
    stack, reading = language(fields, "llama", tied=False)
    fields.values.get("image_seq_length")
    d = stack.ends.d
    act = activation_of(fields, "projector_hidden_act", default="gelu")
    steps: Steps = (Normed(LAYER_NORM), *two_products(d, act, True))
    eyes = _fixed(fields, _tower(fields), steps, d, [-2, -5, -8, -11, 6])
    return before(stack, reading, eyes)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"llava": _llava, "video_llava": _video_llava, "vipllava": _vipllava}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "LlavaForConditionalGeneration": "llava",
        "VideoLlavaForConditionalGeneration": "video_llava",
        "VipLlavaForConditionalGeneration": "vipllava",
    }
)
