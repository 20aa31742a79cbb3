"""GLM models that see: 4.1V, 4.5V, 4.6V and GLM-OCR, and the language models inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import FeedForward, Norm
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import PatchTower
from costgraph.models.blocks.projector import Acted, Beside, Fed, Normed, Product, Steps
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.decoder import Decoder
from costgraph.models.families import experts, glm
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.language import before, language
from costgraph.models.families.vision import grid_of, pixels
from costgraph.models.fields import Fields, divided

RMS = Norm()


def _text(fields: Fields, bias: bool) -> Reading:
    """GLM 4's layers; heads fill the hidden size, biases are those of the class."""
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    named = fields.with_defaults(head_dim=d // heads)
    found = glm.FAMILIES["glm4"](named)
    assert isinstance(found.model, Decoder)
    return Reading(replace(found.model, qkv_bias=bias))


def _glm4v_text(fields: Fields) -> Reading:
    divided(fields, fields.size("hidden_size"), fields.size("num_attention_heads"), "hidden size")
    return _text(fields, True)


def _ocr_text(fields: Fields) -> Reading:
    return _text(fields, False)


def _moe_text(fields: Fields) -> Reading:
    named = fields.with_defaults(attention_bias=True, first_k_dense_replace=1)
    named.refuse("use_qk_norm", "norms of queries and keys are not known in this family")
    return experts.FAMILIES["glm4_moe"](named)


def glm_tower(
    seen: Fields, out: Expr | None, ocr: bool, context: Expr | None = None, **feed: Any
) -> PatchTower:
    """GLM's tower: gated blocks, rotated positions, and a product over each square of patches.

    GLM-OCR has no table of positions, and norms on queries and keys.

    Args:
        seen: its section of the file.
        out: what its rows are, where that is given.
        ocr: GLM-OCR's.
        context: width of the last block, where it is no other size's.
        feed: attributes of all gated blocks.

    Raises:
        ModelError: its rows are not ``out`` wide, where that is given.
    """
    d = seen.size("hidden_size", default=1024 if ocr else 1536)
    heads = seen.size("num_heads", default=16 if ocr else 12)
    width = divided(seen, d, heads, "vision width over heads")
    bias = seen.flag("attention_bias", ocr)
    made = seen.size("out_hidden_size", default=1536 if ocr else 4096)
    if out is not None and out != made:
        raise ModelError(f"{seen.name}: 'out_hidden_size' = {made}, the language model takes {out}")
    act = activation_of(seen, "hidden_act", default="silu")
    inner = seen.size("intermediate_size", default=4096 if ocr else 13696)
    channels = seen.size("in_channels", default=3)
    merge = seen.size("spatial_merge_size", default=2)
    patch = seen.size("patch_size", default=14)
    if context is None:
        context = Integer(made * channels if ocr else inner)
    steps: Steps = (
        Beside(Integer(merge**2)),
        Product("downsample", Integer(made)),
        Product("proj", Integer(made), False),
        Normed(LAYER_NORM),
        Acted("gelu"),
        Fed(replace(FeedForward(Integer(made), context, act), **feed)),
    )
    return PatchTower(
        at=Heads(
            Integer(d),
            Integer(heads),
            width,
            qv_bias=bias,
            k_bias=bias,
            out_bias=bias and ocr,
            fused=True,
            rotary=width,
            each=RMS if ocr else None,
        ),
        feed=replace(
            FeedForward(Integer(d), Integer(inner if ocr else made), act, bias=bias and ocr), **feed
        ),
        norm=RMS,
        layers=seen.size("depth", default=24),
        channels=Integer(channels),
        patch=Integer(patch),
        frames=Integer(seen.size("temporal_patch_size", default=2)),
        merge=Integer(merge),
        out=Integer(made),
        rows=None if ocr else Integer(grid_of(seen, pixels(seen, 336), patch)),
        front=None if ocr else RMS,
        back=RMS,
        steps=steps,
    )


def _seeing(text: str, ocr: bool = False) -> Family:
    def read(fields: Fields) -> Reading:
        stack, reading = language(fields, text)
        return before(stack, reading, glm_tower(fields.section("vision_config"), stack.ends.d, ocr))

    return read


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "glm4v_text": _glm4v_text,
        "glm4v_moe_text": _moe_text,
        "glm_ocr_text": _ocr_text,
        "glm4v": _seeing("glm4v_text"),
        "glm46v": _seeing("glm4v_text"),
        "glm4v_moe": _seeing("glm4v_moe_text"),
        "glm_ocr": _seeing("glm_ocr_text", ocr=True),
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "Glm4vForConditionalGeneration": "glm4v",
        "Glm46VForConditionalGeneration": "glm46v",
        "Glm4vMoeForConditionalGeneration": "glm4v_moe",
        "GlmOcrForConditionalGeneration": "glm_ocr",
    }
)
