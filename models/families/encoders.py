"""Encoders and encoder–decoders: BERT, RoBERTa, ModernBERT, T5, Whisper."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import Ends, FeedForward, Layer, Norm, Segment
from costgraph.models.blocks.encoder import Bidirectional, CrossLayer, Heads
from costgraph.models.blocks.layer import Block
from costgraph.models.blocks.pattern import gathered
from costgraph.models.encoder import AudioFront, Buckets, Encoder, EncoderDecoder, TextFront
from costgraph.models.encoder_heads import (
    Head,
    LabelHead,
    MaskedHead,
    PooledHead,
    PretrainedHeads,
    ProjectedHead,
)
from costgraph.models.families.absent import named
from costgraph.models.families.common import (
    Family,
    Reading,
    activation_of,
    class_of,
    heads_of,
    labels_of,
    layer_count,
)
from costgraph.models.fields import Fields, divided
from costgraph.models.speech_heads import MeanHead

LAYER_NORM = Norm("layer", True)
BARE = "the encoder alone: no head for a task"
POOLER = "the encoder and its pooler; what else makes an embedding of its result is not counted"


def task_of(fields: Fields) -> str:
    """The end of the name of the class: ``ForMaskedLM``, ``Model`` …; empty without one."""
    name = class_of(fields.values) or ""
    ends = (
        "ForMaskedLM",
        "ForPreTraining",
        "ForNextSentencePrediction",
        "ForSequenceClassification",
        "ForTokenClassification",
        "ForQuestionAnswering",
        "ForMultipleChoice",
        "EncoderModel",
    )
    return next((end for end in (*ends, "Model") if name.endswith(end)), "")


def require_tied(fields: Fields) -> None:
    """The projection of masked tokens is the embedding table, where the class has one.

    Raises:
        ModelError: the file says that it is not.
    """
    masked = task_of(fields) in ("ForMaskedLM", "ForPreTraining")
    if not fields.flag("tie_word_embeddings", True) and masked:
        raise ModelError(
            f"{fields.name}: 'tie_word_embeddings' = False: an untied projection of "
            "masked tokens is not supported in this family"
        )


def heads_by_task(
    fields: Fields, d: Expr, masked: Head, pools: str = "tanh", pooler: bool = True
) -> Head | None:
    """The head of the class among those that BERT's and RoBERTa's kin have.

    They classify sequences, and score choices, by a product, a function (``pools``) and labels
    over the first position, in BERT's classes the pooler; classes that label every position
    have none. ``pooler``: the bare model has one.
    """
    labels = Integer(labels_of(fields))
    heads: dict[str, Head] = {
        "ForMaskedLM": masked,
        "ForSequenceClassification": PooledHead(d, labels, pools),
        "ForTokenClassification": LabelHead(d, labels),
        "ForQuestionAnswering": LabelHead(d, labels),
        "ForMultipleChoice": PooledHead(d, Integer(1), pools),
        "ForNextSentencePrediction": PooledHead(d, Integer(2), pools),
    }
    if pooler:
        heads["Model"] = PooledHead(d, activation=pools)
    return heads.get(task_of(fields))


#: The class of ColBERT's own code: BERT with its pooler, and a vector for each word.
COLBERT, WORDS = "HF_ColBERT", 128
BY_WORD = (
    "a vector of {0} numbers for each word: ColBERT's own code has {1} where the file ('dim') says "
    "nothing; metadata beside it is not read"
)


def _head_of(fields: Fields, d: int, masked: MaskedHead) -> Head | PretrainedHeads | None:
    if class_of(fields.values) == COLBERT:
        width = fields.size("dim", default=WORDS)
        fields.tell(BY_WORD.format(width, WORDS))
        words = ProjectedHead(Integer(d), Integer(width), tied=False)
        return PretrainedHeads(words, PooledHead(Integer(d)))
    if task_of(fields) == "ForPreTraining":
        return PretrainedHeads(masked, PooledHead(Integer(d), Integer(2)))
    return heads_by_task(fields, Integer(d), masked)


def types_of(fields: Fields) -> int:
    """Rows of the table of token types, which may be none; the file must say how many.

    Raises:
        ModelError: it does not; classes differ in what they take then.
    """
    key = "type_vocab_size"
    return 0 if fields.values.get(key) == 0 else fields.size(key)


def bert_like(
    fields: Fields,
    offset: int,
    mixers: Callable[[Heads, int], Block] | None = None,
    head_of: Callable[[Fields, int, MaskedHead], Head | PretrainedHeads | None] | None = None,
) -> Reading:
    """BERT's layers around other attention, and other heads.

    ``mixers`` makes the attention of each layer; ``offset``: rows of the table of positions
    that stand for none.
    """
    d = fields.size("hidden_size")
    heads = fields.size("num_attention_heads")
    fields.refuse("is_decoder", "only the encoder is supported in this family")
    fields.refuse("add_cross_attention", "cross-attention is not supported in this family")
    places = fields.word("position_embedding_type", default="absolute")
    if places != "absolute":
        raise ModelError(f"{fields.name}: 'position_embedding_type' = {places!r} is not supported")
    act = activation_of(fields, "hidden_act", default="gelu")
    vocab = Integer(fields.size("vocab_size"))
    at = Heads(
        d=Integer(d),
        heads=Integer(heads),
        head_dim=divided(fields, d, heads, "hidden size over heads"),
        qv_bias=True,
        k_bias=True,
        out_bias=True,
    )
    layer = Layer(
        d=Integer(d),
        mixer=Bidirectional(at),
        channel=FeedForward(
            Integer(d), Integer(fields.size("intermediate_size")), act, gated=False, bias=True
        ),
        norm=LAYER_NORM,
        norm_first=False,
    )
    count = layer_count(fields)
    layers = (replace(layer, mixer=mixers(at, i)) if mixers else layer for i in range(count))
    positions = fields.size("max_position_embeddings")
    ends = Ends(d=Integer(d), vocab=vocab, positions=Integer(positions), embed_norm=LAYER_NORM)
    masked = MaskedHead(Integer(d), vocab, act, LAYER_NORM)
    require_tied(fields)
    head = (head_of or _head_of)(fields, d, masked)
    model = Encoder(
        front=TextFront(ends, types=types_of(fields)),
        segments=alike(layers),
        d=Integer(d),
        head=head,
        longest=positions - offset,
    )
    said = POOLER if task_of(fields) == "Model" else "" if head else BARE
    return Reading(model, assumptions=(said,) if said else ())


def alike(layers: Iterable[Layer], name: str = "layers") -> tuple[Segment, ...]:
    """A segment for all layers that are alike, numbered where there are several."""
    found: dict[Layer, int] = {}
    listed = tuple(layers)
    numbers = [found.setdefault(layer, len(found)) for layer in listed]
    names = (f"{name}_{i}" if len(found) > 1 else name for i in numbers)
    return gathered(zip(names, listed, strict=True))


def bert(fields: Fields) -> Reading:
    """BERT."""
    return bert_like(fields, 0)


def roberta(fields: Fields) -> Reading:
    """RoBERTa and its aliases."""
    # Positions start behind the padding index, so two rows are never used.
    return bert_like(fields, 2)


def _tell_tied(fields: Fields) -> None:
    """Says that logits are tied where the file does not: classes differ over mT5's."""
    if fields.values.get("tie_word_embeddings") is None and task_of(fields) == "":
        fields.tell(
            "logits are tied to the embeddings, as in classes of transformers 5: the file says "
            "nothing of 'tie_word_embeddings', and older classes then had a projection of their own"
        )


