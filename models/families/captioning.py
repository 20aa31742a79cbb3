"""A decoder of one family that attends to an encoder of another: TrOCR, Donut, BLIP, Pix2Struct."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip, nearest
from costgraph.ir.dtypes import INT64
from costgraph.ir.tensor import Tensor
from costgraph.models.asked import Asked
from costgraph.models.blocks import Ends, FeedForward, Layer, Maker, Norm, Segment
from costgraph.models.blocks.encoder import Bidirectional, CrossLayer, Heads
from costgraph.models.blocks.stack import Transform
from costgraph.models.convnet import Swin
from costgraph.models.encoder import Buckets, Encoder, EncoderDecoder, TextFront
from costgraph.models.families import FAMILIES as READERS
from costgraph.models.families import classes_of
from costgraph.models.families.absent import filled
from costgraph.models.families.common import Family, Reading, activation_of, class_of
from costgraph.models.families.encoders import LAYER_NORM, types_of
from costgraph.models.families.vision import patches_of, pixels, tower_of
from costgraph.models.fields import Fields, divided
from costgraph.models.vision import Tower, VisionTransformer
from costgraph.ops import Add, Embedding
from costgraph.symbols import B, q

PATCHES = "S counts patches of an image, of which the published processor makes up to 2048"


def source_of(fields: Fields, default: str, key: str = "encoder") -> Any:
    """The encoder under ``key``, read as the bare model of its family."""
    inner = fields.section(key)
    kind = inner.word("model_type", default=default)
    bare = next((n for n in classes_of(kind) if n.endswith("Model")), None)
    if bare is None:
        raise ModelError(
            f"{inner.name}: {clip(kind)} is not read as an encoder{nearest(kind, READERS)}"
        )
    inner.values.get("architectures")
    reading = READERS[kind](filled(inner.with_values(architectures=[bare]), kind))
    if not isinstance(reading.model, Encoder | Swin | VisionTransformer):
        raise ModelError(f"{inner.name}: {clip(kind)} in front of a decoder is not supported")
    return reading.model


def _width(source: Any) -> Expr:
    """The width of what an encoder makes."""
    if isinstance(source, Encoder):
        return source.d
    if isinstance(source, Swin):
        return Integer(source.width * 2 ** (len(source.depths) - 1))
    if isinstance(source, Asked):
        return source.at.d
    width: Expr = source.tower.at.d
    return width


def _attention(d: int, heads: int, fields: Fields, fused: bool = False) -> Heads:
    width = divided(fields, d, heads, "hidden size over heads")
    return Heads(Integer(d), Integer(heads), width, True, True, True, fused=fused)


def _decoder(
    source: Any,
    wide: Expr | None,
    layer: CrossLayer,
    count: int,
    ends: Ends,
    longest: int | None,
    **more: Any,
) -> EncoderDecoder:
    """The decoder behind ``source``; ``wide``: a width that cross-attention reads, or None.

    Without one, and where the widths differ, a product with bias stands between both.
    """
    joined = layer.d if wide is None and _width(source) != layer.d else None
    return EncoderDecoder(
        encoder=source,
        layer=layer,
        layers=Integer(count),
        ends=ends,
        shared=(),
        longest=longest,
        joined=joined,
        **more,
    )


def _bart_like(said: Fields, source: Any, first: bool) -> EncoderDecoder:
    """The decoder of BART, mBART and TrOCR."""
    fields = said.with_defaults(
        vocab_size=50265,
        d_model=1024,
        decoder_layers=12,
        decoder_attention_heads=16,
        decoder_ffn_dim=4096,
        activation_function="gelu",
    )
    own = said.word("model_type", default="") == "trocr"
    d, heads = fields.size("d_model"), fields.size("decoder_attention_heads")
    act = activation_of(fields, "activation_function")
    at = _attention(d, heads, fields)
    feed = FeedForward(
        Integer(d), Integer(fields.size("decoder_ffn_dim")), act, gated=False, bias=True
    )
    longest = fields.size("max_position_embeddings", default=512 if own else 1024)
    learned = fields.flag("use_learned_position_embeddings", True) if own else True
    normed = fields.flag("layernorm_embedding", True) if own else True
    # The other half of the file's type, which stands in it as well; what the type says already.
    for key in ("encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "num_hidden_layers",
                "hidden_size", "num_attention_heads", "add_final_layer_norm",
                "normalize_before", "normalize_embedding", "static_position_embeddings",
                "add_bias_logits", "extra_pos_embeddings"):  # fmt: skip
        fields.values.get(key)
    ends = Ends(
        d=Integer(d),
        vocab=Integer(fields.size("vocab_size")),
        positions=Integer(longest + 2) if learned else None,
        fixed=not learned,
        embed_scale=fields.flag("scale_embedding", False),
        embed_norm=LAYER_NORM if normed else None,
        norm=LAYER_NORM if first else None,
        tied=fields.flag("tie_word_embeddings", True),
    )
    wide = _cross_width(fields, source) if own else None
    layer = CrossLayer(Integer(d), at, at, feed, LAYER_NORM, norm_first=first)
    return _decoder(source, wide, layer, fields.size("decoder_layers"), ends, longest)


def _cross_width(fields: Fields, source: Any) -> Expr | None:
    """The width that the decoder's keys and values are made of, where the file says it.

    Raises:
        ModelError: it is not that of the encoder.
    """
    key = "cross_attention_hidden_size"
    if fields.values.get(key) is None:
        return None
    width = Integer(fields.size(key))
    if width != _width(source):
        raise ModelError(f"{fields.name}: {key!r} must be the encoder's width, {_width(source)}")
    return width


def _gpt2(said: Fields, source: Any) -> EncoderDecoder:
    """GPT-2 with attention to an encoder in every layer."""
    fields = said.with_defaults(
        n_embd=768, n_layer=12, n_head=12, n_positions=1024, vocab_size=50257,
        activation_function="gelu_new",
    )  # fmt: skip
    d, heads = fields.size("n_embd"), fields.size("n_head")
    inner = fields.size("n_inner", default=4 * d)
    act = activation_of(fields, "activation_function")
    for key in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "n_ctx"):
        fields.values.get(key)
    longest = fields.size("n_positions")
    ends = Ends(
        d=Integer(d),
        vocab=Integer(fields.size("vocab_size")),
        positions=Integer(longest),
        norm=LAYER_NORM,
        tied=fields.flag("tie_word_embeddings", True),
    )
    feed = FeedForward(Integer(d), Integer(inner), act, gated=False, bias=True)
    layer = CrossLayer(
        Integer(d),
        _attention(d, heads, fields, fused=True),
        _attention(d, heads, fields),
        feed,
        LAYER_NORM,
    )
    return _decoder(source, None, layer, fields.size("n_layer"), ends, longest)


def _bert_like(said: Fields, source: Any, unused: int = 0, typed: bool = True) -> EncoderDecoder:
    """BERT as a decoder: its layers see earlier positions, and an encoder.

    ``unused``: rows of the table of positions that stand for none; ``typed``: there is a table
    of token types.
    """
    fields = said.with_defaults(vocab_size=30522, hidden_size=768, num_hidden_layers=12,
                                num_attention_heads=12, intermediate_size=3072,
                                max_position_embeddings=512, hidden_act="gelu",
                                type_vocab_size=2)  # fmt: skip
    places = fields.word("position_embedding_type", default="absolute")
    if places != "absolute":
        raise ModelError(f"{fields.name}: 'position_embedding_type' = {places!r} is not supported")
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    act, longest = activation_of(fields, "hidden_act"), fields.size("max_position_embeddings")
    at = _attention(d, heads, fields)
    feed = FeedForward(
        Integer(d), Integer(fields.size("intermediate_size")), act, gated=False, bias=True
    )
    tied = fields.flag("tie_word_embeddings", True)
    if not tied:
        raise ModelError(
            f"{fields.name}: 'tie_word_embeddings' = False: an untied projection to logits is not "
            "supported in this family"
        )
    ends = Ends(
        d=Integer(d),
        vocab=Integer(fields.size("vocab_size")),
        positions=Integer(longest),
        embed_norm=LAYER_NORM,
        norm=None,
        tied=True,
        head_bias=True,
        transform=Transform("gelu" if unused else act, LAYER_NORM, True),
    )
    front = TextFront(ends, types_of(fields)) if typed else None
    layer = CrossLayer(Integer(d), at, at, feed, LAYER_NORM, norm_first=False)
    return _decoder(
        source,
        None,
        layer,
        fields.size("num_hidden_layers"),
        ends,
        longest - unused,
        front=front,
    )


def _joined(fields: Fields, default: str) -> Reading:
    """An encoder and a decoder of their own families."""
    source = source_of(fields, default)
    said = fields.section("decoder")
    kind = said.word("model_type", default="bert")
    fields.values.get("tie_word_embeddings")  # each half has its own
    said.values.get("is_decoder")  # it is one whatever its own part says
    if said.values.get("add_cross_attention") is not True and kind not in (
        "trocr",
        "bart",
        "mbart",
    ):
        raise ModelError(
            f"{said.name}: 'add_cross_attention' must be true: without it the decoder does not "
            "attend to the encoder"
        )
    if kind in ("trocr", "bart", "mbart"):
        return Reading(_bart_like(said, source, first=kind == "mbart"))
    if kind == "gpt2":
        return Reading(_gpt2(said, source))
    if kind in ("bert", "roberta", "xlm-roberta", "camembert"):
        return Reading(_bert_like(said, source, unused=0 if kind == "bert" else 2))
    raise ModelError(
        f"{said.name}: {clip(kind)} is not read as a decoder that attends to an encoder; trocr, "
        "bart, mbart, gpt2, bert and roberta are"
    )


def _seen(fields: Fields) -> Reading:
    return _joined(fields, "vit")


def _read(fields: Fields) -> Reading:
    return _joined(fields, "bert")


def _heard(fields: Fields) -> Reading:
    inner = fields.section("encoder")
    inner.refuse("add_adapter", "a decoder behind a shortened sequence is not supported")
    wide = inner.values.get("output_hidden_size")
    plain = 1024 if inner.values.get("model_type") == "wav2vec2-bert" else 768
    if wide is not None and wide != inner.size("hidden_size", default=plain):
        raise ModelError(
            f"{inner.name}: 'output_hidden_size' is not 'hidden_size': without an adapter the "
            "published code makes no such width"
        )
    return _joined(fields, "wav2vec2")


def blip_tower(seen: Fields) -> Tower:
    """BLIP's ViT: one product makes queries, keys and values."""
    seen = seen.with_defaults(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        patch_size=16,
    )
    at, feed = tower_of(seen, activation_of(seen, "hidden_act", default="gelu"))
    size, patch = pixels(seen, 384), seen.size("patch_size")
    patches = patches_of(seen, at.d, size, patch)
    layers = Integer(seen.size("num_hidden_layers"))
    seen.values.get("projection_dim")  # of the class that compares images and texts
    return Tower(patches, replace(at, fused=True), feed, layers, size)


