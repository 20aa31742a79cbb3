"""Models that count distances: Transformer-XL, whose memory is states, and XLNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Ends, FeedForward, Layer, Maker, Segment
from costgraph.models.blocks.clusters import ClusteredStack, Clusters
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.relative import Apart, Remembering
from costgraph.models.encoder import Encoder, TextFront
from costgraph.models.encoder_heads import ProjectedHead
from costgraph.models.families.common import Family, Reading, activation_of, class_of
from costgraph.models.families.encoders import BARE, LAYER_NORM
from costgraph.models.fields import LARGEST, Fields
from costgraph.ops.pattern import Window

#: What is said of XLNet, which was trained to predict tokens in any order.
ONE_PASS = (
    "one pass over one segment, both ways: no second stream for tokens to predict, and no term for "
    "kinds of segments"
)
#: What is said of its memory.
MEMORY = (
    "{0} positions in front of the segment are remembered: their states are kept, and their keys "
    "and values projected anew in each pass, as the published code does; all new states enter it"
)
NO_MEMORY = (
    "no memory of segments in front, as the file states none ('mem_len' with 'use_mems_eval')"
)


@dataclass(frozen=True)
class _Predicting(TextFront):
    """Embeddings, and that of tokens to predict, which rests in memory."""

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds the embeddings: (hidden state, embedding table)."""
        m.vector("mask_embed.weight", self.ends.d)
        return super().add(m)


def _cutoffs(fields: Fields, vocab: int) -> list[int]:
    """Tokens of each cluster of the vocabulary.

    Raises:
        ModelError: the ends of clusters are no rising list of tokens.
    """
    key = "cutoffs"
    found = fields.values.get(key, [20000, 40000, 200000])
    ends = [0, *found, vocab] if isinstance(found, list) else [0]
    rising = all(type(e) is int and e <= LARGEST for e in ends) and all(
        a < b for a, b in pairwise(ends)
    )
    if not rising or len(ends) < 2:
        raise ModelError(f"{fields.name}: {key!r} = {clip(found)} are no ends of clusters")
    return [b - a for a, b in pairwise(ends)]


def _shared(fields: Fields, count: int) -> tuple[bool, ...]:
    """For each cluster, whether its projection to logits is that of its embeddings.

    Raises:
        ModelError: the list of them has another length than clusters.
    """
    key = "tie_projs"
    usual = fields.flag("proj_share_all_but_first", True)
    found = fields.values.get(key, [False, *[usual] * (count - 1)])
    if not isinstance(found, list) or not all(isinstance(f, bool) for f in found):
        raise ModelError(f"{fields.name}: {key!r} = {clip(found)} are not true or false each")
    # The usual list is one longer than the default clusters: what is behind them plays no part.
    if len(found) < count:
        raise ModelError(f"{fields.name}: {key!r} says nothing of some of {count} clusters")
    return tuple(found[:count])


