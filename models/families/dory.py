"""Dory: layers on the unit sphere, the middle ones of which run several times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import arranged
from costgraph.models.blocks.sphere import UNIT, Looped, SphereAttention, SphereFeed, SphereLayer
from costgraph.models.blocks.stack import Segment
from costgraph.models.families.common import FULL, SLIDING, Family, Reading, layer_types
from costgraph.models.families.experts import attention_of, ends_of, feed_forward_of, layers_of
from costgraph.models.fields import Fields
from costgraph.ops.pattern import sliding

#: What the class has where the file says nothing.
SIZES: Mapping[str, Any] = {
    "vocab_size": 131072,
    "hidden_size": 2560,
    "intermediate_size": 7168,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 1024,
    "n_recurrent_loops": 2,
    "n_input_layers": 8,
    "n_output_layers": 8,
}
_ENDS = ("n_input_layers", "n_output_layers")


def _whole_layers(fields: Fields) -> Fields:
    """The file with a layer where published ones list its two blocks apart, and count both."""
    names = fields.values.get("layer_types")
    if not isinstance(names, list) or "mlp" not in names:
        return fields
    if names[1::2] != ["mlp"] * (len(names) // 2) or len(names) != layers_of(fields):
        raise ModelError(f"{fields.name}: 'layer_types' must name a 'mlp' behind each attention")
    halved = {"num_hidden_layers": layers_of(fields) // 2, "layer_types": names[::2]}
    for key in (*_ENDS, "n_recurrent_layers"):
        if fields.values.get(key) is not None:
            halved[key] = _count(fields, key) // 2
    return fields.with_values(**halved)


def _count(fields: Fields, key: str) -> int:
    """A number of layers, which may be none."""
    found = fields.values.get(key)
    if type(found) is not int or found < 0:
        raise ModelError(f"{fields.name}: {key!r} must be a number of layers, not {clip(found)}")
    return found


def _parts(fields: Fields) -> tuple[int, int]:
    """Numbers of layers in front of the loops, and in front of those behind them.

    Raises:
        ModelError: parts are not as many as there are layers, or nothing is left to be looped.
    """
    total = layers_of(fields)
    first, last = (_count(fields, key) for key in _ENDS)
    middle = total - first - last
    said = fields.values.get("n_recurrent_layers")
    if middle < 1 or said not in (None, middle):
        raise ModelError(
            f"{fields.name}: {first} layers first, {clip(said)} that recur and {last} last of "
            f"{total}"
        )
    return first, first + middle


def _dory(fields: Fields) -> Reading:
    fields = fields.with_defaults(**SIZES)
    fields.require("recurrent_kv_cache_mode", "per_loop")
    fields = _whole_layers(fields)
    kinds = layer_types(fields, lambda i: (i + 1) % 4 != 0)
    bias = fields.flag("attention_bias", False)
    plain = attention_of(fields, qk_norm=UNIT, qkv_bias=bias, out_bias=bias)
    full = SphereAttention(**vars(plain))
    window = Integer(fields.size("sliding_window"))
    slides = replace(full, pattern=sliding(window), table="sliding_rope_table")
    block = feed_forward_of(fields, fields.size("intermediate_size"))
    feed = SphereFeed(**vars(replace(block, bias=fields.flag("mlp_bias", False))))
    layers = {SLIDING: SphereLayer(slides, feed), FULL: SphereLayer(full, feed)}

    def segments(part: Sequence[str], name: str) -> tuple[Segment, ...]:
        found = arranged(full.d, part, layers) if part else ()
        return tuple(replace(s, name=f"{name}{s.name}") for s in found)

    start, end = _parts(fields)
    model = Looped(
        replace(ends_of(fields, tied=False), norm=UNIT, logit_weights=True),
        segments(kinds[:start], "first_"),
        segments(kinds[start:end], ""),
        segments(kinds[end:], "last_"),
        Integer(fields.size("n_recurrent_loops")),
    )
    return Reading(model)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"dory": _dory})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType({"DoryForCausalLM": "dory"})
