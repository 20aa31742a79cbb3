"""Encoders of speech: wav2vec 2.0 and its relatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Layer, Maker, Segment, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Bidirectional, Heads
from costgraph.models.blocks.stack import Period
from costgraph.models.conformer import (
    FAR,
    NEAR,
    NONE,
    TURNED,
    Adapted,
    ConformerLayer,
    FeatureFront,
)
from costgraph.models.encoder import Buckets, Encoder, RestingFront
from costgraph.models.encoder_heads import Head, LabelHead, ProjectedHead, Resting
from costgraph.models.families.common import (
    Family,
    Reading,
    activation_of,
    class_of,
    labels_of,
    layer_count,
)
from costgraph.models.families.encoders import LAYER_NORM, classes_of
from costgraph.models.families.vision import FOLDED, MOST_ENTRIES, sizes
from costgraph.models.fields import Fields, divided
from costgraph.models.speech_heads import (
    Adapter,
    MeanHead,
    ShorterHead,
    SpeakerHead,
    Weighed,
)
from costgraph.models.waves import Placing, SpeechFront
from costgraph.ops import Activation
from costgraph.ops.maps import Map, Reduce
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Reshape, Slice, Transpose
from costgraph.symbols import B, q

ONE = Integer(1)
BASE: Mapping[str, Any] = MappingProxyType(
    {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    }
)
POSITIONS = "S counts positions, made of the fewest samples that give as many"
GIVEN = "S counts the rows of features that are given, each of two frames of a spectrogram"
QUANTIZER = "the quantizer that training compares with only rests in memory"
GAIN = "the gain of the convolution that makes positions is folded into its kernel"


@dataclass(frozen=True)
class GatedBias:
    """WavLM's attention (arXiv 2110.13900): the position bias of all layers, gated in each.

    Each head's part of the hidden state makes eight numbers, two gates of four summed each.
    """

    at: Heads

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The position bias."""
        return self.at.shared(style, q)

    def add(self, m: Maker, x: str) -> str:
        """Adds the block; ``x (B, q, d)`` in and out."""
        heads, width = self.at.heads, self.at.head_dim
        parts = m.add("gate_heads", Reshape((B, q, heads, width)), x)
        made = m.linear("gate_proj", parts, Integer(8), width, True)
        made = m.add("gate_fours", Reshape((B, q, heads, Integer(2), Integer(4))), made)
        made = m.add("gate_sum", Reduce("sum", (4,)), made)
        made = m.add("gate_act", Activation("sigmoid"), made)
        first, second = (
            m.add(f"gate_{n}", Slice(3, Integer(i), ONE), made) for i, n in enumerate("ab")
        )
        scale = m.vector("gate_scale", heads, ONE)
        second = m.add("gate_scaled", Map("mul"), second, scale)
        second = m.add("gate_less", Map("add_constant"), second)
        gate = m.add("gate_both", Map("mul"), first, second)
        gate = m.add("gate_more", Map("add_constant"), gate)
        gate = m.add("gate_rows", Transpose((0, 2, 1, 3)), gate)
        bias = m.add("gated_bias", Map("mul"), gate, "position_bias")
        query, key, value = self.at.all(m, x)
        return self.at.out(m, attended(m, query, key, value, FULL, bias))


def speech_front(fields: Fields, d: int, before: bool, several: bool) -> SpeechFront:
    """wav2vec 2.0's front; ``several`` convolutions make positions, ``before``: no norm behind."""
    widths = sizes(fields, "conv_dim", (512,) * 7)
    kernels = sizes(fields, "conv_kernel", (10, 3, 3, 3, 3, 2, 2))
    strides = sizes(fields, "conv_stride", (5, 2, 2, 2, 2, 2, 2))
    if not len(widths) == len(kernels) == len(strides):
        raise ModelError(f"{fields.name}: 'conv_dim', 'conv_kernel' and 'conv_stride' differ")
    fields.require("num_feat_extract_layers", len(widths))
    act = activation_of(fields, "feat_extract_activation", default="gelu")
    every = several
    if not several:
        kind = fields.word("feat_extract_norm", default="group")
        if kind not in ("group", "layer"):
            raise ModelError(f"{fields.name}: 'feat_extract_norm' = {clip(kind)}: group or layer")
        every = kind == "layer"
    groups = fields.size("num_conv_pos_embedding_groups", default=16)
    divided(fields, d, groups, "hidden size over groups of the convolution for positions")
    if several:
        count = fields.size("num_conv_pos_embeddings", default=5)
        kernel = fields.size("conv_pos_kernel_size", default=19)
    else:
        count, kernel = 1, fields.size("num_conv_pos_embeddings", default=128)
    masks = (fields.number("mask_time_prob", 0.05), fields.number("mask_feature_prob", 0.0))
    return SpeechFront(
        d=Integer(d),
        widths=widths,
        steps=tuple(zip(kernels, strides, strict=True)),
        bias=fields.flag("conv_bias", False),
        every=every,
        activation=act,
        normed=fields.flag("feat_proj_layer_norm", True),
        placing=Placing(kernel, groups, count, not several, act),
        norm=None if before else LAYER_NORM,
        mask=any(p > 0 for p in masks),
    )


