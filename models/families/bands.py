"""Encoders whose layers see a band around each position: taggers and BERT's later kin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Ends, FeedForward, Layer, Maker, Norm, Segment
from costgraph.models.blocks.encoder import Bidirectional, Heads
from costgraph.models.blocks.pattern import gathered
from costgraph.models.encoder import Encoder, TextFront
from costgraph.models.encoder_heads import Head, LabelHead, ProjectedHead, TransformedHead
from costgraph.models.families.alternating import clamped_experts
from costgraph.models.families.common import (
    FULL,
    SLIDING,
    Family,
    Reading,
    activation_of,
    heads_of,
    labels_of,
    layer_types,
    rotary_of,
)
from costgraph.models.families.encoders import BARE, FEW, classes_of, task_of
from costgraph.models.families.experts import attention_of
from costgraph.models.fields import Fields
from costgraph.ops import Activation
from costgraph.ops.pattern import Band

RMS = Norm()
#: Labels of the class of OpenAI's filter where the file says nothing: four ends of spans of eight
#: kinds, and none.
SPANS = 33


def _privacy_filter(fields: Fields) -> Reading:
    """GPT-OSS in both directions, a band in every layer, and a label for each position.

    Chosen experts are divided by their number and multiplied by it again: neither is counted.
    """
    fields = fields.with_defaults(
        head_dim=64, num_key_value_heads=2, num_local_experts=128, sliding_window=128
    )
    fields.values.get("tie_word_embeddings")  # the classes have no logits
    bias = fields.flag("attention_bias", True)
    band = Band(Integer(fields.size("sliding_window")))
    attention = attention_of(
        fields, qkv_bias=bias, out_bias=bias, sinks=True, causal=False, pattern=band
    )
    experts = clamped_experts(fields)
    labels = fields if fields.values.get("id2label") else fields.with_defaults(num_labels=SPANS)
    bare = task_of(fields) == "Model"
    head = None if bare else LabelHead(attention.d, Integer(labels_of(labels)))
    layer = Layer(attention.d, attention, experts)
    model = Encoder(
        front=TextFront(Ends(attention.d, Integer(fields.size("vocab_size")))),
        segments=(Segment("layers", layer, Integer(fields.size("num_hidden_layers"))),),
        d=attention.d,
        norm=RMS,
        head=head,
    )
    return Reading(model, assumptions=(BARE,) if bare else ())


@dataclass(frozen=True)
class NarrowHead:
    """Logits behind two products without biases, the first to ``narrow`` numbers.

    An activation stands behind each of both.
    """

    narrow: Expr
    logits: ProjectedHead
    activation: str = "gelu_tanh"

    def add(self, m: Maker, hidden: str, table: str) -> str:
        """Adds the head."""
        d = self.logits.d
        for name, wide, read in (("down", self.narrow, d), ("up", d, self.narrow)):
            hidden = m.linear(f"head_{name}", hidden, wide, read)
            hidden = m.add(f"head_{name}_act", Activation(self.activation), hidden)
        return self.logits.add(m, hidden, table)


def _with_windows(fields: Fields) -> Fields:
    """A file that lists a window for each layer, as the published ones do, in the usual keys.

    Raises:
        ModelError: the list is none, has windows of several sizes, or contradicts other keys.
    """
    key = "attention_windows"
    found = fields.values.get(key)
    if found is None:
        return fields
    if not isinstance(found, list) or any(
        w is not None and (isinstance(w, bool) or not isinstance(w, int) or w < 0) for w in found
    ):
        raise ModelError(f"{fields.name}: {key!r} must be a list of windows, not {clip(found)}")
    sizes = {w for w in found if w}
    if len(sizes) > 1:
        raise ModelError(f"{fields.name}: {key!r} has windows of several sizes: {clip(found)}")
    said = {
        "layer_types": ["sliding_attention" if w else "full_attention" for w in found],
        **({"sliding_window": sizes.pop()} if sizes else {}),
    }
    for name, value in said.items():
        if fields.values.get(name) not in (None, value):
            raise ModelError(f"{fields.name}: {name!r} and {key!r} contradict each other")
    return fields.with_values(**said)


def _ultrabert_head(fields: Fields, d: Expr) -> Head | None:
    """Logits behind a narrow product, or labels of the first position, the mean or of each."""
    task = task_of(fields)
    tied = fields.flag("tie_word_embeddings", False)  # of no influence where there are no logits
    if task in ("Model", ""):
        return None
    if task == "ForMaskedLM":
        logits = ProjectedHead(d, Integer(fields.size("vocab_size")), tied)
        return NarrowHead(Integer(fields.size("prediction_head_size", default=768)), logits)
    if task == "ForQuestionAnswering":
        return LabelHead(d, Integer(2))
    labels = Integer(labels_of(fields))
    if task == "ForTokenClassification":
        return LabelHead(d, labels)
    pools = fields.word("classifier_pooling", default="cls")
    if pools not in ("cls", "mean"):
        raise ModelError(f"{fields.name}: 'classifier_pooling' must be cls or mean")
    return TransformedHead(d, labels, None, pools)


def _ultrabert(fields: Fields) -> Reading:
    """A Llama that sees in both directions, two of three layers as far as a window."""
    fields = _with_windows(fields)
    size = fields.size("hidden_size")
    d = Integer(size)
    heads, kv_heads, width = heads_of(fields, size)
    bias = fields.flag("attention_bias", False)
    at = Heads(
        d, Integer(heads), width, bias, bias, bias,
        rotary=rotary_of(fields, width, 1.0), kv_heads=Integer(kv_heads),
    )  # fmt: skip
    feed = FeedForward(
        d,
        Integer(fields.size("intermediate_size")),
        activation_of(fields, "hidden_act", default="silu"),
        bias=fields.flag("mlp_bias", False),
    )
    kinds = layer_types(fields, lambda i: (i + 1) % 3 != 0)
    reach = Integer(fields.size("sliding_window", default=128))
    blocks = {
        FULL: Layer(d, Bidirectional(at), feed, RMS),
        SLIDING: Layer(d, Bidirectional(at, reach), feed, RMS),
    }
    head = _ultrabert_head(fields, d)
    model = Encoder(
        front=TextFront(Ends(d, Integer(fields.size("vocab_size")))),
        segments=gathered((kind, blocks[kind]) for kind in kinds),
        d=d,
        norm=RMS,
        head=head,
        longest=fields.size("max_position_embeddings", default=32768),
    )
    return Reading(model, assumptions=() if head else (BARE,))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"openai_privacy_filter": _privacy_filter, "ultrabert": _ultrabert}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "OpenAIPrivacyFilterForTokenClassification": "openai_privacy_filter",
        "OpenAIPrivacyFilterModel": "openai_privacy_filter",
        **classes_of({"Ultrabert": "ultrabert"}, (*FEW, "ForQuestionAnswering")),
    }
)
