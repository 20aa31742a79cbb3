"""Depth from an image: DPT, Depth Anything and its prompted kind."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.bit import Bit
from costgraph.models.depth import Depth, PromptedDepth, StemTower
from costgraph.models.families import FAMILIES as READERS
from costgraph.models.families.bit import STANDARDISED, bit
from costgraph.models.families.common import Family, Reading, activation_of, class_of
from costgraph.models.families.patchwise import BASE
from costgraph.models.families.stages import taken_of
from costgraph.models.families.vision import patches_of, pixels, sizes, tower_of
from costgraph.models.fields import Fields
from costgraph.models.stages import Maps, TowerMaps
from costgraph.models.vision import Tower, VisionTransformer

#: Types of encoders to their classes.
_ENCODERS: Mapping[str, str] = MappingProxyType(
    {
        "dinov2": "Dinov2Backbone",
        "dinov2_with_registers": "Dinov2WithRegistersBackbone",
        "beit": "BeitBackbone",
        "swinv2": "Swinv2Backbone",
    }
)
#: Channels of the features in DPT.
_WIDTHS = (96, 192, 384, 768)
_DINO = ("dinov2", "dinov2_with_registers")
#: Keys of DPT's classes and stems that are not read.
_APART = (
    "use_auxiliary_head", "auxiliary_loss_weight", "semantic_loss_ignore_index",
    "semantic_classifier_dropout", "backbone_featmap_shape", "neck_ignore_stages",
)  # fmt: skip


def factors_of(fields: Fields, count: int) -> tuple[Fraction, ...]:
    """How much finer than patches each grid is: whole numbers, or one over such."""
    key = "reassemble_factors"
    given = fields.values.get(key, [4, 2, 1, 0.5])
    if not isinstance(given, list) or len(given) != count:
        raise ModelError(f"{fields.name}: {key!r} must be {count} factors, not {clip(given)}")
    found = []
    for value in given:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 64:
            raise ModelError(f"{fields.name}: {key!r}: {clip(value)} is no factor")
        factor = Fraction(str(value))
        if factor.denominator != 1 and factor.numerator != 1:
            raise ModelError(f"{fields.name}: {key!r}: {clip(value)} is no whole factor")
        found.append(factor)
    return tuple(found)


def encoder_of(seen: Fields, *known: str) -> TowerMaps | Maps:
    """What is seen through: a transformer whose rows, or a network whose images are taken.

    Raises:
        ModelError: it is none of the ``known`` ones, or rows are images.
    """
    kind = seen.word("model_type", default="dinov2")
    if kind not in known:
        raise ModelError(
            f"{seen.name}: {clip(kind)} is no encoder that is known in this family, which "
            f"{', '.join(known)} are"
        )
    seen.values.get("architectures")
    made = READERS[kind](seen.with_values(architectures=[_ENCODERS[kind]])).model
    assert isinstance(made, TowerMaps | Maps)
    if isinstance(made, TowerMaps) and made.image:
        raise ModelError(f"{seen.name}: 'reshape_hidden_states' = True is not supported here")
    return made


#: What is given to Prompt Depth Anything (arXiv 2412.14015, section 4.1).
GIVEN = "beside each picture a map of 192 x 256 depths is given, as telephones measure it"


def _depth_anything(fields: Fields) -> Reading:
    return Reading(_anything(fields, Depth))


def _prompted(fields: Fields) -> Reading:
    return Reading(_anything(fields, PromptedDepth), assumptions=(GIVEN,))


def _anything(fields: Fields, made: type[Depth]) -> Depth:
    """Depth Anything, or a class that adds to it."""
    maps = encoder_of(fields.section("backbone_config"), *_DINO)
    assert isinstance(maps, TowerMaps)
    tower, taken = maps.tower, maps.taken
    widths = sizes(fields, "neck_hidden_sizes", (48, 96, 192, 384))
    if len(widths) != len(taken):
        raise ModelError(f"{fields.name}: 'neck_hidden_sizes' of {len(taken)} layers")
    if fields.size("reassemble_hidden_size", default=384) != tower.at.d:
        raise ModelError(f"{fields.name}: 'reassemble_hidden_size' must be {tower.at.d}")
    if Integer(fields.size("patch_size", default=14)) != tower.patches.patch[0]:
        raise ModelError(f"{fields.name}: 'patch_size' must be the encoder's")
    fields.require("head_in_index", -1)
    kind = fields.word("depth_estimation_type", default="relative")
    if kind not in ("relative", "metric"):
        raise ModelError(f"{fields.name}: 'depth_estimation_type' = {clip(kind)} is not known")
    fields.values.get("max_depth")
    return made(
        maps,
        "ignore",
        "gelu",
        widths,
        factors_of(fields, len(widths)),
        Integer(fields.size("fusion_hidden_size", default=64)),
        Integer(fields.size("head_hidden_size", default=32)),
        exact=True,
        last="relu" if kind == "relative" else "sigmoid",
    )


def _stem(fields: Fields) -> Bit:
    """The network in front of the transformer of a hybrid.

    Raises:
        ModelError: it is not one of three stages.
    """
    part = fields.section("backbone_config").with_defaults(model_type="bit")
    part.require("model_type", "bit")
    part.values.get("architectures")
    network = bit(part, inside=True)
    if network.before or taken_of(part, len(network.widths)) != (1, 2, 3):
        raise ModelError(f"{part.name}: only three stages of bottlenecks are known in this family")
    if network.channels != Integer(fields.size("num_channels", default=3)):
        raise ModelError(f"{part.name}: 'num_channels' must be that of the pictures")
    fields.require("neck_ignore_stages", [0, 1])
    fields.require("readout_type", "project")
    shape = fields.values.get("backbone_featmap_shape", [1, 1024, 24, 24])
    if not isinstance(shape, list) or len(shape) != 4 or shape[1] != network.widths[2]:
        raise ModelError(
            f"{fields.name}: 'backbone_featmap_shape' = {clip(shape)}: {network.widths[2]} "
            "channels are made"
        )
    return network


def _own_tower(fields: Fields, bare: bool, hybrid: bool) -> TowerMaps:
    """DPT's own transformer, over patches or over what a network makes of the picture."""
    named = fields.with_defaults(**BASE)
    at, feed = tower_of(named, activation_of(named, "hidden_act"))
    size, patch = pixels(named, 384), named.size("patch_size")
    layers = named.size("num_hidden_layers")
    patches = patches_of(named, at.d, size, patch)
    tower = Tower(patches, at, feed, Integer(layers), size)
    if hybrid:
        tower = StemTower(patches, at, feed, Integer(layers), size, stem=_stem(fields))
    given = [] if bare else fields.values.get("backbone_out_indices", [2, 5, 8, 11])
    whole = isinstance(given, list) and all(type(i) is int and 0 <= i < layers for i in given)
    if not whole or given != sorted(set(given)):
        raise ModelError(
            f"{fields.name}: 'backbone_out_indices' = {clip(given)} of {layers} layers"
        )
    taken = tuple(i + 1 for i in (given[2:] if hybrid else given))
    return TowerMaps(tower, taken, normed=False, ended=True, image=False)


