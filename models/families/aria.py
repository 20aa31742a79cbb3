"""Aria (Li et al., arXiv 2410.05993): experts behind a tower and queries that look at it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import FixedTower
from costgraph.models.blocks.looking import Beholding
from costgraph.models.blocks.projector import Acted, Normed, Product, Steps
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.language import before, language
from costgraph.models.families.seeing import siglip_tower
from costgraph.models.families.vision import MOST_ENTRIES
from costgraph.models.fields import Fields

#: How many queries look at how many patches, where the file does not say it.
_QUERIES: Mapping[str, int] = MappingProxyType({"1225": 128, "4900": 256})
QUERIES = "projector_patch_to_query_dict"
SIZE = (
    "G image tokens, which the prompt's S tokens include, are whole images of {side} x {side} "
    "pixels, of {queries} tokens each; smaller ones, of fewer tokens, are not counted"
)


def _queries(fields: Fields, patches: int) -> tuple[int, int]:
    """Queries that look at an image of so many patches, and the most that there are.

    Raises:
        ModelError: no queries stand for as many patches.
    """
    found = fields.values.get(QUERIES)
    table = _QUERIES if found is None else found
    if not isinstance(table, Mapping) or not 0 < len(table) <= MOST_ENTRIES:
        raise ModelError(f"{fields.name}: {QUERIES!r} must be an object, not {clip(found)}")
    inner = Fields(f"{fields.name}: {QUERIES}", table)
    counts = {key: inner.size(key) for key in table}
    most = max(counts.values())
    if fields.size("max_value_" + QUERIES, default=most) != most:
        raise ModelError(f"{fields.name}: 'max_value_{QUERIES}' must be {most}")
    if str(patches) not in counts:
        raise ModelError(
            f"{fields.name}: {QUERIES!r} has no queries for the tower's {patches} patches"
        )
    return counts[str(patches)], most


def _aria(fields: Fields) -> Reading:
    fields.require("vision_feature_layer", -1)
    stack, reading = language(
        fields, "aria_text", tied=False, hidden_size=4096, intermediate_size=4096,
        num_hidden_layers=32, num_attention_heads=32, vocab_size=32000,
        moe_num_experts=8, moe_topk=2,
    )  # fmt: skip
    seen = fields.section("vision_config").with_values(vision_use_head=False)
    tower = siglip_tower(seen, hidden_size=1152, num_attention_heads=16, patch_size=32)
    queries, most = _queries(fields, int(tower.patches.count(tower.size)))
    at, d = tower.at, stack.ends.d
    steps: Steps = (
        Beholding(
            queries=Integer(queries),
            positions=tower.patches.count(tower.size),
            at=Heads(at.d, at.heads, at.head_dim, True, True, True),
            rows=Integer(most),
        ),
        Normed(LAYER_NORM),
        Product("in", d, False),
        Acted("gelu_tanh"),
        Product("out", d, False),
    )
    said = SIZE.format(side=tower.size[0], queries=queries)
    return before(stack, reading, FixedTower(tower, steps, d, normed=True, said=said).whole)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"aria": _aria})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType({"AriaForConditionalGeneration": "aria"})