def _mt5(fields: Fields) -> Reading:
    """T5 with a gate in its feed-forward blocks unless the file says otherwise."""
    _tell_tied(fields)
    version = fields.peek("transformers_version")
    late = isinstance(version, str) and version.partition(".")[0] not in ("", "2", "3", "4")
    if late and fields.values.get("tie_word_embeddings") and task_of(fields) == "":
        fields.tell(
            "logits are tied to the embeddings, as the file says: transformers 5 writes that into "
            "every file of mT5, also where the weights hold a projection of their own, as the "
            "published ones do"
        )
    return t5(fields.with_defaults(feed_forward_proj="gated-gelu"))


def _umt5(fields: Fields) -> Reading:
    """mT5 whose layers each have a position bias of their own."""
    _tell_tied(fields)
    return t5(fields.with_defaults(feed_forward_proj="gated-gelu"), own=True)


def _t5_tied(fields: Fields) -> bool:
    """Whether T5's logits are those of the embeddings.

    Classes of transformers 5 save every T5 as tied and load a projection of its own all the same
    where the weights hold one: what tells the two apart is whether the last hidden state is scaled
    by 1/√d, which is done before embeddings alone.

    Raises:
        ModelError: the file says that it is scaled, and not tied.
    """
    tied = fields.flag("tie_word_embeddings", True)
    scaled = fields.flag("scale_decoder_outputs", tied)
    if scaled and not tied:
        raise ModelError(
            f"{fields.name}: 'scale_decoder_outputs' = true and 'tie_word_embeddings' = false "
            "contradict each other: only what embeddings turn into logits is scaled"
        )
    return scaled


