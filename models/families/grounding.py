"""Grounding DINO and MM Grounding DINO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import FeedForward
from costgraph.models.convnet import ResNet
from costgraph.models.families.common import Family, Reading, activation_of, class_of
from costgraph.models.families.deformable import TRAINED, no_fewer
from costgraph.models.families.detecting import FROZEN, ONE_TEXT, SCALED, SIZE, grouped, heads_of
from costgraph.models.families.masks import stem_of
from costgraph.models.families.pairing import BASE, bert
from costgraph.models.families.vision import few
from costgraph.models.fields import Fields, divided
from costgraph.models.grounding import GroundingDino

PHRASES = "words see the whole text: the published class has them see their phrase alone"


def _mm_grounding(fields: Fields) -> Reading:
    """MM Grounding DINO (arXiv 2401.02361): Grounding DINO with a bias behind its scores."""
    reading = _grounding(fields)
    assert isinstance(reading.model, GroundingDino)
    biases = "one" if fields.flag("decoder_cls_embed_share", True) else "each"
    return replace(reading, model=replace(reading.model, biases=biases))


def _grounding(fields: Fields) -> Reading:
    fields = fields.with_defaults(
        encoder_layers=6, decoder_layers=6, encoder_ffn_dim=2048, num_queries=900,
        decoder_ffn_dim=2048, encoder_attention_heads=8, decoder_attention_heads=8,
        num_feature_levels=4, encoder_n_points=4, decoder_n_points=4, max_text_len=256,
    )  # fmt: skip
    d, levels = grouped(fields, "d_model"), few(fields, "num_feature_levels")
    act = activation_of(fields, "activation_function", default="relu")
    for key in ("two_stage", "embedding_init_target", "tie_word_embeddings"):
        fields.require(key, True)
    fields.require("query_dim", 4)
    fields.require("position_embedding_type", "sine")
    fields.refuse("two_stage_bbox_embed_share", "the published class does not share these boxes")
    for key in (*TRAINED, "text_enhancer_dropout", "fusion_droppath", "fusion_dropout",
                "positional_embedding_temperature", "hidden_size"):  # fmt: skip
        fields.values.get(key)
    inner, heads = fields.size("encoder_ffn_dim"), fields.size("encoder_attention_heads")
    if inner % 2 or heads % 2:
        raise ModelError(f"{fields.name}: {heads} heads and a width of {inner} have no halves")
    divided(fields, d, heads, "width over heads")
    stem = stem_of(fields, "swin", "resnet")
    no_fewer(fields, levels, stem)
    stem = replace(stem, network=replace(stem.network, size=tuple(map(Integer, SIZE))))
    said: tuple[str, ...] = (SCALED.format(*SIZE), ONE_TEXT, PHRASES)
    if isinstance(stem.network, ResNet):
        stem, said = replace(stem, network=replace(stem.network, frozen=True)), (*said, FROZEN)
    reader = bert(fields.section("text_config").with_defaults(**BASE), 0, pooler=False)
    model = GroundingDino(
        stem=stem,
        reader=reader,
        longest=fields.size("max_text_len"),
        levels=levels,
        seen=heads,
        points=fields.size("encoder_n_points"),
        feed=FeedForward(Integer(d), Integer(inner), act, gated=False, bias=True),
        layers=few(fields, "encoder_layers"),
        between=heads_of(fields, d, heads // 2, inner // 2),
        told=heads_of(fields, d, heads // 2),
        telling=FeedForward(Integer(d), Integer(inner // 2), act, gated=False, bias=True),
        own=heads_of(fields, d, fields.size("decoder_attention_heads")),
        fed=FeedForward(Integer(d), Integer(fields.size("decoder_ffn_dim")), act, False, True),
        looks=fields.size("decoder_n_points"),
        count=few(fields, "decoder_layers"),
        queries=Integer(fields.size("num_queries")),
        shared=fields.flag("decoder_bbox_embed_share", True),
        boxes=(class_of(fields.values) or "ForObjectDetection").endswith("ForObjectDetection"),
    )
    return Reading(model, assumptions=said)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"grounding-dino": _grounding, "mm-grounding-dino": _mm_grounding}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "GroundingDinoForObjectDetection": "grounding-dino",
        "GroundingDinoModel": "grounding-dino",
        "MMGroundingDinoForObjectDetection": "mm-grounding-dino",
        "MMGroundingDinoModel": "mm-grounding-dino",
    }
)
