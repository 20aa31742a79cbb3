"""ModernBERT: rotated positions, gates and windows, and heads of its own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import Ends, FeedForward, Layer, Norm
from costgraph.models.blocks.encoder import Bidirectional, Heads, Normed
from costgraph.models.blocks.pattern import gathered
from costgraph.models.blocks.stack import Transform
from costgraph.models.encoder import Encoder, TextFront
from costgraph.models.encoder_heads import Head, MaskedHead, TransformedHead
from costgraph.models.families.common import (
    FULL,
    SLIDING,
    Family,
    Reading,
    activation_of,
    labels_of,
    layer_types,
)
from costgraph.models.families.encoders import BARE, TASKS, classes_of, require_tied, task_of
from costgraph.models.fields import Fields, divided


def _head(fields: Fields, masked: MaskedHead) -> Head | None:
    """The head of ModernBERT's class: the product and the norm of masked tokens before labels."""
    task = task_of(fields)
    if task in ("Model", ""):
        return None
    if task == "ForMaskedLM":
        return masked
    pools = fields.word("classifier_pooling", default="cls")
    if pools not in ("cls", "mean"):
        raise ModelError(f"{fields.name}: 'classifier_pooling' must be cls or mean")
    labels = 1 if task == "ForMultipleChoice" else labels_of(fields)
    every = task in ("ForTokenClassification", "ForQuestionAnswering")
    act = activation_of(fields, "classifier_activation", default="gelu")
    transform = Transform(act, masked.norm, masked.bias)
    return TransformedHead(masked.d, Integer(labels), transform, "" if every else pools)


def _kinds(fields: Fields) -> tuple[str, ...]:
    """The kind of each layer: a list, or every so many see all positions.

    Raises:
        ModelError: both are there, and contradict each other.
    """
    key = "global_attn_every_n_layers"
    every = fields.size(key, default=3)
    kinds = layer_types(fields, lambda index: index % every != 0)
    told = tuple(FULL if index % every == 0 else SLIDING for index in range(len(kinds)))
    if fields.peek(key) is not None and kinds != told:
        raise ModelError(
            f"{fields.name}: 'layer_types' and {key!r} = {every} part the layers apart"
        )
    return kinds


def _modernbert(fields: Fields) -> Reading:
    d = fields.size("hidden_size")
    heads = fields.size("num_attention_heads")
    head_dim = divided(fields, d, heads, "hidden size over heads")
    vocab = Integer(fields.size("vocab_size"))
    for key in ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"):
        fields.refuse(key, "biases are not supported in this family")
    require_tied(fields)
    norm = Norm("layer")
    kinds = _kinds(fields)
    reach = fields.size("local_attention", default=128) // 2
    act = activation_of(fields, "hidden_activation", default="gelu")
    feed = FeedForward(
        Integer(d), Integer(fields.size("intermediate_size")), act, fused_gate_up=True
    )

    def mixer(whole: bool) -> Bidirectional:
        at = Heads(Integer(d), Integer(heads), head_dim, fused=True, rotary=head_dim)
        return Bidirectional(at, None if whole else Integer(reach))

    first = Layer(
        d=Integer(d),
        mixer=mixer(kinds[0] == FULL),
        channel=Normed(feed, Integer(d), norm),
        norm=norm,
        pre_norms=False,
    )
    blocks = {
        "first": first,
        "global": Layer(Integer(d), mixer(True), feed, norm),
        "local": Layer(Integer(d), mixer(False), feed, norm),
    }
    names = ("first", *("global" if kind == FULL else "local" for kind in kinds[1:]))
    if not fields.flag("decoder_bias", True):
        raise ModelError(
            f"{fields.name}: 'decoder_bias' = False: a projection of masked tokens without bias "
            "is not supported in this family"
        )
    head = _head(fields, MaskedHead(Integer(d), vocab, act, norm, bias=False))
    model = Encoder(
        front=TextFront(Ends(d=Integer(d), vocab=vocab, embed_norm=norm)),
        segments=gathered((name, blocks[name]) for name in names),
        d=Integer(d),
        norm=norm,
        head=head,
        longest=fields.size("max_position_embeddings", default=8192),
    )
    return Reading(model, assumptions=() if head else (BARE,))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"modernbert": _modernbert})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(classes_of({"ModernBert": "modernbert"}, TASKS))
