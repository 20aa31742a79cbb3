"""ZoeDepth."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.depth import encoder_of, factors_of
from costgraph.models.families.detecting import heads_of
from costgraph.models.families.vision import LARGEST_ENTRY, few, sizes
from costgraph.models.fields import Fields
from costgraph.models.stages import TowerMaps
from costgraph.models.zoedepth import STEPS, Router, ZoeDepth

#: What the encoder is where the file says nothing of it.
_BEIT: Mapping[str, Any] = MappingProxyType(
    {
        "model_type": "beit",
        "image_size": 384,
        "num_hidden_layers": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "use_relative_position_bias": True,
        "reshape_hidden_states": False,
        "out_features": ["stage6", "stage12", "stage18", "stage24"],
    }
)
#: Width that the published class's answer to which set is used is fixed at.
_ROUTED = 128
#: Pulls that it has in every step where there are several sets.
_PULLS = 16


def _sets(fields: Fields) -> tuple[int, int]:
    """How many sets of bins there are, and bins of each.

    Raises:
        ModelError: sets differ, of which the picture chooses one.
    """
    given = fields.values.get("bin_configurations") or [{"n_bins": 64}]
    whole = isinstance(given, list) and 0 < len(given) <= 16
    if not whole or not all(isinstance(entry, Mapping) for entry in given):
        raise ModelError(f"{fields.name}: 'bin_configurations' = {clip(given)} are no sets")
    bins = {Fields(f"{fields.name}: bin_configurations", entry).size("n_bins") for entry in given}
    if len(bins) > 1 or max(bins) > LARGEST_ENTRY:
        raise ModelError(
            f"{fields.name}: 'bin_configurations' of {sorted(bins)} bins: one is known"
        )
    return len(given), bins.pop()


def _router(fields: Fields, sets: int) -> Router:
    d = fields.size("patch_transformer_hidden_size")
    if d != _ROUTED:
        raise ModelError(f"{fields.name}: 'patch_transformer_hidden_size' must be {_ROUTED}")
    fields.require("num_patch_transformer_layers", 4)
    inner = Integer(fields.size("patch_transformer_intermediate_size"))
    at = heads_of(fields, d, fields.size("patch_transformer_num_attention_heads"))
    if sets != 2:
        raise ModelError(f"{fields.name}: 'bin_configurations': the class tells two sets apart")
    return Router(at, FeedForward(Integer(d), inner, "relu", gated=False, bias=True), 4, Integer(2))


def _zoedepth(fields: Fields) -> Reading:
    part = fields.section("backbone_config") if fields.values.get("backbone_config") else None
    seen = encoder_of(part or Fields(fields.name, dict(_BEIT)), "beit", "dinov2")
    assert isinstance(seen, TowerMaps)
    widths = sizes(fields, "neck_hidden_sizes", (96, 192, 384, 768))
    fused = fields.size("fusion_hidden_size", default=256)
    if len(widths) != STEPS or len(seen.taken) != STEPS:
        raise ModelError(f"{fields.name}: 'neck_hidden_sizes' of {len(seen.taken)} layers: four")
    if fields.size("bottleneck_features", default=256) != fused:
        raise ModelError(f"{fields.name}: 'bottleneck_features' must be {fused}")
    fields.require("readout_type", "project")
    fields.require("head_in_index", -1)
    fields.refuse("use_batch_norm_in_fusion_residual", "norms in fusion are not known here")
    fields.require("use_bias_in_fusion_residual", None, True)
    projected = fields.flag("add_projection", False)
    if projected and fused != 256:
        raise ModelError(f"{fields.name}: 'add_projection' with 'fusion_hidden_size' = {fused}")
    kind = fields.word("bin_centers_type", default="softplus")
    if kind not in ("softplus", "normed"):
        raise ModelError(f"{fields.name}: 'bin_centers_type' = {clip(kind)} is not known")
    pull = fields.word("attractor_kind", default="mean")
    if pull not in ("mean", "sum"):
        raise ModelError(f"{fields.name}: 'attractor_kind' = {clip(pull)} is not known")
    for key in ("attractor_alpha", "attractor_gamma", "min_temp", "max_temp"):
        fields.values.get(key)  # factors
    (sets, bins), wide = _sets(fields), fields.size("bin_embedding_dim", default=128)
    pulls = sizes(fields, "num_attractors", (16, 8, 4, 1))
    if len(pulls) != STEPS or max(pulls) > LARGEST_ENTRY or wide % 2:
        raise ModelError(
            f"{fields.name}: 'num_attractors' = {list(pulls)} of {STEPS} steps, 'bin_embedding_dim'"
            f" = {wide}"
        )
    several = sets > 1
    model = ZoeDepth(
        seen,
        "project",
        activation_of(fields, "hidden_act", default="gelu"),
        widths,
        factors_of(fields, STEPS),
        Integer(fused),
        Integer(few(fields, "num_relative_features", 32)),
        exact=False,
        projected=projected,
        bins=Integer(bins),
        wide=Integer(wide),
        narrow=Integer(wide // 2 if several else 128),
        seed=Integer(wide // 2 if several else 256),
        pulls=(_PULLS,) * STEPS if several else pulls,
        shared=kind == "normed",
        pull=pull,
        share=4 if several else 2,
        sets=sets,
        router=_router(fields, sets) if several else None,
    )
    return Reading(model)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"zoedepth": _zoedepth})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType({"ZoeDepthForDepthEstimation": "zoedepth"})