def _own_widths(seen: TowerMaps | Maps) -> tuple[int, ...]:
    """Channels of the features that are images of a network already."""
    if isinstance(seen, Maps):
        return seen.widths
    stem = seen.tower.stem if isinstance(seen.tower, StemTower) else None
    return () if stem is None else stem.widths[:2]


def _dpt(fields: Fields) -> Reading:
    bare = (class_of(fields.values) or "").endswith("Model")
    hybrid = fields.flag("is_hybrid", False)
    for key in _APART:
        fields.values.get(key)
    seen: TowerMaps | Maps
    if not hybrid and fields.values.get("backbone_config") and not bare:
        seen = encoder_of(fields.section("backbone_config"), *_ENCODERS)
    else:
        seen = _own_tower(fields, bare, hybrid)
    said = (STANDARDISED,) if hybrid else ()
    if bare:
        assert isinstance(seen, TowerMaps)
        fields.require("pooler_output_size", int(seen.tower.at.d), None)
        fields.require("pooler_act", "tanh")
        return Reading(VisionTransformer(seen.tower, None, pooler=True), assumptions=said)
    widths = sizes(fields, "neck_hidden_sizes", _WIDTHS)
    own = _own_widths(seen)
    if widths[: len(own)] != own:
        raise ModelError(
            f"{fields.name}: 'neck_hidden_sizes' must begin with {list(own)}, as the network has"
        )
    if len(widths) != len(seen.taken) + (2 if hybrid else 0):
        raise ModelError(f"{fields.name}: 'neck_hidden_sizes' of {len(seen.taken)} layers")
    factors = factors_of(fields, len(widths))
    readout = fields.word("readout_type", default="project")
    if readout not in ("ignore", "add", "project"):
        raise ModelError(f"{fields.name}: 'readout_type' = {clip(readout)} is not known")
    fields.require("head_in_index", -1)
    fields.refuse("use_batch_norm_in_fusion_residual", "norms in fusion are not known here")
    fields.require("use_bias_in_fusion_residual", None, True)
    fused = fields.size("fusion_hidden_size", default=256)
    projected = fields.flag("add_projection", False)
    if projected and fused != 256:
        raise ModelError(f"{fields.name}: 'add_projection' with 'fusion_hidden_size' = {fused}")
    model = Depth(
        seen,
        readout,
        activation_of(fields, "hidden_act", default="gelu"),
        widths,
        factors,
        Integer(fused),
        Integer(32),
        exact=False,
        projected=projected,
    )
    return Reading(model, assumptions=said)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"depth_anything": _depth_anything, "prompt_depth_anything": _prompted, "dpt": _dpt}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "DepthAnythingForDepthEstimation": "depth_anything",
        "PromptDepthAnythingForDepthEstimation": "prompt_depth_anything",
        "DPTForDepthEstimation": "dpt",
        "DPTModel": "dpt",
    }
)
