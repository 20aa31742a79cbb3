"""MiniCPM-V 2.5 to 4.5 (arXiv 2408.01800), the files of their own code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import FixedTower
from costgraph.models.blocks.resampler import Looking
from costgraph.models.families import FAMILIES as LANGUAGES
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.language import before
from costgraph.models.families.multimodal import stack_of
from costgraph.models.families.seeing import siglip_tower
from costgraph.models.fields import Fields, divided

#: The language model of each version; files of 2.5 name none.
TEXTS: Mapping[str, str] = MappingProxyType(
    {"2.5": "llama", "2.6": "qwen2", "4": "llama", "4.0": "llama", "4.5": "qwen3"}
)
#: The published class of files of 2.0 has this hidden size, and a tower of timm.
OLD = 2304
#: Width of a head of the resampler.
HEAD = 128
SLICES = (
    "G image tokens, which the prompt's S tokens include, are whole slices of {side} x {side} "
    "pixels, of {queries} tokens each, into which the published code cuts pictures"
)


def _version(fields: Fields) -> str:
    found = fields.values.get("version")
    if found is None:
        if fields.size("hidden_size") == OLD:
            raise ModelError(f"{fields.name}: MiniCPM-V 2.0, whose tower is of timm, is not read")
        return "2.5"
    if str(found) not in TEXTS:
        raise ModelError(f"{fields.name}: 'version' = {clip(found)}: {', '.join(TEXTS)} are read")
    return str(found)


def _minicpmv(fields: Fields) -> Reading:
    """SigLIP's tower, a resampler of one layer, and the language model in the file itself."""
    kind = TEXTS[_version(fields)]
    text = fields.with_values(model_type=kind).with_defaults(tie_word_embeddings=False)
    reading = LANGUAGES[kind](text)
    stack = stack_of(fields, reading)
    seen = fields.section("vision_config").with_values(vision_use_head=False)
    seen.require("model_type", "siglip", "siglip_vision_model", "idefics2", None)
    full = siglip_tower(seen)
    layers = full.layers - int(fields.flag("drop_vision_last_layer", False))
    if layers < 1:
        raise ModelError(f"{seen.name}: a tower of {layers} layers")
    cut = fields.section("slice_config") if fields.values.get("slice_config") else None
    side = 448 if cut is None else cut.size("scale_resolution", default=448)
    if cut is not None:
        for key in ("max_slice_nums", "patch_size", "model_type"):
            cut.values.get(key)
    # Keys of the processor, and of how slices are batched.
    for key in ("slice_mode", "use_image_id", "vision_batch_size", "batch_vision_input",
                "image_size", "patch_size", "batch_3d_resampler"):  # fmt: skip
        fields.values.get(key)
    if side < int(full.patches.patch[0]) or side > int(full.size[0]):
        raise ModelError(
            f"{fields.name}: slices of {side} pixels: one patch to the tower's largest"
        )
    # Positions are chosen from the table of the largest picture.
    patches = replace(full.patches, chosen=True)
    tower = replace(full, patches=patches, layers=layers, size=(Integer(side),) * 2)
    d = stack.ends.d
    heads = divided(fields, int(d), HEAD, "'hidden_size' over heads of 128")
    queries = fields.size("query_num", default=64)
    looking = Looking(
        queries=Integer(queries),
        positions=patches.count(tower.size),
        at=Heads(d, heads, Integer(HEAD), True, True, True),
    )
    said = SLICES.format(side=side, queries=queries)
    eyes = FixedTower(tower, (looking,), d, normed=True, said=said)
    return before(stack, reading, eyes)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"minicpmv": _minicpmv})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType({"MiniCPMV": "minicpmv"})
