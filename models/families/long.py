"""Encoders of long documents: LongT5, Longformer, LED, ETC, BigBird and BigBird-Pegasus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Ends, FeedForward, Layer, Maker, Segment
from costgraph.models.blocks.encoder import Bidirectional, Heads
from costgraph.models.blocks.global_local import GlobalLocalLayer, normed_apart
from costgraph.models.blocks.layer import Block
from costgraph.models.blocks.sparse import Global, Means, Sparse
from costgraph.models.encoder import Encoder, EncoderDecoder, NearBuckets, TextFront
from costgraph.models.encoder_heads import Head, MaskedHead, PooledHead, PretrainedHeads
from costgraph.models.families.common import Family, Reading, activation_of, layer_count
from costgraph.models.families.encoders import (
    BARE,
    LAYER_NORM,
    alike,
    answering,
    bert_like,
    sides_of,
    t5,
    task_of,
)
from costgraph.models.fields import LARGEST, Fields, divided
from costgraph.ops.pattern import Scattered

#: What is said of global tokens, which no published configuration counts.
NONE_GLOBAL = (
    "no token sees all: tasks choose those that do; 'global_tokens' in the file says how many, "
    "and without any their projections only rest in memory"
)


def _longt5(fields: Fields) -> Reading:
    """T5 whose encoder sees what is near, and means of blocks."""
    reach = Integer(fields.size("local_radius", default=127))
    kind = fields.word("encoder_attention_type", default="local")
    if kind not in ("local", "transient-global"):
        raise ModelError(f"{fields.name}: 'encoder_attention_type' = {clip(kind)} is not known")
    block = Integer(fields.size("global_block_size", default=16))
    means = block if kind == "transient-global" else None
    reading = t5(fields)
    model = reading.model
    assert isinstance(model, Encoder | EncoderDecoder)
    encoder = model if isinstance(model, Encoder) else model.encoder
    assert isinstance(encoder, Encoder)
    (segment,) = encoder.segments
    layer = segment.layer
    assert isinstance(layer, Layer)
    assert isinstance(layer.mixer, Bidirectional)
    at = replace(layer.mixer.at, relative=False)
    buckets = Integer(fields.size("relative_attention_num_buckets", default=32))
    near = replace(
        encoder,
        segments=(replace(segment, layer=replace(layer, mixer=Means(at, reach, means))),),
        buckets=NearBuckets(buckets, at.heads, reach + 1, means),
    )
    changed = near if isinstance(model, Encoder) else replace(model, encoder=near)
    return replace(reading, model=changed)


def _reaches(fields: Fields, count: int) -> list[Expr]:
    """How far each layer sees to both sides: half of its window."""
    key = "attention_window"
    value = fields.values.get(key)
    listed = value if isinstance(value, list) else [fields.size(key, default=512)] * count
    if len(listed) != count:
        raise ModelError(f"{fields.name}: {key!r} must be one size, or a list of {count}")
    for window in listed:
        if type(window) is not int or not 0 < window <= LARGEST or window % 2:
            raise ModelError(f"{fields.name}: {key!r}: {clip(window)} is no even size")
    return [Integer(window // 2) for window in listed]


def _globals(fields: Fields) -> tuple[Expr, str]:
    """Tokens that see all, and what to say of them.

    Classifiers of sequences have one, the first.
    """
    key = "global_tokens"
    known = 1 if task_of(fields) == "ForSequenceClassification" else 0
    value = fields.values.get(key, known)
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise ModelError(f"{fields.name}: {key!r} = {clip(value)} is no number of tokens")
    said = f"tokens that see all and are seen by all: {value}, the first ones"
    return Integer(value), said if value else NONE_GLOBAL


def _longformer(fields: Fields) -> Reading:
    reaches = _reaches(fields, layer_count(fields))
    wide, said = _globals(fields)
    # Positions start behind the padding index, as in RoBERTa.
    reading = bert_like(fields, 2, lambda at, i: Global(at, reaches[i], wide))
    return replace(reading, assumptions=(*reading.assumptions, said))


def _led(fields: Fields) -> Reading:
    """BART whose encoder sees what is near, with tables of positions for both sides."""
    d = fields.size("d_model")
    act = activation_of(fields, "activation_function", default="gelu")
    (at, feed), side = sides_of(fields, d, act, k_bias=True)
    reaches = _reaches(fields, layer_count(fields, "encoder_layers"))
    wide, said = _globals(fields)
    heard = fields.size("max_encoder_position_embeddings", default=16384)
    answer = fields.size("max_decoder_position_embeddings", default=1024)
    ends = Ends(
        d=Integer(d),
        vocab=Integer(fields.size("vocab_size")),
        positions=Integer(answer),
        embed_norm=LAYER_NORM,
        norm=None,
        tied=fields.flag("tie_word_embeddings", True),
    )
    layers = (
        Layer(Integer(d), Global(at, reach, wide), feed, LAYER_NORM, norm_first=False)
        for reach in reaches
    )
    encoder = Encoder(
        front=TextFront(replace(ends, positions=Integer(heard))),
        segments=alike(layers, "encoder"),
        d=Integer(d),
        longest=heard,
    )
    model = answering(fields, encoder, side, ends, longest=answer)
    return Reading(model, assumptions=(said,))


def _scattered(fields: Fields, at: Heads) -> Block:
    """BigBird's attention, or that to all positions."""
    kind = fields.word("attention_type", default="block_sparse")
    block = fields.size("block_size", default=64)
    random = fields.size("num_random_blocks", default=3)
    if kind == "original_full":
        return Bidirectional(at)
    if kind != "block_sparse":
        raise ModelError(f"{fields.name}: 'attention_type' = {clip(kind)} is not known")
    return Sparse(at, Scattered(Integer(block), Integer(random)))


