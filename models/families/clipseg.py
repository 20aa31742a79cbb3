"""CLIPSeg: masks of what a text names."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward
from costgraph.models.blocks.encoder import Heads
from costgraph.models.clipseg import NamedParts
from costgraph.models.families.common import Family, Reading, class_of
from costgraph.models.families.seeing import SIGLIP
from costgraph.models.families.vision import clip_reader, clip_tower
from costgraph.models.fields import Fields, divided
from costgraph.models.vision import ImageText

KEPT = "the common space of images and texts is not compared: a text's vector goes to the decoder"


def _clipseg(fields: Fields) -> Reading:
    seen = fields.section("vision_config").with_defaults(**SIGLIP)
    read = fields.section("text_config")
    for part in (seen, read):
        part.values.get("projection_dim")
    tower, text = clip_tower(seen), clip_reader(read)
    width = Integer(fields.size("projection_dim", default=512))
    if (class_of(fields.values) or "").endswith("Model"):
        return Reading(ImageText(tower, text, width))
    layers = int(tower.layers)
    taken = fields.values.get("extract_layers", [3, 6, 9])
    whole = isinstance(taken, list) and all(type(i) is int and 0 <= i < layers for i in taken)
    if not whole or not taken or taken != sorted(set(taken)):
        raise ModelError(
            f"{fields.name}: 'extract_layers' = {clip(taken)}: rising numbers below {layers}"
        )
    d = fields.size("reduce_dim", default=64)
    heads = fields.size("decoder_num_attention_heads", default=4)
    at = Heads(Integer(d), Integer(heads), divided(fields, d, heads, "width over heads"), True,
               True, True)  # fmt: skip
    inner = fields.size("decoder_intermediate_size", default=2048)
    fields.values.get("decoder_hidden_act")  # the published code does not read it
    told = fields.values.get("conditional_layer", 0)
    if type(told) is not int or not 0 <= told < len(taken):
        raise ModelError(f"{fields.name}: 'conditional_layer' = {clip(told)} of {len(taken)}")
    enlarged = fields.flag("use_complex_transposed_convolution", False)
    patch = tower.patches.patch[0]
    if enlarged and (int(patch) % 4 or (int(patch) // 4) ** 2 != int(patch) or d % 2):
        raise ModelError(f"{fields.name}: patches of {patch} by convolutions of {int(patch) // 4}")
    model = NamedParts(
        tower,
        text,
        width,
        tuple(taken),
        at,
        FeedForward(Integer(d), Integer(inner), "relu", gated=False, bias=True),
        told,
        enlarged,
    )
    return Reading(model, assumptions=(KEPT,))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"clipseg": _clipseg})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"CLIPSegModel": "clipseg", "CLIPSegForImageSegmentation": "clipseg"}
)
