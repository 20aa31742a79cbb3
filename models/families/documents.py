"""Encoders of documents: LayoutLMv3, BROS, LiLT, MarkupLM; LUKE, whose words name entities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import Ends, FeedForward, Layer, Maker, Segment
from costgraph.models.blocks.boxes import BoxBias, Boxed, PageFront
from costgraph.models.blocks.encoder import Bidirectional, Heads
from costgraph.models.blocks.paths import PairHeads, PairPlaces, PathFront
from costgraph.models.encoder import Encoder, RestingFront, TextFront
from costgraph.models.encoder_heads import Head, LabelHead, MaskedHead, PooledHead, PretrainedHeads
from costgraph.models.families.common import Family, Reading, activation_of, labels_of
from costgraph.models.families.encoders import (
    BARE,
    LAYER_NORM,
    bert_like,
    classes_of,
    heads_by_task,
    task_of,
    types_of,
)
from costgraph.models.families.kindred import Kin, encoder_of, heads_for, read_of, said_of
from costgraph.models.families.vision import patches_of, pixels
from costgraph.models.fields import Fields, divided
from costgraph.models.lilt import BesideFront, BesideLayer, OfWords
from costgraph.ops.views import Slice
from costgraph.symbols import q

TASKS = ("Model", "ForTokenClassification", "ForSequenceClassification", "ForQuestionAnswering")
PAGE = "S counts the words and the {seen} positions of the page behind them"
WORDS = (
    "no entities are given: their table, and the queries that words and entities have for one "
    "another, only rest in memory"
)


@dataclass(frozen=True)
class OfFirst:
    """A head over all positions but the last ``seen``."""

    seen: Expr
    head: Head

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head."""
        length = q - self.seen
        return self.head.add(m, m.add("words", Slice(1, Integer(0), length), hidden), table)


