"""Relatives of BERT: the same blocks under other names, rotated or relative positions, gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import Ends, FeedForward, Layer, Norm, Segment
from costgraph.models.blocks.encoder import Bidirectional, Heads
from costgraph.models.blocks.experts import Experts
from costgraph.models.blocks.pattern import gathered
from costgraph.models.encoder import Buckets, Encoder, TextFront
from costgraph.models.encoder_heads import (
    Head,
    LabelHead,
    MaskedHead,
    MeanHead,
    PooledHead,
    ProjectedHead,
)
from costgraph.models.families.common import (
    Family,
    Reading,
    activation_of,
    heads_of,
    labels_of,
    layer_count,
    rotary_of,
)
from costgraph.models.families.encoders import (
    BARE,
    FEW,
    LAYER_NORM,
    POOLER,
    SENTENCES,
    TASKS,
    bert,
    classes_of,
    heads_by_task,
    require_tied,
    roberta,
    task_of,
    types_of,
)
from costgraph.models.fields import Fields, divided
from costgraph.ops import Route


def _head(fields: Fields, d: Expr, activation: str, pools: str = "tanh") -> Head | None:
    """The head of the class; ``pools`` acts on the first position where a sequence is labelled.

    Raises:
        ModelError: the projection of masked tokens is not tied.
    """
    require_tied(fields)
    masked = MaskedHead(d, Integer(fields.size("vocab_size")), activation, LAYER_NORM)
    return heads_by_task(fields, d, masked, pools, pooler=False)


def _encoder(fields: Fields, at: Heads, feed: FeedForward, **changes: Any) -> Encoder:
    """Norms behind residuals, one behind the embeddings; positions where a table has them."""
    d = at.d
    positions = changes.pop("positions", None)
    ends = Ends(d, Integer(fields.size("vocab_size")), positions=positions, embed_norm=LAYER_NORM)
    layer = Layer(d, Bidirectional(at), feed, LAYER_NORM, norm_first=False)
    return Encoder(
        front=TextFront(ends, types=types_of(fields)),
        segments=(Segment("layers", layer, Integer(fields.size("num_hidden_layers"))),),
        d=d,
        **changes,
    )


def _heads(fields: Fields, bias: bool, rotary: bool = False) -> Heads:
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    width = divided(fields, d, heads, "hidden size over heads")
    if fields.size("head_dim", default=int(width)) != width:
        raise ModelError(f"{fields.name}: 'head_dim' must be {width}, hidden size over heads")
    turned = rotary_of(fields, width, 1.0) if rotary else None
    return Heads(Integer(d), Integer(heads), width, bias, bias, bias, rotary=turned)


def _rotated(fields: Fields, at: Heads, feed: FeedForward, activation: str) -> Reading:
    """Positions are rotated, in no table."""
    head = _head(fields, at.d, activation)
    longest = fields.size("max_position_embeddings")
    return Reading(
        _encoder(fields, at, feed, head=head, longest=longest),
        assumptions=() if head else (BARE,),
    )


def _nomic(fields: Fields) -> Reading:
    """Rotated positions, gated blocks, no biases but the norms'."""
    at = _heads(fields, False, rotary=True)
    act = activation_of(fields, "hidden_act", default="silu")
    feed = FeedForward(at.d, Integer(fields.size("intermediate_size")), act)
    return _rotated(fields, at, feed, act)


def _nomic_experts(fields: Fields) -> Reading:
    """BERT with rotated positions, and experts in every second layer (arXiv 2502.07972)."""
    at = _heads(fields, True, rotary=True)
    act, d = activation_of(fields, "hidden_act", default="gelu"), at.d
    width = Integer(fields.size("intermediate_size"))
    fields.refuse("num_shared_experts", "shared experts are not known in this family")
    fields.refuse("expert_choice_router", "experts that choose tokens are not known here")
    experts = Experts(
        d,
        width,
        Integer(fields.size("num_experts")),
        Integer(fields.size("moe_top_k")),
        Route(normalise=fields.flag("moe_normalize_expert_weights", False)),
        act,
        gated=False,
        sum_bias=True,
    )
    feed = FeedForward(d, width, act, gated=False, bias=True)
    every = fields.size("moe_every_n_layers")
    reading = _rotated(fields, at, feed, act)
    assert isinstance(reading.model, Encoder)
    (whole,) = reading.model.segments
    assert isinstance(whole.layer, Layer)
    layers = {"dense": whole.layer, "experts": replace(whole.layer, channel=experts)}
    names = ("experts" if i % every == 1 else "dense" for i in range(layer_count(fields)))
    segments = gathered((name, layers[name]) for name in names)
    return replace(reading, model=replace(reading.model, segments=segments))