def t5(fields: Fields, own: bool = False) -> Reading:
    d = Integer(fields.size("d_model"))
    vocab = Integer(fields.size("vocab_size"))
    heads = Integer(fields.size("num_heads"))
    projection = fields.word("feed_forward_proj", default="relu")
    gated = projection.startswith("gated-")
    name = projection.removeprefix("gated-")
    # The published code reads "gated-gelu" as the tanh form.
    name = "gelu_new" if projection == "gated-gelu" else name
    act = activation_of(Fields(fields.name, {"feed_forward_proj": name}), "feed_forward_proj")
    feed = FeedForward(d, Integer(fields.size("d_ff")), act, gated)
    count = Integer(fields.size("relative_attention_num_buckets", default=32))
    cross = Heads(d, heads, Integer(fields.size("d_kv")))
    at = replace(cross, buckets=count) if own else replace(cross, relative=True)
    layers = fields.size("num_layers")
    buckets = None if own else Buckets(count, heads)
    # The gate and the activation repeat ``feed_forward_proj``.
    fields.require("is_gated_act", gated)
    fields.require("dense_act_fn", name, projection.removeprefix("gated-"))
    tied = _t5_tied(fields)
    encoder = Encoder(
        front=TextFront(Ends(d=d, vocab=vocab)),
        segments=(Segment("encoder", Layer(d, Bidirectional(at), feed), Integer(layers)),),
        d=d,
        norm=Norm(),
        buckets=buckets,
    )
    if task_of(fields) == "EncoderModel":
        # Half of the file's keys are those of a decoder that the class does not have.
        fields.values.get("num_decoder_layers")
        return Reading(encoder, assumptions=(BARE,))
    model = EncoderDecoder(
        encoder=encoder,
        layer=CrossLayer(d, at, cross, feed, Norm()),
        layers=Integer(fields.size("num_decoder_layers", default=layers)),
        ends=Ends(d=d, vocab=vocab, tied=tied),
        buckets=buckets,
    )
    return Reading(model)


def pair_of(fields: Fields, reading: Reading) -> EncoderDecoder:
    """The encoder and the decoder that were read.

    Raises:
        ModelError: the file names the class of the encoder alone.
    """
    if not isinstance(reading.model, EncoderDecoder):
        raise ModelError(f"{fields.name}: the encoder alone is not read in this family")
    return reading.model