@dataclass(frozen=True)
class BentLabels:
    """A product, tanh, and labels of every position."""

    d: Expr
    labels: Expr

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head."""
        return LabelHead(self.d, self.labels, "tanh").add(m, hidden, table)


def _page_head(fields: Fields, d: Expr, seen: Expr) -> Head | None:
    labels, task = Integer(labels_of(fields)), task_of(fields)
    if task == "ForSequenceClassification":
        return PooledHead(d, labels)
    if task == "ForQuestionAnswering":
        return BentLabels(d, labels)  # of the page as well, as in the published code
    if task == "ForTokenClassification":
        # The published code has a product in between from ten labels on.
        few = labels < 10
        return OfFirst(seen, LabelHead(d, labels) if few else BentLabels(d, labels))
    return None


def _layoutlmv3(fields: Fields) -> Reading:
    fields = fields.with_defaults(type_vocab_size=2)
    kin = Kin(unused=2)
    at = heads_for(fields, kin)
    act = activation_of(fields, "hidden_act", default="gelu")
    feed = FeedForward(at.d, Integer(fields.size("intermediate_size")), act, gated=False, bias=True)
    edge = fields.size("coordinate_size", default=128)
    extent = fields.size("shape_size", default=128)
    if Integer(4 * edge + 2 * extent) != at.d:
        raise ModelError(
            f"{fields.name}: 'coordinate_size' = {edge} and 'shape_size' = {extent}: four of the "
            f"first and two of the second must be the hidden size, {at.d}"
        )
    if not fields.flag("text_embed", True):
        raise ModelError(f"{fields.name}: 'text_embed' = False: pages without words")
    size, patch = pixels(fields, 224, "input_size"), fields.size("patch_size", default=16)
    shown = fields.flag("visual_embed", True)
    if shown and (size[0] != size[1] or size[0] % patch):
        raise ModelError(f"{fields.name}: a page of {size[0]} x {size[1]} in patches of {patch}")
    for key in ("second_input_size", "tie_word_embeddings"):
        fields.values.get(key)  # of another encoder, and of logits of words, which no class has
    patches = patches_of(fields, at.d, size, patch) if shown else None
    tables = []
    spatial = fields.flag("has_spatial_attention_bias", True)
    if fields.flag("has_relative_attention_bias", True):
        tables = [("place", Integer(fields.size("rel_pos_bins", default=32)))]
        rows = Integer(fields.size("rel_2d_pos_bins", default=64))
        tables += [("across", rows), ("down", rows)] if spatial else []
    elif spatial:
        raise ModelError(
            f"{fields.name}: 'has_spatial_attention_bias' without 'has_relative_attention_bias': "
            "the published code then adds no bias at all"
        )
    for key in ("max_rel_pos", "max_rel_2d_pos"):
        fields.values.get(key)  # beyond these distances all are the same
    positions = fields.size("max_position_embeddings", default=512)
    front = PageFront(
        d=at.d,
        vocab=Integer(fields.size("vocab_size")),
        positions=Integer(positions),
        types=Integer(fields.size("type_vocab_size")),
        places=Integer(fields.size("max_2d_position_embeddings", default=1024)),
        edge=Integer(edge),
        extent=Integer(extent),
        patches=patches,
        size=size,
    )
    seen = front.seen
    mixer = Boxed(at) if tables else Bidirectional(at)
    layer = Layer(at.d, mixer, feed, LAYER_NORM, norm_first=False)
    model = Encoder(
        front=front,
        segments=(Segment("layers", layer, Integer(fields.size("num_hidden_layers"))),),
        d=at.d,
        head=_page_head(fields, at.d, seen),
        buckets=BoxBias(at.heads, tuple(tables)) if tables else None,
        longest=positions - 2 + int(seen),
        shortest=int(seen) + 1 if shown else 0,
    )
    said = (PAGE.format(seen=seen),) if shown else ()
    return Reading(model, assumptions=said if model.head else (*said, BARE))


def _bros(fields: Fields) -> Reading:
    """BERT whose scores also compare queries with the boxes of each pair."""
    fields.values.get("tie_word_embeddings")  # no class that is read has logits of words
    reading = read_of(fields.with_values(tie_word_embeddings=True), Kin(also=True))
    model, at = encoder_of(reading), heads_for(fields, Kin())
    sides = fields.size("dim_bbox", default=8)
    waves = divided(fields, int(at.d), 4, "hidden size")
    if int(waves) % (2 * sides):
        raise ModelError(f"{fields.name}: 'dim_bbox' = {sides} of {waves} numbers for a box")
    for key, usual in (("dim_bbox_sinusoid_emb_2d", waves), ("dim_bbox_sinusoid_emb_1d",
                       waves / sides), ("dim_bbox_projection", at.head_dim)):  # fmt: skip
        fields.require(key, int(usual))
    for key in ("bbox_scale", "n_relations"):
        fields.values.get(key)
    (segment,) = model.segments
    layer = segment.layer
    assert isinstance(layer, Layer)
    changed = replace(
        model,
        segments=(replace(segment, layer=replace(layer, mixer=PairHeads(at))),),
        buckets=PairPlaces(waves, at.head_dim),
    )
    return replace(reading, model=changed)


def _lilt(fields: Fields) -> Reading:
    ratio = fields.size("channel_shrink_ratio", default=4)
    kin = Kin(unused=2)
    at = heads_for(fields, kin)
    narrow = divided(fields, int(at.d), ratio, "hidden size over 'channel_shrink_ratio'")
    inner = fields.size("intermediate_size")
    few = divided(fields, inner, ratio, "feed-forward width over 'channel_shrink_ratio'")
    divided(fields, int(at.d), 6, "hidden size over edges of a box")
    width = divided(fields, int(at.head_dim), ratio, "head size over 'channel_shrink_ratio'")
    act = activation_of(fields, "hidden_act", default="gelu")
    layer = BesideLayer(
        at,
        FeedForward(at.d, Integer(inner), act, gated=False, bias=True),
        Heads(narrow, at.heads, width, True, True, True),
        FeedForward(narrow, few, act, gated=False, bias=True),
    )
    positions = fields.size("max_position_embeddings")
    ends = Ends(
        at.d, Integer(fields.size("vocab_size")), positions=Integer(positions),
        embed_norm=LAYER_NORM,
    )  # fmt: skip
    front = BesideFront(
        TextFront(ends, types_of(fields)),
        at.d,
        narrow,
        Integer(fields.size("max_2d_position_embeddings", default=1024)),
        Integer(positions),
    )
    head = heads_by_task(fields, at.d, PooledHead(at.d))
    model = Encoder(
        front=front,
        segments=(Segment("layers", layer, Integer(fields.size("num_hidden_layers"))),),
        d=at.d + narrow,
        head=None if head is None else OfWords(at.d, head),
        longest=positions - 2,
    )
    fields.values.get("tie_word_embeddings")  # no class of the type has logits of words
    return Reading(model, assumptions=said_of(fields, head, pooler=True))


def _markuplm(fields: Fields) -> Reading:
    reading = read_of(fields.with_values(tie_word_embeddings=True), Kin(unused=2))
    model = encoder_of(reading)
    front = model.front
    assert isinstance(front, TextFront)
    paths = PathFront(
        front.ends,
        Integer(front.types),
        Integer(fields.size("max_depth", default=50)),
        Integer(fields.size("xpath_unit_hidden_size", default=32)),
        Integer(fields.size("max_xpath_tag_unit_embeddings", default=256)),
        Integer(fields.size("max_xpath_subs_unit_embeddings", default=1024)),
    )
    for key in ("tag_pad_id", "subs_pad_id", "tie_word_embeddings"):
        fields.values.get(key)
    return replace(reading, model=replace(model, front=paths))


@dataclass(frozen=True)
class EntityHeads(Bidirectional):
    """Attention of words alone; queries between words and entities rest in memory."""

    def add(self, m: Maker, x: str) -> str:
        """Adds the block; ``x (B, q, d)`` in and out."""
        for name in ("w2e", "e2w", "e2e"):
            m.weight(f"{name}_query.weight", self.at.width, self.at.d)
            m.vector(f"{name}_query.bias", self.at.width)
        return super().add(m, x)


def _luke(fields: Fields) -> Reading:
    """RoBERTa whose words and entities attend to one another (arXiv 2010.01057)."""
    aware = fields.flag("use_entity_aware_attention", True)
    kind = EntityHeads if aware else Bidirectional
    rows = fields.size("entity_vocab_size", default=500000)
    width = fields.size("entity_emb_size", default=256)
    fields.values.get("cls_entity_prediction")  # of training
    d = fields.size("hidden_size")
    # The words' logits have a matrix of their own either way.
    fields.values.get("tie_word_embeddings")
    named = fields.with_values(tie_word_embeddings=True)

    def head_of(_: Fields, d: int, masked: MaskedHead) -> Head | PretrainedHeads | None:
        if task_of(fields) != "ForMaskedLM":
            return heads_by_task(fields, Integer(d), masked)
        words = replace(masked, tied=False, activation="gelu")
        return PretrainedHeads(words, PooledHead(Integer(d)))

    reading = bert_like(named, 2, lambda at, _: kind(at), head_of)
    model = encoder_of(reading)
    resting = [("entities.weight", rows * width)]
    resting += [("entities_proj.weight", width * d)] if width != d else []
    tables = fields.size("max_position_embeddings") + types_of(fields) + 2
    resting += [("entities_beside.rows", tables * d)]  # positions, types, a norm
    if task_of(fields) == "ForMaskedLM":
        resting += [("entities_head.rows", width * d + 3 * width + rows)]
    front = RestingFront(model.front, tuple((name, Integer(size)) for name, size in resting))
    return Reading(
        replace(model, front=front),
        assumptions=(*reading.assumptions, WORDS),
    )


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "layoutlmv3": _layoutlmv3,
        "bros": _bros,
        "lilt": _lilt,
        "markuplm": _markuplm,
        "luke": _luke,
        "mluke": _luke,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        **classes_of({"LayoutLMv3": "layoutlmv3", "Lilt": "lilt", "MarkupLM": "markuplm"}, TASKS),
        **classes_of({"Bros": "bros"}, TASKS[:2]),
        **classes_of({"Luke": "luke"}, (*TASKS, "ForMaskedLM", "ForMultipleChoice")),
    }
)
