"""VisualBERT (Li et al., arXiv 1908.03557): BERT over words and regions of an image."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.models.blocks import Ends
from costgraph.models.encoder import Encoder
from costgraph.models.encoder_heads import Head, MaskedHead, PooledHead, PretrainedHeads
from costgraph.models.families.common import Family, Reading, class_of, labels_of
from costgraph.models.families.encoders import LAYER_NORM, POOLER, bert_like
from costgraph.models.fields import Fields
from costgraph.models.regions import PositionHead, RegionEncoder, RegionFront

REGIONS = (
    "S counts words and regions of an image, of which G are regions; the detector that finds them "
    "and says what they are is not counted"
)


def _head(fields: Fields, d: int, masked: MaskedHead) -> Head | PretrainedHeads | None:
    """The heads of the class; the pooler runs in all of them."""
    name, wide = class_of(fields.values) or "VisualBertModel", Integer(d)
    if name.endswith("ForPreTraining"):
        return PretrainedHeads(masked, PooledHead(wide, Integer(2)))
    labels = Integer(labels_of(fields))
    if name.endswith("ForVisualReasoning"):
        return PooledHead(wide, labels)
    if name.endswith("ForQuestionAnswering"):
        return PretrainedHeads(PositionHead(wide, labels), PooledHead(wide))
    return PooledHead(wide)


def _visual_bert(fields: Fields) -> Reading:
    fields.refuse("bypass_transformer", "regions that pass one layer alone are not supported")
    fields.values.get("special_visual_initialize")  # values of tables
    named = fields.with_defaults(
        vocab_size=30522, hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
        intermediate_size=3072, max_position_embeddings=512, type_vocab_size=2,
    )  # fmt: skip
    read = bert_like(named, 0, head_of=_head).model
    assert isinstance(read, Encoder)
    places = named.size("max_position_embeddings")
    front = RegionFront(
        Ends(
            read.d,
            Integer(named.size("vocab_size")),
            positions=Integer(places),
            embed_norm=LAYER_NORM,
        ),
        Integer(named.size("type_vocab_size")),
        Integer(fields.size("visual_embedding_dim", default=512)),
    )
    model = RegionEncoder(front, read.segments, read.d, head=read.head, words=places)
    bare = (class_of(fields.values) or "Model").endswith("Model")
    return Reading(model, assumptions=(REGIONS, *((POOLER,) if bare else ())))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"visual_bert": _visual_bert})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        f"VisualBert{end}": "visual_bert"
        for end in ("Model", "ForPreTraining", "ForVisualReasoning", "ForQuestionAnswering")
    }
)
