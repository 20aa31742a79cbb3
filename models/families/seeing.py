"""Language models behind a vision transformer and a projector: one rule for all of them.

``vision_config`` is read into a tower, ``text_config`` by the family that its
``model_type`` names; what stands between them is a row of projector steps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Integer, Rational, sqrt

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward, Norm, Stack
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import WHOLE, FixedTower
from costgraph.models.blocks.pictures import AnyRes, Canvas, Enlarged, Tiles
from costgraph.models.blocks.projector import (
    Acted,
    Averaged,
    Beside,
    Normed,
    Product,
    Steps,
    two_products,
)
from costgraph.models.blocks.style import Style
from costgraph.models.blocks.tower import LAYER_NORM, Pooling
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.language import before, language
from costgraph.models.families.vision import (
    MOST_ENTRIES,
    clip_tower,
    patches_of,
    pixels,
    sizes,
    tower_of,
)
from costgraph.models.fields import Fields, widened
from costgraph.models.vision import Tower

RMS = Norm()
#: What configurations of SigLIP leave out.
SIGLIP: Mapping[str, int] = MappingProxyType(
    {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    }
)


def _siglip_head(seen: Fields, at: Heads, feed: FeedForward) -> Pooling | None:
    return Pooling(at, feed) if seen.flag("vision_use_head", True) else None


def siglip_tower(seen: Fields, **left_out: Any) -> Tower:
    """SigLIP's tower: no class token, a norm behind, and a head that pools by attention."""
    seen = seen.with_defaults(**{**SIGLIP, "patch_size": 16, **left_out})
    at, feed = tower_of(seen, activation_of(seen, "hidden_act", default="gelu_pytorch_tanh"))
    size, patch = pixels(seen), seen.size("patch_size")
    patches = patches_of(seen, at.d, size, patch, first=0)
    layers = Integer(seen.size("num_hidden_layers"))
    return Tower(patches, at, feed, layers, size, head=_siglip_head(seen, at, feed))


def _side(fields: Fields, tower: Tower, tokens: int) -> tuple[Any, Any]:
    """The grid of a tower, and the sides of windows that leave ``tokens`` of it.

    Raises:
        ModelError: the grid is no such square.
    """
    grid = tower.grid
    across = sqrt(Integer(tokens))
    if not across.is_Integer or any(n % across for n in grid):
        raise ModelError(f"{fields.name}: {tokens} tokens of a grid of {grid[0]} x {grid[1]}")
    return grid, tuple(n / across for n in grid)


def _gemma3(fields: Fields) -> Reading:
    stack, reading = language(fields, "gemma3_text")
    tokens = fields.size("mm_tokens_per_image", default=256)
    if fields.values.get("vision_config") is None:
        return reading
    tower = siglip_tower(fields.section("vision_config"))
    grid, kernel = _side(fields, tower, tokens)
    d = stack.ends.d
    steps: Steps = (Averaged(grid, kernel), Normed(RMS), Product("1", d, False))
    eyes = FixedTower(tower, steps, d, normed=True, said=WITHIN)
    return before(stack, reading, eyes.whole)


#: Products of a projector that are believed.
MOST_PRODUCTS = 64
#: Tiles of a picture that are believed.
MOST_TILES = 64
CUT = (
    f"{WHOLE}; where no size of a picture says how many there are, tokens that are cut off at "
    "edges, and ends of rows, are not counted"
)
WITHIN = (
    f"{WHOLE}; in the prompt the tokens of an image see one another in both directions: "
    "their later pairs are not counted"
)


def _paligemma(fields: Fields) -> Reading:
    stack, reading = language(fields, "gemma")
    tower = siglip_tower(fields.section("vision_config"))
    # The published class overwrites the tower's key with that of the whole model.
    inner = fields.section("vision_config").size("projection_dim", default=2048)
    width = fields.size("projection_dim", default=inner)
    if Integer(width) != stack.ends.d:
        raise ModelError(
            f"{fields.name}: the projector makes rows of {width}, the language model takes "
            f"{stack.ends.d}"
        )
    # The parts have these keys of their own; the class reads no others.
    for key in ("hidden_size", "vocab_size"):
        fields.values.get(key)
    steps: Steps = (Product("1", stack.ends.d),)
    said = f"{WHOLE}; all of the prompt sees all of it"
    eyes = FixedTower(tower, steps, stack.ends.d, normed=True, said=said)
    return before(stack, reading, eyes.whole, both=True)