def _blip(fields: Fields) -> Reading:
    """BLIP (arXiv 2201.12086): a text decoder that attends to an image, or to a question on it."""
    tower = blip_tower(fields.section("vision_config"))
    text = fields.section("text_config").with_defaults(vocab_size=30524, num_attention_heads=8)
    text.values.get("encoder_hidden_size")  # the class overwrites it with the tower's width
    # Of other classes of the type: widths of common spaces.
    for key in ("projection_dim", "image_text_hidden_size"):
        fields.values.get(key)
        text.values.get(key)
    text.require("is_decoder", True)
    # The published class ties logits where either says so.
    tied = fields.flag("tie_word_embeddings", True)
    text = text.with_values(tie_word_embeddings=text.flag("tie_word_embeddings", True) or tied)
    source: Any = VisionTransformer(tower, None)
    if class_of(fields.values) == "BlipForQuestionAnswering":
        if tower.at.d != text.size("hidden_size", default=768):
            raise ModelError(
                f"{fields.name}: 'hidden_size' of both parts must be one: the published code makes "
                "keys of questions by matrices for images"
            )
        front = _bert_like(text, source, typed=False)
        feed = front.layer.channel
        assert isinstance(feed, FeedForward)
        source = Asked(source, front.ends, front.layer.own, feed, front.layers)
    model = replace(_bert_like(text, source, typed=False), joined=None)
    return Reading(model)