def _transfo_xl(fields: Fields) -> Reading:
    """Layers with norms behind or in front; states stay, distances have a term of their own."""
    for key, usual in (
        ("attn_type", 0),
        ("adaptive", True),
        ("untie_r", True),
        ("tie_weight", True),
    ):
        fields.require(key, usual)
    # Distances beyond a bound are the same row of the table, which is as long as without;
    # how long segments of a training are, and what it samples, play no part.
    for key in ("clamp_len", "tgt_len", "ext_len", "sample_softmax"):
        fields.number(key, 0)
    d, width = fields.size("d_model"), fields.size("d_embed", default=1024)
    vocab = fields.size("vocab_size", default=267735)
    sizes = _cutoffs(fields, vocab)
    divided = fields.size("div_val", default=4)
    widths = [width // divided**i for i in range(len(sizes))]
    if not widths[-1]:
        raise ModelError(
            f"{fields.name}: 'div_val' = {divided} leaves nothing of 'd_embed' = {width} in the "
            f"last of {len(sizes)} clusters"
        )
    at = Heads(
        Integer(d), Integer(fields.size("n_head")), Integer(fields.size("d_head", default=64))
    )
    memory = fields.size("mem_len", default=1600)
    # With as many positions for each, a position sees the memory less those that it replaces.
    sees = memory if fields.flag("same_length", True) else memory + 1
    layer = Layer(
        d=Integer(d),
        mixer=Remembering(at, Window(Integer(sees))),
        channel=FeedForward(
            Integer(d), Integer(fields.size("d_inner")), "relu", gated=False, bias=True
        ),
        norm=LAYER_NORM,
        norm_first=fields.flag("pre_lnorm", False),
    )
    ends = Clusters(
        d=Integer(d),
        widths=tuple(map(Integer, widths)),
        sizes=tuple(map(Integer, sizes)),
        shared=_shared(fields, len(sizes)),
        projected=divided != 1 or width != d,
        alike=divided == 1,
        tied=fields.flag("tie_word_embeddings", True),
    )
    layers = Segment("layers", layer, Integer(fields.size("n_layer")))
    said = (
        "the memory moves on with each token, and keys, values and distances in sight are "
        "projected anew in each step, as the published code does",
        "tokens that are read are of the first cluster of the vocabulary, the most frequent, "
        "whose embedding is the widest",
    )
    return Reading(ClusteredStack(ends, (layers,)), assumptions=said)


def _xlnet(fields: Fields) -> Reading:
    """BERT's layers without biases in attention, and a term for distances."""
    d, heads = fields.size("d_model"), fields.size("n_head")
    width = fields.size("d_head", default=d // heads)
    if width * heads != d:
        raise ModelError(f"{fields.name}: 'd_head' = {width} is not {d}/{heads}, as it must be")
    kind = fields.word("attn_type", default="bi")
    if kind != "bi":
        raise ModelError(
            f"{fields.name}: 'attn_type' = {clip(kind)} is not supported: only XLNet's 'bi' is read"
        )
    fields.refuse("bi_data", "batches of two directions are not known in this family")
    # Rows of the table of distances that are alike, and what concerns training.
    for key in ("reuse_len", "clamp_len"):
        fields.number(key, 0)
    for key in ("same_length", "use_mems_train", "untie_r"):
        fields.flag(key, False)
    memory = fields.size("mem_len", default=0) if fields.values.get("mem_len") else 0
    memory *= fields.flag("use_mems_eval", True)
    said = MEMORY.format(memory) if memory else NO_MEMORY
    act = activation_of(fields, "ff_activation", default="gelu")
    at = Heads(Integer(d), Integer(heads), Integer(width))
    feed = FeedForward(Integer(d), Integer(fields.size("d_inner")), act, gated=False, bias=True)
    layer = Layer(Integer(d), Apart(at, Integer(memory)), feed, LAYER_NORM, norm_first=False)
    vocab = Integer(fields.size("vocab_size", "n_token", default=32000))
    name = class_of(fields.values) or "XLNetModel"
    if name not in ("XLNetLMHeadModel", "XLNetModel"):
        raise ModelError(
            f"{fields.name}: {clip(name)}: only XLNetModel and XLNetLMHeadModel are read"
        )
    tied = fields.flag("tie_word_embeddings", True)
    bare = name == "XLNetModel"
    model = Encoder(
        front=_Predicting(Ends(Integer(d), vocab)),
        segments=(Segment("layers", layer, Integer(fields.size("n_layer"))),),
        d=Integer(d),
        head=None if bare else ProjectedHead(Integer(d), vocab, tied, bias=True),
    )
    return Reading(model, assumptions=(ONE_PASS, said, *((BARE,) if bare else ())))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"transfo-xl": _transfo_xl, "xlnet": _xlnet})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "TransfoXLLMHeadModel": "transfo-xl",
        "XLNetLMHeadModel": "xlnet",
        "XLNetModel": "xlnet",
    }
)
