"""Networks whose stages other models read, alone (``…Backbone``) or inside those."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from costgraph.errors import ModelError, clip
from costgraph.models.convnet import ConvNext, ResNet, Swin
from costgraph.models.families import FAMILIES as READERS
from costgraph.models.families.common import Reading, class_of
from costgraph.models.fields import Fields
from costgraph.models.stages import Maps

#: Types of networks to their classes without a classifier.
_BARE = {
    "resnet": "ResNetModel",
    "convnext": "ConvNextModel",
    "convnextv2": "ConvNextV2Model",
    "swin": "SwinModel",
}


def is_backbone(fields: Fields) -> bool:
    """True where the file names a class whose stages other models read."""
    return (class_of(fields.values) or "").endswith("Backbone")


def taken_of(fields: Fields, count: int) -> tuple[int, ...]:
    """Numbers of the stages whose images are taken, from 1: the last where nothing is said.

    Raises:
        ModelError: they are not stages in order, or two keys contradict each other.
    """
    names = ["stem", *(f"stage{i}" for i in range(1, count + 1))]
    fields.values.get("stage_names")
    found: dict[str, tuple[int, ...]] = {}
    by_name: Any = fields.values.get("out_features")
    by_number: Any = fields.values.get("out_indices")
    for key, given in (("out_features", by_name), ("out_indices", by_number)):
        if given is None:
            continue
        if not isinstance(given, list) or not given:
            raise ModelError(f"{fields.name}: {key!r} must be a list of stages, not {clip(given)}")
        if key == "out_features":
            places = [names.index(n) if n in names else 0 for n in given]
        else:
            places = [n % len(names) if type(n) is int and -count <= n <= count else 0
                      for n in given]  # fmt: skip
        if places != sorted(set(places)) or 0 in places:
            raise ModelError(
                f"{fields.name}: {key!r} = {clip(given)}: stages of {', '.join(names[1:])} in "
                "their order are supported"
            )
        found[key] = tuple(places)
    if len(set(found.values())) > 1:
        raise ModelError(f"{fields.name}: 'out_features' and 'out_indices' contradict each other")
    return next(iter(found.values()), (count,))


def taken_from(fields: Fields, network: ResNet | ConvNext | Swin) -> Maps:
    """The network with the stages that ``out_features`` or ``out_indices`` name."""
    if isinstance(network, Swin):
        network = replace(network, whole=True)
    return Maps(network, taken_of(fields, len(network.depths)))


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
    assert isinstance(reading.model, (ResNet, ConvNext, Swin))
    return taken_from(fields, reading.model)


def backbone(fields: Fields, model: ResNet | ConvNext | Swin, *assumptions: str) -> Reading:
    """The reading of a file of a network; its stages where the class is a ``…Backbone``."""
    if is_backbone(fields):
        return Reading(taken_from(fields, model), assumptions=assumptions)
    return Reading(model, assumptions=assumptions)
