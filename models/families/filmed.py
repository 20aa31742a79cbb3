"""V-JEPA 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.models.blocks import FeedForward
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import Patches
from costgraph.models.families.common import Family, Reading, activation_of, class_of, labels_of
from costgraph.models.families.detecting import heads_of
from costgraph.models.families.shrinking import inside
from costgraph.models.families.vision import pixels
from costgraph.models.fields import Fields
from costgraph.models.filmed import Attentive, Guessing, VJepa
from costgraph.models.vision import Tower

WHOLE = "all patches are seen and all are guessed, as where no masks are given"
KEPT = "what guesses patches rests in memory: labels are told without it"


def _rotated(at: Heads) -> Heads:
    """Heads of which three even parts, of a third each, are rotated by time, row and column."""
    third = int(at.head_dim) // 3 // 2 * 2
    return replace(at, rotary=Integer(3 * third)) if third else at


def _vjepa2(fields: Fields) -> Reading:
    named = fields.with_defaults(
        hidden_size=1024, num_attention_heads=16, num_hidden_layers=24, pred_hidden_size=384,
        pred_num_attention_heads=12, pred_num_hidden_layers=12,
    )  # fmt: skip
    act = activation_of(fields, "hidden_act", default="gelu")
    bias = fields.flag("qkv_bias", True)

    def layer(start: str) -> tuple[Heads, FeedForward]:
        d = named.size(f"{start}hidden_size")
        at = heads_of(fields, d, named.size(f"{start}num_attention_heads"))
        inner = inside(fields, d, fields.number(f"{start}mlp_ratio", 4.0))
        return (
            _rotated(replace(at, qv_bias=bias, k_bias=bias)),
            FeedForward(Integer(d), Integer(inner), act, gated=False, bias=True),
        )

    at, feed = layer("")
    own, fed = layer("pred_")
    frames = fields.size("frames_per_clip", default=64)
    tube, patch = fields.size("tubelet_size", default=2), fields.size("patch_size", default=16)
    size = pixels(fields, 256, "crop_size")
    if frames < tube or min(size) < patch:
        raise ModelError(
            f"{fields.name}: {frames} frames of {size[0]} x {size[1]} pixels hold no tube of "
            f"{tube} by {patch}"
        )
    sides = (Integer(tube), Integer(patch), Integer(patch))
    tower = Tower(
        Patches(at.d, Integer(fields.size("in_chans", default=3)), sides),
        at,
        feed,
        Integer(named.size("num_hidden_layers")),
        size,
        frames=Integer(frames),
    )
    masks = Integer(fields.size("pred_num_mask_tokens", default=10))
    guess = Guessing(own, fed, Integer(named.size("pred_num_hidden_layers")), masks)
    fields.values.get("pred_zero_init_mask_tokens")  # how they begin
    if not (class_of(fields.values) or "").endswith("ForVideoClassification"):
        return Reading(VJepa(tower, guess, None, None), assumptions=(WHOLE,))
    layers = Integer(fields.size("num_pooler_layers", default=3))
    plain = replace(at, qv_bias=True, k_bias=True, rotary=None)
    pool = Attentive(plain, replace(feed, width=4 * at.d), layers)
    classes = Integer(labels_of(fields))
    return Reading(VJepa(tower, guess, pool, classes), assumptions=(KEPT,))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"vjepa2": _vjepa2})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"VJEPA2Model": "vjepa2", "VJEPA2ForVideoClassification": "vjepa2"}
)
