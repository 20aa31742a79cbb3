"""Encoders of two kinds whose vectors are compared: CLAP, ALIGN, Chinese CLIP, dual encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer, Rational

from costgraph.errors import ModelError, clip
from costgraph.models.blocks.projector import Acted, Product, Steps
from costgraph.models.encoder import Encoder
from costgraph.models.encoder_heads import First, FirstProjected, Resting
from costgraph.models.families.captioning import source_of
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.encoders import LAYER_NORM, bert_like
from costgraph.models.families.inverted import efficientnet_rows
from costgraph.models.families.seeing import SIGLIP
from costgraph.models.families.vision import (
    FOLDED,
    clip_tower,
    pixels,
    stages,
)
from costgraph.models.fields import Fields, divided
from costgraph.models.pairing import Pairing, Side, SpectrogramSwin
from costgraph.models.vision import VisionTransformer

#: BERT's base size, which classes fill in.
BASE: Mapping[str, int] = MappingProxyType(
    {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
    }
)
LONGER = "sounds of no more than ten seconds: what reads longer ones in parts only rests in memory"
#: Frames of ten seconds, which the published processor makes.
FRAMES = 1001


def bert(read: Fields, unused: int, pooler: bool) -> Encoder:
    """BERT, or RoBERTa, with its pooler or without."""
    read.values.get("tie_word_embeddings")  # it has no logits
    name = "BertModel" if pooler else "Bert"
    reading = bert_like(read.with_values(architectures=[name], tie_word_embeddings=True), unused)
    assert isinstance(reading.model, Encoder)
    return reading.model


def _twice(fields: Fields, width: Integer) -> Steps:
    act = activation_of(fields, "projection_hidden_act", default="relu")
    return Product("1", width), Acted(act), Product("2", width)


def _heard(heard: Fields) -> SpectrogramSwin:
    """CLAP's encoder of sounds."""
    heard = heard.with_defaults(
        depths=[2, 2, 6, 2],
        num_attention_heads=[4, 8, 16, 32],
        patch_embeds_hidden_size=96,
        spec_size=256,
        num_mel_bins=64,
    )
    depths, heads = stages(heard, "depths", "num_attention_heads")
    width, mels = heard.size("patch_embeds_hidden_size"), heard.size("num_mel_bins")
    side = int(pixels(heard, 256, "spec_size")[0])
    patch = heard.size("patch_size", default=4)
    heard.require("patch_stride", [patch, patch], patch, None)
    heard.require("patch_embed_input_channels", 1)
    heard.require("flatten_patch_embeds", True)
    heard.require("enable_patch_layer_norm", True)
    ratio = Rational(str(heard.number("mlp_ratio", 4.0)))
    for index, count in enumerate(heads):
        divided(heard, width * 2**index, count, f"width of stage {index + 1} over heads")
        if not (ratio * width * 2**index).is_Integer or ratio <= 0:
            raise ModelError(f"{heard.name}: 'mlp_ratio' = {ratio} gives no whole width")
    if side % mels or side % patch or (side // patch) % 2 ** (len(depths) - 1):
        raise ModelError(f"{heard.name}: {mels} bands folded into {side} x {side}")
    if heard.size("hidden_size", default=768) != width * 2 ** (len(depths) - 1):
        raise ModelError(f"{heard.name}: 'hidden_size' must be the last stage's width")
    if side * side // mels < FRAMES:
        raise ModelError(f"{heard.name}: {FRAMES} frames of {mels} bands exceed {side} x {side}")
    fused = 0
    rate = heard.size("aff_block_r", default=4)
    kind = heard.values.get("fusion_type")
    if heard.flag("enable_fusion", False):
        if kind == "channel_map":
            raise ModelError(f"{heard.name}: 'fusion_type' = {clip(kind)} is not known")
        inner = width // rate
        # Two branches of two convolutions of one tap with norms, and a convolution of three times
        # the patch's width.
        branch = 2 * width * inner + inner + width + 2 * (inner + width)
        fused = 2 * branch + 3 * patch**2 * width + width
    for key in ("num_classes", "projection_dim", "projection_hidden_act", "num_hidden_layers"):
        heard.values.get(key)  # of another head, or what the whole file says for it
    return SpectrogramSwin(
        channels=Integer(1),
        size=(Integer(side), Integer(side)),
        classes=Integer(1),
        width=width,
        depths=depths,
        heads=heads,
        patch=patch,
        window=heard.size("window_size", default=8),
        ratio=ratio,
        bias=heard.flag("qkv_bias", True),
        activation=activation_of(heard, "hidden_act", default="gelu"),
        bare=True,
        mels=mels,
        frames=FRAMES,
        fused=fused,
    )


def _clap(fields: Fields) -> Reading:
    """CLAP (arXiv 2211.06687): sounds against texts."""
    heard = _heard(fields.section("audio_config"))
    read = fields.section("text_config").with_defaults(
        **{**BASE, "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
    )
    for key in ("projection_dim", "projection_hidden_act"):
        read.values.get(key)  # the whole file's stand above them
    text = bert(read, 2, pooler=True)
    steps = _twice(fields, Integer(fields.size("projection_dim", default=512)))
    for key in ("hidden_size", "num_hidden_layers"):
        fields.values.get(key)  # sums of both sides
    said = [FOLDED, *([LONGER] if heard.fused else [])]
    model = Pairing(Side("audio", heard, steps), Side("text", text, steps), both=True)
    return Reading(model, assumptions=tuple(said))


def _chinese_clip(fields: Fields) -> Reading:
    """CLIP whose texts are read by BERT (arXiv 2211.01335)."""
    seen = fields.section("vision_config").with_defaults(**SIGLIP)
    seen.values.get("projection_dim")
    tower = clip_tower(seen)
    text = bert(fields.section("text_config").with_defaults(**BASE), 0, pooler=False)
    steps: Steps = (Product("1", Integer(fields.size("projection_dim", default=512)), False),)
    image = VisionTransformer(tower, None, back_last=True)
    return Reading(Pairing(Side("image", image, steps), Side("text", text, steps)))


#: XLM-RoBERTa's large size, which AltCLIP's class fills in.
LARGE: Mapping[str, int] = MappingProxyType(
    {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "vocab_size": 250002,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
    }
)


def _altclip(fields: Fields) -> Reading:
    """CLIP whose texts are read by XLM-RoBERTa (arXiv 2211.06679), with a norm and a product."""
    seen = fields.section("vision_config").with_defaults(**SIGLIP)
    seen.values.get("projection_dim")  # the whole file's stands above it
    read = fields.section("text_config").with_defaults(**LARGE)
    for key in ("pooler_fn", "learn_encoder"):
        read.values.get(key)  # of the first code: the first position is the vector
    for key in ("direct_kd", "num_layers"):
        fields.values.get(key)  # of training
    text = bert(read, 2, pooler=False)
    head = FirstProjected(text.d, Integer(read.size("project_dim", default=768)))
    text = replace(text, norm=LAYER_NORM, head=head)
    steps: Steps = (Product("1", Integer(fields.size("projection_dim", default=768)), False),)
    image = VisionTransformer(clip_tower(seen), None, back_last=True)
    return Reading(Pairing(Side("image", image, steps), Side("text", text, steps)))


#: What is said of ALIGN's pooler.
_UNASKED = (
    "the text's pooler rests in memory: the class makes it, and takes the first position instead"
)


def _align(fields: Fields) -> Reading:
    """ALIGN (arXiv 2102.05918): EfficientNet's mean as it is against a BERT's first position.

    Raises:
        ModelError: both vectors are not of one width.
    """
    image = efficientnet_rows(fields.section("vision_config"))
    text = bert(fields.section("text_config").with_defaults(**BASE), 0, pooler=False)
    fields.values.get("temperature_init_value")
    text = replace(text, head=Resting((("pooler.weight", text.d * (text.d + 1)),), First()))
    width = fields.size("projection_dim", default=640)
    if image.rows[-1].steps[-1].width != width:
        raise ModelError(
            f"{fields.name}: 'projection_dim' must be {image.rows[-1].steps[-1].width}, the width "
            "of the last image"
        )
    steps: Steps = (Product("1", Integer(width)),)
    model = Pairing(Side("image", image, ()), Side("text", text, steps))
    return Reading(model, assumptions=(FOLDED, _UNASKED))


def _dual(fields: Fields) -> Reading:
    """Any encoder of images against any of texts, each with a product behind."""
    image = source_of(fields, "clip_vision_model", "vision_config")
    text = source_of(fields, "bert", "text_config")
    steps: Steps = (Product("1", Integer(fields.size("projection_dim", default=512)), False),)
    return Reading(Pairing(Side("image", image, steps), Side("text", text, steps)))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "clap": _clap,
        "chinese_clip": _chinese_clip,
        "altclip": _altclip,
        "align": _align,
        "vision-text-dual-encoder": _dual,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "ClapModel": "clap",
        "ChineseCLIPModel": "chinese_clip",
        "AltCLIPModel": "altclip",
        "AlignModel": "align",
        "VisionTextDualEncoderModel": "vision-text-dual-encoder",
    }
)
