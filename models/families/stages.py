"""Networks whose stages other models read, alone (``…Backbone``) or inside those."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from costgraph.errors import ModelError, clip
from costgraph.models.convnet import ConvNext, ResNet, Swin
from costgraph.models.families import FAMILIES as READERS
from costgraph.models.families.common import Reading, class_of
from costgraph.models.fields import Fields
from costgraph.models.hgnet import HGNet
from costgraph.models.stages import Maps, Network, TowerMaps
from costgraph.models.vision import VisionTransformer

#: Types of networks to their classes without a classifier.
_BARE = {
    "resnet": "ResNetModel",
    "convnext": "ConvNextModel",
    "convnextv2": "ConvNextV2Model",
    "swin": "SwinModel",
    "swinv2": "Swinv2Model",
    "dinov3_convnext": "DINOv3ConvNextModel",
}


def is_backbone(fields: Fields) -> bool:
    """True where the file names a class whose stages other models read."""
    return (class_of(fields.values) or "").endswith("Backbone")


def _named(name: Any, count: int) -> int:
    """The number of the stage that is called so, or −1 where there is none."""
    if name == "stem":
        return 0
    found = re.fullmatch("stage([1-9][0-9]{0,8})", name) if isinstance(name, str) else None
    number = int(found[1]) if found else -1
    return number if number <= count else -1


def _numbered(number: Any, count: int) -> int:
    """The number of a stage, which may be counted from the end, or −1 where there is none."""
    known = type(number) is int and -count - 1 <= number <= count
    return int(number % (count + 1)) if known else -1


def taken_of(
    fields: Fields, count: int, usual: tuple[int, ...] | None = None, stem: bool = False
) -> tuple[int, ...]:
    """Numbers of the stages whose images are taken, from 1; with ``stem``, from what stands first.

    Where nothing is said: the ``usual`` ones, or the last.

    Raises:
        ModelError: they are not stages in order, or two keys contradict each other.
    """
    fields.values.get("stage_names")
    found: dict[str, tuple[int, ...]] = {}
    for key, place in (("out_features", _named), ("out_indices", _numbered)):
        given: Any = fields.values.get(key)
        if given is None:
            continue
        if not isinstance(given, list) or not given:
            raise ModelError(f"{fields.name}: {key!r} must be a list of stages, not {clip(given)}")
        places = tuple(place(n, count) for n in given)
        if places != tuple(sorted(set(places))) or places[0] < (0 if stem else 1):
            raise ModelError(
                f"{fields.name}: {key!r} = {clip(given)}: {'stem and ' if stem else ''}stages from "
                f"stage1 to stage{count} in their order are supported"
            )
        found[key] = places
    if len(set(found.values())) > 1:
        raise ModelError(f"{fields.name}: 'out_features' and 'out_indices' contradict each other")
    return next(iter(found.values()), usual or (count,))


def taken_from(fields: Fields, network: Network) -> Maps:
    """The network with the stages that ``out_features`` or ``out_indices`` name."""
    normed = not isinstance(network, ResNet | HGNet)
    if isinstance(network, Swin):
        normed = not network.cosine
        network = replace(network, whole=normed, normed=normed and network.normed)
    elif isinstance(network, ConvNext):
        normed = not network.bare
    return Maps(network, taken_of(fields, len(network.depths)), normed)


def tower_maps(
    fields: Fields, model: VisionTransformer, *assumptions: str, normed: bool, ended: bool = False,
    cut: bool = False,
) -> Reading:  # fmt: skip
    """The reading of a transformer whose layers other models read.

    Rows are no images where ``reshape_hidden_states`` is false; they then are ``cut``, or begin
    with the class token.
    """
    image = fields.flag("reshape_hidden_states", True)
    taken = taken_of(fields, int(model.tower.layers), stem=True)
    made = TowerMaps(model.tower, taken, normed, ended, image, image or cut, model.mask)
    return Reading(made, assumptions=assumptions)


def maps_of(fields: Fields, *known: str) -> Maps:
    """The network in a part of a file, of one of the ``known`` types.

    Raises:
        ModelError: it is another one.
    """
    kind = fields.word("model_type")
    if kind not in known:
        raise ModelError(f"{fields.name}: {clip(kind)}: only {', '.join(known)} are known here")
    fields.values.get("architectures")
    reading = READERS[kind](fields.with_values(architectures=[_BARE[kind]]))
    assert isinstance(reading.model, Network)
    return taken_from(fields, reading.model)


def backbone(fields: Fields, model: Network, *assumptions: str) -> Reading:
    """The reading of a file of a network; its stages where the class is a ``…Backbone``."""
    if is_backbone(fields):
        return Reading(taken_from(fields, model), assumptions=assumptions)
    return Reading(model, assumptions=assumptions)
