"""ViLT."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import Ends
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.encoder import TextFront
from costgraph.models.families.common import Family, Reading, activation_of, class_of, labels_of
from costgraph.models.families.detecting import ONE_TEXT
from costgraph.models.families.patchwise import BASE
from costgraph.models.families.vision import patches_of, pixels, tower_of
from costgraph.models.fields import Fields
from costgraph.models.vilt import Vilt
from costgraph.models.vision import Tower

SQUARE = "pictures are squares of 'image_size' where no other size is asked for"


def _vilt(fields: Fields) -> Reading:
    named = fields.with_defaults(
        **{**BASE, "image_size": 384, "patch_size": 32, "vocab_size": 30522, "type_vocab_size": 2},
        max_position_embeddings=40,
    )
    at, feed = tower_of(named, activation_of(named, "hidden_act"))
    size, patch = pixels(named, 384), named.size("patch_size")
    if size[0] != size[1]:
        raise ModelError(f"{fields.name}: 'image_size' must be a square")
    longest = fields.number("max_image_length", -1)
    if longest >= 0:
        raise ModelError(
            f"{fields.name}: 'max_image_length' = {longest:g}: a choice of patches is not known in "
            "this family"
        )
    tower = Tower(
        patches_of(named, at.d, size, patch),
        at,
        feed,
        Integer(named.size("num_hidden_layers")),
        size,
    )
    for key in ("tie_word_embeddings", "num_images"):
        fields.values.get(key)  # the class ties its logits; how many images another class reads
    name = class_of(fields.values) or "ViltModel"
    labels: Expr | None = None
    if not name.endswith("Model"):
        labels = Integer(1) if name.endswith("Retrieval") else Integer(labels_of(fields))
    ends = Ends(
        at.d,
        Integer(named.size("vocab_size")),
        positions=Integer(named.size("max_position_embeddings")),
        embed_norm=LAYER_NORM,
    )
    kinds = Integer(fields.size("modality_type_vocab_size", default=2))
    if kinds < 2:
        raise ModelError(f"{fields.name}: 'modality_type_vocab_size' = {kinds}: words and patches")
    front = TextFront(ends, types=named.size("type_vocab_size"))
    model = Vilt(front, tower, kinds, labels, deep=name.endswith("ForQuestionAnswering"))
    return Reading(model, assumptions=(ONE_TEXT, SQUARE))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"vilt": _vilt})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "ViltForQuestionAnswering": "vilt",
        "ViltForImageAndTextRetrieval": "vilt",
        "ViltModel": "vilt",
    }
)