def squares_beside(fields: Fields, tower: Tower, key: str) -> Beside:
    """Squares of patches side by side, as many to a side as ``key`` says, or two.

    Raises:
        ModelError: the tower's grid is none of such squares.
    """
    factor, grid = fields.size(key, default=2), tower.grid
    if any(n % factor for n in grid):
        raise ModelError(f"{fields.name}: {key!r} = {factor} does not divide a grid of {grid[0]}")
    return Beside(Integer(factor**2), copied=True)


def _idefics3(fields: Fields, videos: bool = False) -> Reading:
    stack, reading = language(fields, "llama", tied=False)
    seen = fields.section("vision_config").with_values(vision_use_head=False)
    tower = siglip_tower(seen, hidden_size=1152, num_attention_heads=16, patch_size=32)
    d = stack.ends.d
    steps: Steps = (squares_beside(fields, tower, "scale_factor"), Product("1", d, False))
    eyes = FixedTower(tower, steps, d, normed=True)
    side = int(tower.size[0])
    said = (
        f"pictures are scaled to {4 * side} pixels and cut into tiles beside the whole, as the "
        "published processors do"
    )
    cut = Enlarged(side, int(eyes.tokens(Style())), 4 * side, videos, said)
    return before(stack, reading, replace(eyes, processor=cut))


def _smolvlm(fields: Fields) -> Reading:
    return _idefics3(fields, videos=True)


def _llava_onevision(fields: Fields) -> Reading:
    fields.require("vision_feature_layer", -1)
    fields.require("vision_feature_select_strategy", "full")
    # As the published class: files of these models say it inside, and false outside.
    fields.values.get("tie_word_embeddings")
    inner = fields.section("text_config").values.get("tie_word_embeddings")
    if inner:
        fields = fields.with_values(tie_word_embeddings=inner)
    stack, reading = language(fields, "qwen2")
    tower = siglip_tower(fields.section("vision_config"))
    d = stack.ends.d
    act = activation_of(fields, "projector_hidden_act", default="gelu")
    steps = two_products(d, act, fields.flag("multimodal_projector_bias", True))
    most = _ANYRES.match(fields.word("vision_aspect_ratio", default="anyres_max_9"))
    if most is None:
        raise ModelError(f"{fields.name}: 'vision_aspect_ratio' must be anyres_max_N")
    processor = _any_resolution(fields, tower, int(most[1]), True)
    eyes = FixedTower(tower, steps, d, said=CUT, newline=True, processor=processor)
    return before(stack, reading, eyes)


def _llava_next(fields: Fields) -> Reading:
    fields.require("vision_feature_layer", -2)
    fields.require("vision_feature_select_strategy", "default")
    stack, reading = language(fields, "llama", tied=False)
    tower = clip_tower(
        fields.section("vision_config").with_defaults(**SIGLIP, image_size=224, patch_size=32)
    )
    if tower.layers < 2:
        raise ModelError(f"{fields.name}: a tower of {tower.layers} layers: two or more")
    d = stack.ends.d
    act = activation_of(fields, "projector_hidden_act", default="gelu")
    steps = two_products(d, act, fields.flag("multimodal_projector_bias", True))
    eyes = FixedTower(
        tower, steps, d, late=1, said=CUT, newline=True, processor=_any_resolution(fields, tower)
    )
    return before(stack, reading, eyes)


#: How many tiles' rows are kept of a picture.
_ANYRES = re.compile(r"anyres_max_(\d{1,3})\Z")