def _nomic_published(fields: Fields) -> Reading:
    """The files of Nomic's own code, which are GPT-2's keys for another model."""
    named = fields.renamed(
        hidden_size="n_embd",
        num_hidden_layers="n_layer",
        num_attention_heads="n_head",
        intermediate_size="n_inner",
        max_position_embeddings="n_positions",
        hidden_act="activation_function",
        layer_norm_eps="layer_norm_epsilon",
    )
    experts = bool(named.values.get("num_experts")) and bool(named.values.get("moe_every_n_layers"))
    for key, usual in (("rotary_emb_fraction", 1.0), ("prenorm", False), ("parallel_block", False),
                       ("use_rms_norm", False), ("qkv_proj_bias", experts),
                       ("mlp_fc1_bias", experts), ("mlp_fc2_bias", experts), ("causal", False),
                       ("rotary_emb_interleaved", False)):  # fmt: skip
        named.require(key, usual)
    return _nomic_experts(named) if experts else _nomic(named)


def gte(fields: Fields) -> Reading:
    """Rotated positions, and a gated block whose last product has a bias."""
    at = _heads(fields, True, rotary=True)
    act = activation_of(fields, "hidden_act", default="gelu")
    width = Integer(fields.size("intermediate_size"))
    feed = FeedForward(at.d, width, act, down_bias=True)
    return _rotated(fields, at, feed, act)


def _gte_published(fields: Fields) -> Reading:
    """The files of GTE's own code."""
    for key, usual in (("position_embedding_type", "rope"), ("layer_norm_type", "layer_norm"),
                       ("logn_attention_scale", False)):  # fmt: skip
        fields.require(key, usual)
    for key in ("pack_qkv", "unpad_inputs", "use_memory_efficient_attention"):
        fields.values.get(key)  # how its kernels are run
    return gte(fields)


def _mpnet(fields: Fields) -> Reading:
    """BERT with a position bias that all layers share, and no token types."""
    at = replace(_heads(fields, True), relative=True)
    act = activation_of(fields, "hidden_act", default="gelu")
    feed = FeedForward(at.d, Integer(fields.size("intermediate_size")), act, gated=False, bias=True)
    pools = task_of(fields) == "Model"
    head = _head(fields, at.d, "gelu") or (PooledHead(at.d) if pools else None)
    positions = fields.size("max_position_embeddings", default=512)
    count = Integer(fields.size("relative_attention_num_buckets", default=32))
    model = _encoder(
        fields.with_values(type_vocab_size=0),
        at,
        feed,
        head=head,
        positions=Integer(positions),
        # Positions start behind the padding index, so two rows are never used.
        longest=positions - 2,
        buckets=Buckets(count, at.heads),
    )
    return Reading(model, assumptions=(POOLER,) if pools else () if head else (BARE,))


def _distilbert(fields: Fields) -> Reading:
    named = fields.renamed(
        hidden_size="dim",
        num_hidden_layers="n_layers",
        num_attention_heads="n_heads",
        intermediate_size="hidden_dim",
        hidden_act="activation",
    )
    fields.values.get("sinusoidal_pos_embds")  # the values of a table that is there either way
    at = _heads(named, True)
    act = activation_of(named, "hidden_act", default="gelu")
    feed = FeedForward(at.d, Integer(named.size("intermediate_size")), act, gated=False, bias=True)
    head = _head(fields, at.d, act, "relu")
    positions = fields.size("max_position_embeddings", default=512)
    model = _encoder(
        named.with_values(type_vocab_size=0),
        at,
        feed,
        head=head,
        positions=Integer(positions),
        longest=positions,
    )
    return Reading(model, assumptions=() if head else (BARE,))


def _eurobert_labels(fields: Fields, d: Expr) -> Head | None:
    """Labels of every position or of a sequence; none of the bare class."""
    task = task_of(fields)
    if task in ("Model", ""):
        return None
    labels = Integer(labels_of(fields))
    if task == "ForTokenClassification":
        return LabelHead(d, labels)
    pools = fields.word("classifier_pooling", default="late")
    if pools not in ("bos", "mean", "late"):
        raise ModelError(f"{fields.name}: 'classifier_pooling' must be bos, mean or late")
    if pools == "bos":
        return PooledHead(d, labels, "gelu")
    return MeanHead(LabelHead(d, labels, "gelu"), late=pools == "late")


