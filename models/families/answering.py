"""Encoder–decoders whose source holds images: Florence-2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Integer, Rational

from costgraph.errors import ModelError, clip
from costgraph.models.answering import Answering, ShownFront
from costgraph.models.blocks.eyes import Eyes
from costgraph.models.davit import DualEyes, Stage
from costgraph.models.encoder import Encoder, EncoderDecoder, TextFront
from costgraph.models.families.common import Family, Reading, activation_of, tied_as_whole
from costgraph.models.families.encoders import pair_of
from costgraph.models.families.translating import Kin, read_kin
from costgraph.models.families.vision import stages
from costgraph.models.fields import Fields, divided

#: What configurations of the tower leave out.
_SEEN: Mapping[str, Any] = MappingProxyType(
    {
        "embed_dim": [128, 256, 512, 1024],
        "depths": [1, 1, 9, 1],
        "num_heads": [4, 8, 16, 32],
        "num_groups": [4, 8, 16, 32],
        "patch_size": [7, 3, 3, 3],
        "patch_stride": [4, 2, 2, 2],
        "patch_prenorm": [False, True, True, True],
        "patch_padding": [3, 1, 1, 1],
    }
)
#: What configurations of the language model leave out: BART's large size.
_READ: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 50265,
        "d_model": 1024,
        "encoder_layers": 12,
        "decoder_layers": 12,
        "encoder_ffn_dim": 4096,
        "decoder_ffn_dim": 4096,
        "encoder_attention_heads": 16,
        "decoder_attention_heads": 16,
        "max_position_embeddings": 1024,
    }
)
#: Pixels a side that the published processor scales to.
SIDE = 768


def _davit(seen: Fields, out: int) -> DualEyes:
    """The tower; files of the first code have other names for some keys."""
    kind = seen.word("model_type", default="florence_vision")
    if kind not in ("florence_vision", "davit"):
        raise ModelError(f"{seen.name}: {clip(kind)} is no tower that is known in this family")
    places = seen.values.get("image_pos_embed")
    if isinstance(places, Mapping):
        rows = Fields(f"{seen.name}: image_pos_embed", places).size("max_pos_embeddings")
        seen = seen.with_values(max_position_embeddings=rows)
    seen.values.get("visual_temporal_embedding")
    seen.values.get("max_temporal_embeddings")  # rows of a table that is no parameter
    seen.require("image_feature_source", ["spatial_avg_pool", "temporal_avg_pool"], None)
    named = seen.renamed(embed_dim="dim_embed").with_defaults(**_SEEN)
    listed = stages(named, "embed_dim", "depths", "num_heads", "num_groups", "patch_size",
                    "patch_stride")  # fmt: skip
    paddings: Any = named.values.get("patch_padding")
    firsts: Any = named.values.get("patch_prenorm")
    count = len(listed[0])
    whole = isinstance(paddings, list) and all(type(n) is int and 0 <= n <= 64 for n in paddings)
    flags = isinstance(firsts, list) and all(type(n) is bool for n in firsts)
    if not whole or not flags or {len(paddings), len(firsts)} != {count}:
        raise ModelError(f"{seen.name}: 'patch_padding' and 'patch_prenorm' of {count} stages")
    ratio = Rational(str(named.number("mlp_ratio", 4.0)))
    for width, heads, groups in zip(listed[0], listed[2], listed[3], strict=True):
        divided(seen, width, heads, "width of a stage over heads")
        divided(seen, width, groups, "width of a stage over groups")
        if not (ratio * width).is_Integer or ratio <= 0:
            raise ModelError(f"{seen.name}: 'mlp_ratio' = {ratio} gives no whole width")
    divided(seen, listed[0][-1], 2, "width of the last stage over places down and across")
    if named.size("projection_dim", default=1024) != out:
        raise ModelError(f"{seen.name}: 'projection_dim' must be the language model's {out}")
    found = DualEyes(
        channels=Integer(named.size("in_channels", default=3)),
        size=SIDE,
        stages=tuple(Stage(*row) for row in zip(*listed, paddings, firsts, strict=True)),
        window=named.size("window_size", default=12),
        ratio=ratio,
        bias=named.flag("qkv_bias", True),
        activation=activation_of(named, "activation_function", default="gelu"),
        places=named.size("max_position_embeddings", default=50),
        out=Integer(out),
    )
    if min(found.sides) < 1 or found.sides[-1] > found.places:
        raise ModelError(f"{seen.name}: a last grid of {found.sides[-1]} of {found.places} places")
    return found


def answers(eyes: Eyes, model: EncoderDecoder, reading: Reading) -> Reading:
    """An encoder–decoder of text behind a tower, whose rows take places among the source's."""
    encoder = model.encoder
    assert isinstance(encoder, Encoder)
    assert isinstance(encoder.front, TextFront)
    shown = replace(model, encoder=replace(encoder, front=ShownFront(encoder.front)))
    return Reading(Answering(eyes, shown), assumptions=reading.assumptions)


def _florence2(fields: Fields) -> Reading:
    text = fields.section("text_config").with_defaults(**_READ)
    kind = text.word("model_type", default="bart")
    if kind not in ("bart", "florence2_language"):
        raise ModelError(f"{text.name}: {clip(kind)} behind a tower is not supported here")
    # What files of the first code say again.
    for key in ("vocab_size", "projection_dim", "is_encoder_decoder"):
        fields.values.get(key)
    if not text.flag("tie_word_embeddings", True):
        raise ModelError(
            f"{text.name}: 'tie_word_embeddings' = False: tables of words of their own for encoder "
            "and decoder are not known in this family"
        )
    reading = read_kin(tied_as_whole(fields, text, True), Kin())
    model = pair_of(fields, reading)
    return answers(_davit(fields.section("vision_config"), int(model.ends.d)), model, reading)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"florence2": _florence2})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"Florence2ForConditionalGeneration": "florence2"}
)
