"""Models that see or hear as those of another family do, with other parts or another projector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Norm
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import PatchTower
from costgraph.models.blocks.projector import Acted, Beside, Normed, Product, Steps, two_products
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.families import asking, glm_seeing, hearing, multimodal, seeing
from costgraph.models.families.alternating import FAMILIES as ALTERNATING
from costgraph.models.families.common import Family, Reading, activation_of, class_of
from costgraph.models.families.dense import FAMILIES as DENSE
from costgraph.models.families.language import before, language
from costgraph.models.families.multimodal import stack_of, windowed_tower
from costgraph.models.families.vision import pixels, tower_of
from costgraph.models.fields import Fields, divided
from costgraph.models.hearing import Ears
from costgraph.models.multimodal import Seeing
from costgraph.ops import Split
from costgraph.ops.maps import Map
from costgraph.ops.views import Beside as Joined

RMS = Norm()


def _hyperclovax(fields: Fields) -> Reading:
    """The tower of Qwen2.5-VL and a product."""
    stack, reading = language(fields, "hyperclovax", tied=True)
    seen = fields.section("vision_config")
    eyes = windowed_tower(seen)
    d, wide, made = stack.ends.d, eyes.at.d * eyes.merge**2, eyes.out
    steps: Steps = (
        Normed(RMS),
        Beside(eyes.merge**2),
        Product("fc1", wide),
        Acted("gelu"),
        Product("fc2", made),
        Product("projector", d),
    )
    return before(stack, reading, replace(eyes, steps=steps, out=d))


#: What is said of towers that halve the grids of videos alone.
WHOLE_GRIDS = (
    "every patch of a picture is a token; those of videos, whose grids are halved, are not counted"
)


def _video_llama3(fields: Fields) -> Reading:
    """SigLIP's layers with rotated positions, for images of any size (arXiv 2501.13106)."""
    stack, reading = language(fields, "qwen2")
    d = stack.ends.d
    eyes = turned_tower(fields.section("vision_config"), two_products(d, "gelu", True), d)
    return before(stack, reading, eyes)


def turned_tower(seen: Fields, steps: Steps, out: Expr) -> PatchTower:
    """The tower of VideoLLaMA 3."""
    seen = seen.with_defaults(**seeing.SIGLIP)
    at, feed = tower_of(seen, activation_of(seen, "hidden_act", default="gelu_pytorch_tanh"))
    return PatchTower(
        at=replace(at, rotary=at.head_dim),
        feed=feed,
        norm=LAYER_NORM,
        layers=seen.size("num_hidden_layers"),
        channels=Integer(seen.size("num_channels", default=3)),
        patch=Integer(seen.size("patch_size", default=16)),
        frames=None,
        merge=Integer(1),
        out=out,
        back=LAYER_NORM,
        steps=steps,
        said=WHOLE_GRIDS,
    )


def _paddleocr(fields: Fields) -> Reading:
    """PaddleOCR-VL: those layers, a table of positions, squares of patches (arXiv 2510.14528)."""
    seen = fields.section("vision_config").with_defaults(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        patch_size=14,
    )
    if fields.values.get("text_config") is None:  # the publisher's file has no such part
        reading = DENSE["ernie4_5"](fields.with_defaults(tie_word_embeddings=False))
        stack = stack_of(fields, reading)
    else:
        stack, reading = language(fields, "ernie4_5", tied=True)
    d, side = Integer(seen.size("hidden_size")), seen.size("spatial_merge_size", default=2)
    square = Integer(side**2)
    for key in ("tokens_per_second", "temporal_patch_size", "num_image_tokens"):
        seen.values.get(key)
    steps: Steps = (
        Normed(LAYER_NORM, "pre_norm"),
        Beside(square, copied=True),
        Product("1", d * square),
        Acted("gelu"),
        Product("2", stack.ends.d),
    )
    grid = pixels(seen, 384)[0] // seen.size("patch_size")
    plain = turned_tower(seen, steps, stack.ends.d)
    eyes = replace(plain, merge=Integer(side), rows=Integer(int(grid) ** 2), said="")
    return before(stack, reading, eyes)


@dataclass(frozen=True)
class Turned:
    """Rotates the first ``width`` of each position by tables: three operations an element."""

    width: Expr

    def add(self, m: Maker, prefix: str, x: str) -> str:
        """Adds it behind ``x (batch, n, d)``."""
        n, d = m.shape(x)[1:]
        cosines, sines = (
            m.source(Tensor(f"{prefix}_{name}", (n, self.width), m.style.acts))
            for name in ("cosines", "sines")
        )
        split = Split(((self.width,), (d - self.width,)))
        front, rest = m.add_many(f"{prefix}_turn_split", split, x)
        straight = m.add(f"{prefix}_turn_cos", Map("mul"), front, cosines)
        across = m.add(f"{prefix}_turn_sin", Map("mul"), front, sines)
        turned = m.add(f"{prefix}_turn", Map("add"), straight, across)
        return m.add(f"{prefix}_turn_join", Joined(2), turned, rest)


