"""Qwen's Omni models: the thinker sees, and its language model answers in text.

What hears rests in memory; what speaks is left out, which the assumptions say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Expr

from costgraph.models.blocks import Stack
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.hearing import omni_ears, shrunk_ears
from costgraph.models.families.multimodal import qwen2_5_vl, qwen3_vl_moe
from costgraph.models.fields import Fields
from costgraph.models.hearing import Ears
from costgraph.models.multimodal import RESTS, Seeing

#: The readers of thinkers, the types of their language models, and their audio encoders.
THINKERS: Mapping[
    str, tuple[Callable[[Fields, str, bool], Reading], str, Callable[[Fields, Expr], Ears]]
] = MappingProxyType(
    {
        "qwen2_5_vl": (qwen2_5_vl, "qwen2_5_omni_text", omni_ears),
        "qwen3_vl_moe": (qwen3_vl_moe, "qwen3_omni_moe_text", shrunk_ears),
    }
)
SPEAKS = "the thinker is counted, in time and memory: the talker and the vocoder are left out"


def _thinker(fields: Fields, family: str, *said: str) -> Reading:
    read, text, ears = THINKERS[family]
    reading = read(fields, text, False)
    for key in ("position_id_per_seconds", "seconds_per_chunk"):
        fields.values.get(key)  # places of tokens in time
    model = reading.model
    assert isinstance(model, Seeing)
    assert isinstance(model.text, Stack)
    heard = ears(fields.section("audio_config"), model.text.ends.d)
    assumptions = (*reading.assumptions, RESTS, *said)
    return replace(reading, model=replace(model, resting=(heard,)), assumptions=assumptions)


def _part(family: str) -> Family:
    def read(fields: Fields) -> Reading:
        return _thinker(fields, family)

    return read


def _whole(family: str) -> Family:
    def read(fields: Fields) -> Reading:
        # What only tells whether a vocoder is there.
        fields.values.get("enable_audio_output")
        inner = fields.section("thinker_config")
        return _thinker(inner, family, SPEAKS)

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