def speech_head(fields: Fields, d: int) -> Head | None:
    name = class_of(fields.values) or "ForCTC"
    if name.endswith("ForCTC"):
        vocab = Integer(fields.size("vocab_size", default=32))
        return ProjectedHead(Integer(d), vocab, tied=False, bias=True)
    if name.endswith("ForSequenceClassification"):
        width = Integer(fields.size("classifier_proj_size", default=256))
        return MeanHead(Integer(d), width, Integer(labels_of(fields)))
    if name.endswith("ForAudioFrameClassification"):
        return LabelHead(Integer(d), Integer(labels_of(fields)))
    if name.endswith("ForXVector"):
        widths = sizes(fields, "tdnn_dim", (512, 512, 512, 512, 1500))
        kernels = sizes(fields, "tdnn_kernel", (5, 3, 3, 1, 1))
        gaps = sizes(fields, "tdnn_dilation", (1, 2, 3, 1, 1))
        if not len(widths) == len(kernels) == len(gaps):
            raise ModelError(
                f"{fields.name}: 'tdnn_dim', 'tdnn_kernel' and 'tdnn_dilation' differ in length"
            )
        out = Integer(fields.size("xvector_output_dim", default=512))
        return SpeakerHead(Integer(d), widths, kernels, gaps, out, Integer(labels_of(fields)))
    if name.endswith("ForPreTraining"):
        return _trained(fields, d)
    return None


def _trained(fields: Fields, d: int) -> Head:
    """What wav2vec 2.0 is trained with: a product, and a quantizer of what it is compared with."""
    groups = fields.size("num_codevector_groups", default=2)
    codes = groups * fields.size("num_codevectors_per_group", default=320)
    width = fields.size("codevector_dim", default=256)
    each = divided(fields, width, groups, "'codevector_dim' over groups")
    out = fields.size("proj_codevector_dim", default=256)
    features = sizes(fields, "conv_dim", (512,) * 7)[-1]
    resting = (
        ("codes", codes * each),
        ("code_proj", Integer(features * codes + codes)),
        ("quantized_proj", Integer(width * out + out)),
    )
    return Resting(resting, LabelHead(Integer(d), Integer(out)))


#: Keys of training, of heads for speakers and of adapters that are off.
APART = (
    "activation_dropout", "adapter_kernel_size", "adapter_stride", "apply_spec_augment",
    "classifier_proj_size", "codevector_dim", "contrastive_logits_temperature",
    "ctc_loss_reduction", "ctc_zero_infinity", "diversity_loss_weight", "mask_feature_length",
    "mask_feature_min_masks", "mask_time_length", "mask_time_min_masks", "max_bucket_distance",
    "num_adapter_layers", "num_codevector_groups", "num_codevectors_per_group",
    "num_ctc_classes", "num_negatives", "output_hidden_size", "proj_codevector_dim",
    "replace_prob", "tdnn_dilation", "tdnn_dim", "tdnn_kernel", "use_weighted_layer_sum",
    "vocab_size", "xvector_output_dim",
)  # fmt: skip


def speech_layers(fields: Fields, several: bool = False, gated: bool = False) -> Reading:
    """wav2vec 2.0's layers; ``several`` convolutions make positions, or ``gated`` biases help."""
    fields = fields.with_defaults(**BASE)
    fields.refuse("conv_pos_batch_norm", "not supported in this family")
    before = not several and fields.flag("do_stable_layer_norm", False)
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    width = divided(fields, d, heads, "hidden size over heads")
    at = Heads(Integer(d), Integer(heads), width, True, True, True, relative=gated)
    act = activation_of(fields, "hidden_act", default="gelu")
    feed = FeedForward(
        Integer(d), Integer(fields.size("intermediate_size")), act, gated=False, bias=True
    )
    mixer = GatedBias(at) if gated else Bidirectional(at)
    layer = Layer(Integer(d), mixer, feed, LAYER_NORM, norm_first=before)
    front = speech_front(fields, d, before, several)
    buckets = Integer(fields.size("num_buckets", default=320)) if gated else None
    for key in APART:
        fields.values.get(key)
    said = (POSITIONS,) if several else (POSITIONS, GAIN)
    model = _encoder(fields)(
        front=front,
        segments=(Segment("layers", _adapted(fields, layer, before), _layers(fields)),),
        d=Integer(d),
        norm=LAYER_NORM if before else None,
        head=_shortened(fields, d),
        buckets=None if buckets is None else Buckets(buckets, Integer(heads)),
    )
    return Reading(model, assumptions=(*said, *_untrained(fields)))