def _musicflamingo(fields: Fields) -> Reading:
    """Audio Flamingo 3, whose rows are rotated by their times."""
    found = hearing.FAMILIES["audioflamingo3"](fields)
    model = found.model
    assert isinstance(model, Seeing)
    ears = model.eyes
    assert isinstance(ears, Ears)
    for key in ("audio_frame_step", "rope_parameters", "head_dim", "max_position_embeddings"):
        fields.values.get(key)
    rope = fields.values.get("rope_parameters")
    share = rope.get("partial_rotary_factor") if isinstance(rope, Mapping) else None
    share = fields.number("partial_rotary_factor", 0.2) if share is None else share
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ModelError(f"{fields.name}: 'partial_rotary_factor' = {clip(share)}: from 0 to 1")
    # The window's place and the time in it are rotated apart.
    width = 2 * (int(int(ears.at.d) * share) // 2) * 2
    if width > ears.at.d:
        raise ModelError(f"{fields.name}: 'partial_rotary_factor' = {share}: more than there is")
    halved, rest = ears.steps[:2], ears.steps[2:]
    turned = replace(ears, steps=(*halved, Turned(Integer(width)), *rest))
    return replace(found, model=replace(model, eyes=turned))


def _glimmer(fields: Fields) -> Reading:
    """Muse Glimmer: a tower with windows in most layers, and three products to a norm."""
    stack, reading = language(fields, "muse_glimmer_text", tied=False)
    return before(stack, reading, glimmer_eyes(fields, stack.ends.d))


def glimmer_eyes(fields: Fields, out: Expr) -> PatchTower:
    """The tower of Muse Glimmer and Spark, with their projector.

    Raises:
        ModelError: what the tower makes is not what the projector takes.
    """
    eyes = glimmer_tower(fields.section("vision_config"))
    made = eyes.at.d * eyes.merge**2
    if fields.size("out_hidden_size", default=6144) != made:
        raise ModelError(f"{fields.name}: 'out_hidden_size' must be the tower's {made}")
    act = activation_of(fields, "projector_hidden_act", default="gelu")
    inner = Integer(fields.size("projector_hidden_size", default=4096))
    steps: Steps = (
        *eyes.steps,
        Product("fc1", inner, False),
        Acted(act),
        Product("fc2", inner, False),
        Acted(act, "act2"),
        Product("projection", out, False),
        Normed(Norm(weight=False)),
    )
    return replace(eyes, steps=steps, out=out)


def glimmer_tower(seen: Fields) -> PatchTower:
    """Most of its layers attend in windows; squares of patches stand side by side behind it."""
    d, heads = seen.size("hidden_size", default=1536), seen.size("num_attention_heads", default=16)
    layers, merge = seen.size("num_hidden_layers", default=50), seen.size("merge_size", default=2)
    if layers > multimodal.MOST_LAYERS:
        raise ModelError(f"{seen.name}: 'num_hidden_layers' = {layers}: too many")
    tall, wide = (seen.size(f"pos_emb_{n}", default=32) for n in ("height", "width"))
    if tall != wide:
        raise ModelError(f"{seen.name}: 'pos_emb_height' must be 'pos_emb_width'")
    seen.values.get("max_position_embeddings")
    listed = seen.values.get("layer_types")
    if listed is None:
        last = layers - 1
        whole = tuple(i for i in range(layers) if (i + 1) % 4 == 0 or i == last)
    else:
        known = ("full_attention", "window_attention")
        if not isinstance(listed, list) or len(listed) != layers or set(listed) - set(known):
            raise ModelError(f"{seen.name}: 'layer_types' must name {layers} kinds of layers")
        whole = tuple(i for i, kind in enumerate(listed) if kind == known[0])
    width = divided(seen, d, heads, "vision width over heads")
    feed = FeedForward(
        Integer(d),
        Integer(seen.size("intermediate_size", default=8960)),
        activation_of(seen, "hidden_act", default="gelu"),
        gated=False,
        bias=True,
    )
    return PatchTower(
        at=Heads(Integer(d), Integer(heads), width, True, True, True, rotary=width),
        feed=feed,
        norm=LAYER_NORM,
        layers=layers,
        channels=Integer(3),
        patch=Integer(seen.size("patch_size", default=14)),
        frames=Integer(seen.size("patch_temporal", default=2)),
        merge=Integer(merge),
        out=Integer(d * merge**2),
        bias=False,
        rows=Integer(tall * wide),
        window=Integer(tall * wide),
        whole=whole,
        front=LAYER_NORM,
        back=LAYER_NORM,
        steps=(Beside(Integer(merge**2), copied=True),),
    )


def _llama4(fields: Fields) -> Reading:
    """Llama 4; keys of its language model's class stand in a part of the file or outside."""
    if class_of(fields.values) != "Llama4ForCausalLM":
        return seeing.llama4(fields)
    inside = fields.values.get("text_config") is not None
    text = fields.section("text_config") if inside else fields
    return ALTERNATING["llama4_text"](text)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama4": _llama4,
        "glmga": glm_seeing.FAMILIES["glm46v"],
        # Gemma 3 that says yes or no: the class wraps the whole model.
        "shieldgemma2": seeing.FAMILIES["gemma3"],
        "pp_chart2table": asking.FAMILIES["got_ocr2"],
        "cosmos3_omni": multimodal.FAMILIES["qwen3_vl"],
        "hyperclovax_vision_v2": _hyperclovax,
        "video_llama_3": _video_llama3,
        "paddleocr_vl": _paddleocr,
        "musicflamingo": _musicflamingo,
        "muse_glimmer": _glimmer,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "Llama4ForConditionalGeneration": "llama4",
        "ShieldGemma2ForImageClassification": "shieldgemma2",
        "PPChart2TableForConditionalGeneration": "pp_chart2table",
        "Cosmos3OmniForConditionalGeneration": "cosmos3_omni",
        "HyperCLOVAXVisionV2ForConditionalGeneration": "hyperclovax_vision_v2",
        "VideoLlama3ForConditionalGeneration": "video_llama_3",
        "PaddleOCRVLForConditionalGeneration": "paddleocr_vl",
        "MusicFlamingoForConditionalGeneration": "musicflamingo",
        "MuseGlimmerForConditionalGeneration": "muse_glimmer",
    }
)