def _bigbird_head(fields: Fields, d: int, masked: MaskedHead) -> Head | PretrainedHeads | None:
    """The class of masked tokens computes the pooler as well, without use."""
    task = task_of(fields)
    labels = Integer(2) if task == "ForPreTraining" else None
    if task in ("ForMaskedLM", "ForPreTraining"):
        return PretrainedHeads(masked, PooledHead(Integer(d), labels))
    return PooledHead(Integer(d)) if task == "Model" else None


def _bigbird(fields: Fields) -> Reading:
    fields = fields.with_defaults(hidden_act="gelu_new")
    bias = fields.flag("use_bias", True)
    scaled = fields.flag("rescale_embeddings", False)

    def mixer(at: Heads, index: int) -> Block:
        return _scattered(fields, replace(at, qv_bias=bias, k_bias=bias))

    reading = bert_like(fields, 0, mixer, _bigbird_head)
    model = reading.model
    assert isinstance(model, Encoder)
    assert isinstance(model.front, TextFront)
    front = replace(model.front, ends=replace(model.front.ends, embed_scale=scaled))
    return replace(reading, model=replace(model, front=front))


def _bigbird_pegasus(fields: Fields) -> Reading:
    d = fields.size("d_model")
    act = activation_of(fields, "activation_function", default="gelu_new")
    bias = fields.flag("use_bias", False)
    sides = sides_of(fields, d, act, k_bias=bias)
    (at, feed), side = (
        (replace(heads, qv_bias=bias, out_bias=bias), block) for heads, block in sides
    )
    positions = fields.size("max_position_embeddings", default=4096)
    ends = Ends(
        d=Integer(d),
        vocab=Integer(fields.size("vocab_size")),
        positions=Integer(positions),
        embed_scale=fields.flag("scale_embedding", True),
        norm=LAYER_NORM,
        tied=fields.flag("tie_word_embeddings", True),
    )
    layer = Layer(Integer(d), _scattered(fields, at), feed, LAYER_NORM)
    encoder = Encoder(
        front=TextFront(ends),
        segments=(Segment("encoder", layer, Integer(fields.size("encoder_layers"))),),
        d=Integer(d),
        norm=LAYER_NORM,
        longest=positions,
    )
    return Reading(answering(fields, encoder, side, ends, longest=positions))