@dataclass(frozen=True)
class PlacedRows:
    """Pix2Struct's front: pixels of patches through a product, and rows for their row and column.

    Attributes:
        d, pixels: width of the sequence, numbers of a patch.
        rows: of the tables of rows and columns.
    """

    d: Expr
    pixels: Expr
    rows: Expr

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds the front: (hidden state, no table)."""
        x = m.source(Tensor("patches", (B, q, self.pixels), m.style.acts))
        x = m.linear("patch_proj", x, self.d, self.pixels, True)
        for name in ("row", "column"):
            ids = m.source(Tensor(f"{name}_ids", (B, q), INT64))
            table = m.weight(f"{name}s.weight", self.rows, self.d)
            found = m.add(f"{name}_embed", Embedding(result=m.style.acts), ids, table)
            x = m.add(f"{name}_add", Add(), x, found)
        return x, ""


def _pix2struct(fields: Fields) -> Reading:
    """Pix2Struct (arXiv 2210.03347): T5's blocks over patches of an image of any shape."""
    seen = fields.section("vision_config").with_defaults(
        hidden_size=768, d_ff=2048, d_kv=64, num_hidden_layers=12, num_attention_heads=12
    )
    said = fields.section("text_config").with_defaults(
        hidden_size=768, d_ff=2048, d_kv=64, num_layers=12, num_heads=12, vocab_size=50244
    )
    fields.values.get("is_vqa")  # whether the processor writes a question into the image
    d, wide = Integer(seen.size("hidden_size")), Integer(said.size("hidden_size"))
    heads = Heads(d, Integer(seen.size("num_attention_heads")), Integer(seen.size("d_kv")))
    at = Heads(wide, Integer(said.size("num_heads")), Integer(said.size("d_kv")))
    if at.width != wide:
        raise ModelError(f"{said.name}: 'num_heads' times 'd_kv' must be 'hidden_size', {wide}")
    for part in (seen, said):
        part.values.get("relative_attention_max_distance")
    seen.values.get("relative_attention_num_buckets")  # the published class does not read it
    feeds = [
        FeedForward(
            side.d,
            Integer(part.size("d_ff")),
            activation_of(part, "dense_act_fn", default="gelu_new"),
        )
        for part, side in ((seen, heads), (said, at))
    ]
    rows = Integer(seen.size("seq_len", default=4096))
    pixels = Integer(seen.size("patch_embed_hidden_size", default=768))
    layer = Layer(d, Bidirectional(heads), feeds[0])
    encoder = Encoder(
        front=PlacedRows(d, pixels, rows),
        segments=(Segment("encoder", layer, Integer(seen.size("num_hidden_layers"))),),
        d=d,
        norm=Norm(),
        longest=int(rows) ** 2,
    )
    if d != wide:
        raise ModelError(f"{fields.name}: 'hidden_size' of both parts must be one")
    buckets = Integer(said.size("relative_attention_num_buckets", default=32))
    tied = fields.flag("tie_word_embeddings", False)
    said.values.get("tie_word_embeddings")  # the class overwrites it
    model = EncoderDecoder(
        encoder=encoder,
        layer=CrossLayer(wide, replace(at, relative=True), at, feeds[1], Norm()),
        layers=Integer(said.size("num_layers")),
        ends=Ends(d=wide, vocab=Integer(said.size("vocab_size")), tied=tied),
        buckets=Buckets(buckets, at.heads),
        shared=(),
    )
    return Reading(model, assumptions=(PATCHES,))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "vision-encoder-decoder": _seen,
        "encoder-decoder": _read,
        "speech-encoder-decoder": _heard,
        "blip": _blip,
        "pix2struct": _pix2struct,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "VisionEncoderDecoderModel": "vision-encoder-decoder",
        "EncoderDecoderModel": "encoder-decoder",
        "SpeechEncoderDecoderModel": "speech-encoder-decoder",
        "BlipForConditionalGeneration": "blip",
        "BlipForQuestionAnswering": "blip",
        "Pix2StructForConditionalGeneration": "pix2struct",
    }
)
