"""Funnel transformers: encoders that halve the sequence from block to block."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Ends, FeedForward
from costgraph.models.blocks.encoder import Heads
from costgraph.models.encoder import TextFront
from costgraph.models.encoder_heads import Head, LabelHead, PooledHead, ProjectedHead
from costgraph.models.families.common import Family, Reading, activation_of, class_of, labels_of
from costgraph.models.families.encoders import BARE, LAYER_NORM
from costgraph.models.families.vision import sizes
from costgraph.models.fields import Fields
from costgraph.models.funnel import Discriminator, Funnel, FunnelLayer

#: How averages are called here, and largest values.
POOLED = {"mean": "average", "max": "max"}
#: Classes that end at the last block.
SHORT = ("FunnelBaseModel", "FunnelForSequenceClassification")
#: What becomes of the first position, which sees all and is seen by all without distances.
FIRST = "which pairs have no distance, since one is the first position, kernels know from positions"


def _funnel(fields: Fields) -> Reading:
    d, vocab = Integer(fields.size("d_model")), Integer(fields.size("vocab_size", default=30522))
    at = Heads(
        d, Integer(fields.size("n_head", default=12)), Integer(fields.size("d_head", default=64)),
        out_bias=True,
    )  # fmt: skip
    act = activation_of(fields, "hidden_act", default="gelu_new")
    feed = FeedForward(
        d, Integer(fields.size("d_inner", default=3072)), act, gated=False, bias=True
    )
    fields.require("attention_type", "relative_shift")
    pooling = fields.word("pooling_type", default="mean")
    if pooling not in POOLED:
        raise ModelError(f"{fields.name}: 'pooling_type' = {clip(pooling)}: no mean and no max")
    blocks = sizes(fields, "block_sizes", (4, 4, 4))
    again = sizes(fields, "block_repeats", (1,) * len(blocks))
    if len(again) != len(blocks):
        raise ModelError(f"{fields.name}: 'block_sizes' and 'block_repeats' differ in length")
    if len(blocks) > 16:
        raise ModelError(f"{fields.name}: 'block_sizes': {len(blocks)} blocks halve every text")
    behind = Integer(fields.size("num_decoder_layers", default=2))
    name = class_of(fields.values) or "FunnelModel"
    labels = Integer(2 if name == "FunnelForQuestionAnswering" else labels_of(fields))
    heads: dict[str, Head | None] = {
        "FunnelModel": None,
        "FunnelBaseModel": None,
        "FunnelForPreTraining": Discriminator(d, act),
        "FunnelForMaskedLM": ProjectedHead(
            d, vocab, fields.flag("tie_word_embeddings", True), bias=True
        ),
        "FunnelForSequenceClassification": PooledHead(d, labels),
        "FunnelForTokenClassification": LabelHead(d, labels),
        "FunnelForQuestionAnswering": LabelHead(d, labels),
    }
    if name not in heads:
        raise ModelError(f"{fields.name}: {clip(name)}: only {', '.join(heads)} are read")
    model = Funnel(
        front=TextFront(Ends(d, vocab, embed_norm=LAYER_NORM)),
        layer=FunnelLayer(at, feed, LAYER_NORM),
        blocks=blocks,
        again=again,
        behind=None if name in SHORT else behind,
        head=heads[name],
        apart=fields.flag("separate_cls", True),
        dropped=fields.flag("truncate_seq", True),
        queries_only=fields.flag("pool_q_only", True),
        function=POOLED[pooling],
    )
    return Reading(model, assumptions=(FIRST,) if heads[name] else (FIRST, BARE))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"funnel": _funnel})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(SHORT, "funnel"),
        "FunnelModel": "funnel",
        "FunnelForPreTraining": "funnel",
        "FunnelForMaskedLM": "funnel",
        "FunnelForTokenClassification": "funnel",
        "FunnelForQuestionAnswering": "funnel",
    }
)
