"""DeepSeek-VL with two towers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from costgraph.errors import ModelError
from costgraph.models.blocks.projector import Beside
from costgraph.models.blocks.sharp import ONE, SharpEyes
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.language import before, language
from costgraph.models.families.seeing import siglip_tower
from costgraph.models.families.segmenting import sam_encoder
from costgraph.models.fields import Fields

PLACES = "each picture is shown at both sizes"


def _deepseek_vl_hybrid(fields: Fields) -> Reading:
    """SigLIP beside SAM's encoder (arXiv 2403.05525)."""
    stack, reading = language(fields, "llama", tied=True)
    tower = siglip_tower(fields.section("vision_config"))
    part = fields.section("high_res_vision_config")
    part.require("model_type", "sam_vision_model", None)
    sharp, d = sam_encoder(part), stack.ends.d
    if not sharp.whole or sharp.out % 2 or d % 2 or tower.grid[0] != tower.grid[1]:
        raise ModelError(
            f"{fields.name}: an even width, square pictures and an early layer that sees the whole "
            "grid are supported"
        )
    eyes = SharpEyes(
        tower, (Beside(ONE),), d, normed=True, said=PLACES, sharp=replace(sharp, early=True)
    )
    return before(stack, reading, eyes.whole)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"deepseek_vl_hybrid": _deepseek_vl_hybrid})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"DeepseekVLHybridForConditionalGeneration": "deepseek_vl_hybrid"}
)
