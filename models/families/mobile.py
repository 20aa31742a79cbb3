"""Files of LLaVA's own code, and MobileVLM's: a LLaMA behind a CLIP that the file only names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip, nearest
from costgraph.models.blocks.downsampling import InvertedResidual, Placed
from costgraph.models.blocks.eyes import FixedTower
from costgraph.models.blocks.projector import Averaged, Product, Steps, two_products
from costgraph.models.decoder import Decoder
from costgraph.models.families import llama
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.language import before
from costgraph.models.families.vision import clip_tower
from costgraph.models.fields import Fields
from costgraph.models.vision import Tower

#: The class of LLaVA's own code; its first files name the type of transformers' class.
OWN = "LlavaLlamaForCausalLM"
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
    kind = _projector(fields, "ldpnet", _PROJECTORS)

    def steps(tower: Tower, d: Expr) -> Steps:
        return (*two_products(d, "gelu", True), *_PROJECTORS[kind](fields, tower.grid))

    return _seeing(fields, steps)


def _llava(fields: Fields) -> Reading:
    """LLaVA 1 and 1.5 (arXiv 2310.03744): one product, or two around an activation."""
    kind = _projector(fields, "linear", ("linear", "mlp2x_gelu"))
    fields.require("mm_resampler_type", None)
    fields.require("mm_patch_merge_type", "flat")
    fields.refuse("s2", "pictures that are seen at several sizes are not known in this family")
    fields.values.get("s2_scales")
    for key in ("tune_mm_mlp_adapter", "tune_mm_vision_resampler", "freeze_mm_mlp_adapter",
                "freeze_mm_vision_resampler", "unfreeze_mm_vision_tower", "mm_projector_lr",
                "tokenizer_model_max_length", "tokenizer_padding_side"):  # fmt: skip
        fields.values.get(key)  # of training, and of the tokenizer

    def steps(tower: Tower, d: Expr) -> Steps:
        return (Product("projector", d),) if kind == "linear" else two_products(d, "gelu", True)

    return _seeing(fields, steps)


def _projector(fields: Fields, usual: str, known: Collection[str]) -> str:
    """The word for the projector, one of those ``known``."""
    kind = fields.word("mm_projector_type", default=usual)
    if kind not in known:
        raise ModelError(
            f"{fields.name}: 'mm_projector_type' = {clip(kind)} is not known{nearest(kind, known)}"
        )
    return kind


def _seeing(fields: Fields, steps: Callable[[Tower, Expr], Steps]) -> Reading:
    """The tower of all layers but the last, ``steps`` that make rows as wide as asked, a LLaMA."""
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
    tower = _tower(fields)
    if fields.size("mm_hidden_size", default=int(tower.at.d)) != tower.at.d:
        raise ModelError(f"{fields.name}: 'mm_hidden_size' must be {tower.at.d}, the tower's width")
    if tower.layers < 2:
        raise ModelError(f"{fields.name}: a tower of {tower.layers} layers: two or more")
    reading = llama.FAMILIES["llama"](fields)
    assert isinstance(reading.model, Decoder)
    text = reading.model.stack()
    d = text.ends.d
    return before(text, reading, FixedTower(tower, steps(tower, d), d, late=1).whole)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"mobilevlm": _mobilevlm, "llava_llama": _llava})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"MobileLlamaForCausalLM": "mobilevlm", OWN: "llava_llama"}
)
