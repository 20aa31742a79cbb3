"""The language model of a file that also sees or hears, and what is put in front of it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from costgraph.errors import ModelError, clip, nearest
from costgraph.models.blocks import Stack
from costgraph.models.blocks.eyes import Eyes
from costgraph.models.decoder import Decoder
from costgraph.models.families import FAMILIES as LANGUAGES
from costgraph.models.families.absent import named
from costgraph.models.families.common import Reading, tied_as_whole
from costgraph.models.fields import Fields
from costgraph.models.multimodal import Seeing

#: Sizes that the text part may leave to the defaults of its class.
_LEFT_OUT: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "llama": {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 32000,
        },
        "mistral": {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 32000,
        },
        "gemma": {
            "hidden_size": 3072,
            "intermediate_size": 24576,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "head_dim": 256,
            "vocab_size": 256000,
        },
        "gemma3_text": {
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "vocab_size": 262208,
        },
        "qwen2": {
            "hidden_size": 4096,
            "intermediate_size": 22016,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 151936,
        },
    }
)


#: Names that the part of a whole model has for a family that is read.
_SAME: Mapping[str, str] = MappingProxyType(
    {
        "deepseek_ocr2_text": "deepseek",
        "exaone4_5_text": "exaone4",
        "hunyuan_vl_text": "hunyuan_v1_dense",
        "paddleocr_vl_text": "ernie4_5",
        "voxtral_realtime_text": "mistral",
    }
)


def language(
    fields: Fields,
    default: str,
    key: str = "text_config",
    tied: bool | None = None,
    **left_out: Any,
) -> tuple[Stack, Reading]:
    """The language model under ``key``: its blocks, and what its family read.

    Whether logits are tied to embeddings is a matter of the whole model: its own key comes
    first, then the class's default, then that of the part, then the default of its family.

    Args:
        fields: the whole configuration.
        default: ``model_type`` of the part where it names none.
        key: the section.
        tied: what the class takes where the whole file does not say it.
        left_out: values that the part may leave to the defaults of its class.
    """
    text = fields.section(key)
    own = text.word("model_type", default=default)
    kind = _SAME.get(own, own)
    if kind not in LANGUAGES:
        raise ModelError(
            f"{text.name}: unknown model_type {clip(kind)} of a language model"
            f"{nearest(kind, LANGUAGES)}"
        )
    text = text.with_defaults(**{**_LEFT_OUT.get(kind, {}), **left_out})
    reading = LANGUAGES[kind](named(tied_as_whole(fields, text, tied), own))
    model = reading.model
    if isinstance(model, Decoder):
        return model.stack(), reading
    if isinstance(model, Stack) and reading.phases == "autoregressive":
        return model, reading
    raise ModelError(f"{text.name}: {clip(kind)} behind a tower is not supported")


def before(stack: Stack, reading: Reading, eyes: Eyes, both: bool = False) -> Reading:
    """The reading of a language model that sees or hears."""
    model = Seeing(eyes, stack, reading.scans, both)
    return Reading(model, assumptions=reading.assumptions, scans=reading.scans, ahead=reading.ahead)
