"""Decoders that read frames of sound: Kyutai's speech to text (arXiv 2509.08753)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.ahead import own_parameters
from costgraph.models.blocks import Style
from costgraph.models.families.codecs import FAMILIES as CODECS
from costgraph.models.families.common import Family, Reading, window_of
from costgraph.models.families.llama import llama_like
from costgraph.models.fields import Fields
from costgraph.models.frames import Frames

#: What is said of frames and of the codec beside them.
FRAMES = (
    "S and N count frames of sound: each is a position that reads a token of text and a code of "
    "each of {books} codebooks, and makes a token of text"
)
CODEC = "Mimi, which makes codes of sound, rests in memory: its own time is left aside"


def mimi_parameters(fields: Fields) -> Integer:
    """Parameters of the codec in the section ``codec_config``.

    Raises:
        ModelError: it is another one, or a key makes it something else.
    """
    heard = fields.section("codec_config")
    if heard.word("model_type", default="mimi") != "mimi":
        raise ModelError(f"{heard.name}: only Mimi is known in this family")
    model: Any = CODECS["mimi"](heard).model
    return Integer(int(own_parameters(model.program("codec", Style()))))


def _kyutai(fields: Fields) -> Reading:
    """A Llama over frames, with a window."""
    named = fields.with_defaults(
        hidden_size=2048, num_hidden_layers=48, num_attention_heads=32, vocab_size=4001,
        hidden_act="silu",
    )  # fmt: skip
    wide = fields.size("ffn_dim", default=11264)
    if wide % 2:
        raise ModelError(f"{fields.name}: 'ffn_dim' = {wide} must be even: gates and values")
    fields.refuse("tie_word_embeddings", "logits from the table of codes are not known")
    books = fields.size("num_codebooks", default=32)
    codes = books * fields.size("codebook_vocab_size", default=2049) + 1
    model = replace(
        llama_like(named.with_values(intermediate_size=wide // 2), tied=False, activation="silu"),
        fused_gate_up=True,
        window=window_of(fields, 375),
    )
    fields.values.get("frame_size")  # follows from the codec
    stack = model.stack()
    stack = replace(stack, ends=replace(stack.ends, unsaid=codes))
    found = Frames(stack, books + 1, mimi_parameters(fields))
    return Reading(found, assumptions=(FRAMES.format(books=books), CODEC))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"kyutai_speech_to_text": _kyutai})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"KyutaiSpeechToTextForConditionalGeneration": "kyutai_speech_to_text"}
)
