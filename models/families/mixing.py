"""Relatives of BERT with other blocks: MobileBERT, ConvBERT, SqueezeBERT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward, Layer, Segment
from costgraph.models.blocks.bottleneck import BottleneckLayer, SplitHead, TrigramFront
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.grouped import GroupedFeed, GroupedLayer
from costgraph.models.blocks.spans import SpanHeads
from costgraph.models.encoder import Encoder
from costgraph.models.encoder_heads import PooledHead, PretrainedHeads
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.encoders import (
    SENTENCES,
    TASKS,
    classes_of,
    heads_by_task,
    require_tied,
    task_of,
)
from costgraph.models.families.kindred import Kin, encoder_of, read_of, said_of
from costgraph.models.fields import Fields, divided


def _mobilebert(fields: Fields) -> Reading:
    fields = fields.with_defaults(hidden_act="relu", embedding_size=128)
    d, act = Integer(fields.size("hidden_size")), activation_of(fields, "hidden_act")
    narrow = fields.flag("use_bottleneck", True)
    inner = fields.size("intra_bottleneck_size", default=128) if narrow else int(d)
    fields.require("true_hidden_size", inner)
    kind = fields.word("normalization_type", default="no_norm")
    if kind not in ("no_norm", "layer_norm"):
        raise ModelError(f"{fields.name}: 'normalization_type' = {clip(kind)} is not known")
    every = fields.flag("use_bottleneck_attention", False)
    shared = fields.flag("key_query_shared_bottleneck", True)
    if narrow and not (every or shared):
        raise ModelError(
            f"{fields.name}: 'key_query_shared_bottleneck' = False: queries and keys of the "
            "layer's width are not known in this family"
        )
    if not narrow and every:
        raise ModelError(f"{fields.name}: 'use_bottleneck_attention' without 'use_bottleneck'")
    heads = fields.size("num_attention_heads")
    width = divided(fields, inner, heads, "width of the blocks over heads")
    at = Heads(Integer(inner), Integer(heads), width, True, True, True)
    wide = Integer(fields.size("intermediate_size"))
    layer = BottleneckLayer(
        d,
        at,
        FeedForward(Integer(inner), wide, act, gated=False, bias=True),
        fields.size("num_feedforward_networks", default=4),
        kind == "no_norm",
        narrow,
        shared=not every,
        idle=every and shared,
    )
    longest = fields.size("max_position_embeddings", default=512)
    narrowed, vocab = Integer(fields.size("embedding_size")), Integer(fields.size("vocab_size"))
    if narrowed > d:
        raise ModelError(f"{fields.name}: 'embedding_size' = {narrowed} is beyond 'hidden_size'")
    front = TrigramFront(
        vocab=vocab,
        width=narrowed,
        d=d,
        positions=Integer(longest),
        types=Integer(fields.size("type_vocab_size", default=2)),
        trigram=fields.flag("trigram_input", True),
        plain=kind == "no_norm",
    )
    if not fields.flag("classifier_activation", True):
        raise ModelError(
            f"{fields.name}: 'classifier_activation' = False: no pooler is not known here"
        )
    require_tied(fields)
    masked = SplitHead(d, narrowed, vocab, act)
    head = heads_by_task(fields, d, masked)
    model = Encoder(
        front=front,
        segments=(Segment("layers", layer, Integer(fields.size("num_hidden_layers"))),),
        d=d,
        head=head,
        longest=longest,
    )
    if task_of(fields) == "ForPreTraining":
        model = replace(model, head=PretrainedHeads(masked, PooledHead(d, Integer(2))))
    return Reading(model, assumptions=said_of(fields, model.head, pooler=True))


def _convbert(fields: Fields) -> Reading:
    """Half of the heads are replaced by convolutions whose taps are made of the positions."""
    kin = Kin(narrow="embedding_size", narrowed=768, pools="", pooler=False, masked="gelu")
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    ratio = fields.size("head_ratio", default=2)
    few = max(heads // ratio, 1)
    width = divided(fields, d, 2 * few, "hidden size over heads")
    kernel = fields.size("conv_kernel_size", default=9)
    if kernel % 2 == 0:
        raise ModelError(f"{fields.name}: 'conv_kernel_size' = {kernel}: an odd one is supported")
    groups = fields.size("num_groups", default=1)
    inner = fields.size("intermediate_size")
    divided(fields, d, groups, "hidden size over groups")
    divided(fields, inner, groups, "width of feed-forward blocks over groups")
    reading = read_of(fields, kin)
    model = encoder_of(reading)
    (segment,) = model.segments
    layer = segment.layer
    assert isinstance(layer, Layer)
    at = Heads(Integer(d), Integer(few), width, True, True, True)
    channel = layer.channel
    if groups > 1:
        act = activation_of(fields, "hidden_act", default="gelu")
        channel = GroupedFeed(Integer(d), Integer(inner), act, Integer(groups))
    changed = replace(layer, mixer=SpanHeads(at, Integer(kernel)), channel=channel)
    return replace(reading, model=replace(model, segments=(replace(segment, layer=changed),)))


def _squeezebert(fields: Fields) -> Reading:
    """Products are convolutions of one tap in groups of channels."""
    d, inner = fields.size("hidden_size"), fields.size("intermediate_size")
    fields.require("embedding_size", d)
    found = {}
    for key, usual in (("q_groups", 4), ("k_groups", 4), ("v_groups", 4),
                       ("post_attention_groups", 1), ("intermediate_groups", 4),
                       ("output_groups", 4)):  # fmt: skip
        found[key] = Integer(fields.size(key, default=usual))
        divided(fields, d, int(found[key]), f"hidden size over {key!r}")
        divided(fields, inner, int(found[key]), f"width of feed-forward blocks over {key!r}")
    reading = read_of(fields, Kin(also=True))
    model = encoder_of(reading)
    (segment,) = model.segments
    layer = segment.layer
    assert isinstance(layer, Layer)
    act = activation_of(fields, "hidden_act", default="gelu")
    heads = Integer(fields.size("num_attention_heads"))
    changed = GroupedLayer(Integer(d), heads, Integer(inner), act, tuple(found.values()))
    return replace(reading, model=replace(model, segments=(replace(segment, layer=changed),)))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "mobilebert": _mobilebert,
        "convbert": _convbert,
        "squeezebert": _squeezebert,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        **classes_of({"MobileBert": "mobilebert", "SqueezeBert": "squeezebert"}),
        **classes_of({"ConvBert": "convbert"}, TASKS[:-1]),
        **classes_of({"MobileBert": "mobilebert"}, SENTENCES),
    }
)
