"""MobileVLM and its second version: a small LLaMA behind CLIP and fewer tokens of it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip, nearest
from costgraph.models.blocks.downsampling import InvertedResidual, Placed
from costgraph.models.blocks.eyes import FixedTower
from costgraph.models.blocks.projector import Averaged, Steps, two_products
from costgraph.models.decoder import Decoder
from costgraph.models.families import llama
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.language import before
from costgraph.models.families.vision import clip_tower
from costgraph.models.fields import Fields
from costgraph.models.vision import Tower

#: Towers that files only name, by the last part of the name: sizes of their published files.
TOWERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "clip-vit-large-patch14-336": {
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
        },
    }
)
#: Positions per side behind the second version's means.
SIDE = 12


def _tower(fields: Fields) -> Tower:
    """The tower that the file names, or that it holds the keys of."""
    if fields.values.get("vision_config"):
        return clip_tower(fields.section("vision_config"))
    name = fields.word("mm_vision_tower")
    last = name.rstrip("/").rpartition("/")[2]
    if last not in TOWERS:
        raise ModelError(
            f"{fields.name}: 'mm_vision_tower' = {clip(name)} is not known{nearest(last, TOWERS)}: "
            "put the keys of its config.json under 'vision_config'"
        )
    return clip_tower(Fields(f"{fields.name}: {last}", dict(TOWERS[last])))


def _halved(fields: Fields, grid: tuple[Expr, ...]) -> Steps:
    """LDP: one block on the grid, and one that halves both of its sides."""
    if any(n % 2 for n in grid):
        raise ModelError(f"{fields.name}: a grid of {grid[0]} x {grid[1]} patches has no halves")
    return InvertedResidual("block1", grid), InvertedResidual("block2", grid, stride=2)


def _averaged(fields: Fields, grid: tuple[Expr, ...]) -> Steps:
    """LDPv2: means over squares that leave twelve by twelve, and a convolution for places."""
    if any(n % SIDE for n in grid):
        raise ModelError(
            f"{fields.name}: {grid[0]} x {grid[1]} patches are no {SIDE} x {SIDE} squares"
        )
    left = (Integer(SIDE),) * 2
    return Averaged(grid, tuple(n / SIDE for n in grid)), Placed(left)


#: What stands behind the two products of a projector, by its word.
_PROJECTORS = MappingProxyType({"ldpnet": _halved, "ldpnetv2": _averaged})


def _mobilevlm(fields: Fields) -> Reading:
    fields.require("vision_tower_type", "clip")
    fields.require("mm_vision_select_layer", -2)
    fields.require("mm_vision_select_feature", "patch")
    fields.refuse("image_grid_pinpoints", "pictures cut into tiles are not known in this family")
    if fields.word("image_aspect_ratio", default="pad") not in ("pad", "square"):
        raise ModelError(
            f"{fields.name}: 'image_aspect_ratio' must be 'pad' or 'square': every picture is made "
            "one square"
        )
    fields.require("use_mm_proj", True)
    for key in ("mm_use_im_start_end", "mm_use_im_patch_token"):
        if fields.flag(key, False):
            fields.tell(f"{key!r}: marks around images are tokens of the prompt's S, not of G")
    kind = fields.word("mm_projector_type", default="ldpnet")
    if kind not in _PROJECTORS:
        raise ModelError(
            f"{fields.name}: 'mm_projector_type' = {clip(kind)} is not known"
            f"{nearest(kind, _PROJECTORS)}"
        )
    tower = _tower(fields)
    if fields.size("mm_hidden_size", default=int(tower.at.d)) != tower.at.d:
        raise ModelError(f"{fields.name}: 'mm_hidden_size' must be {tower.at.d}, the tower's width")
    if tower.layers < 2:
        raise ModelError(f"{fields.name}: a tower of {tower.layers} layers: two or more")
    reading = llama.FAMILIES["llama"](fields)
    assert isinstance(reading.model, Decoder)
    text = reading.model.stack()
    d = text.ends.d
    steps = (*two_products(d, "gelu", True), *_PROJECTORS[kind](fields, tower.grid))
    return before(text, reading, FixedTower(tower, steps, d, late=1).whole)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"mobilevlm": _mobilevlm})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType({"MobileLlamaForCausalLM": "mobilevlm"})