def _t5gemma_side(side: Fields) -> tuple[Heads, FeedForward]:
    """Heads and feed-forward block of one half: those of Gemma 2."""
    d = side.size("hidden_size")
    heads, kv_heads, width = heads_of(side, d)
    bias = side.flag("attention_bias", False)
    at = Heads(
        Integer(d),
        Integer(heads),
        width,
        qv_bias=bias,
        k_bias=bias,
        out_bias=bias,
        rotary=width,
        kv_heads=Integer(kv_heads),
        capped=side.values.get("attn_logit_softcapping") is not None,
    )
    act = activation_of(side, "hidden_activation", default="gelu_pytorch_tanh")
    return at, FeedForward(Integer(d), Integer(side.size("intermediate_size")), act)


#: What is said of sliding layers of an encoder.
SLIDES = "sliding layers count as whole attention: exact up to {0} tokens, an upper bound beyond"


def _t5gemma(fields: Fields) -> Reading:
    """Gemma 2 as encoder and as decoder, norms in front of and behind each of three blocks."""
    first, second = (
        named(fields.section(part), "t5_gemma_module").with_defaults(head_dim=256)
        for part in ("encoder", "decoder")
    )
    (at, feed), (own, fed) = _t5gemma_side(first), _t5gemma_side(second)
    vocab, tied = Integer(second.size("vocab_size")), fields.flag("tie_word_embeddings", True)
    for part, side in (("encoder", first), ("decoder", second)):
        inner = side.values.get("tie_word_embeddings")
        if isinstance(inner, bool) and inner != tied:
            fields.tell(
                f"'{part}.tie_word_embeddings' = {str(inner).lower()} is not followed: the class "
                f"goes by the whole model's, which is {str(tied).lower()}"
            )
        # Which layers slide plays no part here, see the sentence below.
        side.values.get("layer_types")
        if side.size("vocab_size") != vocab:
            raise ModelError(f"{fields.name}: encoder and decoder have different vocabularies")
    if second.size("cross_attention_hidden_size", default=int(at.d)) != at.d:
        raise ModelError(
            f"{second.name}: 'cross_attention_hidden_size' must be {at.d}, the encoder's width"
        )
    encoder = Encoder(
        front=TextFront(Ends(at.d, vocab, embed_scale=True)),
        segments=(
            Segment(
                "encoder",
                Layer(at.d, Bidirectional(at), feed, post_norms=True),
                Integer(first.size("num_hidden_layers")),
            ),
        ),
        d=at.d,
        norm=Norm(),
    )
    alone = task_of(fields) == "EncoderModel"
    if fields.flag("is_encoder_decoder", True) == alone:
        raise ModelError(
            f"{fields.name}: 'is_encoder_decoder' must be true, or false for the class of the "
            "encoder alone"
        )
    if alone:
        said = SLIDES.format(first.size("sliding_window", default=4096))
        return Reading(encoder, assumptions=(said, BARE))
    model = EncoderDecoder(
        encoder=encoder,
        layer=CrossLayer(own.d, own, replace(own, rotary=None), fed, Norm(), post_norms=True),
        layers=Integer(second.size("num_hidden_layers")),
        ends=Ends(
            own.d,
            vocab,
            embed_scale=True,
            tied=tied,
            logit_cap=second.values.get("final_logit_softcapping") is not None,
        ),
        shared=(),
    )
    windows = sorted({side.size("sliding_window", default=4096) for side in (first, second)})
    return Reading(model, assumptions=(SLIDES.format(windows[0]),))


def sides_of(
    fields: Fields, d: int, activation: str, k_bias: bool
) -> list[tuple[Heads, FeedForward]]:
    found = []
    for side in ("encoder", "decoder"):
        heads = fields.size(f"{side}_attention_heads")
        at = Heads(
            d=Integer(d),
            heads=Integer(heads),
            head_dim=divided(fields, d, heads, f"hidden size over {side} heads"),
            qv_bias=True,
            k_bias=k_bias,
            out_bias=True,
        )
        width = Integer(fields.size(f"{side}_ffn_dim"))
        found.append((at, FeedForward(Integer(d), width, activation, gated=False, bias=True)))
    return found


