"""Encoders with decoders that grew from BART: its relatives differ in norms and positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import Ends, Layer, Segment
from costgraph.models.blocks.encoder import Bidirectional
from costgraph.models.encoder import Encoder, EncoderDecoder, TextFront
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.encoders import LAYER_NORM, answering, sides_of
from costgraph.models.fields import Fields


@dataclass(frozen=True)
class Kin:
    """In what a relative differs from BART.

    Attributes:
        extra: rows of the table of positions beyond those that the file states; None where
            positions are made, and no parameters.
        first: norms stand in front of blocks, and one behind all layers.
        embed_norm: a norm behind the embeddings.
        activation: where the file names none.
        scaled: embeddings are scaled where the file does not say so.
    """

    extra: int | None = 2
    first: bool = False
    embed_norm: bool = True
    activation: str = "gelu"
    scaled: bool = False


#: M2M-100, and NLLB with experts.
NLLB = Kin(extra=None, embed_norm=False, first=True, activation="relu", scaled=True)


def _kin(kin: Kin) -> Family:
    def read(fields: Fields) -> Reading:
        return read_kin(fields, kin)

    return read


def read_kin(fields: Fields, kin: Kin, **more: Any) -> Reading:
    """A relative of BART; ``more`` are further attributes of the model."""
    d = Integer(fields.size("d_model"))
    act = activation_of(fields, "activation_function", default=kin.activation)
    (at, feed), side = sides_of(fields, int(d), act, k_bias=True)
    longest = None if kin.extra is None else fields.size("max_position_embeddings")
    vocab = fields.size("vocab_size")
    if fields.size("decoder_vocab_size", default=vocab) != vocab:
        raise ModelError(f"{fields.name}: 'decoder_vocab_size' is not 'vocab_size'")
    fields.require("share_encoder_decoder_embeddings", True)
    for key in ("static_position_embeddings", "normalize_before", "normalize_embedding",
                "add_final_layer_norm", "extra_pos_embeddings", "add_bias_logits"):  # fmt: skip
        fields.values.get(key)  # what the first files say of their kin, which its type says
    ends = Ends(
        d=d,
        vocab=Integer(vocab),
        positions=None if longest is None else Integer(longest + (kin.extra or 0)),
        fixed=longest is None,
        embed_scale=fields.flag("scale_embedding", kin.scaled),
        embed_norm=LAYER_NORM if kin.embed_norm else None,
        norm=LAYER_NORM if kin.first else None,
        tied=fields.flag("tie_word_embeddings", True),
    )
    layer = Layer(d, Bidirectional(at), feed, LAYER_NORM, norm_first=kin.first)
    encoder = Encoder(
        front=TextFront(ends),
        segments=(Segment("encoder", layer, Integer(fields.size("encoder_layers"))),),
        d=d,
        norm=LAYER_NORM if kin.first else None,
        longest=longest,
    )
    return Reading(answering(fields, encoder, side, ends, longest=longest, **more))


def _mvp(fields: Fields) -> Reading:
    """BART; its prompts are another model."""
    fields.refuse("use_prompt", "prompts in front of each layer are not known in this family")
    for key in ("prompt_length", "prompt_mid_dim"):
        fields.values.get(key)  # of those prompts
    return read_kin(fields, Kin())


def _fsmt(fields: Fields) -> Reading:
    """Fairseq's models of WMT 2019: BART with a vocabulary of either language."""
    read, said = (fields.size(f"{side}_vocab_size", default=42024) for side in ("src", "tgt"))
    tied = fields.flag("tie_word_embeddings", False)
    if tied and read != said:
        raise ModelError(
            f"{fields.name}: 'tie_word_embeddings' = true: {read} words are read and {said} said"
        )
    for key in ("decoder", "langs"):
        fields.values.get(key)  # the class drops the one, and names of languages count nothing
    pad = fields.values.get("pad_token_id", 1)
    rows = pad + 1 if type(pad) is int and pad >= 0 else 0
    reading = read_kin(
        fields.with_values(vocab_size=said, tie_word_embeddings=tied),
        Kin(extra=rows, embed_norm=False, activation="relu", scaled=True),
        **({} if tied else {"shared": ()}),
    )
    if tied:
        return reading
    model = reading.model
    assert isinstance(model, EncoderDecoder)
    assert isinstance(model.encoder, Encoder)
    front = model.encoder.front
    assert isinstance(front, TextFront)
    front = replace(front, ends=replace(front.ends, vocab=Integer(read)))
    encoder = replace(model.encoder, front=front)
    return replace(reading, model=replace(model, encoder=encoder))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        # Two extra rows: positions are offset by two.
        "bart": _kin(Kin()),
        "mvp": _mvp,
        "plbart": _kin(Kin(scaled=True)),
        "mbart": _kin(Kin(first=True)),
        "marian": _kin(Kin(extra=0, embed_norm=False)),
        "pegasus": _kin(Kin(extra=0, embed_norm=False, first=True)),
        "blenderbot": _kin(Kin(extra=0, embed_norm=False, first=True)),
        "blenderbot-small": _kin(Kin(extra=0)),
        "m2m_100": _kin(NLLB),
        "fsmt": _fsmt,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "BartForConditionalGeneration": "bart",
        "PLBartForConditionalGeneration": "plbart",
        "MvpForConditionalGeneration": "mvp",
        "MBartForConditionalGeneration": "mbart",
        "MarianMTModel": "marian",
        "PegasusForConditionalGeneration": "pegasus",
        "BlenderbotForConditionalGeneration": "blenderbot",
        "BlenderbotSmallForConditionalGeneration": "blenderbot-small",
        "M2M100ForConditionalGeneration": "m2m_100",
        "FSMTForConditionalGeneration": "fsmt",
        "FSMTModel": "fsmt",  # its decoder makes the logits itself
    }
)
