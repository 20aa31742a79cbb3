"""LXMERT: words and regions of an image."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.families.common import Family, Reading, activation_of, class_of
from costgraph.models.families.vision import few, tower_of
from costgraph.models.fields import Fields
from costgraph.models.lxmert import Lxmert

REGIONS = (
    "S counts words, and G regions of an image beside them; the detector that finds them and says "
    "what they are is not counted"
)
#: Parts of the number of layers in saved files, and the keys that say them.
_COUNTS = {"vision": "r_layers", "cross_encoder": "x_layers", "language": "l_layers"}
#: Keys of training, and what follows from others.
_TRAINED = (
    "num_object_labels", "num_attr_labels", "task_matched", "task_mask_lm", "task_obj_predict",
    "task_qa", "visual_obj_loss", "visual_attr_loss", "visual_feat_loss",
    "visual_loss_normalizer", "tie_word_embeddings",
)  # fmt: skip


def _lxmert(fields: Fields) -> Reading:
    named = fields.with_defaults(
        vocab_size=30522, hidden_size=768, num_attention_heads=12, intermediate_size=3072,
        max_position_embeddings=512, type_vocab_size=2, l_layers=9, x_layers=5, r_layers=5,
        visual_feat_dim=2048, visual_pos_dim=4, num_qa_labels=9500,
    )  # fmt: skip
    for key in _TRAINED:
        fields.values.get(key)
    at, feed = tower_of(named, activation_of(named, "hidden_act", default="gelu"))
    answers = named.size("num_qa_labels")
    asked = (class_of(fields.values) or "LxmertModel").endswith("ForQuestionAnswering")
    counts = {part: few(named, key) for part, key in _COUNTS.items()}
    saved = fields.values.get("num_hidden_layers")
    if isinstance(saved, Mapping) and dict(saved) != counts:
        raise ModelError(
            f"{fields.name}: 'num_hidden_layers' must be {counts}, as the other keys say, not "
            f"{clip(dict(saved))}"
        )
    model = Lxmert(
        vocab=Integer(named.size("vocab_size")),
        places=named.size("max_position_embeddings"),
        types=Integer(named.size("type_vocab_size")),
        features=Integer(named.size("visual_feat_dim")),
        corners=Integer(named.size("visual_pos_dim")),
        at=at,
        feed=feed,
        words=counts["language"],
        regions=counts["vision"],
        both=counts["cross_encoder"],
        labels=Integer(answers) if asked else None,
    )
    return Reading(model, assumptions=(REGIONS,))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"lxmert": _lxmert})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"LxmertModel": "lxmert", "LxmertForQuestionAnswering": "lxmert"}
)
