"""Qwen's Omni models: the thinker sees, and its language model answers in text.

What hears and what speaks stands beside it and is left out, which the assumptions say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from costgraph.models.families.common import Family, Reading
from costgraph.models.families.multimodal import qwen2_5_vl, qwen3_vl_moe
from costgraph.models.fields import Fields

#: The readers of thinkers, and the types of their language models.
THINKERS: Mapping[str, tuple[Callable[[Fields, str], Reading], str]] = MappingProxyType(
    {
        "qwen2_5_vl": (qwen2_5_vl, "qwen2_5_omni_text"),
        "qwen3_vl_moe": (qwen3_vl_moe, "qwen3_omni_moe_text"),
    }
)
HEARD = "the thinker's language model and eyes are counted, in time and memory: {left} left out"


def _thinker(fields: Fields, family: str, beside: str = "") -> Reading:
    read, text = THINKERS[family]
    reading = read(fields.with_defaults(tie_word_embeddings=False), text)
    said = HEARD.format(left=f"its audio encoder{beside} {'are' if beside else 'is'}")
    return replace(reading, assumptions=(*reading.assumptions, said))


def _part(family: str) -> Family:
    def read(fields: Fields) -> Reading:
        return _thinker(fields, family)

    return read


def _whole(family: str) -> Family:
    def read(fields: Fields) -> Reading:
        # What only tells whether a vocoder is there.
        fields.values.get("enable_audio_output")
        inner = fields.section("thinker_config")
        return _thinker(inner, family, ", the talker and the vocoder")

    return read


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "qwen2_5_omni": _whole("qwen2_5_vl"),
        "qwen2_5_omni_thinker": _part("qwen2_5_vl"),
        "qwen3_omni_moe": _whole("qwen3_vl_moe"),
        "qwen3_omni_moe_thinker": _part("qwen3_vl_moe"),
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "Qwen2_5OmniModel": "qwen2_5_omni",
        "Qwen2_5OmniForConditionalGeneration": "qwen2_5_omni",
        "Qwen2_5OmniThinkerForConditionalGeneration": "qwen2_5_omni_thinker",
        "Qwen3OmniMoeForConditionalGeneration": "qwen3_omni_moe",
        "Qwen3OmniMoeThinkerForConditionalGeneration": "qwen3_omni_moe_thinker",
    }
)