def answering(
    fields: Fields, encoder: Encoder, side: tuple[Heads, FeedForward], ends: Ends, **more: Any
) -> EncoderDecoder:
    """``encoder`` before a decoder with the heads and blocks of ``side``; all names are BART's.

    Norms of the decoder's layers stand where those of the encoder's do: in front of blocks if
    its results pass one (``ends.norm``). ``more`` are further attributes of the model.
    """
    d, (at, feed) = ends.d, side
    layer = CrossLayer(d, at, at, feed, LAYER_NORM, norm_first=ends.norm is not None)
    layers = Integer(fields.size("decoder_layers"))
    model = EncoderDecoder(encoder=encoder, layer=layer, layers=layers, ends=ends, **more)
    if model.shared:
        tell_untied(fields, ends.tied)
    return model


def tell_untied(fields: Fields, tied: bool) -> None:
    """Says what logits of their own leave as it is: where both sides read one table."""
    if not tied:
        fields.tell(
            "'tie_word_embeddings' = false parts the logits from the embeddings, which encoder and "
            "decoder share; classes of transformers 5 then have a table for each"
        )


def _whisper(fields: Fields) -> Reading:
    d = fields.size("d_model")
    act = activation_of(fields, "activation_function", default="gelu")
    (at, feed), side = sides_of(fields, d, act, k_bias=False)
    heard = fields.size("max_source_positions", default=1500)
    said = fields.size("max_target_positions", default=448)
    layer = Layer(Integer(d), Bidirectional(at), feed, LAYER_NORM)
    encoder = Encoder(
        front=AudioFront(Integer(d), Integer(fields.size("num_mel_bins")), Integer(heard), act),
        segments=(Segment("encoder", layer, Integer(fields.size("encoder_layers"))),),
        d=Integer(d),
        norm=LAYER_NORM,
        longest=heard,
    )
    if (class_of(fields.values) or "").endswith("ForAudioClassification"):
        fields.refuse("use_weighted_layer_sum", "a sum of all layers is not known in this family")
        inner = Integer(fields.size("classifier_proj_size", default=256))
        return Reading(
            replace(encoder, head=MeanHead(Integer(d), inner, Integer(labels_of(fields))))
        )
    ends = Ends(
        d=Integer(d),
        vocab=Integer(fields.size("vocab_size")),
        positions=Integer(said),
        embed_scale=fields.flag("scale_embedding", False),
        norm=LAYER_NORM,
        tied=fields.flag("tie_word_embeddings", True),
    )
    return Reading(answering(fields, encoder, side, ends, shared=(), longest=said))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "roberta": roberta,
        "mt5": _mt5,
        "umt5": _umt5,
        "t5gemma": _t5gemma,
        "whisper": _whisper,
    }
)

#: Ends of names of the classes that BERT and its kin have.
TASKS = (
    "ForMaskedLM",
    "Model",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)
#: Those of models that were trained to tell whether one sentence follows another.
SENTENCES = ("ForPreTraining", "ForNextSentencePrediction")
#: Those that families without the others have.
FEW = TASKS[:4]


def classes_of(stems: Mapping[str, str], tasks: Iterable[str] = TASKS) -> dict[str, str]:
    """Names of classes, and the family of each, from their beginnings and ends."""
    return {f"{stem}{task}": kind for stem, kind in stems.items() for task in tasks}


#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        **classes_of({"Roberta": "roberta"}),
        "MT5ForConditionalGeneration": "mt5",
        "MT5EncoderModel": "mt5",
        "UMT5ForConditionalGeneration": "umt5",
        "UMT5EncoderModel": "umt5",
        "T5GemmaForConditionalGeneration": "t5gemma",
        "T5GemmaEncoderModel": "t5gemma",
        "WhisperForConditionalGeneration": "whisper",
        "WhisperForAudioClassification": "whisper",
    }
)