def _eurobert(fields: Fields) -> Reading:
    """A Llama that sees in both directions."""
    d = fields.size("hidden_size")
    heads, kv_heads, width = heads_of(fields, d)
    bias = fields.flag("attention_bias", False)
    at = Heads(
        Integer(d), Integer(heads), width, bias, bias, bias,
        rotary=rotary_of(fields, width, 1.0), kv_heads=Integer(kv_heads),
    )  # fmt: skip
    wide = fields.flag("mlp_bias", False)
    feed = FeedForward(
        Integer(d),
        Integer(fields.size("intermediate_size")),
        activation_of(fields, "hidden_act", default="silu"),
        bias=wide,
    )
    tied = fields.flag("tie_word_embeddings", False)
    vocab = Integer(fields.size("vocab_size"))
    head = (
        ProjectedHead(Integer(d), vocab, tied, wide)
        if task_of(fields) == "ForMaskedLM"
        else _eurobert_labels(fields, Integer(d))
    )
    model = Encoder(
        front=TextFront(Ends(Integer(d), vocab)),
        segments=(
            Segment(
                "layers",
                Layer(Integer(d), Bidirectional(at), feed, Norm()),
                Integer(fields.size("num_hidden_layers")),
            ),
        ),
        d=Integer(d),
        norm=Norm(),
        head=head,
        longest=fields.size("max_position_embeddings", default=8192),
    )
    return Reading(model, assumptions=() if head else (BARE,))


def _esmc(fields: Fields) -> Reading:
    """Rotated and gated like a Llama; layer norms, also over all queries and keys."""
    for key in ("attention_bias", "mlp_bias"):
        fields.refuse(key, "biases are not known in this family")
    at = replace(_heads(fields, False, rotary=True), qk_norm=Norm("layer"))
    fields.require("num_key_value_heads", fields.size("num_attention_heads"))
    act = activation_of(fields, "hidden_act", default="silu")
    feed = FeedForward(at.d, Integer(fields.size("intermediate_size")), act)
    layers = fields.size("num_hidden_layers")
    layer = Layer(at.d, Bidirectional(at), feed, LAYER_NORM, residual_scale=layers != 36)
    vocab = Integer(fields.size("vocab_size"))
    task = task_of(fields)
    if task not in ("ForMaskedLM", "Model", ""):
        raise ModelError(f"{fields.name}: only EsmcModel and EsmcForMaskedLM are read")
    if fields.flag("tie_word_embeddings", False):
        raise ModelError(f"{fields.name}: 'tie_word_embeddings' is not supported in this family")
    head = (
        MaskedHead(at.d, vocab, "gelu", LAYER_NORM, tied=False) if task == "ForMaskedLM" else None
    )
    model = Encoder(
        front=TextFront(Ends(at.d, vocab)),
        segments=(Segment("layers", layer, Integer(layers)),),
        d=at.d,
        norm=Norm("layer"),
        head=head,
        longest=fields.size("max_position_embeddings", default=2048),
    )
    return Reading(model, assumptions=() if head else (BARE,))


def _ernie(fields: Fields) -> Reading:
    fields.refuse("use_task_id", "embeddings of tasks are not known in this family")
    return bert(fields)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "camembert": roberta,
        "data2vec-text": roberta,
        "ernie": _ernie,
        "distilbert": _distilbert,
        "mpnet": _mpnet,
        "nomic_bert": _nomic_published,
        "gte": gte,
        # The type of the same layers in files of their publisher's code.
        "new": _gte_published,
        "eurobert": _eurobert,
        "esmc": _esmc,
    }
)

_STEMS: Mapping[str, str] = MappingProxyType(
    {
        "Camembert": "camembert",
        "Data2VecText": "data2vec-text",
        "Ernie": "ernie",
        "DistilBert": "distilbert",
        "MPNet": "mpnet",
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        **classes_of(_STEMS),
        **classes_of({"Ernie": "ernie"}, SENTENCES),
        **classes_of({"NomicBert": "nomic_bert", "Gte": "gte"}, FEW),
        **classes_of({"New": "new"}, TASKS),
        "EsmcModel": "esmc",
        "EsmcForMaskedLM": "esmc",
        "EuroBertModel": "eurobert",
        "EuroBertForMaskedLM": "eurobert",
        "EuroBertForSequenceClassification": "eurobert",
        "EuroBertForTokenClassification": "eurobert",
    }
)
