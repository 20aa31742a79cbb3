"""Hunyuan's models that see: HunyuanOCR and Hunyuan 4; lines of patches end in learned rows."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import FeedForward, Norm
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import PatchTower
from costgraph.models.blocks.projector import Acted, Beside, Ended, Normed, Product, Steps
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.families.absent import part_of
from costgraph.models.families.chosen import FAMILIES as CHOSEN
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.dense import FAMILIES as DENSE
from costgraph.models.families.language import before, language
from costgraph.models.families.multimodal import fitting, stack_of
from costgraph.models.families.pooled import Streamed
from costgraph.models.fields import Fields, divided
from costgraph.models.multimodal import Seeing

RMS = Norm()
LINES = (
    "G counts the squares of patches; rows that stand at ends of lines, and of images, are further "
    "tokens, whose product in the projector is not counted"
)


def _tower(seen: Fields, steps: Steps, out: Expr) -> PatchTower:
    """SigLIP's layers over images of any size; a table of positions is interpolated."""
    d, heads = seen.size("hidden_size"), seen.size("num_attention_heads", default=16)
    width = divided(seen, d, heads, "vision width over heads")
    if seen.size("num_key_value_heads", default=heads) != heads:
        raise ModelError(f"{seen.name}: 'num_key_value_heads' must be 'num_attention_heads'")
    patch = seen.size("patch_size", default=16)
    side = seen.size("max_image_size", default=2048) // patch
    # Of the image processor, or numbers that the class does not read.
    for key in ("img_max_token_num", "min_image_size", "max_vit_seq_len", "temporal_patch_size",
                "interpolate_mode"):  # fmt: skip
        seen.values.get(key)
    return PatchTower(
        at=Heads(Integer(d), Integer(heads), width, True, True, True),
        feed=FeedForward(
            Integer(d),
            Integer(seen.size("intermediate_size")),
            activation_of(seen, "hidden_act", default="gelu"),
            gated=False,
            bias=True,
        ),
        norm=LAYER_NORM,
        layers=seen.size("num_hidden_layers"),
        channels=Integer(seen.size("num_channels", default=3)),
        patch=Integer(patch),
        frames=None,
        merge=Integer(seen.size("spatial_merge_size", default=2)),
        out=out,
        rows=Integer(side**2 + 1),
        steps=steps,
        said=LINES,
    )


def _merged(seen: Fields, inner: Expr) -> Steps:
    """A norm, and a convolution over each square of patches to ``inner`` channels."""
    merge = seen.size("spatial_merge_size", default=2)
    act = activation_of(seen, "hidden_act", default="gelu")
    square = Beside(Integer(merge**2), copied=True)
    return (Normed(RMS), square, Product("conv", inner), Acted(act))


def ocr_tower(seen: Fields) -> PatchTower:
    """HunyuanOCR's: two convolutions, a product and a norm."""
    seen = seen.with_defaults(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27)
    seen.values.get("out_hidden_size")  # the class does not read it
    d, out = Integer(seen.size("hidden_size")), Integer(seen.size("text_hidden_size", default=3072))
    steps: Steps = (
        *_merged(seen, 2 * d),
        Product("out", 4 * d),
        Ended(("newline",), 4 * d),
        Product("mlp", out),
        Ended(("begin", "end", "between"), out),
        Normed(RMS, "after_norm"),
    )
    return _tower(seen, steps, out)


def hunyuan4_tower(seen: Fields) -> PatchTower:
    """Hunyuan 4's: a convolution, and a product to the language model's width."""
    seen = seen.with_defaults(hidden_size=1536, intermediate_size=6144, num_hidden_layers=40)
    d, out = Integer(seen.size("hidden_size")), Integer(seen.size("out_hidden_size", default=6144))
    merge = seen.size("spatial_merge_size", default=2)
    steps: Steps = (
        *_merged(seen, d * merge**2),
        Product("out", out),
        Ended(("newline",), out),
    )
    return _tower(seen, steps, out)


def _hunyuan_vl(fields: Fields) -> Reading:
    if fields.values.get("text_config") is None:  # the publisher's file has no such part
        named = fields.renamed(head_dim="attention_head_dim", vocab_size="org_vocab_size")
        reading = DENSE["hunyuan_v1_dense"](named.with_defaults(tie_word_embeddings=True))
        stack = stack_of(fields, reading)
    else:
        stack, reading = language(fields, "hunyuan_v1_dense", tied=True)
    eyes = ocr_tower(fields.section("vision_config"))
    return before(stack, reading, fitting(fields, eyes, stack.ends.d))


def _hunyuan4(fields: Fields) -> Reading:
    reading = CHOSEN["hy_v4_vl_text"](part_of(fields, "hy_v4_vl_text", tied=False))
    model = reading.model
    assert isinstance(model, Streamed)
    eyes = fitting(fields, hunyuan4_tower(fields.section("vision_config")), model.ends.d)
    return Reading(Seeing(eyes, model), assumptions=reading.assumptions)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"hunyuan_vl": _hunyuan_vl, "hy_v4_vl": _hunyuan4}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "HunYuanVLForConditionalGeneration": "hunyuan_vl",
        "HYV4VLForConditionalGeneration": "hy_v4_vl",
    }
)
