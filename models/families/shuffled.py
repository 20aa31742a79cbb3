"""Language models behind SigLIP towers whose squares of patches pass a gated projector."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks.eyes import FixedTower
from costgraph.models.blocks.projector import Halves, Normed, Product, Steps
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.language import before, language
from costgraph.models.families.seeing import siglip_tower, squares_beside
from costgraph.models.fields import Fields


def _squares(fields: Fields, normed: bool, width: int | None) -> Reading:
    """Squares side by side, a norm or none, and a product whose halves gate one another."""
    stack, reading = language(fields, "cohere2")
    d = stack.ends.d
    tower = siglip_tower(fields.section("vision_config"))
    beside = squares_beside(fields, tower, "downsample_factor")
    default = int(d) if width is None else width
    inner = fields.size("alignment_intermediate_size", default=default)
    if inner % 2:
        raise ModelError(f"{fields.name}: 'alignment_intermediate_size' = {inner} has no halves")
    norms: Steps = (Normed(LAYER_NORM),) if normed else ()
    steps = (beside, *norms, Product("1", Integer(inner)), Halves("silu"), Product("2", d))
    return before(stack, reading, FixedTower(tower, steps, d, normed=True))


def _aya_vision(fields: Fields) -> Reading:
    fields.require("vision_feature_layer", -1)
    fields.require("vision_feature_select_strategy", "full")
    return _squares(fields, True, None)


def _cohere2_vision(fields: Fields) -> Reading:
    return _squares(fields, False, 36864)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"aya_vision": _aya_vision, "cohere2_vision": _cohere2_vision}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "AyaVisionForConditionalGeneration": "aya_vision",
        "Cohere2VisionForConditionalGeneration": "cohere2_vision",
    }
)