def _any_resolution(
    fields: Fields, tower: Tower, most: int | None = None, pooled: bool = False
) -> AnyRes | None:
    """The processor of LLaVA-NeXT and OneVision; None without the grids of a picture."""
    given = fields.values.get("image_grid_pinpoints")
    if given is None:
        return None
    grids = []
    for grid in given if isinstance(given, list) and len(given) <= MOST_ENTRIES else ():
        if not (isinstance(grid, list) and len(grid) == 2 and all(type(n) is int for n in grid)):
            break
        grids.append((grid[0], grid[1]))
    if not grids or len(grids) != len(given) or any(n < 1 for g in grids for n in g):
        raise ModelError(
            f"{fields.name}: 'image_grid_pinpoints' must be a list of heights and widths, not "
            f"{clip(given)}"
        )
    side, patch = int(tower.size[0]), int(tower.patches.patch[0])
    return AnyRes(side, side // patch, tuple(grids), most, pooled)


def _shuffled(fields: Fields, tower: Tower, key: str) -> Integer:
    """How many patches one token is made of, from the ratio of sides under ``key``."""
    ratio = Rational(str(fields.fraction(key, 0.5)))
    side = 1 / ratio
    grid = tower.grid
    if not side.is_Integer or any(n % side for n in grid):
        raise ModelError(
            f"{fields.name}: {key!r} = {ratio} of a grid of {grid[0]} x {grid[1]} patches"
        )
    return Integer(side**2)


def internvit(seen: Fields, qkv: bool) -> Tower:
    """InternViT: a class token, layers that scale what their blocks make.

    ``qkv`` is whether queries, keys and values have biases where the file does not say so.
    """
    seen = seen.with_defaults(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16
    )
    at, feed = tower_of(
        seen.with_values(qkv_bias=qkv), activation_of(seen, "hidden_act", default="gelu")
    )
    kind = seen.word("norm_type", default="layer_norm")
    if kind not in ("layer_norm", "rms_norm"):
        raise ModelError(f"{seen.name}: 'norm_type' = {clip(kind)} is not supported")
    size = pixels(seen, 448)
    sides = {14}
    if isinstance(seen.values.get("patch_size"), list):
        sides = set(sizes(seen, "patch_size"))
    elif seen.values.get("patch_size") is not None:
        sides = {seen.size("patch_size")}
    if len(sides) != 1:
        raise ModelError(f"{seen.name}: 'patch_size' = {sorted(sides)}: a square is supported")
    (patch,) = sides
    patches = patches_of(seen, at.d, size, patch)
    layers = Integer(seen.size("num_hidden_layers"))
    norm = LAYER_NORM if kind == "layer_norm" else RMS
    return Tower(patches, at, feed, layers, size, back=None, scaled=True, norm=norm)


def _internvl(fields: Fields, text: str = "qwen2", bias: bool = False) -> Reading:
    fields.require("vision_feature_layer", -1)
    fields.require("vision_feature_select_strategy", "default")
    seen = fields.section("vision_config")
    seen.require("use_mean_pooling", True)
    seen.require("use_absolute_position_embeddings", True)
    seen.refuse("use_mask_token", "a mask token is not supported")
    seen.refuse("use_qk_norm", "norms of queries and keys are not supported in this tower")
    stack, reading = language(fields, text)
    tower = internvit(seen, seen.flag("attention_bias", bias))
    act = activation_of(fields, "projector_hidden_act", default="gelu")
    fields.values.get("image_seq_length")
    said = "pictures are cut into 1 to 12 tiles, as the published processors do"
    eyes = _intern_eyes(fields, tower, stack, act)
    return before(stack, reading, _in_tiles(eyes, said=said))


def _qianfan_ocr(fields: Fields) -> Reading:
    """InternVL in front of Qwen3."""
    return _internvl(fields, "qwen3", bias=True)


def _deepseek_vl(fields: Fields) -> Reading:
    """SigLIP's tower and two products (arXiv 2403.05525); its head runs, and nothing reads it."""
    stack, reading = language(fields, "llama", tied=True)
    tower = siglip_tower(fields.section("vision_config"))
    d = stack.ends.d
    eyes = FixedTower(tower, two_products(d, "gelu", True), d, normed=True)
    return before(stack, reading, eyes.whole)


#: What is said of the parts of Janus that make images.
DRAWS = (
    "reading images is counted, in time and memory: what makes images (the image tokenizer, its "
    "embeddings, aligner and head) is left out"
)


def _janus(fields: Fields) -> Reading:
    """Janus, which reads images by SigLIP's layers and some products (arXiv 2410.13848)."""
    stack, reading = language(fields, "llama", tied=True)
    fields.values.get("vq_config")
    seen = fields.section("vision_config").with_defaults(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, image_size=384
    )
    seen.require("use_qk_norm", False)
    seen.values.get("num_image_tokens")
    act = activation_of(seen, "hidden_act", default="gelu")
    wide = widened(seen, "mlp_ratio", 4.0, seen.size("hidden_size"))
    tower = siglip_tower(
        seen.with_values(
            intermediate_size=int(wide),
            hidden_act=act,
            qkv_bias=seen.flag("attention_bias", True),
            vision_use_head=False,
        )
    )
    d = stack.ends.d
    if Integer(seen.size("projection_dim", default=2048)) != d:
        raise ModelError(f"{seen.name}: 'projection_dim' must be the language model's {d}")
    depth = seen.size("depth", default=2)
    if depth > MOST_PRODUCTS:
        raise ModelError(f"{seen.name}: 'depth' = {depth}: at most {MOST_PRODUCTS} products")
    steps: Steps = (Product("1", d),)
    for index in range(2, depth + 1):
        steps += (Acted(act, f"act{index}"), Product(f"{index}", d))
    made = before(stack, reading, FixedTower(tower, steps, d, normed=True).whole)
    return replace(made, assumptions=(*made.assumptions, DRAWS))


def _llava_next_video(fields: Fields) -> Reading:
    """LLaVA-NeXT, which pools the patches of frames; images are as there."""
    for key in ("spatial_pool_mode", "spatial_pool_stride", "video_seq_length"):
        fields.values.get(key)
    found = _llava_next(fields)
    said = "G counts tokens of images; those of videos, whose patches are pooled, are not counted"
    return replace(found, assumptions=(*found.assumptions, said))


def _intern_eyes(fields: Fields, tower: Tower, stack: Stack, act: str) -> FixedTower:
    d = stack.ends.d
    beside = Beside(_shuffled(fields, tower, "downsample_ratio"), copied=True)
    steps: Steps = (beside, Normed(LAYER_NORM), *two_products(d, act, True))
    return FixedTower(tower, steps, d)


def _in_tiles(eyes: FixedTower, **more: Any) -> FixedTower:
    """The tower of InternVL where pictures are cut into tiles."""
    tokens = int(eyes.tokens(Style()))
    return replace(eyes, processor=Tiles(int(eyes.tower.size[0]), tokens, **more))


def _internvl_chat(fields: Fields) -> Reading:
    """The files of InternVL's own code, which names its keys otherwise."""
    fields.require("select_layer", -1)
    fields.require("ps_version", "v2", "v1")
    for key in ("use_backbone_lora", "use_llm_lora"):
        fields.refuse(key, "adapters beside the weights are not supported")
    fields.values.get("force_image_size")
    seen = fields.section("vision_config")
    seen = seen.with_defaults(image_size=fields.size("force_image_size", default=448))
    seen.refuse("qk_normalization", "norms of queries and keys are not supported in this tower")
    stack, reading = language(fields, "qwen2", "llm_config")
    tower = internvit(seen, seen.flag("qkv_bias", True))
    eyes = _intern_eyes(fields, tower, stack, "gelu")
    least = fields.size("min_dynamic_patch", default=1)
    most = fields.size("max_dynamic_patch", default=6)
    if not least <= most <= MOST_TILES:
        raise ModelError(
            f"{fields.name}: 'min_dynamic_patch' = {least}, 'max_dynamic_patch' = {most}: from 1 "
            f"to {MOST_TILES} tiles"
        )
    whole = fields.flag("use_thumbnail", False)
    if not fields.flag("dynamic_image_size", False):
        return before(stack, reading, eyes.whole)
    return before(stack, reading, _in_tiles(eyes, least=least, most=most, whole=whole))


#: Sizes of Llama 4's tower by default: four patches of 768 beside one another are not 5632, and
#: what the projector makes of them is not the 7680 that the language model would take.
_LLAMA4_UNFIT: Mapping[str, float] = MappingProxyType(
    {
        "hidden_size": 768,
        "intermediate_size": 5632,
        "pixel_shuffle_ratio": 0.5,
        "projector_input_dim": 4096,
        "projector_output_dim": 4096,
        "vision_output_dim": 7680,
    }
)


def llama4(fields: Fields) -> Reading:
    """Llama 4, with its tower where the file has one."""
    # The part is a class of its own, which ties, or does not, by its own key.
    fields.values.get("tie_word_embeddings")
    inner = fields.section("text_config").flag("tie_word_embeddings", False)
    stack, reading = language(fields.with_values(tie_word_embeddings=inner), "llama4_text")
    if fields.values.get("vision_config") is None:
        return reading
    if all(fields.glimpse("vision_config", k) in (None, v) for k, v in _LLAMA4_UNFIT.items()):
        fields.tell(
            "'vision_config' has the sizes that the class has by default, which do not fit one "
            "another and run nowhere: transformers 5 writes them for a file without a tower"
        )
        return reading
    seen = fields.section("vision_config").with_defaults(
        hidden_size=768,
        intermediate_size=5632,
        num_hidden_layers=34,
        num_attention_heads=16,
        image_size=448,
        patch_size=14,
        hidden_act="gelu",
    )
    seen.require("vision_feature_select_strategy", "default")
    seen.require("vision_feature_layer", -1)
    seen.refuse("multi_modal_projector_bias", "a bias of the projector is not supported")
    plain = clip_tower(seen)
    at = Heads(
        plain.at.d,
        plain.at.heads,
        plain.at.head_dim,
        qv_bias=True,
        k_bias=True,
        out_bias=True,
        rotary=plain.at.head_dim,
    )
    tower = Tower(plain.patches, at, plain.feed, plain.layers, plain.size, front=LAYER_NORM)
    inner = Integer(seen.size("projector_input_dim", default=4096))
    made = seen.size("projector_output_dim", default=4096)
    count = _shuffled(seen, tower, "pixel_shuffle_ratio")
    if seen.size("vision_output_dim", default=7680) != made or inner != made:
        raise ModelError(
            f"{seen.name}: 'projector_input_dim', 'projector_output_dim' and "
            "'vision_output_dim' differ"
        )
    if count * tower.at.d != tower.feed.width:
        raise ModelError(
            f"{seen.name}: 'intermediate_size' must be {count} times 'hidden_size': the projector "
            "takes as much"
        )
    d = stack.ends.d
    steps: Steps = (
        Beside(count, copied=True),
        Product("fc1", inner, False),
        Acted("gelu"),
        Product("fc2", Integer(made), False),
        Acted("gelu", "act2"),
        Product("1", d, False),
    )
    eyes = FixedTower(tower, steps, d, normed=True)
    said = "pictures are cut into up to 16 tiles beside the whole, as the published processor does"
    cut = Canvas(int(tower.size[0]), int(eyes.tokens(Style())), said=said)
    return before(stack, reading, replace(eyes, processor=cut))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "gemma3": _gemma3,
        "paligemma": _paligemma,
        "idefics3": _idefics3,
        "smolvlm": _smolvlm,
        "llava_onevision": _llava_onevision,
        "llava_next": _llava_next,
        "llava_next_video": _llava_next_video,
        "deepseek_vl": _deepseek_vl,
        "janus": _janus,
        "qianfan_ocr": _qianfan_ocr,
        "internvl": _internvl,
        "internvl_chat": _internvl_chat,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "Gemma3ForConditionalGeneration": "gemma3",
        "PaliGemmaForConditionalGeneration": "paligemma",
        "Idefics3ForConditionalGeneration": "idefics3",
        "SmolVLMForConditionalGeneration": "smolvlm",
        "LlavaOnevisionForConditionalGeneration": "llava_onevision",
        "LlavaNextForConditionalGeneration": "llava_next",
        "LlavaNextVideoForConditionalGeneration": "llava_next_video",
        "DeepseekVLForConditionalGeneration": "deepseek_vl",
        "JanusForConditionalGeneration": "janus",
        "QianfanOCRForConditionalGeneration": "qianfan_ocr",
        "InternVLForConditionalGeneration": "internvl",
        "InternVLChatModel": "internvl_chat",
    }
)