def _untrained(fields: Fields) -> tuple[str, ...]:
    trained = (class_of(fields.values) or "").endswith("ForPreTraining")
    return (QUANTIZER,) if trained else ()


def _layers(fields: Fields) -> Expr:
    return Integer(fields.size("num_hidden_layers"))


def _encoder(fields: Fields) -> type[Encoder]:
    """One whose head reads a weighted sum of all layers, where the file and the class say so."""
    name = class_of(fields.values) or ""
    own = ("ForSequenceClassification", "ForAudioFrameClassification", "ForXVector")
    weighed = fields.flag("use_weighted_layer_sum", False) and name.endswith(own)
    if weighed and layer_count(fields) > MOST_ENTRIES:
        raise ModelError(f"{fields.name}: a sum of more than {MOST_ENTRIES} layers")
    if weighed and fields.flag("add_adapter", False):
        raise ModelError(f"{fields.name}: a sum of all layers behind an adapter is not supported")
    return Weighed if weighed else Encoder


def _adapted(fields: Fields, layer: Layer, before: bool) -> Layer | Period:
    """A layer, and what adapts it to a language (MMS), which only layers with norms first have."""
    if fields.values.get("adapter_attn_dim") is None or not before:
        return layer
    inner = Integer(fields.size("adapter_attn_dim"))
    adapter = Layer(layer.d, Adapter(layer.d, inner), None, LAYER_NORM)
    return Period(layer.d, (Segment("layer", layer, ONE), Segment("adapter", adapter, ONE)))


def _shortened(fields: Fields, d: int) -> Head | None:
    """The class's head, behind convolutions that shrink the sequence where there are any."""
    if not fields.flag("add_adapter", False):
        return speech_head(fields, d)
    name = class_of(fields.values) or "ForCTC"
    out = fields.size("output_hidden_size", default=d)
    if not name.endswith(("ForCTC", "Model")):
        raise ModelError(f"{fields.name}: {name} with 'add_adapter' is not supported")
    return ShorterHead(
        Integer(out),
        Integer(d),
        fields.size("num_adapter_layers", default=3),
        fields.size("adapter_kernel_size", default=3),
        fields.size("adapter_stride", default=2),
        speech_head(fields, out),
    )


def _hubert(fields: Fields) -> Reading:
    fields.refuse("add_adapter", "the published classes of this family have none")
    return speech_layers(fields)


def _data2vec(fields: Fields) -> Reading:
    fields.refuse("adapter_attn_dim", "the published classes of this family have none")
    return speech_layers(fields, several=True)


def _wavlm(fields: Fields) -> Reading:
    fields.refuse("adapter_attn_dim", "the published classes of this family have none")
    return speech_layers(fields, gated=True)


def _w2v_bert(fields: Fields) -> Reading:
    """w2v-BERT 2.0 (arXiv 2312.05187): a conformer over features that are given."""
    fields = fields.with_defaults(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16
    )
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    act = activation_of(fields, "hidden_act", default="swish")
    inner = Integer(fields.size("intermediate_size"))
    layer = ConformerLayer(
        Heads(Integer(d), Integer(heads), divided(fields, d, heads, "hidden size over heads"),
              True, True, True),
        FeedForward(Integer(d), inner, act, gated=False, bias=True),
        _kernel(fields),
        False,
        act,
        *_places(fields),
        each=False,
        back=True,
    )  # fmt: skip
    masks = (fields.number("mask_time_prob", 0.05), fields.number("mask_feature_prob", 0.0))
    features = Integer(fields.size("feature_projection_input_dim", default=160))
    for key in APART:
        fields.values.get(key)
    out = fields.size("output_hidden_size", default=d)
    adapts = fields.flag("add_adapter", False)
    head = speech_head(fields, out if adapts else d)
    if adapts:
        wide = Integer(out)
        width = divided(fields, out, heads, "'output_hidden_size' over heads")
        bent = activation_of(fields, "adapter_act", default="relu")
        before = fields.flag("use_intermediate_ffn_before_adapter", False)
        head = Adapted(
            Heads(wide, Integer(heads), width, True, True, True),
            FeedForward(wide, inner, bent, gated=False, bias=True),
            fields.size("num_adapter_layers", default=1),
            fields.size("adapter_kernel_size", default=3),
            fields.size("adapter_stride", default=2),
            Integer(d),
            FeedForward(Integer(d), inner, "relu", gated=False, bias=True) if before else None,
            head,
        )
    model = _encoder(fields)(
        front=FeatureFront(Integer(d), features, any(p > 0 for p in masks)),
        segments=(Segment("layers", layer, Integer(fields.size("num_hidden_layers"))),),
        d=Integer(d),
        head=head,
    )
    return Reading(model, assumptions=(GIVEN,))


