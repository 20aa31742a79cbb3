"""Images in front of plain decoders: GIT's captions and Fuyu's patches."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks.eyes import WHOLE, FixedTower, FlatEyes
from costgraph.models.blocks.projector import Normed, Product
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.families import grok
from costgraph.models.families.common import (
    Family,
    Reading,
    activation_of,
    biases,
    class_of,
    plain_decoder,
)
from costgraph.models.families.elder import FAMILIES as ELDER
from costgraph.models.families.language import before, language
from costgraph.models.families.multimodal import stack_of
from costgraph.models.families.vision import clip_tower
from costgraph.models.fields import Fields

#: What files of GIT leave out.
_TEXT: Mapping[str, int] = MappingProxyType(
    {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "vocab_size": 30522,
        "max_position_embeddings": 1024,
    }
)
_SEEN: Mapping[str, int] = MappingProxyType(
    {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "patch_size": 16,
        "image_size": 224,
    }
)
CAPTION = (
    f"{WHOLE} in front of the text; their rows see one another in both directions: their later "
    "pairs are not counted"
)


def _git(fields: Fields) -> Reading:
    """GIT (arXiv 2205.14100): BERT's layers as a decoder behind CLIP's tower; or Grok 2."""
    if class_of(fields.values) == "Grok1ForCausalLM":
        return grok.grok2(fields)
    if fields.values.get("vision_config") is None:
        raise ModelError(
            f"{fields.name}: model_type 'git' is read for GIT, which has a 'vision_config', and "
            "for Grok 2, whose class says so"
        )
    fields.refuse("num_image_with_embedding", "embeddings of a video's frames are not supported")
    text = fields.with_defaults(**_TEXT)
    model = plain_decoder(
        text,
        text.size("hidden_size"),
        text.size("num_attention_heads"),
        text.size("intermediate_size"),
        layers=Integer(text.size("num_hidden_layers")),
        activation=activation_of(text, "hidden_act", default="gelu"),
        positions=Integer(text.size("max_position_embeddings")),
        tied=text.flag("tie_word_embeddings", False),
        norm_first=False,
        final_norm=False,
        embed_norm=True,
        head_bias=True,
        **biases(True),
    )
    tower = clip_tower(fields.section("vision_config").with_defaults(**_SEEN))
    steps = (Product("1", model.d), Normed(LAYER_NORM))
    eyes = FixedTower(tower, steps, model.d, normed=True, classed=True, said=CAPTION)
    return before(model.stack(), Reading(model), eyes.whole)


#: What Fuyu's language model has where the part leaves it out.
_FUYU: Mapping[str, Any] = MappingProxyType(
    {
        "hidden_size": 4096,
        "intermediate_size": 16384,
        "num_hidden_layers": 36,
        "num_attention_heads": 64,
        "vocab_size": 262144,
    }
)


def _fuyu(fields: Fields) -> Reading:
    """Fuyu: Persimmon, whose prompt holds products of patches. Old files have no parts."""
    if fields.values.get("text_config") is None:
        reading = ELDER["persimmon"](fields.with_defaults(**_FUYU))
        stack = stack_of(fields, reading)
    else:
        stack, reading = language(fields, "persimmon", tied=False, **_FUYU)
    fields.values.get("image_size")  # of the image processor
    eyes = FlatEyes(
        channels=Integer(fields.size("num_channels", default=3)),
        patch=Integer(fields.size("patch_size", default=30)),
        out=stack.ends.d,
    )
    return before(stack, reading, eyes)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({grok.GROK2: _git, "fuyu": _fuyu})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"GitForCausalLM": grok.GROK2, "Grok1ForCausalLM": grok.GROK2, "FuyuForCausalLM": "fuyu"}
)