@dataclass(frozen=True)
class _Apart(TextFront):
    """Embeddings whose norms are two: of positions that see all, and of others."""

    wide: Expr = Integer(0)

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds the embeddings: (hidden state, embedding table)."""
        hidden, table = super().add(m)
        return normed_apart(m, "embed", hidden, self.wide, LAYER_NORM), table


def _etc(fields: Fields) -> Reading:
    """The keys of the published ``EtcConfig``, and how many positions see all."""
    d, heads = (
        fields.size("hidden_size", default=768),
        fields.size("num_attention_heads", default=12),
    )
    for key, usual in (
        ("use_pre_activation_order", False),
        ("max_absolute_position_embeddings", 0),
    ):
        fields.require(key, usual)
    if fields.size("embedding_size", default=d) != d:
        raise ModelError(f"{fields.name}: 'embedding_size' must be {d}, the hidden size")
    wide, said = _globals(fields)
    if wide == 0:
        raise ModelError(
            f"{fields.name}: 'global_tokens' must say how many positions see all: the published "
            "configuration does not (4,096 tokens go with 230 in the paper)"
        )
    width = fields.values.get("att_size_per_head")
    if width is None:
        width = divided(fields, d, heads, "hidden size over heads")
    else:
        width = Integer(fields.size("att_size_per_head"))
    kinds, apart = (
        fields.size("relative_vocab_size", default=32),
        fields.size("relative_pos_max_distance", default=12),
    )
    if kinds < 2 * apart + 4:
        raise ModelError(
            f"{fields.name}: 'relative_vocab_size' = {kinds} has no room for distances up to "
            f"'relative_pos_max_distance' = {apart} and three kinds of pairs beside them"
        )
    fields.require("share_feed_forward_params", True)
    shared = "keys" if fields.flag("share_kv_projections", False) else "none"
    if fields.flag("share_qkv_projections", True):
        shared = "all"
    at = Heads(Integer(d), Integer(heads), width, True, True, True)
    act = activation_of(fields, "hidden_act", default="gelu")
    layer = GlobalLocalLayer(
        at,
        FeedForward(
            at.d, Integer(fields.size("intermediate_size", default=3072)), act, gated=False,
            bias=True,
        ),
        LAYER_NORM,
        wide,
        Integer(fields.size("local_radius", default=84)),
        Integer(kinds),
        shared,
        fields.flag("share_att_output_projection", False),
    )  # fmt: skip
    types = fields.size("segment_vocab_size", default=16)
    model = Encoder(
        front=_Apart(Ends(at.d, Integer(fields.size("vocab_size"))), types=types, wide=wide),
        segments=(Segment("layers", layer, Integer(fields.size("num_hidden_layers", default=12))),),
        d=at.d,
        shortest=int(wide) + 1,
        why=f"S counts the {wide} positions that see all, too",
    )
    return Reading(model, assumptions=(said, BARE))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "longt5": _longt5,
        "longformer": _longformer,
        "led": _led,
        "etc": _etc,
        "big_bird": _bigbird,
        "bigbird_pegasus": _bigbird_pegasus,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "LongT5ForConditionalGeneration": "longt5",
        "LongT5EncoderModel": "longt5",
        "LongformerForMaskedLM": "longformer",
        "LongformerModel": "longformer",
        "LongformerForSequenceClassification": "longformer",
        "LongformerForTokenClassification": "longformer",
        "LEDForConditionalGeneration": "led",
        "BigBirdForMaskedLM": "big_bird",
        "BigBirdForPreTraining": "big_bird",
        "BigBirdModel": "big_bird",
        "BigBirdPegasusForConditionalGeneration": "bigbird_pegasus",
    }
)
