"""ColPali (arXiv 2407.01449) and ColQwen2: a vector for each token of a page or question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Stack
from costgraph.models.blocks.stack import Output
from costgraph.models.families import FAMILIES as READERS
from costgraph.models.families.common import Family, Reading
from costgraph.models.fields import Fields
from costgraph.models.multimodal import Seeing

VECTORS = (
    "a vector of {width} numbers for each token, of a page or of a question without images; what "
    "compares them is not counted"
)
#: Types of models that are known to stand inside.
_INSIDE = ("paligemma", "qwen2_vl", "qwen2_5_vl")


def _retrieving(usual: str) -> Family:
    def read(fields: Fields) -> Reading:
        part = fields.section("vlm_config")
        kind = part.word("model_type", default=usual)
        if kind not in _INSIDE:
            raise ModelError(
                f"{part.name}: {clip(kind)}: only {', '.join(_INSIDE)} are known in this family"
            )
        part.values.get("architectures")
        reading = READERS[kind](part)
        model = reading.model
        assert isinstance(model, Seeing)
        assert isinstance(model.text, Stack)
        width = fields.size("embedding_dim", default=128)
        output = Output("score", Integer(width), bias=True, every=True, unit=True)
        text = replace(model.text, ends=replace(model.text.ends, output=output))
        said = (*reading.assumptions, VECTORS.format(width=width))
        return Reading(replace(model, text=text, once=True), assumptions=said)

    return read


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"colpali": _retrieving("paligemma"), "colqwen2": _retrieving("qwen2_vl")}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"ColPaliForRetrieval": "colpali", "ColQwen2ForRetrieval": "colqwen2"}
)
