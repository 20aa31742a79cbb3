"""FLAVA: an image, a text, and both."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.models.families.common import Family, Reading, activation_of, class_of
from costgraph.models.families.patchwise import BASE
from costgraph.models.families.vision import few, patches_of, pixels, tower_of
from costgraph.models.fields import Fields
from costgraph.models.flava import Flava, Layers
from costgraph.models.vision import Tower

TRAINED = (
    "the model alone is counted, in time and memory: the heads of its training, and the codes of "
    "patches that they guess, are left out"
)


def _layers(part: Fields, count: int) -> Layers:
    part = part.with_defaults(**{**BASE, "num_hidden_layers": count})
    act = activation_of(part, "hidden_act", default="gelu")
    return Layers(*tower_of(part, act), few(part, "num_hidden_layers"))


def _flava(fields: Fields) -> Reading:
    parts = ("image_config", "text_config", "multimodal_config")
    fields = fields.with_defaults(**{part: {} for part in parts})
    seen, read, both = (fields.section(part) for part in parts)
    # What training weighs, and the part that makes codes of patches in it.
    for key in ("image_codebook_config", "hidden_size", "init_codebook", "tie_word_embeddings",
                "global_backprop_contrastive", "skip_unmasked_multimodal_encoder", "return_loss",
                "ce_ignore_index", "mim_weight", "mlm_weight", "global_contrastive_weight",
                "itm_weight", "mmm_image_weight", "mmm_text_weight"):  # fmt: skip
        fields.values.get(key)
    seen.values.get("vocab_size")  # of codes that training guesses
    named = seen.with_defaults(**BASE)
    patches, layers = pixels(named), _layers(seen, 12)
    tower = Tower(
        patches_of(named, layers.at.d, patches, named.size("patch_size", default=16)),
        layers.at,
        layers.feed,
        Integer(layers.count),
        patches,
    )
    model = Flava(
        tower=tower,
        mask=seen.flag("mask_token", True),
        vocab=Integer(read.size("vocab_size", default=30522)),
        places=read.size("max_position_embeddings", default=512),
        types=Integer(read.size("type_vocab_size", default=2)),
        words=_layers(read, 12),
        both=_layers(both, 6),
        led=both.flag("use_cls_token", True),
        width=Integer(fields.size("projection_dim", default=768)),
    )
    trained = (class_of(fields.values) or "FlavaModel").endswith("ForPreTraining")
    return Reading(model, assumptions=(TRAINED,) if trained else ())


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"flava": _flava})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"FlavaModel": "flava", "FlavaForPreTraining": "flava"}
)