def _w2v_conformer(fields: Fields) -> Reading:
    """wav2vec 2.0's front before a conformer."""
    fields = fields.with_defaults(**BASE)
    fields.refuse("add_adapter", "not supported in this family")
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    act = activation_of(fields, "hidden_act", default="gelu")
    inner = Integer(fields.size("intermediate_size"))
    kind = fields.values.get("position_embeddings_type", FAR)
    if kind not in (FAR, TURNED, None):
        raise ModelError(f"{fields.name}: 'position_embeddings_type' = {clip(kind)} is not known")
    layer = ConformerLayer(
        Heads(Integer(d), Integer(heads), divided(fields, d, heads, "hidden size over heads"),
              True, True, True),
        FeedForward(Integer(d), inner, act, gated=False, bias=True),
        _kernel(fields),
        False,
        act,
        kind or NONE,
        each=False,
    )  # fmt: skip
    for key in (*APART, "rotary_embedding_base", "max_source_positions"):
        fields.values.get(key)
    front = speech_front(fields, d, before=True, several=False)
    placing = front.placing
    assert placing is not None
    # A convolution for positions stands in the class, and nothing runs through it.
    size = d * d // placing.groups * placing.kernel + d + placing.kernel
    model = _encoder(fields)(
        front=RestingFront(replace(front, placing=None), (("place.rows", Integer(size)),)),
        segments=(Segment("layers", layer, Integer(fields.size("num_hidden_layers"))),),
        d=Integer(d),
        norm=LAYER_NORM,
        head=speech_head(fields, d),
    )
    said = (POSITIONS, FOLDED)
    return Reading(model, assumptions=(*said, *_untrained(fields)))


def _kernel(fields: Fields) -> int:
    kernel = fields.size("conv_depthwise_kernel_size", default=31)
    if kernel % 2 == 0:
        raise ModelError(f"{fields.name}: 'conv_depthwise_kernel_size' = {kernel}: an odd one")
    return kernel


def _places(fields: Fields) -> tuple[str, Expr]:
    """How positions enter the attention, and how many distances have a row."""
    kind = fields.values.get("position_embeddings_type", NEAR)
    left = fields.size("left_max_position_embeddings", default=64)
    right = fields.size("right_max_position_embeddings", default=8)
    for key in ("rotary_embedding_base", "max_source_positions"):
        fields.values.get(key)
    if kind not in (FAR, NEAR, TURNED, None):
        raise ModelError(f"{fields.name}: 'position_embeddings_type' = {clip(kind)} is not known")
    return (kind or NONE), Integer(left + right + 1 if kind == NEAR else 0)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "wav2vec2": speech_layers,
        "hubert": _hubert,
        "unispeech": _hubert,
        "unispeech-sat": _hubert,
        "wavlm": _wavlm,
        "data2vec-audio": _data2vec,
        "wav2vec2-bert": _w2v_bert,
        "wav2vec2-conformer": _w2v_conformer,
    }
)
_STEMS = {
    "Wav2Vec2": "wav2vec2",
    "Hubert": "hubert",
    "UniSpeech": "unispeech",
    "UniSpeechSat": "unispeech-sat",
    "WavLM": "wavlm",
    "Data2VecAudio": "data2vec-audio",
    "Wav2Vec2Bert": "wav2vec2-bert",
    "Wav2Vec2Conformer": "wav2vec2-conformer",
}
#: Of those, the ones with classes for speakers, and with one for training.
_SPEAKERS = frozenset({"Wav2Vec2", "UniSpeechSat", "WavLM", "Data2VecAudio", "Wav2Vec2Bert",
                       "Wav2Vec2Conformer"})  # fmt: skip
_TRAINED = frozenset({"Wav2Vec2", "Wav2Vec2Conformer"})
#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        **classes_of(_STEMS, ("ForCTC", "ForSequenceClassification", "Model")),
        **classes_of(
            {stem: kind for stem, kind in _STEMS.items() if stem in _SPEAKERS},
            ("ForAudioFrameClassification", "ForXVector"),
        ),
        **classes_of(
            {stem: kind for stem, kind in _STEMS.items() if stem in _TRAINED}, ("ForPreTraining",)
        ),
    }
)
